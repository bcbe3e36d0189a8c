"""Layers that treat each value by itself: activations, dropout, a learned scale."""

import math
from dataclasses import dataclass

from cnnbench.networks.layers.op import Op, Saved, Shape, Terms
from cnnbench.networks.units import FLOAT_BYTES

KEEPS_OUTPUT = frozenset({"relu", "sigmoid", "tanh", "softmax"})
"""Functions whose derivative PyTorch computes from their result; from their argument for all others, which it copies
when the function is applied in place."""


@dataclass(frozen=True)
class Activation(Op):
    """Any function applied to each value: relu, relu6, silu, gelu, sigmoid, hardswish, hardsigmoid, tanh."""

    function: str = "relu"
    inplace: bool = False

    operations_per_value = 1  # whatever the function
    work = "activations"

    def saved(self, x: Shape) -> Saved:
        """Its result or its argument, whichever the derivative is computed from."""
        if self.function in KEEPS_OUTPUT:
            return Saved(output=True)
        return Saved(bytes_per_image=math.prod(x) * FLOAT_BYTES) if self.inplace else Saved(input=True)

    @property
    def in_place(self) -> bool:
        return self.inplace


@dataclass(frozen=True)
class _Drop(Op):
    """Zeroes values in training; does nothing in inference, nor with a probability of 0."""

    p: float

    only_trains = True

    @property
    def in_place(self) -> bool:
        return not self.p

    @property
    def hands_gradient_on(self) -> bool:
        return not self.p


@dataclass(frozen=True)
class Dropout(_Drop):
    """Dropout (Srivastava et al. 2014): zeroes single values."""

    inplace: bool = False

    def saved(self, x: Shape) -> Saved:
        """The factor of each value: a float each, on the CPU."""
        return Saved(bytes_per_image=math.prod(x) * FLOAT_BYTES if self.p else 0)

    @property
    def in_place(self) -> bool:
        return self.inplace or not self.p


@dataclass(frozen=True)
class StochasticDepth(_Drop):
    """Stochastic depth (Huang et al. 2016): zeroes an image's whole branch."""

    def saved(self, x: Shape) -> Saved:
        """The factor of each image."""
        return Saved(bytes_per_image=FLOAT_BYTES if self.p else 0)


@dataclass(frozen=True)
class LayerScale(Op):
    """A learned factor per channel (Touvron et al. 2021)."""

    operations_per_value = 1
    saves = Saved(input=True)  # for the factors' gradient

    def param_terms(self, x: Shape) -> Terms:
        """C."""
        return ((x[0],),)
