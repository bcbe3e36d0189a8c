"""Roofline model: the lower bound on a time that closed-form work and a machine's peaks give, and what limits it.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore architectures",
CACM 52(4), 2009, layer by layer: arithmetic and memory traffic may overlap, so a layer takes at least the longer of the
two at their peaks. On a CPU launch overhead precedes both; on an accelerator launches are queued and overlap with work.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cnnbench.networks.layers import WorkKind
from cnnbench.networks.network import Layer, Network
from cnnbench.networks.training import TRAINING_FACTOR, backward_macs
from cnnbench.networks.units import FLOAT_BYTES, FLOP_PER_MAC
from cnnbench.records.layer_profile import ModelProfile, Row, Times
from cnnbench.records.peaks import Peaks, Smallest
from cnnbench.suite.case import Case
from cnnbench.suite.runtimes import runtime_kind, split

Bound = Literal["compute", "memory", "overhead", "kernel"]
BOUNDS: tuple[Bound, ...] = ("compute", "memory", "overhead")
"""Those of a layer. The kernel's time is known for a whole call alone."""

OPTIMIZER_PASSES = 5
"""SGD with momentum reads weight, gradient and momentum, and writes weight and momentum."""
MOST = 0.5
"""Of the CPU time: where the lower bound is unknown, the kernel is the limit from this share on."""
VALUE_SIZE = {"fp32": 1.0, "bf16": 0.5, "fp16": 0.5, "int8": 0.25}
"""The least size of a value by number format, as a share of float32's."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of one layer in one call of the whole batch."""

    name: str
    kind: WorkKind
    macs: int
    moved_bytes: int
    """If nothing stays in a cache from one layer to the next."""


@dataclass(frozen=True, kw_only=True)
class LowerBound:
    """Lower bound on the time of some work; None where a peak is unknown."""

    work: Work
    compute_s: float | None
    memory_s: float | None
    overhead_s: float | None
    queued: bool
    """Whether launches overlap with earlier work, as on an accelerator."""

    @property
    def total_s(self) -> float | None:
        """None where the peak of arithmetic or memory is unknown; unknown overhead adds nothing."""
        if self.compute_s is None or self.memory_s is None:
            return None
        work_s, overhead_s = max(self.compute_s, self.memory_s), self.overhead_s or 0.0
        return max(work_s, overhead_s) if self.queued else work_s + overhead_s

    @property
    def bound(self) -> Bound | None:
        """The limit that takes the longest time."""
        if self.compute_s is None or self.memory_s is None:
            return None
        times = (self.compute_s, self.memory_s, self.overhead_s or 0.0)
        return max(zip(times, BOUNDS, strict=True), key=lambda pair: pair[0])[1]


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Several layers' work beside the peaks and beside the measured time of all of them together."""

    seconds: float
    """Measured."""
    macs: int
    moved_bytes: int | None
    """None where there is no closed form."""
    peak_flops_per_s: float | None
    layers: tuple[LowerBound, ...] = ()
    kernel_share: float | None = None
    """Of the CPU time, what the system's kernel spent; None where that is not known, as of a single layer."""

    @property
    def flops_per_s(self) -> float:
        """Achieved: two floating-point operations for each MAC."""
        return FLOP_PER_MAC * self.macs / self.seconds

    @property
    def bytes_per_s(self) -> float | None:
        """Achieved, if nothing stays in a cache: above the memory's own rate, something did."""
        return self.moved_bytes / self.seconds if self.moved_bytes is not None else None

    @property
    def compute_share(self) -> float | None:
        """Of the measured time, the arithmetic at its peak."""
        return self.flops_per_s / self.peak_flops_per_s if self.peak_flops_per_s else None

    @property
    def memory_share(self) -> float | None:
        """Of the measured time, the memory traffic of each layer at the peak for its own working set."""
        return self._share(layer.memory_s for layer in self.layers)

    @property
    def overhead_share(self) -> float | None:
        """Of the measured time, the launch overhead."""
        return self._share(layer.overhead_s for layer in self.layers)

    @property
    def lower_bound_s(self) -> float | None:
        """The sum over layers."""
        return _sum(layer.total_s for layer in self.layers) if self.layers else None

    @property
    def lower_bound_share(self) -> float | None:
        """Of the measured time; 1 for a program that no peak allows to be faster."""
        return None if self.lower_bound_s is None else self.lower_bound_s / self.seconds

    @property
    def bound(self) -> Bound | None:
        """What takes the largest share: the kernel, or the limit of the layers that make up most of the lower bound.

        None where that is unknown.
        """
        kernel_share = self.kernel_share or 0.0
        if not self.lower_bound_s:
            return "kernel" if kernel_share > MOST else None
        seconds: dict[Bound, float] = dict.fromkeys(BOUNDS, 0.0)
        for layer in self.layers:
            if layer.bound is not None:
                seconds[layer.bound] += layer.total_s or 0.0
        largest = max(BOUNDS, key=lambda bound: seconds[bound])
        return "kernel" if kernel_share > seconds[largest] / self.seconds else largest

    def _share(self, seconds: Iterable[float | None]) -> float | None:
        total = _sum(seconds) if self.layers else None
        return None if total is None else total / self.seconds


def case_roofline(
    case: Case,
    seconds: float,
    macs: int,
    network: Network | None,
    peaks: Peaks | None,
    kernel_share: float | None = None,
) -> Roofline:
    """Of a case whose call of a batch takes so long, of which the kernel has a share.

    `macs` are its model's for one image; a network without a closed form has no layers to sum over.
    """
    factor = TRAINING_FACTOR if case.workload == "training" else 1
    work = works(network, case) if network else None
    found = _roofline(seconds, case, peaks, work, macs * case.batch * factor)
    return replace(found, kernel_share=kernel_share)


