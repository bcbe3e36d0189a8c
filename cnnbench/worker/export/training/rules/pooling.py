"""Pooling: maxima, whose gradient goes to their positions, and averages, which are matrix products."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from cnnbench.worker.export.training.graph import Graph, Tensor
from cnnbench.worker.export.training.rules.pointwise import not_negative
from cnnbench.worker.export.training.rules.rule import Gradients, NoRule, OpResult, Shape, op_result

Matrix = np.ndarray[Any, np.dtype[np.float32]]


def max_pool(
    g: Graph,
    out: Sequence[Shape],
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> OpResult:
    """aten.max_pool1d and 2d; of equal values the first gets the gradient. The traced size settles `ceil_mode`."""
    sides = x.ndim - 2
    kernel, dilation, before = _each(kernel, sides), _each(dilation, sides), _each(padding, sides)
    stride = _each(stride or kernel, sides)
    sizes = [size or 0 for size in out[0][2:]]
    dims = zip(x.spatial(), sizes, kernel, stride, dilation, before, strict=True)
    after = [max(0, (o - 1) * s + d * (k - 1) + 1 - n - p) for n, o, k, s, d, p in dims]
    if kernel == stride == [2, 2] and dilation == [1, 1] and not any((*before, *after)):
        return _max_of_pairs(g, out[0], x)
    y, positions = g.several(
        "MaxPool",
        x,
        shapes=[out[0], out[0]],
        kernel_shape=kernel,
        strides=stride,
        pads=[*before, *after],
        dilations=dilation,
    )

    def vjp(dy: Tensor) -> Gradients:
        flat = g.integers([-1])
        count = g("Size", x, shape=(1,))
        zeros = g("ConstantOfShape", g("Reshape", count, g.integers([1]), shape=(1,)), shape=(None,))
        to, values = (g("Reshape", each, flat, shape=(None,)) for each in (positions, dy))
        scattered = g("ScatterElements", zeros, to, values, shape=(None,), axis=0, reduction="add")
        return [g.reshape(scattered, x.shape)]

    return op_result(y, vjp)


def _max_of_pairs(g: Graph, shape: Shape, x: Tensor) -> OpResult:
    """Windows of 2x2 side by side: the larger of two columns, then of two rows, whose gradients need no positions.

    Of two equal values the left and the upper one has the gradient, so that it is the first of the four.
    """
    (height, width), (rows, columns) = x.spatial(), (shape[2] or 0, shape[3] or 0)
    wide = g("MaxPool", x, shape=(*shape[:2], height, columns), kernel_shape=[1, 2], strides=[1, 2])
    y = g("MaxPool", wide, shape=shape, kernel_shape=[2, 1], strides=[2, 1])
    sides = np.eye(2 * columns, width, dtype=np.float32).reshape(columns, 2, width)
    left_over_right = g.constant((sides[:, 0] - sides[:, 1]).T.copy())
    joined = g.constant(sides.transpose(1, 0, 2).reshape(2 * columns, width).copy())

    def vjp(dy: Tensor) -> Gradients:
        upper = g.mul(dy, not_negative(g, g.sub(g.window(wide, [2], [0], [rows], [2]), y)))
        halves = [g.reshape(half, (*shape[:3], 1, columns)) for half in (upper, g.sub(dy, upper))]
        pairs = g.reshape(g.concat(halves, 3), (*shape[:2], 2 * rows, columns))
        found = g.pad(pairs, [0, 0], [height - 2 * rows, 0])
        left = g.mul(found, not_negative(g, g.matmul(x, left_over_right)))
        return [g.matmul(g.concat([left, g.sub(found, left)], 3), joined)]

    return op_result(y, vjp)


def avg_pool(
    g: Graph,
    out: Sequence[Shape],
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> OpResult:
    """aten.avg_pool1d and 2d; the traced size settles `ceil_mode`."""
    if divisor_override is not None:
        raise NoRule("average pooling with divisor_override")
    sides = x.ndim - 2
    kernel, padding = _each(kernel, sides), _each(padding, sides)
    stride = _each(stride or kernel, sides)

    def window(side: int, index: int) -> tuple[int, int, int]:
        size, pad = x.spatial()[side], padding[side]
        start = index * stride[side] - pad
        end = min(start + kernel[side], size + pad)
        inside = max(start, 0), min(end, size)
        return (*inside, end - start if count_include_pad else inside[1] - inside[0])

    return _averaged(g, out[0], x, window)


def adaptive_avg_pool(g: Graph, out: Sequence[Shape], x: Tensor, _: Sequence[int]) -> OpResult:
    """aten.adaptive_avg_pool1d and 2d: window i of I reaches from floor(i n / I) to ceil((i + 1) n / I)."""
    sizes = [size or 0 for size in out[0][2:]]

    def window(side: int, index: int) -> tuple[int, int, int]:
        size, count = x.spatial()[side], sizes[side]
        start, end = index * size // count, -(-(index + 1) * size // count)
        return start, end, end - start

    return _averaged(g, out[0], x, window)


def _averaged(g: Graph, shape: Shape, x: Tensor, window: Callable[[int, int], tuple[int, int, int]]) -> OpResult:
    """Averages over windows (first, end, divisor), by side and position: a product with a matrix for each side."""
    sizes = [size or 0 for size in shape[2:]]
    if set(sizes) == {1} and all(window(side, 0) == (0, n, n) for side, n in enumerate(x.spatial())):
        return _global_average(g, x)
    matrices = [_matrix(sizes[side], n, partial(window, side)) for side, n in enumerate(x.spatial())]
    return op_result(_product(g, x, matrices), lambda dy: [_product(g, dy, [m.T.copy() for m in matrices])])


def _global_average(g: Graph, x: Tensor) -> OpResult:
    share = np.full((1, 1, *x.spatial()), 1 / math.prod(x.spatial()), np.float32)
    return op_result(g.mean(x, range(2, x.ndim), keep=True), lambda dy: [g.mul(dy, g.constant(share))])


def _matrix(count: int, size: int, window: Callable[[int], tuple[int, int, int]]) -> Matrix:
    matrix = np.zeros((count, size), np.float32)
    for index in range(count):
        start, end, divisor = window(index)
        matrix[index, start:end] = 1 / divisor
    return matrix


def _product(g: Graph, x: Tensor, matrices: Sequence[Matrix]) -> Tensor:
    """x (N, C, [H,] W) multiplied along each side."""
    y = g.matmul(x, g.constant(matrices[-1].T.copy()))
    return y if len(matrices) == 1 else g.matmul(g.constant(matrices[0]), y)


def _each(values: Sequence[int] | int, sides: int) -> list[int]:
    values = [values] if isinstance(values, int) else list(values)
    return values * (sides if len(values) == 1 else 1)
