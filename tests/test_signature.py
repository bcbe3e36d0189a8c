"""What a user's module takes and puts out: given, told by an example, or found by trying, and never guessed."""

import copy
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbench.errors import ModelError
from cnnbench.records.messages import Build, Open
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.worker import building, models
from cnnbench.worker.copies import copied
from cnnbench.worker.reference import inputs as reference
from cnnbench.worker.reference.parity import compare_all, scales_of
from cnnbench.worker.session import Session
from cnnbench.worker.signature import find_inputs, flat

SIZE = (8, 8)


def net(*first: nn.Module, channels: int = 3, out: int = 4) -> nn.Module:
    return nn.Sequential(*first, nn.Conv2d(channels, out, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        made: nn.Module = torch.jit.script(module)
        return made


def found(module: nn.Module, size: tuple[int, ...] | None = SIZE, maker: Any = None, **given: Any) -> Any:
    return find_inputs(module, ModelSpec(model="nets:build", image_size=size, **given), maker)


class Normalise(nn.Module):
    """Constants for each channel, which a grey image would be broadcast to."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) * 2


class Late(nn.Module):
    """Declares the convolution that sees the image last."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.first = nn.Conv2d(6, 4, 3), nn.Conv2d(2, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x)).mean((2, 3))
        return y


def test_a_number_for_each_image_is_an_input() -> None:
    assert [x.shape for x in reference.draw(3, {"x": (2, 4, 4), "time": ()}, 0)] == [(3, 2, 4, 4), (3,)]


def test_numbers_beside_logits_are_no_heads() -> None:
    logits = torch.zeros(2, 3)
    assert models.heads((logits, 4, [], {"size": 8, "early": [logits, None]})) == [logits, logits]


def test_what_cannot_be_copied_is_shared() -> None:
    module = net()
    module.lock, module.seen = threading.Lock(), [1]  # type: ignore[assignment]
    copy_of_it = copied(module)
    assert copy_of_it.lock is module.lock
    assert copy_of_it.seen is not module.seen
    assert copy_of_it[0].weight is not module[0].weight  # type: ignore[index]


def test_wrappers_around_a_module_are_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    module = net()
    for made in (nn.DataParallel(module), torch.compile(module)):
        monkeypatch.setattr(models, "_named", lambda *_, made=made: lambda: made)
        assert models._users_own(ModelSpec(model="nets:build"))[0] is module


def test_modules_without_values_or_of_one_mode_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    program = torch.export.export(net().eval(), (torch.zeros(1, 3, 8, 8),)).module()
    for made, said in ((net().to("meta"), "on the device meta"), (program, r"program\.pt2")):
        monkeypatch.setattr(models, "_named", lambda *_, made=made: lambda: made)
        with pytest.raises(ModelError, match=said):
            models._users_own(ModelSpec(model="nets:build"))


@pytest.mark.parametrize(
    ("module", "channels"),
    [
        pytest.param(net(), 3, id="plain"),
        pytest.param(net(nn.PixelUnshuffle(2), channels=12), 3, id="pixels to channels"),
        pytest.param(net(Normalise()), 3, id="normalised"),
        pytest.param(net(channels=103), 103, id="many bands"),
        pytest.param(Late(), 2, id="declared in another order"),
        pytest.param(nn.DataParallel(net()), 3, id="wrapped"),
        pytest.param(scripted(net()), 3, id="scripted"),
        pytest.param(nn.Sequential(net(), nn.LazyLinear(5)), 3, id="a lazy layer behind"),
    ],
)
def test_channels_are_those_that_the_module_accepts(module: nn.Module, channels: int) -> None:
    assert found(module) == (channels, *SIZE)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        pytest.param(net(Mean(), channels=1), "it accepts 1 as well as 3", id="averaged"),
        pytest.param(nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten()), "its first layer is lazy", id="lazy"),
    ],
)
def test_channels_that_are_not_certain_are_asked_for(module: nn.Module, why: str) -> None:
    with pytest.raises(ModelError, match=f"{why}.*channels: 3"):
        found(copy.deepcopy(module) if why.startswith("it") else module)
    assert found(module, channels=5) == (5, *SIZE)


def test_volumes_need_a_size_of_three_sides_and_no_image_passes_for_one() -> None:
    module = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    for size in (None, SIZE):
        with pytest.raises(ModelError, match="over 3 axes: expected an image size of as many sides"):
            found(module, size)
    assert found(module, (4, 8, 8)) == (1, 4, 8, 8)


