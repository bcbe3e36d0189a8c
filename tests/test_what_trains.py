"""What a step trains and what it leaves alone, and modules whose gradients no trace shows."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointFunction, checkpoint

from cnnbench.errors import ModelError
from cnnbench.worker import models
from cnnbench.worker.export.training import prove as proof
from cnnbench.worker.export.training.step import CannotExport, export_step
from cnnbench.worker.export.training.trace import RowDropout, said
from cnnbench.worker.reference import inputs
from cnnbench.worker.reference.parity import labels_for
from cnnbench.worker.runtimes.eager import weights_of
from cnnbench.worker.runtimes.ort_training import StepSession
from tests.test_training_step import MOMENTUM, exported, failed

IMAGES = inputs.images(6, (1, 8, 8), 0)
LABELS = labels_for(6, 5, 0)
STEADY_LIMITS = (1e-4, 2e-2, 2e-3)
"""Of losses, the worst tensor and the median one, in small networks where nothing is random."""


class Net(nn.Module):
    """A stem with batch normalisation, a further layer, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem, self.norm = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.middle, self.head = nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.stem(x)))

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.middle(self.features(x)).mean((2, 3)))


def after_a_step(module: nn.Module, folder: Path) -> tuple[set[str], dict[str, Any]]:
    """What the graph puts out, and what differs after two proved steps, with the new values."""
    session = exported(module, folder, MOMENTUM, IMAGES)
    facts = proof.prove(module, session, IMAGES.numpy(), LABELS, MOMENTUM, 2)
    assert failed(facts) == []
    assert max(each.limit for each in facts.parity if "losses" in each.what) <= STEADY_LIMITS[0]
    session.begin(weights_of(module), 0.1, drop=False)
    values = proof.train(session, IMAGES.numpy(), LABELS, 2).values
    changed = {n for n, before in weights_of(module).items() if not np.array_equal(before, values[n])}
    assert values.keys() >= module.state_dict().keys()
    return set(session.lasting), {name: values[name] for name in changed}


STATISTICS = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


def test_frozen_parameters_have_no_gradient_no_state_and_no_update(tmp_path: Path) -> None:
    module = Net()
    for layer in (module.stem, module.norm):
        layer.requires_grad_(False)
    lasting, changed = after_a_step(module, tmp_path)
    trained = {"middle.weight", "middle.bias", "head.weight", "head.bias"}
    assert changed.keys() == trained | STATISTICS
    assert lasting == trained | STATISTICS | {f"{name}.momentum_buffer" for name in trained}


class Eval(Net):
    """Its statistics stay as they are."""

    def train(self, mode: bool = True) -> "Eval":
        super().train(mode)
        self.norm.eval()
        return self


def test_batch_normalisation_in_evaluation_mode_uses_its_statistics_and_keeps_them(tmp_path: Path) -> None:
    module = Eval()
    assert module.norm.running_mean is not None
    torch.nn.init.uniform_(module.norm.running_mean)
    _, changed = after_a_step(module, tmp_path)
    assert not STATISTICS & changed.keys()
    assert "norm.weight" in changed


def test_statistics_with_a_momentum_of_one_are_the_last_batchs(tmp_path: Path) -> None:
    module = Net()
    module.norm.momentum = 1.0
    after_a_step(module, tmp_path)


class Detached(Net):
    """The stem's gradient is cut off."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return super().features(x).detach()


class WithoutGradient(Net):
    """The stem runs without gradients."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return super().features(x)


class InInference(Net):
    """The stem runs in inference mode."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            x = super().features(x)
        return x.clone()  # what autograd may keep


@pytest.mark.parametrize("kind", [Detached, WithoutGradient, InInference])
def test_what_is_behind_detach_or_no_grad_is_not_trained(kind: type[Net], tmp_path: Path) -> None:
    _, changed = after_a_step(kind(), tmp_path)
    assert not {"stem.weight", "norm.weight", "norm.bias"} & changed.keys()
    assert {"middle.weight", "norm.running_mean"} <= changed.keys()


def test_an_unused_layer_comes_out_as_it_went_in(tmp_path: Path) -> None:
    module = Net()
    module.spare = nn.Linear(3, 3)
    lasting, changed = after_a_step(module, tmp_path)
    assert not any(name.startswith("spare") for name in lasting | changed.keys())


class Tied(Net):
    """One weight, in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(4, 4, 3)
        self.again.weight = self.middle.weight

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.again(super().features(x)))


