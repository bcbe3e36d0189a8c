"""Batch, layer, group and instance normalisation: all subtract a mean and divide by a deviation, over other axes."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from cnnbench.worker.export.training.rules.rule import NoRule, OpResult, Param, ScaledGradient, op_result
from cnnbench.worker.graphs.graph import Graph, Size, Tensor

TensorVjp = Callable[[Tensor], Tensor]


def batch_norm(
    g: Graph,
    _: Any,
    x: Tensor,
    w: Param,
    b: Param,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> OpResult:
    """aten._native_batch_norm_legit_functional: outputs y, mean, 1 / deviation, and the new running statistics.

    In training a channel's statistics are over images and pixels; the running variance takes the unbiased one (Ioffe
    and Szegedy 2015, algorithm 2).
    """
    if not training:
        return batch_norm_fixed(g, _, x, w, b, running_mean, running_var, momentum, eps)
    channels = x.known(1)
    per_channel = (1, channels, *(1 for _ in x.shape[2:]))
    axes = [0, *range(2, x.ndim)]
    values = g.mul(g.constant(np.full((1,) * x.ndim, math.prod(x.spatial()), np.float32)), g.batch_size(x))
    # With a momentum of 0 the operator puts out the batch's own statistics. It may write them into its last inputs.
    old = [g.mul(statistic, 0.0) for statistic in (running_mean, running_var)]
    weight, bias = w or g.constant(np.ones(channels, np.float32)), b or g.constant(np.zeros(channels, np.float32))
    settings: dict[str, Any] = {"epsilon": eps, "momentum": 0.0, "training_mode": 1}
    shapes = [x.shape, (channels,), (channels,)]
    y, mean, variance = g.several("BatchNormalization", x, weight, bias, *old, shapes=shapes, **settings)
    mean, variance = g.reshape(mean, per_channel), g.reshape(variance, per_channel)
    inverse = _inverse_deviation(g, variance, eps)
    scale = inverse if w is None else g.mul(inverse, g.reshape(w, per_channel))
    unbiased = g.mul(variance, g.div(values, g.sub(values, 1.0)))
    running = [  # not with zero times the old ones, which would be one node with what the operator writes into
        g.add(g.mul(old, 1 - momentum), g.mul(g.reshape(new, (channels,)), momentum))
        if momentum != 1
        else g.reshape(new, (channels,))
        for old, new in ((running_mean, mean), (running_var, unbiased))
    ]

    @cache
    def sums(dy: Tensor) -> tuple[Tensor, Tensor]:
        """Over the axes: of dy, and of dy (x - mean)."""
        total = g.sum(dy, axes, keep=True)
        return total, g.sub(g.sum(g.mul(dy, x), axes, keep=True), g.mul(mean, total))

    def dx(dy: Tensor) -> ScaledGradient:
        """With s = scale, c = x - mean and means over the axes: s (dy - mean(dy) - c inverse^2 mean(dy c))."""
        total, along = sums(dy)
        slope = g.mul(g.mul(inverse, inverse), g.div(along, values))
        offset = g.sub(g.mul(mean, slope), g.div(total, values))
        return ScaledGradient(g.add(dy, g.affine(x, g("Neg", slope), offset)), scale)

    return op_result(
        y,
        (x, dx),
        (w, lambda dy: g.reshape(g.mul(sums(dy)[1], inverse), (channels,))),
        (b, lambda dy: g.reshape(sums(dy)[0], (channels,))),
        others=[mean, inverse, *running],
    )


def batch_norm_fixed(
    g: Graph,
    _: Any,
    x: Tensor,
    w: Param,
    b: Param,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> OpResult:
    """aten._native_batch_norm_legit_no_training: with the running statistics, which stay as they are."""
    per_channel = (1, x.known(1), *(1 for _ in x.shape[2:]))
    axes = [0, *range(2, x.ndim)]
    mean, inverse = (
        g.reshape(running_mean, per_channel),
        _inverse_deviation(g, g.reshape(running_var, per_channel), eps),
    )
    scale = inverse if w is None else g.mul(inverse, g.reshape(w, per_channel))
    shift = g("Neg", g.mul(mean, scale))
    y = g.affine(x, scale, shift if b is None else g.add(shift, g.reshape(b, per_channel)))

    def dw(dy: Tensor) -> Tensor:
        along = g.sum(g.mul(dy, g.sub(x, mean)), axes, keep=True)
        return g.reshape(g.mul(along, inverse), (x.known(1),))

    return op_result(
        y,
        (x, lambda dy: ScaledGradient(dy, scale)),
        (w, dw),
        (b, lambda dy: g.sum(dy, axes)),
        others=[running_mean, running_var],
    )


def batch_norm_without_statistics(
    g: Graph, out: Any, x: Tensor, w: Param, b: Param, training: bool, momentum: float, eps: float
) -> OpResult:
    """aten._native_batch_norm_legit.no_stats: as in training, and nothing is kept."""
    axes = [0, *range(2, x.ndim)]
    y, dx, dw, db = _normalised(g, x, axes, w, b, (x.known(1), *(1 for _ in x.shape[2:])), eps)
    return op_result(y, (x, dx), (w, dw), (b, db))


def layer_norm(
    g: Graph, _: Any, x: Tensor, sizes: Sequence[int], w: Param = None, b: Param = None, eps: float = 1e-5, *__: Any
) -> OpResult:
    """Over the last axes, each position by itself."""
    axes = list(range(x.ndim - len(sizes), x.ndim))
    y, dx, dw, db = _normalised(g, x, axes, w, b, tuple(sizes), eps)
    return op_result(y, (x, dx), (w, dw), (b, db))


def group_norm(
    g: Graph, _: Any, x: Tensor, groups: int, w: Param = None, b: Param = None, eps: float = 1e-5, *__: Any
) -> OpResult:
    """Over the channels of a group and all pixels, each image by itself (Wu and He 2018)."""
    channels = x.known(1)
    split = (x.shape[0], groups, channels // groups, *x.shape[2:])
    affine = (1, groups, channels // groups, *(1 for _ in x.shape[2:]))
    y, dx, dw, db = _normalised(g, g.reshape(x, split), list(range(2, len(split))), w, b, affine, eps)
    grouped = cache(lambda dy: g.reshape(dy, split))
    return op_result(
        g.reshape(y, x.shape),
        (x, lambda dy: g.reshape(dx(grouped(dy)), x.shape)),
        (w, lambda dy: dw(grouped(dy))),
        (b, lambda dy: db(grouped(dy))),
    )


def instance_norm(
    g: Graph,
    out: Any,
    x: Tensor,
    w: Param,
    b: Param,
    running_mean: Param,
    running_var: Param,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> OpResult:
    """Over the pixels of each image and channel (Ulyanov et al. 2016), or with the running statistics."""
    if not use_input_stats:
        assert running_mean is not None
        assert running_var is not None
        fixed = batch_norm_fixed(g, out, x, w, b, running_mean, running_var, momentum, eps)
        return op_result(fixed.outputs[0], *fixed.vjps)
    if running_mean is not None:
        raise NoRule("instance normalisation that updates running statistics")
    return group_norm(g, out, x, x.known(1), w, b, eps)


def _normalised(
    g: Graph, x: Tensor, axes: list[int], w: Param, b: Param, affine: tuple[Size, ...], eps: float
) -> tuple[Tensor, TensorVjp, TensorVjp, TensorVjp]:
    """y = w (x - mean) / deviation + b, with statistics over `axes` and w, b in the shape `affine`; the three vjps."""
    centred = g.sub(x, g.mean(x, axes, keep=True))
    inverse = _inverse_deviation(g, g.mean(g.mul(centred, centred), axes, keep=True), eps)
    unit = g.mul(centred, inverse)
    y = unit if w is None else g.mul(unit, g.reshape(w, affine))
    if b is not None:
        y = g.add(y, g.reshape(b, affine))
    parameter_shape = next((parameter.shape for parameter in (w, b) if parameter), ())
    along_all = (1,) * (x.ndim - len(affine)) + tuple(affine)
    copies = [axis for axis, size in enumerate(along_all) if size == 1 and along_all != x.shape]

    def dx(dy: Tensor) -> Tensor:
        inner = dy if w is None else g.mul(dy, g.reshape(w, affine))
        along = g.mean(g.mul(inner, unit), axes, keep=True)
        rest = g.sub(g.sub(inner, g.mean(inner, axes, keep=True)), g.mul(unit, along))
        return g.mul(rest, inverse)

    def db(dy: Tensor) -> Tensor:
        return g.reshape(g.sum(dy, copies), parameter_shape)

    return y, dx, lambda dy: db(g.mul(dy, unit)), db


def _inverse_deviation(g: Graph, variance: Tensor, eps: float) -> Tensor:
    return g("Reciprocal", g("Sqrt", g.add(variance, eps)))
