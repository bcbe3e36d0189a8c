"""Witnesses agree where they should, and each can be caught lying."""

import pytest

from cnnbench import counts
from cnnbench.case import ModelSpec
from cnnbench.record import Witnesses
from cnnbench.worker import models, witnesses

LENET = ModelSpec(model="lenet5", image_size=(28, 28), classes=10)


def heard(spec: ModelSpec) -> Witnesses:
    module, image = models.build(spec)
    return witnesses.hear(module, image, spec)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("model", ["lenet5", "resnet_cifar", "mobilenet_v2", "efficientnet_b0"])
def test_all_witnesses_agree(model: str) -> None:
    spec = ModelSpec(model=model)
    said = heard(spec)
    assert set(said.counted) == {"module", "dispatch", "fvcore"}
    assert not said.silent
    assert counts.disagreements(spec, said) == []


@pytest.fixture(scope="module")
def lenet() -> Witnesses:
    """LeNet's witnesses; fvcore speaks through torch's tracer, whose own warnings are not ours."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return heard(LENET)


@pytest.mark.parametrize(
    ("witness", "wrong", "said"),
    [
        ("module", (2_417, 0), "conv2: 2,416 parameters by formula, 2,417 by module"),
        ("dispatch", (0, 1), "conv2: 153,600 MACs by formula, 1 by dispatch"),
        ("fvcore", (0, 2), "conv2: 153,600 MACs by formula, 2 by fvcore"),
    ],
)
def test_a_witness_that_is_wrong_is_named_with_layer_and_both_numbers(
    lenet: Witnesses, witness: str, wrong: tuple[int, int], said: str
) -> None:
    lying = lenet.model_copy(update={"counted": {**lenet.counted, witness: {**lenet.counted[witness], "conv2": wrong}}})
    assert counts.disagreements(LENET, lying) == [said]


def test_a_layer_that_a_witness_leaves_out_is_a_disagreement(lenet: Witnesses) -> None:
    without = {name: pair for name, pair in lenet.counted["module"].items() if name != "fc1"}
    lying = lenet.model_copy(update={"counted": {**lenet.counted, "module": without}})
    assert counts.disagreements(LENET, lying) == ["fc1: 30,840 parameters by formula, 0 by module"]


def test_published_figures_can_disagree() -> None:
    spec = ModelSpec(model="resnet18")
    published = witnesses.published(spec)
    assert published is not None
    lying = Witnesses(
        closed_form={}, counted={}, published=published.model_copy(update={"params": 1, "giga_macs": 1.8})
    )
    assert counts.disagreements(spec, lying) == [
        "11,689,512 parameters by formula, 1 published",
        "1.814 G MACs by formula, 1.800 G published",
    ]


def test_what_a_module_counts_itself_leaves_out_its_children() -> None:
    assert witnesses.exclusive({"": 10, "a": 7, "a.b": 5, "c.d": 1}) == {"": 2, "a": 2, "a.b": 5, "c.d": 1}
