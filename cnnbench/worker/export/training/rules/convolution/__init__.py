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
"""At most this many entries of a kernel for each place of an output: multiplying the weight and its gradient then costs
less than multiplying the output's gradient, of eight images."""


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

    def vjp(dy: Tensor) -> Gradients:
        found: list[Tensor | None] = [
            input_gradient.fastest(g, dy, x, w, s) if x.varies else None,
            weight_gradient.fastest(g, dy, x, w, s) if w.varies else None,
        ]
        if b is not None:
            found.append(g.sum(dy, [0, *range(2, dy.ndim)]) if b.varies else None)
        return found

    def vjp_scaled(dy: ScaledGradient) -> Gradients:
        """The factor multiplies the weight and its gradient, which are smaller than dy."""
        of_kernels = g.reshape(dy.factor, (w.known(0), *(1 for _ in w.shape[1:])))
        found: list[Tensor | None] = [
            input_gradient.fastest(g, dy.rest, x, g.mul(w, of_kernels), s) if x.varies else None,
            g.mul(weight_gradient.fastest(g, dy.rest, x, w, s), of_kernels) if w.varies else None,
        ]
        if b is not None:
            total = g.mul(g.sum(dy.rest, [0, *range(2, y.ndim)]), g.reshape(dy.factor, b.shape))
            found.append(total if b.varies else None)
        return found

    is_light = math.prod(map(w.known, range(1, w.ndim))) <= LIGHT * math.prod(y.spatial())
    return replace(op_result(y, vjp), vjp_scaled=vjp_scaled if is_light else None)
