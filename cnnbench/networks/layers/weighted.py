"""Layers that multiply and accumulate: convolution, fully connected, and the product of two activations."""

import math
from dataclasses import dataclass

from cnnbench.errors import ShapeError
from cnnbench.networks.layers.join import Joining
from cnnbench.networks.layers.op import Op, PerAxis, Saved, Shape, Terms, check_windows, per_axis, spelled, windows


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
