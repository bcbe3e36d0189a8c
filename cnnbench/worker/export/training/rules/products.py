"""Matrix products."""

from typing import Any

from cnnbench.worker.export.training.rules.rule import OpResult, op_result
from cnnbench.worker.graphs.graph import Graph, Tensor


def matmul(g: Graph, _: Any, a: Tensor, b: Tensor) -> OpResult:
    """a times b, along the last axis of a and the last but one of b; others broadcast. Vectors may be given."""
    left = g.reshape(a, (1, a.shape[0])) if a.ndim == 1 else a
    right = g.reshape(b, (b.shape[0], 1)) if b.ndim == 1 else b
    whole = g.matmul(left, right)
    kept = [size for axis, size in enumerate(whole.shape) if not _is_of_vector(axis, whole.ndim, a.ndim, b.ndim)]

    def turned(x: Tensor) -> Tensor:
        return g.transpose(x, [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2])

    def of_left(dy: Tensor) -> Tensor:
        found = g.matmul(g.reshape(dy, whole.shape), turned(right))
        return _flattened(g, found, a)

    def of_right(dy: Tensor) -> Tensor:
        found = g.matmul(turned(left), g.reshape(dy, whole.shape))
        return _flattened(g, found, b)

    return op_result(g.reshape(whole, kept), (a, of_left), (b, of_right))


def _is_of_vector(axis: int, ndim: int, left: int, right: int) -> bool:
    return (left == 1 and axis == ndim - 2) or (right == 1 and axis == ndim - 1)


def _flattened(g: Graph, gradient: Tensor, x: Tensor) -> Tensor:
    """Of a vector: summed over the axes that it was broadcast along."""
    if x.ndim > 1:
        return gradient
    axes = list(range(gradient.ndim - 2))
    return g.reshape(g.sum(gradient, axes) if axes else gradient, x.shape)


def addmm(g: Graph, out: Any, c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> OpResult:
    """beta c + alpha a b, of matrices or of batches of them."""
    product = matmul(g, out, a, b)
    scaled = product.outputs[0] if alpha == 1 else g.mul(product.outputs[0], alpha)
    (_, of_a), (_, of_b) = product.vjps

    def times(dy: Tensor, factor: float) -> Tensor:
        return dy if factor == 1 else g.mul(dy, factor)

    return op_result(
        g.add(times(c, beta), scaled),
        (c, lambda dy: times(dy, beta)),
        (a, lambda dy: of_a(times(dy, alpha))),
        (b, lambda dy: of_b(times(dy, alpha))),
    )
