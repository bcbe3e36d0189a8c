"""Pooling and resizing: one value for each window of values."""

import math
from dataclasses import dataclass

from cnnbench.networks.layers.op import Op, PerAxis, Saved, Shape, check_windows, per_axis, windows
from cnnbench.networks.units import INDEX_BYTES


@dataclass(frozen=True)
class _WindowPool(Op):
    """One value per window; the stride is the kernel's size unless given."""

    kernel: PerAxis
    stride: PerAxis | None = None
    padding: PerAxis = 0
    ceil: bool = False

    saves = Saved(input=True)  # though an average only needs its shape
    work = "pooling"

    def check(self, x: Shape) -> None:
        check_windows(x, self.kernel, self._stride, self.padding, 1, self.ceil)

    def output_shape(self, x: Shape) -> Shape:
        """(C, P, Q)."""
        return (x[0], *windows(x, self.kernel, self._stride, self.padding, 1, self.ceil))

    def window(self, x: Shape) -> int:
        """Values in a window: R * S."""
        return math.prod(per_axis(self.kernel, len(x) - 1))

    @property
    def _stride(self) -> PerAxis:
        return self.kernel if self.stride is None else self.stride


@dataclass(frozen=True)
class MaxPool(_WindowPool):
    """The largest value in each window (torch.nn.MaxPool2d)."""

    def elementwise(self, x: Shape) -> int:
        """C * P * Q * (R * S - 1): comparisons."""
        return math.prod(self.output_shape(x)) * (self.window(x) - 1)

    def saved(self, x: Shape) -> Saved:
        """Its input, and the index of each maximum."""
        return Saved(input=True, bytes_per_image=math.prod(self.output_shape(x)) * INDEX_BYTES)


@dataclass(frozen=True)
class AvgPool(_WindowPool):
    """The mean of each window (torch.nn.AvgPool2d)."""

    def elementwise(self, x: Shape) -> int:
        """C * P * Q * R * S: additions and a division."""
        return math.prod(self.output_shape(x)) * self.window(x)


@dataclass(frozen=True)
class AdaptiveAvgPool(Op):
    """The mean of each of `size` parts per axis (torch.nn.AdaptiveAvgPool2d); of the whole image by default."""

    size: PerAxis = 1

    work = "pooling"

    def output_shape(self, x: Shape) -> Shape:
        """(C, *size)."""
        return (x[0], *per_axis(self.size, len(x) - 1))

    def elementwise(self, x: Shape) -> int:
        """One per value of each part; part i of s runs from floor(i n / s) to ceil((i + 1) n / s)."""
        sides = zip(x[1:], per_axis(self.size, len(x) - 1), strict=True)
        return x[0] * math.prod(sum(-(-(i + 1) * n // s) - i * n // s for i in range(s)) for n, s in sides)

    def saved(self, x: Shape) -> Saved:
        """Its input, though only its shape would be needed; nothing for the mean of the whole image."""
        return Saved(input=any(size != 1 for size in per_axis(self.size, len(x) - 1)))


@dataclass(frozen=True)
class Resize(Op):
    """Linear interpolation along each spatial axis to another size (torch.nn.functional.interpolate, bilinear)."""

    size: PerAxis

    def output_shape(self, x: Shape) -> Shape:
        """(C, *size)."""
        return (x[0], *per_axis(self.size, len(x) - 1))

    def elementwise(self, x: Shape) -> int:
        """The weighted sum of the 2 neighbours on each axis: on an image 4 products and 3 additions per value."""
        neighbours: int = 2 ** (len(x) - 1)
        return (2 * neighbours - 1) * math.prod(self.output_shape(x))
