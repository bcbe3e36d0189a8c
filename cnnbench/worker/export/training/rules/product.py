"""Fully connected layers."""

from typing import Any

from cnnbench.worker.export.training.graph import Graph, Tensor
from cnnbench.worker.export.training.rules.rule import Gradients, OpResult, op_result


def linear(g: Graph, _: Any, x: Tensor, w: Tensor, b: Tensor | None = None) -> OpResult:
    """x (..., I) times the weight (O, I) transposed, plus the bias (O)."""
    outputs, inputs = w.known(0), w.known(1)
    rows = x if x.ndim == 2 else g.reshape(x, (None, inputs))
    y = g("Gemm", *((rows, w) if b is None else (rows, w, b)), shape=(rows.shape[0], outputs), transB=1)

    def vjp(dy: Tensor) -> Gradients:
        dy = dy if dy.ndim == 2 else g.reshape(dy, (None, outputs))
        found: list[Tensor | None] = [None, None]
        if x.varies:
            found[0] = g.reshape(g("Gemm", dy, w, shape=rows.shape), x.shape)
        if w.varies:
            found[1] = g("Gemm", dy, rows, shape=w.shape, transA=1)
        if b is not None:
            found.append(g.sum(dy, [0]) if b.varies else None)
        return found

    return op_result(g.reshape(y, (*x.shape[:-1], outputs)), vjp)