def _roofline(seconds: float, case: Case, peaks: Peaks | None, work: Sequence[Work] | None, macs: int) -> Roofline:
    """`macs` where the work of each layer is not known."""
    return Roofline(
        seconds=seconds,
        macs=macs if work is None else sum(each.macs for each in work),
        moved_bytes=None if work is None else sum(each.moved_bytes for each in work),
        peak_flops_per_s=peaks.flops_per_s(case.format) if peaks else None,
        layers=tuple(lower_bound(each, case, peaks) for each in work or () if peaks),
    )


def works(network: Network, case: Case) -> list[Work]:
    """The least work of each layer that a case's runtime executes; in training also of its backward pass.

    In inference a runtime may fuse normalisation, activations and sums into the convolution before them.
    """
    scale = VALUE_SIZE[case.format]
    if case.workload == "training":
        update_bytes = round(OPTIMIZER_PASSES * network.trained_params * FLOAT_BYTES / scale)  # weights stay in float32
        update = Work(name="optimizer", kind="other operators", macs=0, moved_bytes=update_bytes)
        found = [*_forward(network.layers, case.batch), *_backward(network.layers, case.batch), update]
    else:
        fused = runtime_kind(case.runtime).fuses
        found = list(_forward((layer for layer in network.inference if not isinstance(layer.op, fused)), case.batch))
    return [replace(each, moved_bytes=round(each.moved_bytes * scale)) for each in found]


def _forward(layers: Iterable[Layer], batch: int) -> Iterator[Work]:
    for layer in layers:
        moved_bytes = layer.moved_bytes(batch)
        if layer.macs or moved_bytes:
            yield Work(name=layer.name, kind=layer.work, macs=layer.macs * batch, moved_bytes=moved_bytes)


def _backward(layers: Sequence[Layer], batch: int) -> Iterator[Work]:
    """Reads the output's gradient, the saved values and the weights; writes the gradients of inputs and weights.

    At least, with dy as large as the output: dy + saved + weights + dx + weights' gradient; dy once more where two
    products need it (networks/training.py).
    """
    for layer in reversed(layers):
        if not layer.output.requires_grad or layer.op.hands_gradient_on:
            continue
        saved = layer.saved
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
        yield Work(
            name=f"{layer.name} backward",
            kind=layer.work,
            macs=backward_macs(layer) * batch,
            moved_bytes=per_image * batch + 2 * layer.weight_bytes,
        )


def lower_bound(work: Work, case: Case, peaks: Peaks | None) -> LowerBound:
    """Of a layer's work, from the peaks of the case's device, precision and library."""
    peak = peaks.flops_per_s(case.format) if peaks else None
    rate = peaks.bytes_per_s(work.moved_bytes) if peaks else None
    library = runtime_kind(case.runtime).call_library
    smallest: Smallest = "convolution" if work.kind.endswith("convolutions") else "operator"
    call_s = peaks.call_s(library, smallest) if peaks and library else None
    if call_s is not None and not (work.macs or work.moved_bytes):
        call_s = 0.0  # nothing is called
    return LowerBound(
        work=work,
        compute_s=FLOP_PER_MAC * work.macs / peak if peak else None,
        memory_s=work.moved_bytes / rate if rate else None,
        overhead_s=call_s,
        queued=case.device != "cpu",
    )


@dataclass(frozen=True)
class Part:
    """Part of a call: one layer, or all layers of a kind, with its share of the call's time."""

    name: str
    share: float
    roofline: Roofline


@dataclass(frozen=True)
class ProfiledCall:
    """A case's call, measured without a profiler to take `seconds`, in the parts that its profile shows."""

    profile: ModelProfile
    case: Case
    seconds: float
    peaks: Peaks | None

    @property
    def layers(self) -> list[Part]:
        """Each layer that ran, in network order."""
        return [self._part(row.name or self.profile.model, [row]) for row in self._ran()]

    @property
    def kinds(self) -> list[Part]:
        """The same by kind of work, the longest first."""
        by_kind: dict[str, list[Row]] = {}
        for row in self._ran():
            by_kind.setdefault(row.work, []).append(row)
        return sorted((self._part(kind, rows) for kind, rows in by_kind.items()), key=lambda part: -part.share)

    @property
    def framework_overhead(self) -> float:
        """The share of the call that is spent between its operators."""
        return 1.0 - self.times.operators_s / self._whole_s

    @property
    def times(self) -> Times:
        """What the runtime's profiler saw of a call."""
        return self.profile.times[self._runtime]

    @property
    def _runtime(self) -> str:
        return split(self.case.runtime)[0]

    @property
    def _whole_s(self) -> float:
        """What shares are of: the measured call, or all profiled operators where those take longer.

        A profiler adds more time between operators than inside them, so operator times are divided by the call time
        that was measured without a profiler.
        """
        return max(self.seconds, self.times.operators_s)

    def _ran(self) -> list[Row]:
        return [row for row in self.profile.rows if row.seconds.get(self._runtime)]

    def _part(self, name: str, rows: Sequence[Row]) -> Part:
        share = sum(row.seconds[self._runtime] for row in rows) / self._whole_s
        work = [
            Work(name=row.name, kind=row.work, macs=row.macs or 0, moved_bytes=row.moved_bytes)
            for row in rows
            if row.moved_bytes is not None
        ]
        known = work if len(work) == len(rows) else None
        macs = sum(row.macs or 0 for row in rows)
        return Part(name, share, _roofline(share * self.seconds, self.case, self.peaks, known, macs))


def _sum(values: Iterable[float | None]) -> float | None:
    """None if any is unknown."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if len(known) == len(found) else None
