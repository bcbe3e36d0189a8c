"""Layers that treat each value by itself: activations, what drops values in training, a learned scale."""

import math
from dataclasses import dataclass
from typing import final

from cnnbench.networks.layers.op import Op, Saved, Shape, Terms
from cnnbench.networks.units import FLOAT_BYTES

KEEPS_OUTPUT = frozenset({"relu", "sigmoid", "tanh", "softmax"})
"""Functions whose derivative PyTorch computes from their result; from their argument for all others, which it copies
when the function is applied in place."""


@final
@dataclass(frozen=True)
class Activation(Op):
    """Any function applied to each value: relu, relu6, silu, gelu, sigmoid, hardswish, hardsigmoid, tanh."""

    function: str = "relu"
    inplace: bool = False

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x

    def elementwise(self, x: Shape) -> int:
        """One per value, whatever the function."""
        return math.prod(x)

    def saved(self, x: Shape) -> Saved:
        """Its result or its argument, whichever the derivative is computed from."""
        if self.function in KEEPS_OUTPUT:
            return Saved(output=True)
        return Saved(bytes_per_image=math.prod(x) * FLOAT_BYTES) if self.inplace else Saved(input=True)

    @property
    def in_place(self) -> bool:
        """As set."""
        return self.inplace


@final
@dataclass(frozen=True)
class Dropout(Op):
    """Dropout (Srivastava et al. 2014): zeroes values in training, does nothing in inference."""

    p: float
    inplace: bool = False

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x

    def saved(self, x: Shape) -> Saved:
        """What each value was multiplied by: a float each, on the CPU."""
        return Saved(bytes_per_image=math.prod(x) * FLOAT_BYTES if self.p else 0)

    @property
    def in_place(self) -> bool:
        """As set, or because nothing is dropped."""
        return self.inplace or not self.p

    @property
    def hands_gradient_on(self) -> bool:
        """If nothing is dropped."""
        return not self.p

    @property
    def only_trains(self) -> bool:
        """True."""
        return True


@final
@dataclass(frozen=True)
class StochasticDepth(Op):
    """Stochastic depth (Huang et al. 2016): zeroes a whole branch of an image in training."""

    p: float

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x

    def saved(self, x: Shape) -> Saved:
        """What each image was multiplied by."""
        return Saved(bytes_per_image=FLOAT_BYTES if self.p else 0)

    @property
    def in_place(self) -> bool:
        """If nothing is dropped."""
        return not self.p

    @property
    def hands_gradient_on(self) -> bool:
        """If nothing is dropped."""
        return not self.p

    @property
    def only_trains(self) -> bool:
        """True."""
        return True


@final
@dataclass(frozen=True)
class LayerScale(Op):
    """A learned factor per channel (Touvron et al. 2021)."""

    def output_shape(self, x: Shape) -> Shape:
        """Unchanged."""
        return x

    def param_terms(self, x: Shape) -> Terms:
        """C."""
        return ((x[0],),)

    def elementwise(self, x: Shape) -> int:
        """One product per value."""
        return math.prod(x)

    def saved(self, x: Shape) -> Saved:
        """Its input, for the factors' gradient."""
        return Saved(input=True)
