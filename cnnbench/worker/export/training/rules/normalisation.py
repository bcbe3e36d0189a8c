"""Batch, layer, group and instance normalisation: all subtract a mean and divide by a deviation, over other axes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cnnbench.worker.export.training.graph import Graph, Size, Tensor
from cnnbench.worker.export.training.rules.rule import Gradients, NoRule, OpResult, ScaledGradient, VjpResult, op_result


def batch_norm(
    g: Graph,
    _: Any,
    x: Tensor,
    w: Tensor | None,
    b: Tensor | None,
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
        raise NoRule("batch normalisation in inference mode within a training step")
    channels = x.known(1)
    per_channel = (1, channels, *(1 for _ in x.shape[2:]))
    axes = [0, *range(2, x.ndim)]
    values = g.mul(g.constant(np.full((1,) * x.ndim, math.prod(x.spatial()), np.float32)), g.batch_size(x))
    mean = g.mean(x, axes, keep=True)
    centred = g.sub(x, mean)
    variance = g.mean(g.mul(centred, centred), axes, keep=True)
    inverse = _inverse_deviation(g, variance, eps)
    scale = inverse if w is None else g.mul(inverse, g.reshape(w, per_channel))
    y = g.mul(centred, scale)
    if b is not None:
        y = g.add(y, g.reshape(b, per_channel))
    unbiased = g.mul(variance, g.div(values, g.sub(values, 1.0)))
    running = [
        g.add(g.mul(old, 1 - momentum), g.mul(g.reshape(new, (channels,)), momentum))
        for old, new in ((running_mean, mean), (running_var, unbiased))
    ]

    def vjp(dy: Tensor) -> VjpResult:
        """With s = scale and means over the axes: dx = s (dy - mean(dy) - centred inverse^2 mean(dy centred))."""
        total = g.sum(dy, axes, keep=True)
        along = g.sum(g.mul(dy, centred), axes, keep=True)
        dx = None
        if x.varies:
            slope = g.mul(g.mul(inverse, inverse), g.div(along, values))
            dx = ScaledGradient(g.sub(g.sub(dy, g.div(total, values)), g.mul(centred, slope)), scale)
        found: list[Tensor | ScaledGradient | None] = [dx]
        if w is not None:
            found.append(g.reshape(g.mul(along, inverse), (channels,)) if w.varies else None)
        if b is not None:
            found.append(g.reshape(total, (channels,)) if b.varies else None)
        return [*found, None, None]

    return op_result(y, vjp, mean, inverse, *running)


def layer_norm(
    g: Graph,
    _: Any,
    x: Tensor,
    normalized: Sequence[int],
    w: Tensor | None = None,
    b: Tensor | None = None,
    eps: float = 1e-5,
    *__: Any,
) -> OpResult:
    """Over the last axes, each position by itself."""
    axes = list(range(x.ndim - len(normalized), x.ndim))
    return op_result(*_normalised(g, x, axes, w, b, tuple(normalized), eps))


def group_norm(
    g: Graph,
    _: Any,
    x: Tensor,
    groups: int,
    w: Tensor | None = None,
    b: Tensor | None = None,
    eps: float = 1e-5,
    *__: Any,
) -> OpResult:
    """Over the channels of a group and all pixels, each image by itself (Wu and He 2018)."""
    channels = x.known(1)
    split = (x.shape[0], groups, channels // groups, *x.shape[2:])
    grouped = replace(g.reshape(x, split), varies=x.varies)
    affine = (1, groups, channels // groups, *(1 for _ in x.shape[2:]))
    y, vjp_split = _normalised(g, grouped, list(range(2, len(split))), w, b, affine, eps)

    def vjp(dy: Tensor) -> Gradients:
        dx, *rest = vjp_split(g.reshape(dy, split))
        return [None if dx is None else g.reshape(dx, x.shape), *rest]

    return op_result(g.reshape(y, x.shape), vjp)


def instance_norm(
    g: Graph,
    out: Any,
    x: Tensor,
    w: Tensor | None,
    b: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> OpResult:
    """Over the pixels of each image and channel (Ulyanov et al. 2016)."""
    if not use_input_stats or running_mean is not None:
        raise NoRule("instance normalisation with running statistics")
    return group_norm(g, out, x, x.known(1), w, b, eps)


def _normalised(
    g: Graph, x: Tensor, axes: list[int], w: Tensor | None, b: Tensor | None, affine: tuple[Size, ...], eps: float
) -> tuple[Tensor, Callable[[Tensor], Gradients]]:
    """y = w (x - mean) / deviation + b, with statistics over `axes` and w, b in the shape `affine`; and its vjp."""
    centred = g.sub(x, g.mean(x, axes, keep=True))
    inverse = _inverse_deviation(g, g.mean(g.mul(centred, centred), axes, keep=True), eps)
    unit = g.mul(centred, inverse)
    y = unit if w is None else g.mul(unit, g.reshape(w, affine))
    if b is not None:
        y = g.add(y, g.reshape(b, affine))
    along_all = (1,) * (x.ndim - len(affine)) + tuple(affine)
    copies = [axis for axis, size in enumerate(along_all) if size == 1 and along_all != x.shape]

    def vjp(dy: Tensor) -> Gradients:
        found: list[Tensor | None] = [None]
        if x.varies:
            inner = dy if w is None else g.mul(dy, g.reshape(w, affine))
            along = g.mean(g.mul(inner, unit), axes, keep=True)
            rest = g.sub(g.sub(inner, g.mean(inner, axes, keep=True)), g.mul(unit, along))
            found = [g.mul(rest, inverse)]
        if w is not None:
            found.append(g.reshape(g.sum(g.mul(dy, unit), copies), w.shape) if w.varies else None)
        if b is not None:
            found.append(g.reshape(g.sum(dy, copies), b.shape) if b.varies else None)
        return found

    return y, vjp


def _inverse_deviation(g: Graph, variance: Tensor, eps: float) -> Tensor:
    return g("Reciprocal", g("Sqrt", g.add(variance, eps)))
