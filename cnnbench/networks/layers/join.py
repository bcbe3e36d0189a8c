"""Layers that join several values, and those that only rearrange them."""

import math
from dataclasses import dataclass, field

from cnnbench.errors import ShapeError
from cnnbench.networks.layers.op import Op, Saved, Shape, Value, check_divisible, spelled


@dataclass(frozen=True)
class Joining(Op):
    """A layer of several inputs."""

    others: tuple[Value, ...] = field()  # without a default, unlike those of other layers


@dataclass(frozen=True)
class Add(Joining):
    """Residual connection (He et al. 2015): the sum of two equal shapes, an addition per value."""

    inplace: bool = False
    """Whether the sum overwrites its first input."""

    hands_gradient_on = True
    operations_per_value = 1

    def check(self, x: Shape) -> None:
        for other in self.others:
            if other.shape != x:
                raise ShapeError(f"cannot add {spelled(x)} and {spelled(other.shape)}")

    @property
    def in_place(self) -> bool:
        return self.inplace


@dataclass(frozen=True)
class Scale(Joining):
    """Squeeze-and-excitation's last step (Hu et al. 2018): each channel times one factor of its own."""

    operations_per_value = 1
    saves = Saved(input=True, others=True)  # each for the other's gradient

    def check(self, x: Shape) -> None:
        for factors in self.others:
            if factors.shape != (x[0],) + (1,) * (len(x) - 1):
                raise ShapeError(f"cannot scale {spelled(x)} by {spelled(factors.shape)}")


@dataclass(frozen=True)
class Concat(Joining):
    """Concatenation along the channels: the first input's, then the others'."""

    hands_gradient_on = True

    def check(self, x: Shape) -> None:
        for other in self.others:
            if other.shape[1:] != x[1:]:
                raise ShapeError(f"cannot put {spelled(other.shape)} behind {spelled(x)}")

    def output_shape(self, x: Shape) -> Shape:
        """(sum of C, H, W)."""
        return (x[0] + sum(other.channels for other in self.others), *x[1:])


@dataclass(frozen=True)
class Split(Op):
    """Part number `part` of `parts` equal parts of the channels: a view."""

    parts: int
    part: int

    in_place = True

    def check(self, x: Shape) -> None:
        check_divisible(x[0], self.parts, "parts")

    def output_shape(self, x: Shape) -> Shape:
        """(C / parts, H, W)."""
        return (x[0] // self.parts, *x[1:])


@dataclass(frozen=True)
class Shuffle(Op):
    """Channel shuffle (Zhang et al. 2017, section 3.1): channels interleaved across groups, in a copy."""

    groups: int

    def check(self, x: Shape) -> None:
        check_divisible(x[0], self.groups)


@dataclass(frozen=True)
class Flatten(Op):
    """All axes of an image as one: a view."""

    in_place = True
    hands_gradient_on = True

    def output_shape(self, x: Shape) -> Shape:
        """(C * H * W,)."""
        return (math.prod(x),)


@dataclass(frozen=True)
class Permute(Op):
    """The axes in another order: a view. (1, 2, 0) takes (C, H, W) to (H, W, C)."""

    order: tuple[int, ...]

    in_place = True
    hands_gradient_on = True

    def check(self, x: Shape) -> None:
        if sorted(self.order) != list(range(len(x))):
            raise ShapeError(f"cannot put the axes of {spelled(x)} in the order {self.order}")

    def output_shape(self, x: Shape) -> Shape:
        """The same sizes, reordered."""
        return tuple(x[axis] for axis in self.order)


@dataclass(frozen=True)
class _KnownShape(Joining):
    """A layer of which only the output's shape is known."""

    to: Shape

    def output_shape(self, x: Shape) -> Shape:
        return self.to


@dataclass(frozen=True)
class Copy(_KnownShape):
    """The values of one or several inputs, rearranged in new memory."""


@dataclass(frozen=True)
class Opaque(_KnownShape):
    """An operation without a formula: its shape is known, its work is not counted."""

    function: str = ""
