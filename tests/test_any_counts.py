"""Counts of networks as people build them: right by hand, by every counter, or named where one cannot count."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cnnbench.analysis.counts import Verdict, judge, summary
from cnnbench.analysis.replay import Reading, replay
from cnnbench.errors import ModelError
from cnnbench.records.messages import Count, Trace
from cnnbench.records.record import CounterResults
from cnnbench.suite.case import ModelSpec
from cnnbench.worker import models
from cnnbench.worker.counters import collect, trace
from cnnbench.worker.counters.einsum import einsum_macs
from cnnbench.worker.counters.module import backward, dispatched
from tests.records import facts

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning"),  # fvcore's own
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
]
SIZE = (8, 8)
SPEC = ModelSpec(model="nets:build", image_size=SIZE, channels=3)


def judged(module: nn.Module, monkeypatch: pytest.MonkeyPatch, spec: ModelSpec = SPEC) -> tuple[Verdict, Reading]:
    monkeypatch.setattr(models, "_made", lambda _: (module, None, None))
    verdict = judge(spec, collect.count(Count(spec=spec)))
    return verdict, replay("net", trace.trace_model(Trace(spec=spec)))


class Head(nn.Module):
    """A body, averaged, and ten classes."""

    def __init__(self, channels: int, *body: nn.Module) -> None:
        super().__init__()
        self.body, self.fc = nn.Sequential(*body), nn.Linear(channels, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.body(x).mean((2, 3)))
        return y


class Deformable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offsets, self.deformed = nn.Conv2d(3, 18, 3, padding=1), torchvision.ops.DeformConv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.deformed(x, self.offsets(x))
        return y


class Constants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Buffer(torch.rand(1, 3, 1, 1))
        self.shift = torch.rand(1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.scale + self.shift
        return y


class Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2)
        y: Tensor = torch.einsum("bcp,bdp->bcd", x, x).unsqueeze(3)
        return y


class EarlyExit(nn.Module):
    """Its first logits decide whether it goes on, and are no output then."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.early, self.late = nn.Conv2d(3, 4, 1, bias=False), nn.Linear(4, 10), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).mean((2, 3))
        logits: Tensor = self.early(x)
        if logits.softmax(1).amax().item() > 1:
            return logits
        late: Tensor = self.late(x)
        return late


P = 8 * 8


