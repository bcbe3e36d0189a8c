"""Sums, means, variances, norms and extremes over axes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cnnbench.worker.export.training.rules.rule import NoRule, OpResult, Shape, op_result
from cnnbench.worker.graphs.graph import INTEGERS, Graph, Tensor

EUCLIDEAN = 2


def _axes(x: Tensor, axes: int | Sequence[int] | None) -> list[int]:
    given = [axes] if isinstance(axes, int) else list(axes or range(x.ndim))
    return [axis % x.ndim for axis in given]


def _kept(x: Tensor, axes: Sequence[int]) -> tuple[int | None, ...]:
    return tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))


def _count(g: Graph, x: Tensor, axes: Sequence[int]) -> Tensor | float:
    """How many values are reduced to one."""
    if any(x.shape[axis] is None for axis in axes):
        others = math.prod(x.known(axis) for axis in range(x.ndim) if axis not in axes)
        return g.mul(g.size(x), 1 / others)
    return float(math.prod(x.known(axis) for axis in axes))


def total(
    g: Graph, out: Sequence[Shape], x: Tensor, axes: Sequence[int] | None = None, keep: bool = False, **_: Any
) -> OpResult:
    """Sum over axes, or all."""
    over = _axes(x, axes)
    value = g.cast(x, "int64") if x.dtype in INTEGERS else x
    kept = replace(g.sum(value, over, keep=True), dtype=value.dtype)
    return op_result(g.reshape(kept, out[0]), (x, lambda dy: g.spread(g.reshape(dy, kept.shape), x.shape, x)))


def mean(
    g: Graph, out: Sequence[Shape], x: Tensor, axes: Sequence[int] | None = None, keep: bool = False, **_: Any
) -> OpResult:
    """Mean over axes, or all. The gradient of what is known in size is a product, with a constant of that shape."""
    over = _axes(x, axes)
    kept = g.mean(x, over, keep=True)

    def dx(dy: Tensor) -> Tensor:
        spread = [x.shape[axis] if axis in over else 1 for axis in range(x.ndim)]
        dy = g.reshape(dy, kept.shape)
        if None in spread:
            return g.spread(g.div(dy, _count(g, x, over)), x.shape, x)
        sizes = [size or 1 for size in spread]
        return g.mul(dy, g.constant(np.full(sizes, 1 / math.prod(sizes), np.float32)))

    return op_result(g.reshape(kept, out[0]), (x, dx))


def var_mean(
    g: Graph,
    out: Sequence[Shape],
    x: Tensor,
    axes: Sequence[int] | None = None,
    *,
    correction: float | None = 1,
    keepdim: bool = False,
) -> OpResult:
    """Variance, with `correction` taken off the number of values, and mean."""
    over = _axes(x, axes)
    average = g.mean(x, over, keep=True)
    centred = g.sub(x, average)
    count = _count(g, x, over)
    less = 1 if correction is None else correction
    divisor = g.sub(count, float(less)) if isinstance(count, Tensor) else g.constant(count - less)
    variance = g.div(g.sum(g.mul(centred, centred), over, keep=True), divisor)

    def dx(dvar: Tensor | None, dmean: Tensor | None = None) -> Tensor:
        found = []
        if dvar is not None:
            found.append(g.mul(centred, g.mul(g.div(g.reshape(dvar, variance.shape), divisor), 2.0)))
        if dmean is not None:
            share = g.div(g.reshape(dmean, variance.shape), count)
            found.append(g.spread(share, x.shape, x))
        return found[0] if len(found) == 1 else g.add(*found)

    outputs = [g.reshape(each, shape) for each, shape in zip((variance, average), out, strict=False)]
    return OpResult(outputs, [(x, dx)])


def std(g: Graph, out: Sequence[Shape], x: Tensor, axes: Sequence[int] | None = None, **options: Any) -> OpResult:
    """The root of the variance; where it is 0, so is the gradient."""
    found = var_mean(g, [_kept(x, _axes(x, axes))], x, axes, **options)
    ((_, d_variance),) = found.vjps
    deviation = g("Sqrt", found.outputs[0])

    def dx(dy: Tensor) -> Tensor:
        zero = g("Equal", deviation, g.constant(0.0))
        slope = g.where(zero, g.constant(0.0), g("Reciprocal", g.mul(g.where(zero, g.constant(1.0), deviation), 2.0)))
        return d_variance(g.mul(g.reshape(dy, deviation.shape), slope))  # type: ignore[return-value]

    return op_result(g.reshape(deviation, out[0]), (x, dx))


def vector_norm(
    g: Graph,
    out: Sequence[Shape],
    x: Tensor,
    order: float = 2,
    axes: Sequence[int] | None = None,
    keep: bool = False,
    **_: Any,
) -> OpResult:
    """Of order 1 or 2; where the latter is 0, so is the gradient."""
    over = _axes(x, axes)
    if order == 1:
        kept = g.sum(g("Abs", x), over, keep=True)
        return op_result(g.reshape(kept, out[0]), (x, lambda dy: g.mul(g("Sign", x), g.reshape(dy, kept.shape))))
    if order != EUCLIDEAN:
        raise NoRule(f"a norm of order {order}")
    kept = g("Sqrt", g.sum(g.mul(x, x), over, keep=True))

    def dx(dy: Tensor) -> Tensor:
        zero = g("Equal", kept, g.constant(0.0))
        inverse = g.where(zero, g.constant(0.0), g("Reciprocal", g.where(zero, g.constant(1.0), kept)))
        return g.mul(x, g.mul(g.reshape(dy, kept.shape), inverse))

    return op_result(g.reshape(kept, out[0]), (x, dx))


def _extreme(operator: str, g: Graph, out: Sequence[Shape], x: Tensor, axes: Any, _: Any = None) -> OpResult:
    """Over axes; equal values share the gradient."""
    over = _axes(x, axes)
    kept = g(operator, x, g.integers(over), shape=_kept(x, over), keepdims=1)

    def dx(dy: Tensor) -> Tensor:
        at = g("Cast", g("Equal", x, kept, shape=x.shape), to=1)
        return g.mul(at, g.div(g.reshape(dy, kept.shape), g.sum(at, over, keep=True)))

    return op_result(g.reshape(kept, out[0]), (x, dx))


def amax(g: Graph, out: Sequence[Shape], x: Tensor, axes: Any = None, keep: bool = False) -> OpResult:
    """The largest over axes, or of all."""
    return _extreme("ReduceMax", g, out, x, axes)


def amin(g: Graph, out: Sequence[Shape], x: Tensor, axes: Any = None, keep: bool = False) -> OpResult:
    """The smallest over axes, or of all."""
    return _extreme("ReduceMin", g, out, x, axes)


def _extreme_and_where(operators: tuple[str, str], g: Graph, out: Sequence[Shape], x: Tensor, axis: int) -> OpResult:
    """The value and its position along one axis; of equal values the first has the gradient."""
    axis %= x.ndim
    value, position = operators
    kept = g(value, x, g.integers([axis]), shape=_kept(x, [axis]), keepdims=1)
    at = g.typed("int64", position, x, shape=kept.shape, axis=axis, keepdims=1)

    def dx(dy: Tensor) -> Tensor:
        order = g.constant(np.arange(x.known(axis), dtype=np.int64).reshape(-1, *(1,) * (x.ndim - 1 - axis)))
        here = g("Cast", g("Equal", at, order, shape=x.shape), to=1)
        return g.mul(here, g.reshape(dy, kept.shape))

    return op_result(g.reshape(kept, out[0]), (x, dx), others=[g.reshape(at, out[1])])


def max_along(g: Graph, out: Sequence[Shape], x: Tensor, axis: int, keep: bool = False) -> OpResult:
    """The largest along an axis, and where it is."""
    return _extreme_and_where(("ReduceMax", "ArgMax"), g, out, x, axis)


def min_along(g: Graph, out: Sequence[Shape], x: Tensor, axis: int, keep: bool = False) -> OpResult:
    """The smallest along an axis, and where it is."""
    return _extreme_and_where(("ReduceMin", "ArgMin"), g, out, x, axis)


def argmax(g: Graph, out: Sequence[Shape], x: Tensor, axis: int | None = None, keep: bool = False) -> OpResult:
    """Where the largest along an axis is; without a gradient."""
    if axis is None:
        raise NoRule("argmax over all values")
    at = g.typed("int64", "ArgMax", x, shape=_kept(x, [axis % x.ndim]), axis=axis % x.ndim, keepdims=1)
    return op_result(g.reshape(at, out[0]))


def logsumexp(g: Graph, out: Sequence[Shape], x: Tensor, axes: Any, keep: bool = False) -> OpResult:
    """The logarithm of the sum of exponentials."""
    over = _axes(x, axes)
    kept = g("ReduceLogSumExp", x, g.integers(over), shape=_kept(x, over), keepdims=1)
    return op_result(
        g.reshape(kept, out[0]), (x, lambda dy: g.mul(g("Exp", g.sub(x, kept)), g.reshape(dy, kept.shape)))
    )


def cumsum(g: Graph, _: Any, x: Tensor, axis: int, **__: Any) -> OpResult:
    """Sums up to each entry of an axis."""
    along = g.constant(np.asarray(axis % x.ndim, np.int64))
    value = g.cast(x, "int64") if x.dtype in INTEGERS else x
    return op_result(g.typed(value.dtype, "CumSum", value, along), (x, lambda dy: g("CumSum", dy, along, reverse=1)))
