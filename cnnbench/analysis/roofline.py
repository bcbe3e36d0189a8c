"""Closed-form work + a machine's ceilings + a measured time -> how close to the least possible time, and what binds it.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore architectures",
CACM 52(4), 2009, layer by layer: arithmetic and memory traffic may overlap, so that a layer takes at least the longer
of the two at their ceilings; on a CPU the cost of calling it comes before that, on an accelerator calls queue up beside
it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from cnnbench.networks.network import Layer, Network
from cnnbench.networks.training_cost import backward_macs
from cnnbench.networks.units import FLOP_PER_MAC
from cnnbench.networks.work import WorkKind, kind_of
from cnnbench.records.layer_profile import ModelProfile, Row
from cnnbench.records.peaks import Peaks, Smallest
from cnnbench.suite.case import Case
from cnnbench.suite.runtimes import runtime_kind, split

Bound = Literal["compute", "memory", "calls"]
BOUNDS: tuple[Bound, ...] = ("compute", "memory", "calls")

OPTIMIZER_PASSES = 5
"""SGD with momentum reads weight, gradient and momentum, and writes weight and momentum."""
TRAINING_FACTOR = 3
"""A training step of a network without a closed form: a forward pass, and one more for each of the two gradients."""
HALF = 0.5
"""Of float32's bytes: in 16-bit precision a value that moves has at least so many."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one layer has to do in one call of the whole batch."""

    name: str
    kind: WorkKind
    macs: int
    moved_bytes: int
    """If nothing stays in a cache from one layer to the next."""
    calls: int = 1


@dataclass(frozen=True, kw_only=True)
class LowerBound:
    """The least time that the ceilings allow for some work; None where a ceiling is unknown."""

    work: Work
    compute_s: float | None
    memory_s: float | None
    calls_s: float | None
    queued: bool
    """Whether calls queue up while earlier ones run, as on an accelerator."""

    @property
    def total_s(self) -> float | None:
        """None where arithmetic's or memory's ceiling is unknown; an unknown cost of calls adds nothing."""
        if self.compute_s is None or self.memory_s is None:
            return None
        work_s, calls_s = max(self.compute_s, self.memory_s), self.calls_s or 0.0
        return max(work_s, calls_s) if self.queued else work_s + calls_s

    @property
    def bound(self) -> Bound | None:
        """The ceiling that would have to rise for it to become faster: the one that asks for the longest time."""
        if self.compute_s is None or self.memory_s is None:
            return None
        times: dict[Bound, float] = {
            "compute": self.compute_s,
            "memory": self.memory_s,
            "calls": self.calls_s or 0.0,
        }
        return max(BOUNDS, key=lambda bound: times[bound])


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Several layers' work against the ceilings, and against the time that was measured for them together."""

    seconds: float
    """Measured."""
    macs: int
    moved_bytes: int | None
    """None where no closed form tells."""
    peak_flops_per_s: float | None
    layers: tuple[LowerBound, ...] = ()

    @property
    def flops_per_s(self) -> float:
        """Achieved: two floating-point operations for each MAC."""
        return FLOP_PER_MAC * self.macs / self.seconds

    @property
    def bytes_per_s(self) -> float | None:
        """Achieved, if nothing stays in a cache: more than memory's own rate means that something did."""
        return self.moved_bytes / self.seconds if self.moved_bytes is not None else None

    @property
    def compute_share(self) -> float | None:
        """Of the measured time, what the arithmetic would take at its ceiling."""
        return self.flops_per_s / self.peak_flops_per_s if self.peak_flops_per_s else None

    @property
    def memory_share(self) -> float | None:
        """The same for the memory traffic of each layer at the rate of its own working set."""
        return self._share(layer.memory_s for layer in self.layers)

    @property
    def calls_share(self) -> float | None:
        """The same for the calls."""
        return self._share(layer.calls_s for layer in self.layers)

    @property
    def lower_bound_s(self) -> float | None:
        """The least time that the ceilings allow: the sum over layers."""
        return _sum(layer.total_s for layer in self.layers) if self.layers else None

    @property
    def lower_bound_share(self) -> float | None:
        """Of the measured time; 1 would be a program that no ceiling allows to be faster."""
        return None if self.lower_bound_s is None else self.lower_bound_s / self.seconds

    @property
    def bound(self) -> Bound | None:
        """The ceiling under which most of the least time is spent."""
        shares = self.bound_shares
        if not shares:
            return None
        longest: Bound = max(BOUNDS, key=lambda each: shares[each])
        return longest

    @property
    def bound_shares(self) -> dict[Bound, float]:
        """Of the least time, what is spent in layers that each ceiling binds; empty where it is unknown."""
        whole = self.lower_bound_s
        if not whole:
            return {}
        shares: dict[Bound, float] = dict.fromkeys(BOUNDS, 0.0)
        for layer in self.layers:
            bound, seconds = layer.bound, layer.total_s
            if bound is not None and seconds is not None:
                shares[bound] += seconds / whole
        return shares

    def _share(self, seconds: Iterable[float | None]) -> float | None:
        total = _sum(seconds) if self.layers else None
        return None if total is None else total / self.seconds


