"""The formulas of each kind of layer, on the shape of one image.

A shape is (C, H, W) for an image, (C, L) for a signal, (F,) for a vector: the batch is left out, because every
formula is per image. A MAC is one multiplication and one addition. Bias additions, normalisation, activations and
pooling are not MACs and are counted as none, like torchvision's and the papers' figures.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from cnnbench.errors import ShapeError

Shape = tuple[int, ...]
PerAxis = int | tuple[int, ...]


def per_axis(value: PerAxis, axes: int) -> tuple[int, ...]:
    """One value for each spatial axis: 3 becomes (3, 3) for an image."""
    values = (value,) * axes if isinstance(value, int) else value
    assert len(values) == axes, f"{value} does not fit {axes} spatial axes"
    return values


def spelled(shape: Shape) -> str:
    """A shape as people write it: 64x7x7."""
    return "x".join(map(str, shape))


class Op(ABC):
    """A layer's kind: what it does to a shape, what it holds and what it multiplies. `str` gives its settings."""

    @abstractmethod
    def output_shape(self, x: Shape) -> Shape:
        """The shape that comes out for x. Raises ShapeError when nothing would be left."""

    def params(self, x: Shape) -> int:
        """Learned parameters (buffers such as running statistics are not counted)."""
        return 0

    def macs(self, x: Shape) -> int:
        """Multiply-accumulates for one image."""
        return 0


def _windows(x: Shape, kernel: PerAxis, stride: PerAxis, padding: PerAxis, dilation: PerAxis, ceil: bool) -> Shape:
    """How many windows fit on each spatial axis: floor((n + 2p - d(k - 1) - 1) / s) + 1.

    With `ceil`, a last window that starts inside the input or its left padding counts too
    (torch.nn.MaxPool2d, ceil_mode).
    """
    axes = len(x) - 1
    settings = zip(x[1:], *(per_axis(value, axes) for value in (kernel, stride, padding, dilation)), strict=True)
    counts = []
    for n, k, s, p, d in settings:
        room = n + 2 * p - d * (k - 1) - 1
        count = (-(-room // s) if ceil else room // s) + 1
        if ceil and (count - 1) * s >= n + p:
            count -= 1
        if room < 0 or count < 1:
            raise ShapeError(
                f"nothing is left: its input is {spelled(x)}, its window {k} wide with padding {p}"
                + (f" and dilation {d}" if d != 1 else "")
            )
        counts.append(count)
    return tuple(counts)


@final
@dataclass(frozen=True)
class Conv(Op):
    """Convolution over any number of spatial axes (torch.nn.Conv1d, Conv2d)."""

    out_channels: int
    kernel: PerAxis
    stride: PerAxis = 1
    padding: PerAxis = 0
    dilation: PerAxis = 1
    groups: int = 1
    bias: bool = True

    def output_shape(self, x: Shape) -> Shape:
        """(K, P, Q) for an image."""
        if len(x) < 2:
            raise ShapeError(f"expected channels and at least one spatial axis, got {spelled(x)}")
        if x[0] % self.groups or self.out_channels % self.groups:
            raise ShapeError(f"{x[0]} -> {self.out_channels} channels cannot be split into {self.groups} groups")
        return (
            self.out_channels,
            *_windows(x, self.kernel, self.stride, self.padding, self.dilation, ceil=False),
        )

    def params(self, x: Shape) -> int:
        """K * (C / groups) * R * S, and K for the bias."""
        return self.out_channels * self._taps(x) + (self.out_channels if self.bias else 0)

    def macs(self, x: Shape) -> int:
        """K * P * Q * (C / groups) * R * S: each output value is one dot product over its window."""
        return math.prod(self.output_shape(x)) * self._taps(x)

    def _taps(self, x: Shape) -> int:
        """Length of one output value's dot product: (C / groups) * R * S."""
        return x[0] // self.groups * math.prod(per_axis(self.kernel, len(x) - 1))


@final
@dataclass(frozen=True)
class Linear(Op):
    """Fully connected layer (torch.nn.Linear)."""

    out_features: int
    bias: bool = True

    def output_shape(self, x: Shape) -> Shape:
        """(K,), or (..., K): the last axis is replaced."""
        return (*x[:-1], self.out_features)

    def params(self, x: Shape) -> int:
        """K * F, and K for the bias."""
        return self.out_features * x[-1] + (self.out_features if self.bias else 0)

    def macs(self, x: Shape) -> int:
        """K * F."""
        return self.out_features * math.prod(x)


@final
@dataclass(frozen=True)
class BatchNorm(Op):
    """Batch normalisation (Ioffe & Szegedy 2015): a scale and a shift per channel."""

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x

    def params(self, x: Shape) -> int:
        """2 C; the running mean and variance are buffers."""
        return 2 * x[0]


@final
@dataclass(frozen=True)
class Activation(Op):
    """Any function applied to each value: ReLU, ReLU6, SiLU, sigmoid."""

    function: str = "relu"

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x


@final
@dataclass(frozen=True)
class Dropout(Op):
    """Dropout, or stochastic depth: drops in training, does nothing in inference."""

    p: float

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x


@final
@dataclass(frozen=True)
class MaxPool(Op):
    """The largest value in each window (torch.nn.MaxPool2d)."""

    kernel: PerAxis
    stride: PerAxis | None = None
    padding: PerAxis = 0
    ceil: bool = False

    def output_shape(self, x: Shape) -> Shape:
        """(C, P, Q); the stride is the kernel's size unless given."""
        stride = self.kernel if self.stride is None else self.stride
        return (x[0], *_windows(x, self.kernel, stride, self.padding, 1, self.ceil))


@final
@dataclass(frozen=True)
class AdaptiveAvgPool(Op):
    """The mean of each of so many equal parts (torch.nn.AdaptiveAvgPool2d)."""

    size: PerAxis = 1

    def output_shape(self, x: Shape) -> Shape:
        """(C, *size), whatever the input's size."""
        return (x[0], *per_axis(self.size, len(x) - 1))


@final
@dataclass(frozen=True)
class Flatten(Op):
    """All axes of an image in one."""

    def output_shape(self, x: Shape) -> Shape:
        """(C * H * W,)."""
        return (math.prod(x),)


@final
@dataclass(frozen=True)
class Add(Op):
    """Residual connection (He et al. 2015): the sum of two equal shapes."""

    other: Shape

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged. Raises ShapeError if the two differ."""
        if x != self.other:
            raise ShapeError(f"cannot add {spelled(x)} and {spelled(self.other)}")
        return x


@final
@dataclass(frozen=True)
class Scale(Op):
    """Squeeze-and-excitation's last step (Hu et al. 2018): each channel times one factor of its own."""

    factors: Shape

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged. Raises ShapeError unless there is one factor per channel."""
        if self.factors != (x[0],) + (1,) * (len(x) - 1):
            raise ShapeError(f"cannot scale {spelled(x)} by {spelled(self.factors)}")
        return x
