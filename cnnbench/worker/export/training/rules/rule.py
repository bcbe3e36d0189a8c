"""What a gradient rule is: an operator's ONNX nodes, and its vector-Jacobian product (vjp)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cnnbench.worker.export.training.graph import Graph, Size, Tensor

Shape = tuple[Size, ...]


class NoRule(Exception):
    """An operator with settings that its rule does not know; the message names them."""


@dataclass(frozen=True)
class ScaledGradient:
    """A gradient that is `rest` (N, C, ...) times `factor` (1, C, 1...), one number for each channel."""

    rest: Tensor
    factor: Tensor


Gradients = Sequence[Tensor | None]
VjpResult = Sequence[Tensor | ScaledGradient | None]


def materialise(g: Graph, gradient: Tensor | ScaledGradient) -> Tensor:
    """The gradient itself."""
    return g.mul(gradient.rest, gradient.factor) if isinstance(gradient, ScaledGradient) else gradient


@dataclass(frozen=True)
class OpResult:
    """An operator that was written into the graph."""

    outputs: Sequence[Tensor]
    vjp: Callable[[Gradients], VjpResult]
    """From the loss's gradients of the outputs (None where there is none) to those of the operator's tensor arguments,
    in the order of the arguments, those in lists included; None for what does not vary or has no gradient."""
    vjp_scaled: Callable[[ScaledGradient], Gradients] | None = None
    """The same of its only output's gradient, where the factor need not be multiplied into it."""


Rule = Callable[..., OpResult]
"""Called with the graph, the traced shapes of the outputs, and the operator's arguments as its ATen schema has them,
with a `Tensor` for each tensor."""


def op_result(y: Tensor, vjp: Callable[[Tensor], VjpResult], *others: Tensor) -> OpResult:
    """An operator whose gradients come from its first output alone."""

    def vjp_one(gradients: Gradients) -> VjpResult:
        assert gradients[0] is not None
        return vjp(gradients[0])

    return OpResult([y, *others], vjp_one)


def unbroadcast(g: Graph, gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of x, where the gradient is of x broadcast to a larger shape: the sum over its copies."""
    extra = gradient.ndim - x.ndim
    axes = list(range(extra))
    axes += [axis for axis in range(extra, gradient.ndim) if x.shape[axis - extra] == 1 and gradient.shape[axis] != 1]
    if not axes:
        return gradient
    return g.reshape(g.sum(gradient, axes, keep=True), x.shape)