class Pair(nn.Module):
    """Two images and perhaps a vector; puts out a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.extra = nn.Conv2d(3, 4, 3), nn.Linear(2, 4)

    def forward(self, left: Tensor, right: Tensor, vector: Tensor | None = None) -> dict[str, Tensor]:
        first, second = (self.conv(x).mean((2, 3)) for x in (left, right))
        bias = 0.0 if vector is None else self.extra(vector)
        return {"difference": first - second + bias, "map": self.conv(left)}

    def example_inputs(self) -> tuple[Tensor, ...]:
        return torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 9, 9)


IMAGES = (("left", (3, 8, 8)), ("right", (3, 9, 9)))


def test_several_inputs_are_asked_for_by_name_given_or_told_by_the_modules_own_example(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert found(Pair()) == dict(IMAGES)
    monkeypatch.delattr(Pair, "example_inputs")
    with pytest.raises(ModelError, match=r"needs 'left', 'right'.*--input left="):
        found(Pair())
    assert found(Pair(), None, inputs=IMAGES) == dict(IMAGES)
    with_vector = (*IMAGES, ("vector", (2,)))
    assert found(Pair(), None, inputs=with_vector) == dict(with_vector)
    for wrong in (IMAGES[:1], IMAGES[::-1], (*IMAGES, ("mask", (2,)))):
        with pytest.raises(ModelError, match="in the order of its `forward`, which takes left, right, vector"):
            found(Pair(), None, inputs=wrong)


def test_an_example_of_integers_is_refused() -> None:
    def maker() -> None:
        """Of the module."""

    maker.example_inputs = lambda: torch.zeros(1, 3, dtype=torch.long)  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"floating-point tensors; got torch\.int64"):
        found(net(), maker=maker)


@dataclass
class Made:
    """An output with names."""

    logits: Tensor
    more: list[Tensor | None]


def test_tensors_are_found_in_any_nest_of_outputs() -> None:
    a, b, c = (torch.full((1, 1), float(value)) for value in range(3))
    assert [t.item() for t in flat({"x": (a, [b]), "y": None})] == [0, 1]
    assert [t.item() for t in flat(Made(c, [a, None, b]))] == [2, 0, 1]


class WritesInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x.sub_(0.5).mean((2, 3))
        return y


def test_a_module_that_writes_into_its_input_gets_copies_wherever_it_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = ModelSpec(model="nets:build", image_size=SIZE)
    module = WritesInput()
    assert models.try_out(module, (3, *SIZE), spec).writes_input
    assert not models.try_out(net(), (3, *SIZE), spec).writes_input
    monkeypatch.setattr(models, "_made", lambda _: (WritesInput(), None, None))
    facts: Any = SimpleNamespace(writes_input=True, inputs={}, input_shape=(3, *SIZE))
    x = torch.ones(1, 3, *SIZE)
    for each in (module, models.rebuild(spec, facts)):
        each(x)
        assert x.min() == 1


class Casts(nn.Module):
    """Computes in float32 whatever it is given, in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = net(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(self.first(x.float()).to(torch.float32), (4,))
        logits: Tensor = self.second(y.to(x.dtype))
        return logits


def test_casts_within_a_module_do_not_keep_its_reference_from_float64() -> None:
    module, (x,) = Casts().eval(), reference.draw(2, (3, *SIZE), 0)
    (exact,) = reference.reference(module, [x])
    by_hand = copy.deepcopy(module).double()
    features = F.layer_norm(by_hand.first(x.double()), (4,))
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact, by_hand.second(features), rtol=1e-12, atol=0)


class Drops(nn.Module):
    def __init__(self, inner: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.inner = nn.Conv2d(3, 4, 3), inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(self.conv(x)).mean((2, 3))
        return y


class DropModule(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.2)


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        (net(), None),
        (Drops(F.dropout), ""),
        (Drops(DropModule()), "inner"),
        (nn.Sequential(nn.Dropout(), net()), None),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_module_that_is_random_in_evaluation_is_found_and_named(
    module: nn.Module, layer: str | None, seed: int
) -> None:
    assert reference.random_module(module, reference.draw(1, (3, *SIZE), seed)) == layer


def test_the_worst_output_counts_relative_to_its_own_size() -> None:
    small, large = np.arange(6.0).reshape(3, 2) * 1e-3, np.arange(6.0).reshape(3, 2)
    scales = scales_of((small, large))
    wrong = compare_all("x", (small + 1e-3, large), (small, large), scales, 1e-2)
    assert wrong.what == "x, output 0"
    assert not wrong.passed
    assert compare_all("x", (small, large + 1e-6), (small, large), scales, 1e-2).passed
    assert compare_all("x", large, (small, large), scales, 1e-2).error is None
    table = np.ones((3, 2))
    assert scales_of(table) == [1.0], "it does not depend on the images"


@pytest.mark.parametrize("runtime", ["eager", "ort"])
def test_a_model_of_several_inputs_and_outputs_is_built_exported_and_proved(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_made", lambda spec: (torch.manual_seed(0) and Pair(), None, None))
    spec = ModelSpec(model="nets:build", inputs=(*IMAGES, ("vector", (2,))))
    folder = tmp_path / f"x-{runtime}"
    facts = building.build_artifact(Build(spec=spec, key=runtime, folder=str(folder)))
    assert facts.onnx_error is None
    assert (list(facts.inputs), facts.outputs) == (["left", "right", "vector"], [(4,), (4, 6, 6)])
    case = Case(spec=spec, workload="inference", runtime=runtime, batch=2)
    session = Session(Open(case=case, folder=str(folder)), 1, 0)
    opened = session.open()
    session.phases["forward"]()
    closed = session.close()
    assert all(parity.passed for parity in (*opened.parity, *closed.parity)), opened
    assert closed.faults == []
    assert len(opened.parity) + len(closed.parity) == 4  # batches of 1, 2 and 3, and the timed one
