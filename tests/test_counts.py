"""Witnesses agree where they should, and each can be caught lying."""

import pytest

from cnnbench.analysis import counts
from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.networks.training import backward_macs
from cnnbench.records.messages import Count
from cnnbench.records.record import CounterResults, Counts
from cnnbench.suite.case import ModelSpec
from cnnbench.worker import models
from cnnbench.worker.counters import collect as counters
from cnnbench.worker.counters.module import exclusive
from tests.records import facts

LENET = ModelSpec(model="lenet5", image_size=(28, 28), classes=10)


def collected(spec: ModelSpec) -> CounterResults:
    return counters.count(Count(spec=spec))


def disagreements(spec: ModelSpec, said: CounterResults) -> list[str]:
    return counts.find(spec, said).disagreements


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("model", ["mlp", "cnn1d", "resnet_cifar_gn", "resnet_cifar_in", "mobilenet_v3_small"])
def test_all_witnesses_agree(model: str) -> None:
    spec = ModelSpec(model=model)
    said = collected(spec)
    assert set(said.counted) == {"module", "dispatch", "fvcore", "backward", "onnx"}
    assert not said.failed
    assert disagreements(spec, said) == []


@pytest.fixture(scope="module")
def lenet() -> CounterResults:
    """LeNet's witnesses; fvcore speaks through torch's tracer, whose own warnings are not ours."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return collected(LENET)


@pytest.mark.parametrize(
    ("counter", "wrong", "said"),
    [
        ("module", (2_417, 0), "conv2: 2,416 parameters by formula, 2,417 by module"),
        ("dispatch", (0, 1), "conv2: 153,600 MACs by formula, 1 by dispatch"),
        ("fvcore", (0, 2), "conv2: 153,600 MACs by formula, 2 by fvcore"),
        ("onnx", (2_416, 3), "conv2: 153,600 MACs by formula, 3 by onnx"),
        ("onnx", (4, 153_600), "conv2: 2,416 parameters by formula, 4 by onnx"),
        ("backward", (0, 5), "conv2: 307,200 backward MACs by formula, 5 by backward"),
    ],
)
def test_a_witness_that_is_wrong_is_named_with_layer_and_both_numbers(
    lenet: CounterResults, counter: str, wrong: tuple[int, int], said: str
) -> None:
    lying = lenet.model_copy(update={"counted": {**lenet.counted, counter: {**lenet.counted[counter], "conv2": wrong}}})
    assert disagreements(LENET, lying) == [said]


def test_a_layer_that_a_witness_leaves_out_is_a_disagreement(lenet: CounterResults) -> None:
    without = {name: pair for name, pair in lenet.counted["module"].items() if name != "fc1"}
    lying = lenet.model_copy(update={"counted": {**lenet.counted, "module": without}})
    assert disagreements(LENET, lying) == ["fc1: 30,840 parameters by formula, 0 by module"]


def test_a_grouped_convolutions_weight_gradient_may_be_counted_for_each_group_again() -> None:
    spec = ModelSpec(model="mobilenet_v2", image_size=(32, 32))
    _, image = models.build(spec)
    assert isinstance(image, tuple)
    layers = {layer.name: layer for layer in ARCHITECTURES["mobilenet_v2"].network((32, 32)).layers}
    depthwise = layers["features.2.conv.1.0"]
    right = {name: (0, backward_macs(layer)) for name, layer in layers.items() if layer.macs}
    known = {**right, depthwise.name: (0, backward_macs(depthwise) + 95 * depthwise.macs)}
    wrong = {**right, depthwise.name: (0, backward_macs(depthwise) + 94 * depthwise.macs)}

    def find(backward: Counts) -> counts.Findings:
        closed_form = counters.closed_form(spec, image)
        return counts.find(spec, CounterResults(closed_form=closed_form, counted={"backward": backward}))

    assert not find(right).disagreements
    assert not any("backward" in line for line in find(right).explained)
    assert not find(known).disagreements
    assert "for features.2.conv.1.0 it reports 96 times the MACs" in find(known).explained[0]
    assert len(find(wrong).disagreements) == 1


def test_published_figures_can_disagree() -> None:
    spec = ModelSpec(model="resnet18")
    published = counters.published(spec)
    assert published is not None
    lying = CounterResults(
        closed_form={}, counted={}, published=published.model_copy(update={"params": 1, "giga_macs": 1.8})
    )
    assert disagreements(spec, lying) == [
        "11,689,512 parameters by formula, 1 published",
        "1.814 G MACs by formula, 1.800 G published",
    ]
    unknown = lying.model_copy(update={"closed_form": None})
    assert disagreements(spec, unknown) == []
    assert counts.summary(spec, facts().model_copy(update={"counters": unknown})).params == 0


def test_what_a_module_counts_itself_leaves_out_its_children() -> None:
    assert exclusive({"": 10, "a": 7, "a.b": 5, "c.d": 1}) == {"": 2, "a": 2, "a.b": 5, "c.d": 1}
