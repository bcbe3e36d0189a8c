"""Normalisation: what is subtracted and divided by, and over which values."""

import math
from dataclasses import dataclass
from typing import final

from cnnbench.errors import ShapeError, TooSmall
from cnnbench.networks.layers.op import Op, Saved, Shape, Terms, spelled
from cnnbench.networks.units import FLOAT_BYTES

STATISTICS_PER_VALUE = 5
"""Mean (an addition), deviation (a subtraction), variance (a product and an addition), division by its root."""


@final
@dataclass(frozen=True)
class BatchNorm(Op):
    """Batch normalisation (Ioffe & Szegedy 2015): a scale and a shift per channel, statistics over the batch."""

    affine: bool = True

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x

    def param_terms(self, x: Shape) -> Terms:
        """2 C if it has a scale and a shift; the running mean and variance are buffers."""
        return ((2, x[0]),) if self.affine else ()

    def elementwise(self, x: Shape) -> int:
        """Two per value in inference: with running statistics it is one product and one addition."""
        return 2 * math.prod(x)

    def saved(self, x: Shape) -> Saved:
        """Its input, and the batch's mean and inverse deviation of each channel."""
        return Saved(input=True, bytes_per_batch=2 * x[0] * FLOAT_BYTES)


@final
@dataclass(frozen=True)
class GroupNorm(Op):
    """Group normalisation (Wu & He 2018): statistics over each image's groups of channels."""

    groups: int
    affine: bool = True

    def check(self, x: Shape) -> None:
        """The groups must divide the channels."""
        if x[0] % self.groups:
            raise ShapeError(f"{x[0]} channels cannot be split into {self.groups} groups")

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x

    def param_terms(self, x: Shape) -> Terms:
        """2 C if it has a scale and a shift."""
        return ((2, x[0]),) if self.affine else ()

    def elementwise(self, x: Shape) -> int:
        """The statistics, and the scale and shift if it has them."""
        return (STATISTICS_PER_VALUE + 2 * self.affine) * math.prod(x)

    def saved(self, x: Shape) -> Saved:
        """Its input, and a mean and an inverse deviation per group."""
        return Saved(input=True, bytes_per_image=2 * self.groups * FLOAT_BYTES)


@final
@dataclass(frozen=True)
class InstanceNorm(Op):
    """Instance normalisation (Ulyanov et al. 2016): statistics over each channel of each image.

    torch.nn.InstanceNorm2d has no scale and shift unless asked.
    """

    affine: bool = False

    def check(self, x: Shape) -> None:
        """A single value has no deviation."""
        if math.prod(x[1:]) < 2:
            raise TooSmall(f"nothing is left: a channel of {spelled(x)} has a single value, which has no deviation")

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x

    def param_terms(self, x: Shape) -> Terms:
        """2 C if it has a scale and a shift."""
        return ((2, x[0]),) if self.affine else ()

    def elementwise(self, x: Shape) -> int:
        """The statistics, and the scale and shift if it has them."""
        return (STATISTICS_PER_VALUE + 2 * self.affine) * math.prod(x)

    def saved(self, x: Shape) -> Saved:
        """Its input, and a mean and an inverse deviation per channel (and the scale, once for each image)."""
        return Saved(input=True, bytes_per_image=(2 + self.affine) * x[0] * FLOAT_BYTES)


@final
@dataclass(frozen=True)
class LayerNorm(Op):
    """Layer normalisation (Ba et al. 2016) over the last axis or axes, at each position of those before."""

    axes: int = 1
    affine: bool = True

    def check(self, x: Shape) -> None:
        """There must be as many axes."""
        if len(x) < self.axes:
            raise ShapeError(f"expected {self.axes} axes at least, got {spelled(x)}")

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x

    def param_terms(self, x: Shape) -> Terms:
        """2 F if it has a scale and a shift."""
        return ((2, *x[-self.axes :]),) if self.affine else ()

    def elementwise(self, x: Shape) -> int:
        """The statistics, and the scale and shift if it has them."""
        return (STATISTICS_PER_VALUE + 2 * self.affine) * math.prod(x)

    def saved(self, x: Shape) -> Saved:
        """Its input, and a mean and an inverse deviation per position."""
        return Saved(input=True, bytes_per_image=2 * math.prod(x[: -self.axes]) * FLOAT_BYTES)
