"""What a network ends with: fully connected layers and the loss."""

import math
from functools import cache
from typing import Any

import numpy as np

from cnnbench.worker.export.training.rules.products import matmul
from cnnbench.worker.export.training.rules.rule import NoRule, OpResult, Param, op_result
from cnnbench.worker.graphs.graph import Graph, Tensor

MEAN = 1
"""aten's number for the reduction `mean`."""


def linear(g: Graph, _: Any, x: Tensor, w: Tensor, b: Param = None) -> OpResult:
    """x (..., I) times the weight (O, I) transposed, plus the bias (O)."""
    if w.ndim == 1:
        product = matmul(g, _, x, w)
        ((_, of_x), (_, of_w)), y = product.vjps, product.outputs[0]
        return op_result(y if b is None else g.add(y, b), (x, of_x), (w, of_w), (b, lambda dy: dy))
    outputs, inputs = w.known(0), w.known(1)
    rows = x if x.ndim == 2 else g.reshape(x, (None, inputs))
    y = g("Gemm", rows, w, b, shape=(rows.shape[0], outputs), transB=1)

    @cache
    def in_rows(dy: Tensor) -> Tensor:
        return dy if dy.ndim == 2 else g.reshape(dy, (None, outputs))

    return op_result(
        g.reshape(y, (*x.shape[:-1], outputs)),
        (x, lambda dy: g.reshape(g("Gemm", in_rows(dy), w, shape=rows.shape), x.shape)),
        (w, lambda dy: g("Gemm", in_rows(dy), rows, shape=w.shape, transA=1)),
        (b, lambda dy: g.sum(in_rows(dy), [0])),
    )


def cross_entropy(
    g: Graph,
    _: Any,
    logits: Tensor,
    labels: Tensor,
    weight: Param = None,
    reduction: int = MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> OpResult:
    """Mean over images and places of -sum(target log_softmax(logits)), logits (N, classes, ...), labels (N, ...)."""
    if weight is not None or reduction != MEAN:
        raise NoRule("cross-entropy other than the mean over images")
    classes = logits.known(1)
    if classes == 1:
        raise NoRule("cross-entropy of a single output is always zero, so that nothing is learned")
    depth = g.constant(np.asarray(classes, np.int64))
    target = g("OneHot", labels, depth, g.constant([0.0, 1.0]), shape=logits.shape, axis=1)
    if label_smoothing:
        target = g.add(g.mul(target, 1 - label_smoothing), g.constant(label_smoothing / classes))
    log_p = g("LogSoftmax", logits, axis=1)
    images, places = g.batch_size(logits), math.prod(logits.spatial())
    share = g("Reciprocal", images if places == 1 else g.mul(images, float(places)))
    loss = g("Neg", g.mul(g.sum(g.mul(target, log_p), list(range(logits.ndim))), share))
    return op_result(loss, (logits, lambda dy: g.mul(g.sub(g("Exp", log_p), target), g.mul(dy, share))))