def case_roofline(case: Case, seconds: float, macs: int, network: Network | None, peaks: Peaks | None) -> Roofline:
    """A case that takes so long for one call of its batch.

    `macs` are its model's for one image; a network without a closed form has no layers to sum over.
    """
    work = works(network, case) if network else []
    return Roofline(
        seconds=seconds,
        macs=sum(each.macs for each in work)
        if network
        else macs * case.batch * (TRAINING_FACTOR if is_training(case) else 1),
        moved_bytes=sum(each.moved_bytes for each in work) if network else None,
        peak_flops_per_s=peaks.flops_per_s(case.precision) if peaks else None,
        layers=tuple(lower_bound(each, case, peaks) for each in work) if peaks else (),
    )


def is_training(case: Case) -> bool:
    """Whether a call is a whole step."""
    return case.workload == "training"


def works(network: Network, case: Case) -> list[Work]:
    """The work of each layer that a case's runtime has to run, at the least; in training also of its backward pass.

    In inference a runtime may take normalisation, activations and sums into the convolution before them.
    """
    scale = HALF if case.precision != "fp32" else 1.0
    if is_training(case):
        found = [*_forward(network.layers, case.batch), *_backward(network.layers, case.batch)]
        update = Work(
            name="optimizer",
            kind="other operators",
            macs=0,
            moved_bytes=round(OPTIMIZER_PASSES * network.weight_bytes / scale),  # weights stay in float32
        )
        found.append(update)
    else:
        taken_in = runtime_kind(case.runtime).fuses
        found = _forward((layer for layer in network.inference if not isinstance(layer.op, taken_in)), case.batch)
    return [
        Work(name=w.name, kind=w.kind, macs=w.macs, moved_bytes=round(w.moved_bytes * scale), calls=w.calls)
        for w in found
    ]


def _forward(layers: Iterable[Layer], batch: int) -> list[Work]:
    found = []
    for layer in layers:
        moved_bytes = layer.moved_bytes(batch)
        if layer.macs or moved_bytes:
            found.append(Work(name=layer.name, kind=kind_of(layer), macs=layer.macs * batch, moved_bytes=moved_bytes))
    return found


def _backward(layers: Sequence[Layer], batch: int) -> list[Work]:
    """Reads the gradient of what came out, what was kept, and the weights; writes the gradients of both.

    With dy as large as the output, at the least: dy + kept + weights + dx + weights' gradient; dy once more where two
    products need it (networks/training_cost.py).
    """
    found = []
    for layer in reversed(layers):
        if not layer.output.requires_grad or layer.op.hands_gradient_on:
            continue
        saved = layer.op.saved(layer.input_shape)
        asked = [value for value in layer.inputs if value.requires_grad]
        products = len(asked) + bool(layer.params) if layer.macs else 1
        per_image = (
            products * layer.output.bytes
            + sum(value.bytes for value in asked)
            + saved.input * layer.inputs[0].bytes
            + saved.output * layer.output.bytes
            + saved.others * sum(value.bytes for value in layer.inputs[1:])
            + saved.bytes_per_image
        )
        found.append(
            Work(
                name=f"{layer.name} backward",
                kind=kind_of(layer),
                macs=backward_macs(layer) * batch,
                moved_bytes=per_image * batch + 2 * layer.weight_bytes,
            )
        )
    return found


