"""Operators that repeat, pick, order and place values: expand, select, gather, scatter, sort, pad, and their like."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cnnbench.worker.export.training.rules.rule import NoRule, OpResult, Shape, materialise, op_result
from cnnbench.worker.graphs.graph import Graph, Tensor


def expand(g: Graph, out: Sequence[Shape], x: Tensor, *_: Any, **__: Any) -> OpResult:
    """x repeated along axes of 1 and new first ones."""
    return op_result(g.spread(x, out[0]), (x, lambda dy: dy))


def repeat(g: Graph, out: Sequence[Shape], x: Tensor, times: Sequence[int]) -> OpResult:
    """x side by side with itself, so many times along each axis."""
    own = (1,) * (len(times) - x.ndim) + x.shape
    if None in times or any(size is None and count != 1 for size, count in zip(own, times, strict=True)):
        raise NoRule("repeating along the batch, or as often as the batch is long")
    y = g.typed(x.dtype, "Tile", g.reshape(x, own), g.integers(list(times)), shape=out[0])
    apart = [each for size, count in zip(own, times, strict=True) for each in ((count, size) if count > 1 else (size,))]
    places, place = [], 0
    for count in times:
        if count > 1:
            places.append(place)
            place += 1
        place += 1
    return op_result(y, (x, lambda dy: g.reshape(g.sum(g.reshape(dy, apart), places), x.shape) if places else dy))


def _placed(g: Graph, part: Tensor, axis: int, start: int, step: int, size: int) -> Tensor:
    """A part of an axis of so many entries, with zeros at all others."""
    count = part.known(axis)
    if step > 1:  # zeros between: as a new axis, of which the first entry is the part's
        apart = g.reshape(part, (*part.shape[: axis + 1], 1, *part.shape[axis + 1 :]))
        ends = [0] * apart.ndim
        ends[axis + 1] = step - 1
        shape = (*part.shape[: axis + 1], step, *part.shape[axis + 1 :])
        wide = g("Pad", apart, g.integers([*[0] * apart.ndim, *ends]), shape=shape)
        part = g.reshape(wide, (*part.shape[:axis], count * step, *part.shape[axis + 1 :]))
        count = (count - 1) * step + 1
        part = g.window(part, [axis], [0], [count], [1])
    before, after = [0] * part.ndim, [0] * part.ndim
    before[axis], after[axis] = start, size - start - count
    shape = (*part.shape[:axis], size, *part.shape[axis + 1 :])
    return g("Pad", part, g.integers([*before, *after]), shape=shape) if any((*before, *after)) else part


def slice_(
    g: Graph, out: Sequence[Shape], x: Tensor, axis: int = 0, start: int | None = 0, _: Any = None, step: int = 1
) -> OpResult:
    """Every step-th entry of an axis; the traced size settles where it ends."""
    axis %= x.ndim
    if out[0] == x.shape:
        return op_result(x, (x, lambda dy: dy))
    size, first = x.known(axis), start or 0
    first = min(max(first + size if first < 0 else first, 0), size)
    picked = g.window(x, [axis], [first], [out[0][axis] or 0], [step])
    return op_result(picked, (x, lambda dy: _placed(g, dy, axis, first, step, size)))


def select(g: Graph, out: Sequence[Shape], x: Tensor, axis: int, index: int) -> OpResult:
    """One entry of an axis, which is dropped."""
    axis %= x.ndim
    size = x.known(axis)
    first = index % size
    kept = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    picked = g.reshape(g.window(x, [axis], [first], [1], [1]), out[0])
    return op_result(picked, (x, lambda dy: _placed(g, g.reshape(dy, kept), axis, first, 1, size)))


def unbind(g: Graph, out: Sequence[Shape], x: Tensor, axis: int = 0) -> OpResult:
    """All entries of an axis."""
    axis %= x.ndim
    kept = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    parts = [g.reshape(g.window(x, [axis], [i], [1], [1]), shape) for i, shape in enumerate(out)]

    def dx(*gradients: Tensor | None) -> Tensor:
        given = [d or g.zeros_like(part) for part, d in zip(parts, gradients, strict=True)]
        return g.concat([g.reshape(each, kept) for each in given], axis)

    return OpResult(parts, [(x, dx)])


def flip(g: Graph, _: Any, x: Tensor, axes: Sequence[int]) -> OpResult:
    """Axes backwards."""
    axes = [axis % x.ndim for axis in axes]

    def backwards(value: Tensor) -> Tensor:
        starts, ends = [-1] * len(axes), [-(2**62)] * len(axes)
        bounds = [g.integers(each) for each in (starts, ends, axes, [-1] * len(axes))]
        return g.typed(value.dtype, "Slice", value, *bounds)

    return op_result(backwards(x), (x, backwards))


def roll(g: Graph, _: Any, x: Tensor, shifts: Sequence[int], axes: Sequence[int] = ()) -> OpResult:
    """Axes moved round."""
    if not axes:
        raise NoRule("rolling all values as one line")
    moves = [(axis % x.ndim, shift) for axis, shift in zip(axes, shifts, strict=True)]

    def rolled(value: Tensor, sign: int) -> Tensor:
        for axis, shift in moves:
            size = value.known(axis)
            cut = (-sign * shift) % size
            if cut:
                parts = [(cut, size - cut), (0, cut)]
                value = g.concat([g.window(value, [axis], [a], [count], [1]) for a, count in parts], axis)
        return value

    return op_result(rolled(x, 1), (x, lambda dy: rolled(dy, -1)))


def constant_pad(g: Graph, out: Sequence[Shape], x: Tensor, pads: Sequence[int], value: float = 0.0) -> OpResult:
    """A value around the last axes, given from the last one on; fewer than none cuts off."""
    sides = len(pads) // 2
    before, after = [0] * x.ndim, [0] * x.ndim
    for i in range(sides):
        before[-1 - i], after[-1 - i] = pads[2 * i], pads[2 * i + 1]
    inner = [axis for axis in range(x.ndim) if before[axis] or after[axis]]
    filler = g.cast(g.constant(float(value)), x.dtype) if value else None

    def dx(dy: Tensor) -> Tensor:
        back = [-each for each in (*before, *after)]
        return g("Pad", dy, g.integers(back), shape=x.shape)

    if any(x.shape[axis] is None for axis in inner):
        raise NoRule("padding of the batch")
    y = g.typed(x.dtype, "Pad", x, g.integers([*before, *after]), filler, shape=out[0])
    return op_result(y, (x, dx))


def _taken(g: Graph, x: Tensor, axis: int, index: Tensor) -> tuple[Tensor, Any]:
    """Entries of an axis by an index of any shape, which replaces it, and the vjp."""
    y = g.typed(x.dtype, "Gather", x, index, shape=(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]), axis=axis)
    count = None if None in index.shape else math.prod(index.known(i) for i in range(index.ndim))

    def dx(dy: Tensor) -> Tensor:
        flat = g.reshape(dy, (*x.shape[:axis], count, *x.shape[axis + 1 :]))
        line = g.reshape(index, (*(1,) * axis, count, *(1,) * (x.ndim - axis - 1)))
        where = g.spread(g.cast(line, "int64"), flat.shape, flat)
        return g("ScatterElements", g.zeros_like(x), where, flat, shape=x.shape, axis=axis, reduction="add")

    return y, dx


def index_select(g: Graph, _: Any, x: Tensor, axis: int, index: Tensor) -> OpResult:
    """Entries of an axis by their positions."""
    y, dx = _taken(g, x, axis % x.ndim, index)
    return op_result(y, (x, dx))


def embedding(
    g: Graph, _: Any, table: Tensor, index: Tensor, padding: int = -1, by_frequency: bool = False, *__: Any
) -> OpResult:
    """Rows of a table; that of the padding has no gradient."""
    if by_frequency:
        raise NoRule("gradients that are divided by how often a row is taken")
    y, dx = _taken(g, table, 0, index)
    if padding < 0:
        return op_result(y, (table, dx))
    trained = g.constant((np.arange(table.known(0))[:, None] != padding).astype(np.float32))
    return op_result(y, (table, lambda dy: g.mul(dx(dy), trained)))


def index(g: Graph, out: Sequence[Shape], x: Tensor, indices: Sequence[Tensor | None]) -> OpResult:
    """Entries by whole-number indices of adjacent axes, which broadcast."""
    axes = [axis for axis, each in enumerate(indices) if each is not None]
    given = [each for each in indices if each is not None]
    if axes != list(range(axes[0], axes[0] + len(axes))) or any(each.dtype == "bool" for each in given):
        raise NoRule("an index of truth values, or of axes that are not side by side")
    sizes = [x.known(axis) for axis in axes]
    flat: Tensor | None = None
    for each, size in zip(given, sizes, strict=True):
        whole = g.cast(each, "int64")
        if len(given) > 1:  # a negative one counts from its own axis's end
            negative = g("Less", whole, g.constant(np.asarray(0, np.int64)))
            whole = g.where(negative, g.add(whole, size), whole)
        flat = whole if flat is None else g.add(g.mul(flat, size), whole)
    assert flat is not None
    merged = g.reshape(x, (*x.shape[: axes[0]], math.prod(sizes), *x.shape[axes[-1] + 1 :]))
    y, d_merged = _taken(g, merged, axes[0], flat)
    return op_result(g.reshape(y, out[0]), (x, lambda dy: g.reshape(d_merged(g.reshape(dy, y.shape)), x.shape)))


def gather(g: Graph, _: Any, x: Tensor, axis: int, index: Tensor, **__: Any) -> OpResult:
    """For each position of the index: the entry of x there, with the index along the axis."""
    axis %= x.ndim
    y = g.typed(x.dtype, "GatherElements", x, index, shape=index.shape, axis=axis)

    def dx(dy: Tensor) -> Tensor:
        return g("ScatterElements", g.zeros_like(x), index, dy, shape=x.shape, axis=axis, reduction="add")

    return op_result(y, (x, dx))


def topk(
    g: Graph, out: Sequence[Shape], x: Tensor, count: int, axis: int = -1, largest: bool = True, _: bool = True
) -> OpResult:
    """The largest or smallest values along an axis, in order, and their positions."""
    axis %= x.ndim
    if x.shape[axis] is None:
        raise NoRule("an order of the batch's images")
    settings: dict[str, Any] = {"axis": axis, "largest": int(largest), "sorted": 1}
    y, at = g.several("TopK", x, g.integers([count]), shapes=[out[0], out[0]], **settings)
    at = replace(at, dtype="int64")

    def dx(dy: Tensor) -> Tensor:
        return g("ScatterElements", g.zeros_like(x), at, dy, shape=x.shape, axis=axis, reduction="add")

    return op_result(y, (x, dx), others=[at])


def sort(g: Graph, out: Sequence[Shape], x: Tensor, axis: int = -1, descending: bool = False) -> OpResult:
    """All values along an axis in order, and their positions."""
    size = x.shape[axis % x.ndim]
    return topk(g, out, x, size or 0, axis, largest=descending)


def scatter(g: Graph, _: Any, x: Tensor, axis: int, index: Tensor, part: Tensor | float) -> OpResult:
    """x with other values at the positions of the index along the axis."""
    axis %= x.ndim
    values = part if isinstance(part, Tensor) else g.add(g.zeros_like(index), part)
    if values.shape != index.shape:
        raise NoRule("scattering a part of the values")
    y = g("ScatterElements", x, index, values, shape=x.shape, axis=axis)

    def dx(dy: Tensor) -> Tensor:
        return g("ScatterElements", dy, index, g.zeros_like(index), shape=x.shape, axis=axis)

    return op_result(y, (x, dx), (part, lambda dy: g("GatherElements", dy, index, shape=index.shape, axis=axis)))


def scatter_add(g: Graph, _: Any, x: Tensor, axis: int, index: Tensor, part: Tensor) -> OpResult:
    """x plus values at the positions of the index along the axis."""
    axis %= x.ndim
    if part.shape != index.shape:
        raise NoRule("scattering a part of the values")
    y = g("ScatterElements", x, index, part, shape=x.shape, axis=axis, reduction="add")
    return op_result(
        y, (x, lambda dy: dy), (part, lambda dy: g("GatherElements", dy, index, shape=index.shape, axis=axis))
    )


def unfold(g: Graph, out: Sequence[Shape], x: Tensor, axis: int, size: int, step: int) -> OpResult:
    """Windows along an axis; what is in them is a new last axis."""
    axis %= x.ndim
    count = out[0][axis] or 0
    positions = np.arange(count)[:, None] * step + np.arange(size)
    y, d_taken = _taken(g, x, axis, g.constant(positions.astype(np.int64)))
    order = [*range(axis + 1), *range(axis + 2, x.ndim + 1), axis + 1]
    inverse = [order.index(each) for each in range(x.ndim + 1)]
    return op_result(g.transpose(y, order), (x, lambda dy: d_taken(g.transpose(dy, inverse))))


def slice_scatter(
    g: Graph,
    _: Any,
    x: Tensor,
    part: Tensor,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> OpResult:
    """x with a part of an axis replaced."""
    axis %= x.ndim
    if x.shape[axis] is None:
        if part.shape == x.shape:
            return op_result(part, (part, lambda dy: dy))
        raise NoRule("writing into a part of the batch")
    size = x.known(axis)
    first = min(max((start or 0) + size if (start or 0) < 0 else (start or 0), 0), size)
    inside = np.zeros(size, bool)
    inside[first : (end if end is None or end < size else size) : step] = True
    mask = g.constant(inside.reshape(-1, *(1,) * (x.ndim - 1 - axis)))
    placed = _placed(g, g.cast(part, "float32"), axis, first, step, size)
    count = int(inside.sum())
    zero = g.constant(0.0)
    return op_result(
        g.where(mask, placed, x),
        (x, lambda dy: g.where(mask, zero, dy)),
        (part, lambda dy: g.window(dy, [axis], [first], [count], [step])),
    )


def select_scatter(g: Graph, out: Any, x: Tensor, part: Tensor, axis: int, index: int) -> OpResult:
    """x with one entry of an axis replaced."""
    axis %= x.ndim
    first = index % x.known(axis)
    wide = g.reshape(part, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
    found = slice_scatter(g, out, x, wide, axis, first, first + 1)
    (_, of_x), (_, of_part) = found.vjps
    return op_result(found.outputs[0], (x, of_x), (part, lambda dy: g.reshape(materialise(g, of_part(dy)), part.shape)))


def copy(g: Graph, _: Any, x: Tensor, source: Tensor, *__: Any) -> OpResult:
    """What is written over x, in its shape and type."""
    return op_result(g.spread(g.cast(source, x.dtype), x.shape, x), (source, lambda dy: dy))