def test_a_tied_weight_has_the_sum_of_its_gradients_and_stays_one(tmp_path: Path) -> None:
    lasting, changed = after_a_step(Tied(), tmp_path)
    assert len({"middle.weight", "again.weight"} & lasting) == 1
    np.testing.assert_array_equal(changed["middle.weight"], changed["again.weight"])


class Masked(Net):
    """Buffers of truth values and of whole numbers; one is not in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([True, False, True, True]))
        self.register_buffer("order", torch.tensor([3, 1, 0, 2]))
        self.register_buffer("hidden", torch.full((4,), 0.5), persistent=False)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        order, hidden, mask = (self.get_buffer(name) for name in ("order", "hidden", "mask"))
        return super().features(x)[:, order] * hidden[:, None, None] * mask[:, None, None]


def test_buffers_of_any_type_that_no_step_changes(tmp_path: Path) -> None:
    lasting, _ = after_a_step(Masked(), tmp_path)
    assert not {"mask", "order", "hidden"} & lasting


class Checkpointed(Net):
    """Recomputes its stem in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = x + 0 * self.head.bias.sum()  # reentrant checkpoints have gradients only if their input has
        found: torch.Tensor = checkpoint(super().features, x, use_reentrant=self.reentrant)
        return found


def test_checkpointed_modules_train(tmp_path: Path) -> None:
    module = Checkpointed(reentrant=False)
    module.norm = nn.Identity()  # type: ignore[assignment]
    _, changed = after_a_step(module, tmp_path)
    assert "stem.weight" in changed
    module = Checkpointed(reentrant=True)
    module.norm = nn.Identity()  # type: ignore[assignment]
    assert "stem.weight" in after_a_step(module, tmp_path)[1]
    assert "apply" not in vars(CheckpointFunction), "it is as it was before"


class Dropping(Net):
    """Drops by function, and whole images' branches by Bernoulli numbers of its own."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout2d(F.dropout(super().features(x), 0.4, self.training), 0.3, self.training)
        if not self.training:
            return x
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.8) / 0.8


def test_functional_dropout_is_proved_as_sharply_as_nothing_random(tmp_path: Path) -> None:
    session = exported(Dropping(), tmp_path, MOMENTUM, IMAGES)
    assert "drop" in session.shapes
    facts = proof.prove(Dropping(), session, IMAGES.numpy(), LABELS, MOMENTUM)
    assert failed(facts) == []
    limits = {each.what.split(",")[-1]: each.limit for each in facts.parity}
    assert max(limits.values()) <= STEADY_LIMITS[1]


class AlphaDropping(Net):
    """Drops as self-normalising networks do, which shifts what it keeps."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = F.alpha_dropout(super().features(x), 0.4, self.training)
        return F.feature_alpha_dropout(x, 0.1, self.training)


def test_alpha_dropout_is_proved_by_the_mean_of_its_random_numbers(tmp_path: Path) -> None:
    after_a_step(AlphaDropping(), tmp_path)


def test_what_is_dropped_is_random_where_dropping_is_on(tmp_path: Path) -> None:
    session = exported(Dropping(), tmp_path, MOMENTUM, IMAGES)
    losses: dict[bool, set[float]] = {}
    for drop in (True, False):
        session.begin(weights_of(Dropping()), 0.0, drop=drop)
        losses[drop] = {session.train(IMAGES.numpy(), LABELS) for _ in range(4)}
    assert (len(losses[True]), len(losses[False])) == (4, 1)


class InstanceNormalised(Net):
    """Running statistics of each image's own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)  # type: ignore[assignment]


def test_instance_normalisation_updates_its_statistics(tmp_path: Path) -> None:
    assert "norm.running_var" in after_a_step(InstanceNormalised(), tmp_path)[1]


class Keeps(Net):
    """Remembers its last feature map."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        self.kept = super().features(x)
        return self.kept


def test_a_module_that_keeps_an_activation_can_be_exported_after_it_ran(tmp_path: Path) -> None:
    module = Keeps()
    module.train()(IMAGES).sum().backward()
    after_a_step(module, tmp_path)


class WritesByData(Net):
    """Writes into its images by `data`."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x.data.sub_(0.5)
        return super().features(x)


def test_what_is_written_by_data_is_seen(tmp_path: Path) -> None:
    after_a_step(WritesByData(), tmp_path)


class InFloat(Net):
    """Says that it computes in float32."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return super().features(x.float()).to(torch.float32) * torch.linspace(0, 1, 6)


