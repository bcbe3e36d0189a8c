"""Normalisation: subtract a mean and divide by a deviation, taken over the batch, groups, channels or features."""

import math
from dataclasses import dataclass

from cnnbench.errors import ShapeError, TooSmall
from cnnbench.networks.layers.op import Op, Saved, Shape, Terms, check_divisible, spelled
from cnnbench.networks.units import FLOAT_BYTES

STATISTICS_PER_VALUE = 5
"""Mean (an addition), deviation (a subtraction), variance (a product and an addition), division by its root."""


class _Norm(Op):
    """Statistics over parts of one image, then a scale and a shift per channel if it is affine."""

    affine: bool

    work = "normalisation"

    def param_terms(self, x: Shape) -> Terms:
        """2 C if affine."""
        return ((2, x[0]),) if self.affine else ()

    def elementwise(self, x: Shape) -> int:
        """5 per value, and 2 more if affine."""
        return (STATISTICS_PER_VALUE + 2 * self.affine) * math.prod(x)


@dataclass(frozen=True)
class BatchNorm(_Norm):
    """Batch normalisation (Ioffe & Szegedy 2015): statistics over the batch; its running statistics are buffers."""

    affine: bool = True

    def elementwise(self, x: Shape) -> int:
        """2 per value in inference: with running statistics it is one product and one addition."""
        return 2 * math.prod(x)

    def saved(self, x: Shape) -> Saved:
        """Its input, and the batch's mean and inverse deviation per channel."""
        return Saved(input=True, bytes_per_batch=2 * x[0] * FLOAT_BYTES)


@dataclass(frozen=True)
class GroupNorm(_Norm):
    """Group normalisation (Wu & He 2018): statistics over each image's groups of channels."""

    groups: int
    affine: bool = True

    def check(self, x: Shape) -> None:
        check_divisible(x[0], self.groups)

    def saved(self, x: Shape) -> Saved:
        """Its input, and a mean and an inverse deviation per group."""
        return Saved(input=True, bytes_per_image=2 * self.groups * FLOAT_BYTES)


@dataclass(frozen=True)
class InstanceNorm(_Norm):
    """Instance normalisation (Ulyanov et al. 2016): statistics over each channel of each image.

    torch.nn.InstanceNorm2d has no scale and shift by default.
    """

    affine: bool = False

    def check(self, x: Shape) -> None:
        if math.prod(x[1:]) < 2:
            raise TooSmall(f"nothing is left: a channel of {spelled(x)} has a single value, which has no deviation")

    def saved(self, x: Shape) -> Saved:
        """Its input, and a mean and an inverse deviation per channel (and the scale, once per image)."""
        return Saved(input=True, bytes_per_image=(2 + self.affine) * x[0] * FLOAT_BYTES)


@dataclass(frozen=True)
class LayerNorm(_Norm):
    """Layer normalisation (Ba et al. 2016) over the last `axes` axes, at each position of those before."""

    axes: int = 1
    affine: bool = True

    def check(self, x: Shape) -> None:
        if len(x) < self.axes:
            raise ShapeError(f"expected {self.axes} axes at least, got {spelled(x)}")

    def param_terms(self, x: Shape) -> Terms:
        """2 F if affine."""
        return ((2, *x[-self.axes :]),) if self.affine else ()

    def saved(self, x: Shape) -> Saved:
        """Its input, and a mean and an inverse deviation per position."""
        return Saved(input=True, bytes_per_image=2 * math.prod(x[: -self.axes]) * FLOAT_BYTES)
