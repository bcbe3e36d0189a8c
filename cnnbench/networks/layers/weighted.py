"""Layers that multiply and accumulate: convolution, fully connected, and the product of two activations."""

import math
from dataclasses import dataclass

from cnnbench.errors import ShapeError
from cnnbench.networks.layers.join import Joining
from cnnbench.networks.layers.op import (
    Op,
    PerAxis,
    Saved,
    Shape,
    Terms,
    Value,
    check_windows,
    per_axis,
    spelled,
    windows,
)


class _Weighted(Op):
    """A layer with weights and, if set, a bias."""

    bias: bool

    saves = Saved(input=True)  # for the weights' gradient

    def elementwise(self, x: Shape) -> int:
        """One addition per output value for the bias."""
        return math.prod(self.output_shape(x)) if self.bias else 0


@dataclass(frozen=True)
class Conv(_Weighted):
    """Convolution over any number of spatial axes (torch.nn.Conv1d, Conv2d)."""

    out_channels: int
    kernel: PerAxis
    stride: PerAxis = 1
    padding: PerAxis = 0
    dilation: PerAxis = 1
    groups: int = 1
    bias: bool = True

    def check(self, x: Shape) -> None:
        if self.out_channels < 1:
            raise ShapeError(f"expected at least one output channel, got {self.out_channels}")
        check_windows(x, self.kernel, self.stride, self.padding, self.dilation)
        if x[0] % self.groups or self.out_channels % self.groups:
            raise ShapeError(f"{x[0]} -> {self.out_channels} channels cannot be split into {self.groups} groups")

    def output_shape(self, x: Shape) -> Shape:
        """(K, P, Q)."""
        return (self.out_channels, *windows(x, self.kernel, self.stride, self.padding, self.dilation, ceil=False))

    def param_terms(self, x: Shape) -> Terms:
        """R * S * (C / groups) * K, and K for the bias."""
        weights = (*self._kernel_elements(x), self.out_channels)
        return (weights, (self.out_channels,)) if self.bias else (weights,)

    def mac_terms(self, x: Shape) -> Terms:
        """P * Q * K * R * S * (C / groups): one dot product per output value."""
        channels, *sizes = self.output_shape(x)
        return ((*sizes, channels, *self._kernel_elements(x)),)

    def _kernel_elements(self, x: Shape) -> tuple[int, ...]:
        """R, S, C / groups: the extent of one output value's dot product."""
        return (*per_axis(self.kernel, len(x) - 1), x[0] // self.groups)


@dataclass(frozen=True)
class ConvTranspose(Conv):
    """Transposed convolution (torch.nn.ConvTranspose2d): each value of the input is spread over a window."""

    output_padding: PerAxis = 0

    def output_shape(self, x: Shape) -> Shape:
        """(K, P, Q): (n - 1) s - 2p + d(k - 1) + output_padding + 1 on each spatial axis."""
        settings = (self.kernel, self.stride, self.padding, self.dilation, self.output_padding)
        axes = zip(x[1:], *(per_axis(each, len(x) - 1) for each in settings), strict=True)
        return (self.out_channels, *((n - 1) * s - 2 * p + d * (k - 1) + extra + 1 for n, k, s, p, d, extra in axes))

    def check(self, x: Shape) -> None:
        if x[0] % self.groups or self.out_channels % self.groups:
            raise ShapeError(f"{x[0]} -> {self.out_channels} channels cannot be split into {self.groups} groups")

    def mac_terms(self, x: Shape) -> Terms:
        """H * W * C * R * S * (K / groups), with the input's positions: each of its values meets one filter."""
        return ((*x[1:], x[0], *per_axis(self.kernel, len(x) - 1), self.out_channels // self.groups),)


@dataclass(frozen=True)
class DeformConv(Conv):
    """Deformable convolution (Dai et al. 2017): a convolution whose window is sampled where its offsets say.

    Sampling is no MAC.
    """

    others: tuple[Value, ...] = ()
    """Offsets, and the mask of version 2."""


@dataclass(frozen=True)
class Linear(_Weighted):
    """Fully connected layer (torch.nn.Linear), on the last axis."""

    out_features: int
    bias: bool = True

    work = "fully connected layers"

    def output_shape(self, x: Shape) -> Shape:
        """(..., K)."""
        return (*x[:-1], self.out_features)

    def param_terms(self, x: Shape) -> Terms:
        """F * K, and K for the bias."""
        weights = (x[-1], self.out_features)
        return (weights, (self.out_features,)) if self.bias else (weights,)

    def mac_terms(self, x: Shape) -> Terms:
        """F * K, for each position of the other axes."""
        return ((*x, self.out_features),)


@dataclass(frozen=True)
class MatMul(Joining):
    """The matrix product of two activations, as in attention: (..., M, F) by (..., F, K)."""

    saves = Saved(input=True, others=True)  # each for the other's gradient
    work = "matrix products"

    def check(self, x: Shape) -> None:
        for other in self.others:
            if x[-1] != other.shape[-2] or x[:-2] != other.shape[:-2]:
                raise ShapeError(f"cannot multiply {spelled(x)} by {spelled(other.shape)}")

    def output_shape(self, x: Shape) -> Shape:
        """(..., M, K)."""
        return (*x[:-1], self.others[0].shape[-1])

    def mac_terms(self, x: Shape) -> Terms:
        """M * F * K, for each position of the other axes."""
        return ((*x, self.others[0].shape[-1]),)
