"""Cross-entropy and dropout: what a step has that inference has not."""

from typing import Any

import numpy as np
from onnx import TensorProto

from cnnbench.records.artifact import DROP
from cnnbench.worker.export.training.graph import Graph, Tensor
from cnnbench.worker.export.training.rules.rule import Gradients, NoRule, OpResult, op_result

MEAN = 1
"""aten's number for the reduction `mean`."""


def cross_entropy(
    g: Graph,
    _: Any,
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    reduction: int = MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> OpResult:
    """Mean over the images of -sum(target log_softmax(logits)), logits (N, classes), labels (N) int64."""
    if weight is not None or reduction != MEAN or logits.ndim != 2:
        raise NoRule("cross-entropy other than the mean over images")
    classes = logits.known(1)
    depth = g.constant(np.asarray(classes, np.int64))
    target = g("OneHot", labels, depth, g.constant([0.0, 1.0]), shape=logits.shape, axis=1)
    if label_smoothing:
        target = g.add(g.mul(target, 1 - label_smoothing), g.constant(label_smoothing / classes))
    log_p = g("LogSoftmax", logits, axis=1)
    share = g("Reciprocal", g.batch_size(logits))
    total = g.sum(g.mul(target, log_p), [0, 1])
    loss = g("Neg", g.mul(total, share))

    def vjp(dy: Tensor) -> Gradients:
        return [g.mul(g.sub(g("Exp", log_p), target), g.mul(dy, share)), None]

    return op_result(loss, vjp)


def dropout(g: Graph, _: Any, x: Tensor, p: float, train: bool | None = True) -> OpResult:
    """aten.native_dropout: values are zero with probability p, the others divided by 1 - p (Srivastava et al. 2014).

    Outputs y and which values were kept.
    """
    if not train or p == 0:
        return op_result(x, lambda dy: [dy], x)
    if not any(value.name == DROP for value in g.inputs):
        g.input(DROP, ())
    rate = g.mul(Tensor(DROP, ()), p)
    random = g("RandomUniformLike", x)
    kept = g("GreaterOrEqual", random, rate)
    factor = g("Reciprocal", g.sub(g.constant(1.0), rate))
    mask = g.mul(g("Cast", kept, to=TensorProto.FLOAT), factor)
    return op_result(g.mul(x, mask), lambda dy: [g.mul(dy, mask)], kept)
