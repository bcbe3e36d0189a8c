"""The interface of a layer's formulas: output shape, parameters, MACs, other arithmetic, memory kept for training.

A shape is (C, H, W) for an image, (C, L) for a signal, (F,) for a vector. It has no batch: formulas are per image.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from cnnbench.errors import ShapeError, TooSmall
from cnnbench.networks.units import FLOAT_BYTES

Shape = tuple[int, ...]
PerAxis = int | tuple[int, ...]

Terms = tuple[tuple[int, ...], ...]
"""A sum of products, as formulas are written out: ((3, 3, 32, 64), (64,)) is 3*3*32*64 + 64."""


WorkKind = Literal[
    "depthwise convolutions",
    "1x1 convolutions",
    "grouped convolutions",
    "convolutions",
    "fully connected layers",
    "matrix products",
    "normalisation",
    "activations",
    "pooling",
    "sums, products and copies",
    "other operators",
]
"""Kinds of work by how fast it can run."""


def total(terms: Terms) -> int:
    """The value of a sum of products."""
    return sum(math.prod(factors) for factors in terms)


def written_out(terms: Terms) -> str:
    """A sum of products as text: `3*3*32*64 + 64`; empty for no terms."""
    return " + ".join("*".join(map(str, factors)) for factors in terms)


def per_axis(value: PerAxis, axes: int) -> tuple[int, ...]:
    """One value for each spatial axis: 3 becomes (3, 3) for an image."""
    values = (value,) * axes if isinstance(value, int) else value
    assert len(values) == axes, f"{value} does not fit {axes} spatial axes"
    return values


def spelled(shape: Shape) -> str:
    """A shape as text: 64x7x7."""
    return "x".join(map(str, shape))


@dataclass(frozen=True)
class Value:
    """A tensor that flows from layer to layer: its shape and its origin."""

    shape: Shape
    layer: int | None = None
    """Index of the layer that computed it; None for the image."""
    storage: int = 0
    """Values that share memory, such as a view and its base, have the same number."""
    requires_grad: bool = False
    """Whether it depends on a parameter, so that training computes its gradient."""

    @property
    def channels(self) -> int:
        """C: the first axis."""
        return self.shape[0]

    @property
    def bytes(self) -> int:
        """In float32, for one image."""
        return math.prod(self.shape) * FLOAT_BYTES


class Saved(NamedTuple):
    """What PyTorch's autograd keeps for a layer's backward pass."""

    input: bool = False
    output: bool = False
    others: bool = False
    """The inputs after the first."""
    bytes_per_image: int = 0
    """In addition, for each image: indices, random factors, copies."""
    bytes_per_batch: int = 0
    """In addition, whatever the batch: the statistics of a batch normalisation."""


class Op:
    """A kind of layer with its settings; a subclass overrides the formulas that differ from these defaults."""

    others: tuple[Value, ...] = ()
    """The inputs after the first."""
    operations_per_value: ClassVar[int] = 0
    """Sums, products, comparisons and functions of single values for each value of the output, in inference."""
    saves: ClassVar[Saved] = Saved()
    """What PyTorch's autograd keeps for the backward pass, where that depends on no setting."""
    only_trains: ClassVar[bool] = False
    """Whether it does nothing in inference, like dropout."""
    work: ClassVar[WorkKind] = "sums, products and copies"

    def check(self, x: Shape) -> None:
        """Raises ShapeError if the layer cannot take x."""
        return

    def output_shape(self, x: Shape) -> Shape:
        """The output's shape for an x that passed `check`, in plain arithmetic, so that x may hold symbols."""
        return x

    def param_terms(self, x: Shape) -> Terms:
        """Learned parameters. Buffers such as running statistics are not counted."""
        return ()

    def mac_terms(self, x: Shape) -> Terms:
        """Multiply-accumulates for one image, of convolutions and matrix products.

        As in torchvision's and the papers' figures, bias additions, normalisation, activations and pooling are not
        MACs; they are `elementwise`.
        """
        return ()

    def elementwise(self, x: Shape) -> int:
        """Other operations than MACs, for one image in inference."""
        return self.operations_per_value * math.prod(self.output_shape(x))

    def saved(self, x: Shape) -> Saved:
        """What PyTorch's autograd keeps for the backward pass."""
        return self.saves

    @property
    def in_place(self) -> bool:
        """Whether the output shares the input's memory: a view, or a function applied in place."""
        return False

    @property
    def hands_gradient_on(self) -> bool:
        """Whether its backward pass returns the output's gradient, or views of it, without computing another."""
        return False

    def macs(self, x: Shape) -> int:
        """`mac_terms`, summed."""
        return total(self.mac_terms(x))

    def params(self, x: Shape) -> int:
        """`param_terms`, summed."""
        return total(self.param_terms(x))


def check_divisible(channels: int, groups: int, noun: str = "groups") -> None:
    """Raises ShapeError unless the groups divide the channels."""
    if channels % groups:
        raise ShapeError(f"{channels} channels cannot be split into {groups} {noun}")


def windows(x: Shape, kernel: PerAxis, stride: PerAxis, padding: PerAxis, dilation: PerAxis, ceil: bool) -> Shape:
    """Output positions on each spatial axis: floor((n + 2p - d(k - 1) - 1) / s) + 1.

    With `ceil`, a last window that starts inside the input or its left padding counts too
    (torch.nn.MaxPool2d, ceil_mode).
    """
    counts = []
    for n, k, s, p, d in _axes(x, kernel, stride, padding, dilation):
        room = n + 2 * p - d * (k - 1) - 1
        count = (-(-room // s) if ceil else room // s) + 1
        if ceil and d * (k - 1) + 1 < s + p:  # else the last window always starts inside
            count = min(count, -(-(n + p) // s))
        counts.append(count)
    return tuple(counts)


def check_windows(
    x: Shape, kernel: PerAxis, stride: PerAxis, padding: PerAxis, dilation: PerAxis = 1, ceil: bool = False
) -> None:
    """Raises ShapeError if x has no spatial axis, or an axis of it is too short for a single window."""
    if len(x) < 2:
        raise ShapeError(f"expected channels and at least one spatial axis, got {spelled(x)}")
    counts = windows(x, kernel, stride, padding, dilation, ceil)
    for (n, k, _, p, d), count in zip(_axes(x, kernel, stride, padding, dilation), counts, strict=True):
        if n < 1 or count < 1:
            raise TooSmall(
                f"nothing is left: its input is {spelled(x)}, its window {k} wide with padding {p}"
                + (f" and dilation {d}" if d != 1 else "")
            )


def _axes(x: Shape, *settings: PerAxis) -> list[tuple[int, ...]]:
    """The size of each spatial axis with its settings."""
    axes = len(x) - 1
    return list(zip(x[1:], *(per_axis(setting, axes) for setting in settings), strict=True))
