"""Operators that only move values: views, permutations, joining and splitting, means and sums."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from cnnbench.worker.export.training.graph import Graph, Tensor
from cnnbench.worker.export.training.rules.rule import NoRule, OpResult, Shape, op_result


def view(g: Graph, out: Sequence[Shape], x: Tensor, *_: Any) -> OpResult:
    """Any operator that keeps values and their order: view, flatten, squeeze, unsqueeze."""
    return op_result(g.reshape(x, out[0]), (x, lambda dy: g.reshape(dy, x.shape)))


def identity(g: Graph, out: Any, x: Tensor, *_: Any, **__: Any) -> OpResult:
    """Any operator that changes nothing that a graph shows, such as a copy into other memory."""
    return op_result(x, (x, lambda dy: dy))


def permute(g: Graph, _: Any, x: Tensor, order: Sequence[int]) -> OpResult:
    """Axes in another order."""
    order = [axis % x.ndim for axis in order]
    inverse = [order.index(axis) for axis in range(x.ndim)]
    return op_result(g.transpose(x, order), (x, lambda dy: g.transpose(dy, inverse)))


def transpose(g: Graph, out: Any, x: Tensor, first: int, second: int) -> OpResult:
    """Two axes exchanged."""
    order = list(range(x.ndim))
    order[first], order[second] = order[second], order[first]
    return permute(g, out, x, order)


def cat(g: Graph, _: Any, parts: Sequence[Tensor], axis: int = 0) -> OpResult:
    """Parts one after the other."""
    axis %= parts[0].ndim
    sizes = [part.known(axis) for part in parts]
    ends = accumulate(sizes)

    def cut(dy: Tensor, start: int, size: int) -> Tensor:
        return g.window(dy, [axis], [start], [size], [1])

    vjps = (partial(cut, start=end - size, size=size) for end, size in zip(ends, sizes, strict=True))
    return op_result(g.concat(parts, axis), *zip(parts, vjps, strict=True))


def stack(g: Graph, out: Any, parts: Sequence[Tensor], axis: int = 0) -> OpResult:
    """Parts along a new axis."""
    axis %= parts[0].ndim + 1
    shape = parts[0].shape
    joined = cat(g, out, [g.reshape(part, (*shape[:axis], 1, *shape[axis:])) for part in parts], axis)

    def cut(dy: Tensor, index: int) -> Tensor:
        return g.reshape(g.window(dy, [axis], [index], [1], [1]), shape)

    return op_result(joined.outputs[0], *((part, partial(cut, index=index)) for index, part in enumerate(parts)))


def split(g: Graph, out: Sequence[Shape], x: Tensor, _: Any, axis: int = 0) -> OpResult:
    """Parts of x along an axis, their sizes known from the trace."""
    axis %= x.ndim
    parts = g.several("Split", x, g.integers([shape[axis] or 0 for shape in out]), shapes=out, axis=axis)

    def dx(*gradients: Tensor | None) -> Tensor:
        return g.concat([d or g.mul(part, 0.0) for part, d in zip(parts, gradients, strict=True)], axis)

    return OpResult(parts, [(x, dx)])


def slice_(
    g: Graph, out: Sequence[Shape], x: Tensor, axis: int = 0, start: int | None = 0, _: Any = None, step: int = 1
) -> OpResult:
    """Every step-th entry of an axis; the traced size settles where it ends."""
    axis %= x.ndim
    if out[0] == x.shape:
        return identity(g, out, x)
    size, first = x.known(axis), start or 0
    first = first + size if first < 0 else first

    def dx(dy: Tensor) -> Tensor:
        if step != 1:
            raise NoRule("the gradient of a slice with a step")
        before, after = [0] * x.ndim, [0] * x.ndim
        before[axis], after[axis] = first, size - first - dy.known(axis)
        return g("Pad", dy, g.integers([*before, *after]), shape=x.shape)

    return op_result(g.window(x, [axis], [first], [out[0][axis] or 0], [step]), (x, dx))


def mean(g: Graph, _: Any, x: Tensor, axes: Sequence[int], keep: bool = False) -> OpResult:
    """Mean over axes of known size."""
    axes = [axis % x.ndim for axis in axes]
    kept = g.mean(x, axes, keep=True)
    y = kept if keep else g.reshape(kept, [size for axis, size in enumerate(x.shape) if axis not in axes])
    spread = [x.known(axis) if axis in axes else 1 for axis in range(x.ndim)]
    share = np.full(spread, 1 / math.prod(spread), np.float32)
    return op_result(y, (x, lambda dy: g.mul(g.reshape(dy, kept.shape), g.constant(share))))


def sum_all(g: Graph, _: Any, x: Tensor) -> OpResult:
    """Sum of all values; their number must not depend on the batch."""
    ones = np.ones([x.known(axis) for axis in range(x.ndim)], np.float32)
    return op_result(g.sum(x, range(x.ndim)), (x, lambda dy: g.mul(dy, g.constant(ones))))


def new_ones(g: Graph, out: Sequence[Shape], x: Tensor, *_: Any, **__: Any) -> OpResult:
    """Ones, of any shape whose batch is that of x."""
    zero = g.sum(g.mul(x, 0.0), range(1, x.ndim), keep=True)
    return op_result(g.reshape(g.add(zero, g.constant(1.0)), out[0]))