def test_a_module_that_casts_to_float32_is_compared_in_float64(tmp_path: Path) -> None:
    after_a_step(InFloat(), tmp_path)


class Turned(torch.autograd.Function):
    """A backward pass that is not the derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return -gradients[0]


turned = Turned.apply


class Reversed(Net):
    """Its middle calls a function of its own, within a checkpoint."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        found = super().features(x)
        reversed_: torch.Tensor = checkpoint(turned, found, use_reentrant=True)
        return reversed_


class ReversedAside(Net):
    """Calls it where no gradient goes through."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            scale: torch.Tensor = turned(x).mean()
        return super().features(x) * scale


class Hooked(Net):
    """Doubles a gradient."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        found = super().features(x)
        found.register_hook(lambda gradient: 2 * gradient)  # type: ignore[no-untyped-call]
        return found


class Writes(Net):
    """Writes into its own weight."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        self.middle.weight.data *= 0.5
        return super().features(x)


class WritesIntoDetached(Net):
    """Writes into values of which it trains others."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        found = super().features(x) * 2
        found.data.clamp_(0, 1)
        return found


class Random(Net):
    """Adds noise."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        found = super().features(x)
        return found + torch.randn_like(found)


class Drawn(Net):
    """Draws the same numbers at each call."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        found = super().features(x)
        return found + torch.randn(found.shape[1:], generator=torch.Generator().manual_seed(0))


def scripted() -> nn.Module:
    module = Net()
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        module.middle = torch.jit.script(module.middle)  # type: ignore[assignment]
    return module


class Maps(Net):
    """Puts out a feature map first."""

    def forward(self, x: torch.Tensor) -> Any:
        return self.features(x), super().forward(x)


def averaging() -> nn.Module:
    module = Net()
    module.norm.momentum = None  # a plain average over all batches
    return module


def with_backward_hook() -> nn.Module:
    module = Net()
    module.middle.register_full_backward_hook(lambda *_: None)
    return module


def with_parameter_hook() -> nn.Module:
    module = Net()
    module.middle.weight.register_hook(lambda gradient: gradient / 2)  # type: ignore[no-untyped-call]
    return module


def with_accumulated_hook() -> nn.Module:
    module = Net()
    weight: Any = module.middle.weight
    weight.register_post_accumulate_grad_hook(lambda each: each.grad.mul_(0.5))
    return module


def nothing_to_train() -> nn.Module:
    return Net().requires_grad_(False)


REFUSED = [
    (Reversed, r"Turned, a torch\.autograd\.Function that the model calls, has a backward pass of its own"),
    (Hooked, "the model sets a hook on a gradient"),
    (with_backward_hook, "module middle has a backward hook"),
    (with_parameter_hook, r"the parameter middle\.weight has a gradient hook"),
    (with_accumulated_hook, r"the parameter middle\.weight has a gradient hook"),
    (Writes, r"the model writes into the parameter middle\.weight"),
    (WritesIntoDetached, r"writes into what it has detached \(test_what_trains\.py:\d+\)"),
    (scripted, "layer 'middle' is a ScriptModule, made by torch.jit"),
    (averaging, "layer 'norm': its forward pass takes another path for other values"),
    (Maps, r"a tensor of shape \(2, 4, 6, 6\) for labels of shape \(2,\)"),
    (Drawn, "its forward pass uses an object that no graph can hold"),
    (Random, r"no gradient rule for aten\.randn_like\.default"),
    (nothing_to_train, "depends on no parameter that asks for a gradient"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), "single output: its cross-entropy is always zero"),
]


@pytest.mark.parametrize(("make", "reason"), REFUSED)
def test_what_no_trace_shows_is_refused_by_name(make: Any, reason: str) -> None:
    with pytest.raises(CannotExport, match=reason):
        export_step(make(), IMAGES[:2], MOMENTUM)


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (MemoryError("all is used"), MemoryError, "all is used"),
        (OSError("the disk is gone"), OSError, "the disk is gone"),
        (RuntimeError("can't allocate memory: 8 bytes"), RuntimeError, "can't allocate memory: 8 bytes"),
        (RuntimeError("odd  \n number"), CannotExport, "in training mode the model raises RuntimeError: odd number"),
        (ValueError("odd"), CannotExport, "torch.export: ValueError: odd"),
    ],
)
def test_an_error_that_says_nothing_of_the_model_is_raised_as_it_is(
    error: Exception, kind: type[Exception], reason: str
) -> None:
    class Raises(Net):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(kind) as raised:
        export_step(Raises(), IMAGES[:2], MOMENTUM)
    assert (type(raised.value), str(raised.value)) == (kind, reason)


