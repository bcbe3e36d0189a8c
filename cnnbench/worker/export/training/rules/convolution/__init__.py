"""Convolution and its two gradients, in the formulations that ONNX Runtime computes fast (docs/training.md).

The input is (N, C, ...), the weight (K, C / groups, ...), the output (N, K, ...). Convolution is linear in both, so
both gradients are convolutions again; ONNX Runtime computes some of them many times slower than others of the same
work, so it matters which axis of the tensors stands for which of the convolution. Each module has the formulations of
one of the three, and `fastest`, which chooses by shape.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cnnbench.worker.export.training.graph import Graph, Tensor
from cnnbench.worker.export.training.rules.convolution import forward, input_gradient, weight_gradient
from cnnbench.worker.export.training.rules.convolution.settings import settings_of
from cnnbench.worker.export.training.rules.rule import Gradients, OpResult, ScaledGradient, op_result

LIGHT = 4
"""At most this many kernel elements for each output position: scaling the weight and its gradient then costs less than
scaling the output's gradient, of eight images."""


def convolution(
    g: Graph,
    _: Any,
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] | str = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> OpResult:
    """aten.conv1d, conv2d, conv3d."""
    s = settings_of(w, stride, padding, dilation, groups)
    y = forward.fastest(g, x, w, b, s)

    def of_bias(dy: Tensor) -> Tensor | None:
        return g.sum(dy, [0, *range(2, dy.ndim)]) if b is not None and b.varies else None

    def vjp(dy: Tensor) -> Gradients:
        dx = input_gradient.fastest(g, dy, x, w, s) if x.varies else None
        dw = weight_gradient.fastest(g, dy, x, w, s) if w.varies else None
        return [dx, dw] if b is None else [dx, dw, of_bias(dy)]

    def vjp_scaled(dy: ScaledGradient) -> Gradients:
        """The factor scales the weight and its gradient, which are smaller than dy."""
        scale = g.reshape(dy.factor, (w.known(0), *(1 for _ in w.shape[1:])))
        dx = input_gradient.fastest(g, dy.rest, x, g.mul(w, scale), s) if x.varies else None
        dw = g.mul(weight_gradient.fastest(g, dy.rest, x, w, s), scale) if w.varies else None
        if b is None:
            return [dx, dw]
        db = of_bias(dy.rest)
        return [dx, dw, db and g.mul(db, g.reshape(dy.factor, b.shape))]

    is_light = math.prod(map(w.known, range(1, w.ndim))) <= LIGHT * math.prod(y.spatial())
    return replace(op_result(y, vjp), vjp_scaled=vjp_scaled if is_light else None)