def lower_bound(work: Work, case: Case, peaks: Peaks | None) -> LowerBound:
    """The least time of a layer's work under the ceilings of the case's device, precision and library."""
    peak = peaks.flops_per_s(case.precision) if peaks else None
    rate = peaks.bytes_per_s(work.moved_bytes) if peaks else None
    library = runtime_kind(case.runtime).call_library
    smallest: Smallest = "convolution" if work.kind.endswith("convolutions") else "operator"
    call_s = peaks.call_s(library, smallest) if peaks and library else None
    return LowerBound(
        work=work,
        compute_s=FLOP_PER_MAC * work.macs / peak if peak else None,
        memory_s=work.moved_bytes / rate if rate else None,
        calls_s=None if call_s is None else work.calls * call_s,
        queued=case.device != "cpu",
    )


@dataclass(frozen=True, kw_only=True)
class Part:
    """Part of a call: one layer, or all layers of a kind, with its share of the call's time."""

    name: str
    share: float
    roofline: Roofline


def layer_parts(profile: ModelProfile, case: Case, seconds: float, peaks: Peaks | None) -> list[Part]:
    """Each layer that ran, in network order, with its share of the measured time (`_whole_s`)."""
    runtime = split(case.runtime)[0]
    return [
        _part(row.name or profile.model, [row], profile, case, seconds, peaks)
        for row in profile.rows
        if row.seconds.get(runtime)
    ]


def kind_parts(profile: ModelProfile, case: Case, seconds: float, peaks: Peaks | None) -> list[Part]:
    """The same by kind of work, the longest first."""
    runtime = split(case.runtime)[0]
    ran = [row for row in profile.rows if row.seconds.get(runtime)]
    kinds = dict.fromkeys(row.work for row in ran)
    parts = [_part(kind, [row for row in ran if row.work == kind], profile, case, seconds, peaks) for kind in kinds]
    return sorted(parts, key=lambda part: -part.share)


def share_between(profile: ModelProfile, case: Case, seconds: float) -> float:
    """The share of a call that passes between its operators."""
    runtime = split(case.runtime)[0]
    return 1.0 - profile.times[runtime].operators_s / _whole_s(profile, runtime, seconds)


def _whole_s(profile: ModelProfile, runtime: str, seconds: float) -> float:
    """What shares are of: the measured call, or all profiled operators where those take longer.

    A profiler lengthens what passes between operators more than the operators themselves, so their times are held
    against the call as it was measured without one.
    """
    return max(seconds, profile.times[runtime].operators_s)


def _part(
    name: str, rows: Sequence[Row], profile: ModelProfile, case: Case, seconds: float, peaks: Peaks | None
) -> Part:
    runtime = split(case.runtime)[0]
    share = sum(row.seconds.get(runtime, 0.0) for row in rows) / _whole_s(profile, runtime, seconds)
    known = all(row.moved_bytes is not None for row in rows)
    work = [
        Work(
            name=row.name,
            kind=row.work,
            macs=row.macs or 0,
            moved_bytes=row.moved_bytes or 0,
            calls=1 if row.macs or row.moved_bytes else 0,
        )
        for row in rows
    ]
    return Part(
        name=name,
        share=share,
        roofline=Roofline(
            seconds=share * seconds,
            macs=sum(each.macs for each in work),
            moved_bytes=sum(each.moved_bytes for each in work) if known else None,
            peak_flops_per_s=peaks.flops_per_s(case.precision) if peaks else None,
            layers=tuple(lower_bound(each, case, peaks) for each in work) if known and peaks else (),
        ),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    """None if any is unknown."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total
