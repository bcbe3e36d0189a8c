"""Layers that join several values, and those that only rearrange them."""

import math
from dataclasses import dataclass
from typing import final

from cnnbench.errors import ShapeError
from cnnbench.networks.layers.op import Op, Saved, Shape, Value, check_divisible, spelled


@final
@dataclass(frozen=True)
class Add(Op):
    """Residual connection (He et al. 2015): the sum of two equal shapes."""

    other: Value
    inplace: bool = False
    """Whether the sum overwrites its first input."""

    hands_gradient_on = True

    def check(self, x: Shape) -> None:
        """The two shapes must be equal."""
        if x != self.other.shape:
            raise ShapeError(f"cannot add {spelled(x)} and {spelled(self.other.shape)}")

    def elementwise(self, x: Shape) -> int:
        """C * H * W: one addition per value."""
        return math.prod(x)

    @property
    def others(self) -> tuple[Value, ...]:
        """The second summand."""
        return (self.other,)

    @property
    def in_place(self) -> bool:
        """As set."""
        return self.inplace


@final
@dataclass(frozen=True)
class Scale(Op):
    """Squeeze-and-excitation's last step (Hu et al. 2018): each channel times one factor of its own."""

    factors: Value

    def check(self, x: Shape) -> None:
        """One factor per channel."""
        if self.factors.shape != (x[0],) + (1,) * (len(x) - 1):
            raise ShapeError(f"cannot scale {spelled(x)} by {spelled(self.factors.shape)}")

    def elementwise(self, x: Shape) -> int:
        """C * H * W: one product per value."""
        return math.prod(x)

    def saved(self, x: Shape) -> Saved:
        """Both inputs, each for the other's gradient."""
        return Saved(input=True, others=True)

    @property
    def others(self) -> tuple[Value, ...]:
        """The factors."""
        return (self.factors,)


@final
@dataclass(frozen=True)
class Concat(Op):
    """Concatenation along the channels: the first input's, then the others'."""

    behind: tuple[Value, ...]

    hands_gradient_on = True

    def check(self, x: Shape) -> None:
        """All inputs must have the same spatial size."""
        for other in self.behind:
            if other.shape[1:] != x[1:]:
                raise ShapeError(f"cannot put {spelled(other.shape)} behind {spelled(x)}")

    def output_shape(self, x: Shape) -> Shape:
        """(sum of C, H, W)."""
        return (x[0] + sum(other.shape[0] for other in self.behind), *x[1:])

    @property
    def others(self) -> tuple[Value, ...]:
        """The inputs after the first."""
        return self.behind


@final
@dataclass(frozen=True)
class Split(Op):
    """Part number `part` of `parts` equal parts of the channels: a view."""

    parts: int
    part: int

    in_place = True

    def check(self, x: Shape) -> None:
        """The parts must divide the channels."""
        check_divisible(x[0], self.parts, "parts")

    def output_shape(self, x: Shape) -> Shape:
        """(C / parts, H, W)."""
        return (x[0] // self.parts, *x[1:])


@final
@dataclass(frozen=True)
class Shuffle(Op):
    """Channel shuffle (Zhang et al. 2017, section 3.1): channels interleaved across groups, in a copy."""

    groups: int

    def check(self, x: Shape) -> None:
        """The groups must divide the channels."""
        check_divisible(x[0], self.groups)


@final
@dataclass(frozen=True)
class Flatten(Op):
    """All axes of an image as one: a view."""

    in_place = True
    hands_gradient_on = True

    def output_shape(self, x: Shape) -> Shape:
        """(C * H * W,)."""
        return (math.prod(x),)


@final
@dataclass(frozen=True)
class Permute(Op):
    """The axes in another order: a view. (1, 2, 0) takes (C, H, W) to (H, W, C)."""

    order: tuple[int, ...]

    in_place = True
    hands_gradient_on = True

    def check(self, x: Shape) -> None:
        """The order must name every axis once."""
        if sorted(self.order) != list(range(len(x))):
            raise ShapeError(f"cannot put the axes of {spelled(x)} in the order {self.order}")

    def output_shape(self, x: Shape) -> Shape:
        """The same sizes, reordered."""
        return tuple(x[axis] for axis in self.order)


@dataclass(frozen=True)
class _KnownShape(Op):
    """A layer of which only the output's shape is known."""

    to: Shape
    sources: tuple[Value, ...] = ()
    """The inputs after the first."""

    def output_shape(self, x: Shape) -> Shape:
        """As given."""
        return self.to

    @property
    def others(self) -> tuple[Value, ...]:
        """The inputs after the first."""
        return self.sources


@final
@dataclass(frozen=True)
class Copy(_KnownShape):
    """The values of one or several inputs, rearranged in new memory."""


@final
@dataclass(frozen=True)
class Opaque(_KnownShape):
    """An operation without a formula: its shape is known, its work is not counted."""

    function: str = ""
