"""Repetitions for ceilings: what the measurements in either library share. No torch here."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MIN_REPETITIONS = 3
MAX_KEPT = 200
SHARE = 4
"""Each size of a kernel has this part of its time."""
LARGE = 8
"""Sizes grow until one repetition takes longer than this part of it."""


@dataclass(frozen=True)
class ConvShape:
    """A convolution that keeps size and channels; the shapes are common in networks for images of 224x224."""

    channels: int
    side: int
    kernel: int
    groups: int = 1

    def flop(self, batch: int) -> int:
        """2 * N * C * P * Q * R * S * (C / groups)."""
        return 2 * batch * self.channels * self.side**2 * self.kernel**2 * (self.channels // self.groups)

    def text(self, batch: int) -> str:
        """`128 channels, 4 images of 28x28`."""
        return f"{self.channels} channels, {batch} images of {self.side}x{self.side}"


MATRIX_SIDES = (256, 512, 1024, 2048, 4096, 8192, 16384)
BATCHES = (1, 4, 16, 64, 256, 1024)
CONV_3X3 = ConvShape(128, 28, 3)
CONV_1X1 = ConvShape(256, 28, 1)
DEPTHWISE = ConvShape(256, 28, 3, groups=256)
SMALLEST_SET_BYTES = 32 * 1024
"""Fits into the first-level cache of any processor that PyTorch runs on."""
SET_FACTOR = 4
CALLS = 100
"""Of next to nothing, in each repetition."""


def repeat(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of the fastest calls, of those made for about so long, three at least, after one that warms up.

    A ceiling is what the machine reaches at its best, so slower calls than the 200 fastest tell nothing.
    """
    call()
    taken: list[float] = []
    while len(taken) < MIN_REPETITIONS or sum(taken) < seconds:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[:MAX_KEPT]


def grown(sizes: Iterable[int], make: Callable[[int], Callable[[], object]], seconds: float) -> dict[int, list[float]]:
    """Repetitions by size, from the smallest on, until one takes long enough to tell a machine's best."""
    found: dict[int, list[float]] = {}
    for size in sizes:
        found[size] = repeat(make(size), seconds / SHARE)
        if min(found[size]) > seconds / LARGE:
            break
    return found


def set_sizes(largest_bytes: int) -> list[int]:
    """Working sets from the first-level cache's size up to the largest, each four times the one before."""
    sizes = []
    size = SMALLEST_SET_BYTES
    while size <= largest_bytes:
        sizes.append(size)
        size *= SET_FACTOR
    return sizes