@pytest.mark.parametrize(
    ("module", "params", "macs", "backward"),
    [
        pytest.param(
            Head(8, nn.ConvTranspose2d(3, 8, 3, stride=2, groups=1)), 216 + 8 + 80, P * 216 + 80, P * 216 + 160, id="up"
        ),
        pytest.param(
            Head(6, nn.ConvTranspose2d(3, 6, 2, 2, groups=3, bias=False)),
            24 + 60,
            P * 24 + 60,
            P * 24 + 120,
            id="groups",
        ),
        pytest.param(
            Head(6, nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)),
            162 + 54 + 60,
            P * (162 + 54) + 60,
            P * (162 + 2 * 54) + 120,
            id="depthwise",
        ),
        pytest.param(
            Head(4, Deformable()), 486 + 18 + 108 + 4 + 40, P * (486 + 108) + 40, P * (486 + 216) + 80, id="deformable"
        ),
        pytest.param(Head(4, Products()), 12 + 40, P * 12 + 16 * P + 40, P * 12 + 2 * 16 * P + 80, id="einsum"),
        pytest.param(Head(4, Constants(), nn.Conv2d(3, 4, 1)), 12 + 4 + 40, P * 12 + 40, P * 12 + 80, id="buffers"),
        pytest.param(
            Head(4, nn.Conv2d(3, 4, 4, padding="same", bias=False)), 192 + 40, P * 192 + 40, P * 192 + 80, id="same"
        ),
        pytest.param(
            Head(4, nn.Conv2d(3, 4, 1, bias=False), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
            12 + 8 + 40,
            P * 12 + 40,
            P * 12 + 80,
            id="tracked",
        ),
        pytest.param(nn.DataParallel(Head(4, nn.Conv2d(3, 4, 1))), 12 + 4 + 40, P * 12 + 40, P * 12 + 80, id="wrapped"),
    ],
)
def test_every_counter_agrees_with_the_count_by_hand(
    module: nn.Module, params: int, macs: int, backward: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict, reading = judged(module, monkeypatch)
    assert (verdict.disagreements, verdict.failed) == ([], {})
    assert set(verdict.params.values()) == {params}
    assert set(verdict.macs.values()) == {macs}
    assert set(verdict.backward.values()) == {backward}
    assert (reading.network.params, reading.network.macs) == (params, macs)


class Attends(nn.Module):
    """Attention of 16 tokens of 4 values by 2 heads, with products by tensordot."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.attention = nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.MultiheadAttention(4, 2, batch_first=True)
        self.mix = nn.Parameter(torch.rand(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).transpose(1, 2)
        x = self.attention(x, x, x, need_weights=False)[0]
        y: Tensor = torch.tensordot(x, self.mix, dims=([2], [0])).mean(1)
        return y


def test_attention_and_tensordot_count_as_the_products_that_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, _ = judged(Attends(), monkeypatch)
    assert (verdict.disagreements, verdict.failed) == ([], {})
    assert set(verdict.macs.values()) == {16 * (48 * 4 + 4 * 12 + 16 * 4 * 2 + 4 * 4 + 4 * 5)}


class Transforms(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.fft.rfft2(x).real @ torch.linalg.inv(torch.eye(5))
        return y


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fourier_transforms_and_inverses_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, _ = judged(Transforms(), monkeypatch)
    assert "_fft_r2c, aten::linalg_inv_ex" in verdict.failed["dispatch"]
    assert "fft_rfft2, aten::linalg_inv" in verdict.failed["fvcore"]


def test_products_with_vectors_count_as_those_of_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, _ = judged(Head(4, spectral_norm(nn.Conv2d(3, 4, 1, bias=False))), monkeypatch)
    assert verdict.failed == {}
    assert set(verdict.macs.values()) == {P * 12 + 12 + 4 + 40}, "the weight by v, and that by u"


class Tied(nn.Module):
    """Two modules with one weight; and a branch that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.two.weight = self.one.weight
        self.spare = nn.Linear(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(self.one(x)).mean((2, 3))
        return y


def test_a_shared_weight_counts_once_and_an_unused_branch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, reading = judged(Tied(), monkeypatch)
    assert (verdict.disagreements, verdict.failed) == ([], {})
    assert verdict.params == {"module": 81 + 42, "onnx": 81}
    assert "uses the 42 others, of spare" in verdict.explained[0]
    assert set(verdict.macs.values()) == {2 * P * 81}
    assert set(verdict.backward.values()) == {3 * P * 81}
    assert any("42 parameters of spare" in line for line in reading.left_out)
    assert "81 parameters of one.conv, which are those of a layer before it" in reading.left_out
    assert reading.network.params == 81


class Idle(nn.Module):
    """Computes what it does not put out, and puts out a number and a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.idle = nn.Conv2d(3, 4, 1, bias=False), nn.Linear(4, 7, bias=False)

    def forward(self, x: Tensor) -> Any:
        y = self.one(x).mean((2, 3))
        self.idle(y)
        return Both(y, 3)


@dataclass
class Both:
    logits: Tensor
    count: int


def test_what_no_output_depends_on_is_told_and_no_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, _ = judged(Idle(), monkeypatch)
    assert (verdict.disagreements, verdict.failed) == ([], {})
    assert verdict.macs == {"dispatch": P * 12 + 28, "fvcore": P * 12 + 28, "onnx": P * 12}
    assert "no output depends on the 28 others, of idle" in verdict.explained[1]


def test_a_frozen_module_has_no_backward_pass() -> None:
    assert backward(nn.Conv2d(3, 4, 1).requires_grad_(False), torch.zeros(1, 3, 8, 8)) == {}


def test_what_only_decides_is_counted_in_a_trace_too(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, _ = judged(EarlyExit(), monkeypatch)
    assert verdict.disagreements == []
    assert verdict.macs == dict.fromkeys(("dispatch", "fvcore"), P * 12 + 80)
    assert "another path for other values" in verdict.failed["onnx"]


def test_parameters_that_only_the_graph_has_are_a_disagreement() -> None:
    found = CounterResults(closed_form=None, counted={"module": {"a": (5, 0)}, "onnx": {"b": (6, 0)}})
    assert judge(SPEC, found).disagreements == ["5 parameters by module, 6 by onnx"]


def test_an_operator_without_a_formula_is_named_and_gives_no_total(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(2), nn.LSTM(36, 5))
    with pytest.raises(ModelError, match=r"no formula for aten::(lstm|mkldnn_rnn_layer)"):
        dispatched(module, torch.zeros(1, 3, 8, 8))
    counted = CounterResults(closed_form=None, counted={"module": {"0": (108, 0)}})
    assert summary(SPEC, facts().model_copy(update={"counters": counted})).macs is None


@torch.library.custom_op("cnnbench_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    """An operator of somebody's own."""
    return x * 2


class Own(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return torch.ops.cnnbench_tests.twice(x)


def test_somebodys_own_operator_may_multiply_and_is_named() -> None:
    with pytest.raises(ModelError, match="no formula for cnnbench_tests::twice"):
        dispatched(Own(), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("bcp,bdp->bcd", [(2, 3, 5), (2, 4, 5)], 2 * 3 * 4 * 5),
        ("...ij,...jk->...ik", [(7, 2, 3), (7, 3, 4)], 7 * 2 * 3 * 4),
        ("bi , bi -> b", [(2, 9), (2, 9)], 18),
        ("bij->bji", [(2, 3, 4)], 0),
        ("bchw,bc->bchw", [(2, 3, 4, 5), (2, 3)], 0),
        ("bi,bj->bij", [(2, 3), (2, 4)], 0),
        ("bchw,cdk->bd", [(2, 3, 4, 5), (3, 6, 7)], 2 * 3 * 6),
        ("bi,ij", [(2, 3), (3, 4)], 2 * 3 * 4),
    ],
)
def test_einsum_costs_one_mac_for_each_combination_of_its_indices(
    equation: str, shapes: Sequence[Sequence[int]], macs: int
) -> None:
    assert einsum_macs(equation, shapes) == macs


def test_einsum_of_three_operands_is_not_guessed() -> None:
    with pytest.raises(ModelError, match="of 3 operands"):
        einsum_macs("a,b,c->abc", [(2,), (2,), (2,)])
