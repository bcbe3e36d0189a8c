"""A loss of the user's own: in eager training and in the exported step, in names and keys, and what is refused."""

import os
import pkgutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cnnbench.errors import InputError, ModelError
from cnnbench.records.artifact import STEP, WEIGHTS, key_of
from cnnbench.records.messages import CHECKOUTS, Build, BuildStep, Open
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.load import load_suite
from cnnbench.suite.optimizer import TIMED_OPTIMIZER
from cnnbench.worker import building, models
from cnnbench.worker.export.training.prove import build_step
from cnnbench.worker.reference.parity import PROOF_IMAGES, labels_for, open_artifact, part, several
from cnnbench.worker.session import Session

OWN = "tests.test_own_loss"


def focal(outputs: Tensor, labels: Tensor) -> Tensor:
    """Lin et al. 2017, equation 4, with gamma 2."""
    log_p = outputs.log_softmax(1).gather(1, labels[:, None])
    return -((1 - log_p.exp()) ** 2 * log_p).mean()


class Smoothed(nn.Module):
    """Without parameters."""

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, labels, label_smoothing=0.1)


smoothed = Smoothed()
learned = nn.Linear(2, 2)


def of_each(outputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def raises(outputs: Tensor, labels: Tensor) -> Tensor:
    raise KeyError("margin")


def two_heads(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Of outputs in a mapping: the module's own nest is what a loss is given."""
    return outputs["b"].square().mean() + nn.functional.cross_entropy(outputs["a"], labels)


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 3), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"a": self.a(x.flatten(1)), "b": self.b(x.flatten(1))}


def spec(loss: str, model: str = "lenet5") -> ModelSpec:
    return ModelSpec(model=model, loss=f"{OWN}:{loss}", **({} if model == "lenet5" else {"image_size": (2, 2)}))


def value(of: ModelSpec, folder: Path, first: int) -> float:
    """Of the loss itself, of the module's outputs for the images of the proof."""
    facts, (images, _) = open_artifact(folder)
    (chosen,) = several(part(images, slice(first, first + PROOF_IMAGES)))
    labels = labels_for(len(chosen), facts.classes, of.seed, facts.places)
    module = models.rebuild(of, facts)
    module.load_state_dict(load_file(folder / WEIGHTS))
    function = pkgutil.resolve_name(of.loss or "")
    return float(function(module.train()(torch.from_numpy(chosen)), torch.from_numpy(labels)).detach())


@pytest.mark.parametrize(
    ("loss", "model"), [("focal", "lenet5"), ("smoothed", "lenet5"), ("two_heads", f"{OWN}:Heads")]
)
def test_it_is_what_both_runtimes_train_by(loss: str, model: str, tmp_path: Path) -> None:
    of, folder = spec(loss, model), tmp_path / "x-key"
    building.build_artifact(Build(spec=of, key="key", folder=str(folder)))
    out = str(folder / STEP)
    facts = build_step(BuildStep(spec=of, folder=str(folder), out=out, optimizer=TIMED_OPTIMIZER))
    assert facts.error is None
    assert all(parity.passed for parity in facts.parity)
    assert facts.losses[0] == pytest.approx(value(of, folder, facts.first_image), rel=1e-4)
    for runtime in ("eager", "ort"):
        case = Case(spec=of, workload="training", runtime=runtime, batch=2)
        session = Session(Open(case=case, folder=str(folder)), 1, 0)
        assert all(parity.passed for parity in session.open().parity)
    usual = models.build(of.model_copy(update={"loss": None}))[0]
    assert usual.__dict__.get(models.OWN_LOSS) is None


def test_a_case_names_it_and_another_loss_is_another_artifact() -> None:
    case = Case(spec=spec("focal"), workload="training", runtime="ort", batch=2)
    assert case.id == f"lenet5/l:{OWN}:focal/training/ort/cpu/fp32/b2"
    assert Case.from_id(case.id).spec.loss == f"{OWN}:focal"
    keys = {key_of(ModelSpec(model="lenet5", loss=loss), "run") for loss in (None, f"{OWN}:focal", f"{OWN}:smoothed")}
    assert len(keys) == 3
    assert key_of(spec("focal"), "run 1") != key_of(spec("focal"), "run 2"), "its code may change between runs"


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (f"{OWN}:of_each", "expected a scalar tensor of floats, such as a mean; got a tensor of (2,), torch.float32"),
        (f"{OWN}:raises", "raises, called as loss(outputs, labels): KeyError: 'margin'"),
        (f"{OWN}:learned", "has parameters of its own"),
        (f"{OWN}:OWN", "expected a function of outputs and labels; got str"),
        (f"{OWN}:lost", "cannot be imported: AttributeError"),
    ],
)
def test_what_is_no_loss_is_refused_in_a_sentence(loss: str, said: str) -> None:
    def first_loss() -> Tensor:
        module, _ = models.build(ModelSpec(model="lenet5", loss=loss))
        return models.loss(module, torch.zeros(2, 10), torch.zeros(2, dtype=torch.long))

    with pytest.raises(ModelError) as caught:
        first_loss()
    assert said in str(caught.value)


def test_a_gates_other_revision_does_not_train_by_the_checkouts_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, worktree = tmp_path / "checkout", tmp_path / "worktree"
    checkout.mkdir()
    (checkout / "losses_elsewhere.py").write_text("def loss(outputs, labels): return outputs.mean()\n")
    monkeypatch.syspath_prepend(checkout)
    monkeypatch.setenv(CHECKOUTS, os.pathsep.join([str(checkout), str(worktree)]))
    with pytest.raises(ModelError, match="module 'losses_elsewhere' was imported from"):
        models.build(ModelSpec(model="lenet5", loss="losses_elsewhere:loss"))
    del sys.modules["losses_elsewhere"]


def test_a_suite_names_it(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"models: [{{model: lenet5, loss: '{OWN}:focal'}}]\ndefaults: {{workloads: [training]}}\n")
    assert {case.spec.loss for case in load_suite(str(file)).cases} == {f"{OWN}:focal"}
    file.write_text("models: [{model: lenet5, loss: focal}]\n")
    with pytest.raises(InputError, match="loss"):
        load_suite(str(file))
