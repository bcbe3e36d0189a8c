"""Convolution and its two gradients, in the formulations that ONNX Runtime computes fast (docs/training.md).

The input is (N, C, ...), the weight (K, C / groups, ...), the output (N, K, ...). Both gradients are convolutions
again; ONNX Runtime computes some of them many times slower than others of the same work. Each module has the
formulations of one of the three, and `fastest`, which chooses by shape.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from cnnbench.worker.export.training.rules.rule import Gradient, OpResult, Param, ScaledGradient, Shape, op_result
from cnnbench.worker.graphs.convolution import forward, input_gradient, weight_gradient
from cnnbench.worker.graphs.convolution.forward import more_behind, settings_of
from cnnbench.worker.graphs.graph import Graph, Tensor

LIGHT = 4
"""At most this many kernel elements for each output position: scaling the weight and its gradient then costs less than
scaling the output's gradient, of eight images."""


def convolution(
    g: Graph,
    _: Any,
    x: Tensor,
    w: Tensor,
    b: Param = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] | str = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> OpResult:
    """aten.conv1d, conv2d, conv3d. A factor of the output's gradient scales the weight and its gradient instead."""
    s = settings_of(w, stride, padding, dilation, groups)
    given, behind = x, more_behind(w, padding, dilation)
    x = g.pad(given, [0] * s.sides, behind)
    y = forward.fastest(g, x, w, b, s)

    @cache
    def factor(dy: ScaledGradient, ndim: int) -> Tensor:
        return g.reshape(dy.factor, (w.known(0), *(1,) * (ndim - 1)))

    def scaled(dy: Gradient, value: Tensor) -> Tensor:
        return g.mul(value, factor(dy, value.ndim)) if isinstance(dy, ScaledGradient) else value

    def rest(dy: Gradient) -> Tensor:
        return dy.rest if isinstance(dy, ScaledGradient) else dy

    def dx(dy: Gradient) -> Tensor:
        return g.pad(input_gradient.fastest(g, rest(dy), x, scaled(dy, w), s), [0] * s.sides, [-n for n in behind])

    return op_result(
        y,
        (given, dx),
        (w, lambda dy: scaled(dy, weight_gradient.fastest(g, rest(dy), x, w, s))),
        (b, lambda dy: scaled(dy, g.sum(rest(dy), [0, *range(2, x.ndim)]))),
        takes_scaled=math.prod(map(w.known, range(1, w.ndim))) <= LIGHT * math.prod(y.spatial()),
    )


def im2col(
    g: Graph,
    out: Sequence[Shape],
    x: Tensor,
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> OpResult:
    """aten.im2col: windows (N, C kernel elements, positions), as a depthwise convolution with one-hot weights."""
    elements, channels = math.prod(kernel), x.known(1)
    weight = np.tile(np.eye(elements, dtype=np.float32).reshape(elements, 1, *kernel), (channels, 1, 1, 1))
    found = convolution(g, out, x, g.constant(weight), None, stride, padding, dilation, channels)
    ((_, dx), *_), y = found.vjps, found.outputs[0]
    return op_result(g.reshape(y, out[0]), (x, lambda dy: dx(g.reshape(dy, y.shape))))
