"""Operators that only move values: views, permutations, joining and splitting."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from cnnbench.worker.export.training.rules.rule import OpResult, Shape, op_result
from cnnbench.worker.graphs.graph import Graph, Tensor


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


def stopped(g: Graph, out: Any, x: Tensor, *_: Any, **__: Any) -> OpResult:
    """x without its past: no gradient goes back through it."""
    return op_result(x)


def cat(g: Graph, _: Any, parts: Sequence[Tensor], axis: int = 0) -> OpResult:
    """Parts one after the other; what is empty and has one axis is passed over, as torch does."""
    parts = [part for part in parts if part.shape != (0,)]
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
        return g.concat([d or g.zeros_like(part) for part, d in zip(parts, gradients, strict=True)], axis)

    return OpResult(parts, [(x, dx)])


def new_ones(g: Graph, out: Sequence[Shape], x: Tensor, *_: Any, **__: Any) -> OpResult:
    """Ones, of any shape whose batch is that of x."""
    zero = g.sum(g.mul(x, 0.0), range(1, x.ndim), keep=True)
    return op_result(g.reshape(g.add(zero, g.constant(1.0)), out[0]))
