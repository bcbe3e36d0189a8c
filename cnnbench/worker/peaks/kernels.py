"""What the measurements of peaks in either library share: shapes, sizes, and repetitions. No torch here."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from cnnbench.records.peaks import CallCost, Kernel, Smallest, Throughput
from cnnbench.suite.case import Precision
from cnnbench.suite.runtimes import Library

MIN_REPETITIONS = 3
MAX_KEPT = 200
SHARE = 4
"""Each size of a kernel has this part of its time."""
LARGE = 8
"""Sizes grow until one repetition takes longer than this part of it."""
MATRIX_SIDES = (256, 512, 1024, 2048, 4096, 8192, 16384)
BATCHES = (1, 4, 16, 64, 256, 1024)
SMALLEST_SET_BYTES = 32 * 1024
"""Fits into the first-level cache of any processor that PyTorch runs on."""
SET_FACTOR = 4
CALLS = 100
"""Of next to nothing, in each repetition."""

Call = Callable[[], object]


@dataclass(frozen=True)
class ConvShape:
    """A convolution that keeps size and channels; the shapes are common in networks for images of 224x224."""

    channels: int
    side: int
    kernel: int
    groups: int = 1

    @property
    def weight(self) -> tuple[int, int, int, int]:
        """The weight's shape."""
        return self.channels, self.channels // self.groups, self.kernel, self.kernel

    def images(self, batch: int) -> tuple[int, int, int, int]:
        """The shape of input and output."""
        return batch, self.channels, self.side, self.side

    def flop(self, batch: int) -> int:
        """2 * N * C * P * Q * R * S * (C / groups)."""
        return 2 * batch * self.channels * self.side**2 * self.kernel**2 * (self.channels // self.groups)


ConvolutionOf = Callable[[ConvShape, int], Call]
CONVOLUTIONS: Mapping[Kernel, ConvShape] = {
    "3x3 convolution": ConvShape(128, 28, 3),
    "1x1 convolution": ConvShape(256, 28, 1),
    "depthwise convolution": ConvShape(256, 28, 3, groups=256),
}


def matrix_products(
    library: Library, precision: Precision, make: Callable[[int], Call], seconds: float
) -> list[Throughput]:
    """Products of square matrices; `make` gives a call of one, from the matrices' side."""
    return [
        Throughput(
            library=library,
            kernel="matrix product",
            precision=precision,
            size=f"{side}x{side}x{side}",
            flop=2 * side**3,
            seconds=taken,
        )
        for side, taken in grown(MATRIX_SIDES, make, seconds).items()
    ]


def convolutions(
    library: Library, precision: Precision, make: ConvolutionOf, seconds: float, how: str, count: int = 1
) -> list[Throughput]:
    """Each of CONVOLUTIONS; `make` gives a call of `count` of them, from the shape and the batch."""
    return [
        Throughput(
            library=library,
            kernel=kernel,
            precision=precision,
            size=f"{shape.channels} channels, {batch} images of {shape.side}x{shape.side}, {how}",
            flop=count * shape.flop(batch),
            seconds=taken,
        )
        for kernel, shape in CONVOLUTIONS.items()
        for batch, taken in grown(BATCHES, partial(make, shape), seconds).items()
    ]


def call_costs(library: Library, calls: Mapping[Smallest, Call], seconds: float) -> list[CallCost]:
    """What CALLS of next to nothing take, one after the other."""
    return [
        CallCost(library=library, smallest=name, calls=CALLS, seconds=repeat(call, seconds))
        for name, call in calls.items()
    ]


def repeat(call: Call, seconds: float) -> list[float]:
    """Seconds of the fastest calls, of those made for about so long, three at least, after one that warms up.

    A peak is what the machine reaches at its best, so slower calls than the 200 fastest add nothing.
    """
    call()
    taken: list[float] = []
    while len(taken) < MIN_REPETITIONS or sum(taken) < seconds:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[:MAX_KEPT]


def grown(sizes: Iterable[int], make: Callable[[int], Call], seconds: float) -> dict[int, list[float]]:
    """Repetitions by size, from the smallest on, until one takes long enough to show the machine's best."""
    found: dict[int, list[float]] = {}
    for size in sizes:
        found[size] = repeat(make(size), seconds / SHARE)
        if min(found[size]) > seconds / LARGE:
            break
    return found


def set_sizes(largest_bytes: int) -> list[int]:
    """Working sets from the first-level cache's size up to the largest, each four times the one before."""
    sizes = [SMALLEST_SET_BYTES]
    while sizes[-1] * SET_FACTOR <= largest_bytes:
        sizes.append(sizes[-1] * SET_FACTOR)
    return sizes
