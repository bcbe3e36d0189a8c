"""Operators that only move values: views, permutations, joining and splitting, means and sums."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cnnbench.worker.export.training.graph import Graph, Tensor
from cnnbench.worker.export.training.rules.rule import Gradients, NoRule, OpResult, Shape, materialise, op_result


def view(g: Graph, out: Sequence[Shape], x: Tensor, *_: Any) -> OpResult:
    """Any operator that keeps values and their order: view, flatten, squeeze, unsqueeze."""
    return op_result(g.reshape(x, out[0]), lambda dy: [g.reshape(dy, x.shape)])


def identity(g: Graph, out: Any, x: Tensor, *_: Any, **__: Any) -> OpResult:
    """Any operator that changes nothing that a graph shows, such as a copy into other memory."""
    return op_result(x, lambda dy: [dy])


def permute(g: Graph, _: Any, x: Tensor, order: Sequence[int]) -> OpResult:
    """Axes in another order."""
    order = [axis % x.ndim for axis in order]
    inverse = [order.index(axis) for axis in range(x.ndim)]
    return op_result(g.transpose(x, order), lambda dy: [g.transpose(dy, inverse)])


def transpose(g: Graph, out: Any, x: Tensor, first: int, second: int) -> OpResult:
    """Two axes exchanged."""
    order = list(range(x.ndim))
    order[first], order[second] = order[second], order[first]
    return permute(g, out, x, order)


def cat(g: Graph, _: Any, parts: Sequence[Tensor], axis: int = 0) -> OpResult:
    """Parts one after the other."""
    axis %= parts[0].ndim

    def vjp(dy: Tensor) -> Gradients:
        found, start = [], 0
        for part in parts:
            end = start + part.known(axis)
            found.append(g.slice(dy, axis, start, end) if part.varies else None)
            start = end
        return found

    return op_result(g.concat(parts, axis), vjp)


def stack(g: Graph, out: Any, parts: Sequence[Tensor], axis: int = 0) -> OpResult:
    """Parts along a new axis."""
    axis %= parts[0].ndim + 1
    shape = (*parts[0].shape[:axis], 1, *parts[0].shape[axis:])
    joined = cat(g, out, [replace(g.reshape(part, shape), varies=part.varies) for part in parts], axis)

    def vjp(dy: Tensor) -> Gradients:
        found = joined.vjp([dy])
        return [
            None if d is None else g.reshape(materialise(g, d), part.shape)
            for d, part in zip(found, parts, strict=True)
        ]

    return op_result(joined.outputs[0], vjp)


def split(g: Graph, out: Sequence[Shape], x: Tensor, _: Any, axis: int = 0) -> OpResult:
    """Parts of x along an axis, their sizes known from the trace."""
    axis %= x.ndim
    sizes = [shape[axis] or 0 for shape in out]
    parts = g.several("Split", x, g.integers(sizes), shapes=out, axis=axis)

    def vjp(gradients: Gradients) -> Gradients:
        materialise = [g.mul(part, 0.0) if d is None else d for part, d in zip(parts, gradients, strict=True)]
        return [g.concat(materialise, axis)]

    return OpResult(parts, vjp)


def slice_(
    g: Graph,
    out: Sequence[Shape],
    x: Tensor,
    axis: int = 0,
    start: int | None = 0,
    _end: int | None = None,
    step: int = 1,
) -> OpResult:
    """Every step-th entry of an axis; the traced size settles where it ends."""
    axis %= x.ndim
    if out[0] == x.shape:
        return identity(g, out, x)
    size, first = x.known(axis), start or 0
    first = first + size if first < 0 else first
    y = g.window(x, [axis], [first], [out[0][axis] or 0], [step])

    def vjp(dy: Tensor) -> Gradients:
        if step != 1:
            raise NoRule("the gradient of a slice with a step")
        before, after = [0] * x.ndim, [0] * x.ndim
        before[axis], after[axis] = first, size - first - dy.known(axis)
        return [g("Pad", dy, g.integers([*before, *after]), shape=x.shape)]

    return op_result(y, vjp)


def mean(g: Graph, _: Any, x: Tensor, axes: Sequence[int], keep: bool = False) -> OpResult:
    """Mean over axes of known size."""
    axes = [axis % x.ndim for axis in axes]
    kept = g.mean(x, axes, keep=True)
    y = kept if keep else g.reshape(kept, [size for axis, size in enumerate(x.shape) if axis not in axes])
    spread = [x.known(axis) if axis in axes else 1 for axis in range(x.ndim)]

    def vjp(dy: Tensor) -> Gradients:
        return [g.mul(g.reshape(dy, kept.shape), _ones(g, spread, 1 / math.prod(spread)))]

    return op_result(y, vjp)


def sum_all(g: Graph, _: Any, x: Tensor) -> OpResult:
    """Sum of all values; their number must not depend on the batch."""
    shape = [x.known(axis) for axis in range(x.ndim)]
    return op_result(g.sum(x, range(x.ndim)), lambda dy: [g.mul(dy, _ones(g, shape, 1.0))])


def new_ones(g: Graph, out: Sequence[Shape], x: Tensor, *_: Any, **__: Any) -> OpResult:
    """Ones, of any shape whose batch is that of x."""
    one = g.sum(g.mul(x, 0.0), range(1, x.ndim), keep=True)
    ones = g.add(one, g.constant(1.0))
    return op_result(g.reshape(ones, out[0]), lambda dy: [None])


def _ones(g: Graph, shape: Sequence[int], value: float) -> Tensor:
    return g.constant(np.full(shape, value, np.float32))