def test_an_error_is_told_in_a_line_or_by_its_place() -> None:
    def error_of(*args: Any) -> Exception:
        try:
            raise ValueError(*args)
        except ValueError as error:
            return error

    assert said(error_of("one\n  two")) == "ValueError: one two"
    assert said(error_of("x" * 400)) == "ValueError: " + "x" * 300
    line = error_of.__code__.co_firstlineno + 2
    assert said(error_of()) == f"ValueError: raised in error_of (test_what_trains.py:{line})"


def test_whole_rows_are_dropped_and_the_others_divided_by_the_share_that_is_kept() -> None:
    x, drop = torch.ones(64, 2, 3), RowDropout(0.75)
    torch.manual_seed(0)
    rows = drop.train()(x).flatten(1)
    assert set(rows.unique().tolist()) == {0.0, 4.0}
    assert (rows == rows[:, :1]).all()
    assert drop.eval()(x) is RowDropout(0.0).train()(x) is x


def test_a_function_of_its_own_that_no_gradient_goes_through_does_no_harm(tmp_path: Path) -> None:
    after_a_step(ReversedAside(), tmp_path)


def test_gradients_that_are_no_numbers_are_said(tmp_path: Path) -> None:
    class AtZero(Net):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sqrt(0 * super().features(x))

    session = exported(AtZero(), tmp_path, MOMENTUM, IMAGES)
    with pytest.raises(CannotExport, match="is not a number: its gradient is not finite"):
        proof.prove(AtZero(), session, IMAGES.numpy(), LABELS, MOMENTUM)


@dataclass
class Outputs:
    """What a model may give in training."""

    aux: torch.Tensor | None
    logits: torch.Tensor


def test_of_several_outputs_the_main_one_counts_whole_and_others_at_three_tenths() -> None:
    main, early, labels = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    expected = F.cross_entropy(main, labels) + 0.3 * F.cross_entropy(early, labels)
    several: list[Any] = [
        (main, early),
        [main, early],
        [main, None, early],
        {"aux": early, "out": main},
        {"first": main, "second": early},
        Outputs(early, main),
        {"logits": main, "aux": [early]},
    ]
    for output in several:
        torch.testing.assert_close(models.loss(nn.Identity(), output, labels), expected)
    for output in (main, [main], Outputs(None, main)):
        torch.testing.assert_close(models.loss(nn.Identity(), output, labels), F.cross_entropy(main, labels))


@pytest.mark.parametrize(
    ("output", "reason"),
    [(torch.zeros(2, 1), "single output"), ({}, "no tensor in training"), (torch.zeros(2), "expected logits")],
)
def test_outputs_that_are_no_logits_are_said(output: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        models.loss(nn.Identity(), output, torch.zeros(2, dtype=torch.long))


class Dense(nn.Module):
    """Four classes for each pixel, and an auxiliary head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.main, self.more = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 4, 1), nn.Conv2d(5, 4, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = torch.relu(self.body(x))
        return {"out": self.main(y), "aux": self.more(y)}


def test_a_dense_prediction_is_trained_by_the_loss_of_each_pixel(tmp_path: Path) -> None:
    module, images = Dense(), inputs.images(4, (3, 6, 7), 0)
    labels = labels_for(4, 4, 0, (6, 7))
    file = str(tmp_path / "step.onnx")
    onnx.save(export_step(module, images[:2], MOMENTUM, (6, 7)), file)
    facts = proof.prove(module, StepSession.of(file, 1), images.numpy(), labels, MOMENTUM, further=2)
    assert all(each.passed for each in facts.parity), facts.parity
    by_hand = nn.functional.cross_entropy(module(images)["out"], torch.from_numpy(labels))
    by_hand = by_hand + 0.3 * nn.functional.cross_entropy(module(images)["aux"], torch.from_numpy(labels))
    assert facts.losses[0] == pytest.approx(by_hand.item(), rel=1e-5)
