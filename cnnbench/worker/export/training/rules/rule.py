"""What a gradient rule is: an operator's ONNX nodes, and its vector-Jacobian products (vjps)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cnnbench.worker.graphs.graph import Graph, NoRule, Size, Tensor

Shape = tuple[Size, ...]
Param = Tensor | None
"""A layer's weight or bias; None where it has none."""


__all__ = [
    "Gradient",
    "NoRule",
    "OpResult",
    "Param",
    "Rule",
    "ScaledGradient",
    "Shape",
    "Vjp",
    "materialise",
    "op_result",
]


@dataclass(frozen=True)
class ScaledGradient:
    """A gradient that is `rest` (N, C, ...) times `factor` (1, C, 1...), one number for each channel."""

    rest: Tensor
    factor: Tensor


Gradient = Tensor | ScaledGradient
Vjp = Callable[..., Gradient]
"""Writes the loss's gradient of an argument, or of the argument broadcast, from the gradients of the outputs: a tensor
for each (None where there is none)."""


@dataclass(frozen=True)
class OpResult:
    """An operator that was written into the graph."""

    outputs: Sequence[Tensor]
    """Those whose gradients the vjps take."""
    vjps: Sequence[tuple[Tensor, Vjp]]
    """For each argument that has a gradient. Only those of arguments that vary are called."""
    others: Sequence[Tensor] = ()
    """The outputs behind, whose gradients are not followed."""
    takes_scaled: bool = False
    """Whether the vjps also take a `ScaledGradient`, whose factor they need not multiply into it."""

    def argument_gradients(self, g: Graph, gradients: Sequence[Gradient | None]) -> list[tuple[Tensor, Gradient]]:
        """The gradients of the arguments that vary, from those of the outputs."""
        return [
            (argument, _unbroadcast(g, vjp(*gradients), argument)) for argument, vjp in self.vjps if argument.varies
        ]


Rule = Callable[..., OpResult]
"""Called with the graph, the traced shapes of the outputs, and the operator's arguments as its ATen schema has them,
with a `Tensor` for each tensor."""


def op_result(
    y: Tensor, *vjps: tuple[Tensor | float | None, Vjp], others: Sequence[Tensor] = (), takes_scaled: bool = False
) -> OpResult:
    """An operator whose gradients come from its first output alone; arguments that are no tensors are left out."""
    return OpResult([y], [(x, vjp) for x, vjp in vjps if isinstance(x, Tensor)], others, takes_scaled)


def materialise(g: Graph, gradient: Gradient) -> Tensor:
    """The gradient itself."""
    return g.mul(gradient.rest, gradient.factor) if isinstance(gradient, ScaledGradient) else gradient


def _unbroadcast(g: Graph, gradient: Gradient, x: Tensor) -> Gradient:
    """The gradient of x, where the gradient is of x broadcast to a larger shape: the sum over its copies."""
    if isinstance(gradient, ScaledGradient):
        return gradient
    extra = gradient.ndim - x.ndim
    axes = list(range(extra))
    axes += [axis for axis in range(extra, gradient.ndim) if x.shape[axis - extra] == 1 and gradient.shape[axis] != 1]
    return g.reshape(g.sum(gradient, axes, keep=True), x.shape) if axes else gradient
