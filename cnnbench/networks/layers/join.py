"""Layers that bring several values together, and those that only arrange them."""

import math
from dataclasses import dataclass
from typing import final

from cnnbench.errors import ShapeError
from cnnbench.networks.layers.op import Op, Saved, Shape, Value, spelled


@final
@dataclass(frozen=True)
class Add(Op):
    """Residual connection (He et al. 2015): the sum of two equal shapes."""

    other: Value
    inplace: bool = False
    """Whether the sum takes the place of its first part."""

    def check(self, x: Shape) -> None:
        """The two shapes must be equal."""
        if x != self.other.shape:
            raise ShapeError(f"cannot add {spelled(x)} and {spelled(self.other.shape)}")

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x

    def elementwise(self, x: Shape) -> int:
        """One addition per value."""
        return math.prod(x)

    @property
    def others(self) -> tuple[Value, ...]:
        """The second part of the sum."""
        return (self.other,)

    @property
    def in_place(self) -> bool:
        """As set."""
        return self.inplace

    @property
    def hands_gradient_on(self) -> bool:
        """To both parts."""
        return True


@final
@dataclass(frozen=True)
class Scale(Op):
    """Squeeze-and-excitation's last step (Hu et al. 2018): each channel times one factor of its own."""

    factors: Value

    def check(self, x: Shape) -> None:
        """There must be one factor per channel."""
        if self.factors.shape != (x[0],) + (1,) * (len(x) - 1):
            raise ShapeError(f"cannot scale {spelled(x)} by {spelled(self.factors.shape)}")

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x

    def elementwise(self, x: Shape) -> int:
        """One product per value."""
        return math.prod(x)

    def saved(self, x: Shape) -> Saved:
        """Both, each for the other's gradient."""
        return Saved(input=True, others=True)

    @property
    def others(self) -> tuple[Value, ...]:
        """The factors."""
        return (self.factors,)


@final
@dataclass(frozen=True)
class Concat(Op):
    """Feature maps behind one another, along the channels: the first input's, then the others'."""

    behind: tuple[Value, ...]

    def check(self, x: Shape) -> None:
        """All must have the same spatial size."""
        for other in self.behind:
            if other.shape[1:] != x[1:]:
                raise ShapeError(f"cannot put {spelled(other.shape)} behind {spelled(x)}")

    def output_shape(self, x: Shape) -> Shape:
        """The channels' sum; the spatial size unchanged."""
        return (x[0] + sum(other.shape[0] for other in self.behind), *x[1:])

    @property
    def others(self) -> tuple[Value, ...]:
        """What follows the first."""
        return self.behind

    @property
    def hands_gradient_on(self) -> bool:
        """To each its part."""
        return True


@final
@dataclass(frozen=True)
class Split(Op):
    """Part `part` of so many equal parts of the channels: a view."""

    parts: int
    part: int

    def check(self, x: Shape) -> None:
        """The parts must divide the channels."""
        if x[0] % self.parts:
            raise ShapeError(f"{x[0]} channels cannot be split into {self.parts} parts")

    def output_shape(self, x: Shape) -> Shape:
        """So many times fewer channels."""
        return (x[0] // self.parts, *x[1:])

    @property
    def in_place(self) -> bool:
        """It is a view."""
        return True


@final
@dataclass(frozen=True)
class Shuffle(Op):
    """Channel shuffle (Zhang et al. 2017, section 3.1): channels dealt out anew over the groups, in a copy."""

    groups: int

    def check(self, x: Shape) -> None:
        """The groups must divide the channels."""
        if x[0] % self.groups:
            raise ShapeError(f"{x[0]} channels cannot be split into {self.groups} groups")

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x


@final
@dataclass(frozen=True)
class Flatten(Op):
    """All axes of an image in one: a view."""

    def output_shape(self, x: Shape) -> Shape:
        """(C * H * W,)."""
        return (math.prod(x),)

    @property
    def in_place(self) -> bool:
        """It is a view."""
        return True

    @property
    def hands_gradient_on(self) -> bool:
        """In another shape."""
        return True


@dataclass(frozen=True)
class _Given(Op):
    """A layer of which only the shape that comes out is known."""

    to: Shape
    sources: tuple[Value, ...] = ()
    """The further inputs."""

    def output_shape(self, x: Shape) -> Shape:
        """As given."""
        return self.to

    @property
    def others(self) -> tuple[Value, ...]:
        """The further inputs."""
        return self.sources


@final
@dataclass(frozen=True)
class Copy(_Given):
    """The values of one or several inputs in another arrangement, in new memory."""


@final
@dataclass(frozen=True)
class Opaque(_Given):
    """An operation that there is no formula for: its shape is known, its work is not counted."""

    function: str = ""


@final
@dataclass(frozen=True)
class Permute(Op):
    """The axes in another order: a view. (1, 2, 0) takes (C, H, W) to (H, W, C)."""

    order: tuple[int, ...]

    def check(self, x: Shape) -> None:
        """Every axis must stand in the order once."""
        if sorted(self.order) != list(range(len(x))):
            raise ShapeError(f"cannot put the axes of {spelled(x)} in the order {self.order}")

    def output_shape(self, x: Shape) -> Shape:
        """The same sizes, reordered."""
        return tuple(x[axis] for axis in self.order)

    @property
    def in_place(self) -> bool:
        """It is a view."""
        return True

    @property
    def hands_gradient_on(self) -> bool:
        """In another order."""
        return True
