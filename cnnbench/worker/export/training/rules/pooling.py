"""Pooling: maxima, whose gradient goes to their positions, and averages, which are matrix products."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cnnbench.worker.export.training.rules.pointwise import unit_step
from cnnbench.worker.export.training.rules.rule import OpResult, Shape, op_result
from cnnbench.worker.graphs.graph import Graph, Tensor

Matrix = np.ndarray[Any, np.dtype[np.float32]]
Window = tuple[int, int, int]
"""The first position that is averaged, the end, and the divisor."""


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
    """aten.max_pool1d, 2d and 3d; of equal values the first gets the gradient. The traced size settles `ceil_mode`."""
    sides = x.ndim - 2
    kernel, dilation, before = _each(kernel, sides), _each(dilation, sides), _each(padding, sides)
    stride = _each(stride or kernel, sides)
    dims = zip(x.spatial(), _spatial(out), kernel, stride, dilation, before, strict=True)
    after = [max(0, (o - 1) * s + d * (k - 1) + 1 - n - p) for n, o, k, s, d, p in dims]
    if kernel == stride == [2, 2] and dilation == [1, 1] and not any((*before, *after)):
        return _max_of_pairs(g, out, x)
    windows: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": stride,
        "pads": [*before, *after],
        "dilations": dilation,
    }
    y, positions = g.several("MaxPool", x, shapes=[out[0], out[0]], **windows)

    def dx(dy: Tensor) -> Tensor:
        flat = g.integers([-1])
        count = g("Size", x, shape=())
        zeros = g("ConstantOfShape", g("Reshape", count, g.integers([1]), shape=(1,)), shape=(None,))
        to, values = (g("Reshape", each, flat, shape=(None,)) for each in (positions, dy))
        scattered = g("ScatterElements", zeros, to, values, shape=(None,), axis=0, reduction="add")
        return g.reshape(scattered, x.shape)

    return op_result(y, (x, dx))


def _max_of_pairs(g: Graph, out: Sequence[Shape], x: Tensor) -> OpResult:
    """Windows of 2x2 side by side: the larger of two columns, then of two rows, whose gradients need no positions.

    Of two equal values the left and the upper one has the gradient, so that it is the first of the four.
    """
    (height, width), (rows, columns), images = x.spatial(), _spatial(out), x.shape[:2]
    wide = g("MaxPool", x, shape=(*images, height, columns), kernel_shape=[1, 2], strides=[1, 2])
    y = g("MaxPool", wide, shape=out[0], kernel_shape=[2, 1], strides=[2, 1])
    sides = np.eye(2 * columns, width, dtype=np.float32).reshape(columns, 2, width)
    left_over_right = g.constant((sides[:, 0] - sides[:, 1]).T.copy())
    joined = g.constant(sides.transpose(1, 0, 2).reshape(2 * columns, width).copy())

    def dx(dy: Tensor) -> Tensor:
        upper = g.mul(dy, unit_step(g, g.sub(g.window(wide, [2], [0], [rows], [2]), y), 1.0))
        halves = [g.reshape(half, (*images, rows, 1, columns)) for half in (upper, g.sub(dy, upper))]
        pairs = g.reshape(g.concat(halves, 3), (*images, 2 * rows, columns))
        found = g.pad(pairs, [0, 0], [height - 2 * rows, 0])
        left = g.mul(found, unit_step(g, g.matmul(x, left_over_right), 1.0))
        return g.matmul(g.concat([left, g.sub(found, left)], 3), joined)

    return op_result(y, (x, dx))


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
    """aten.avg_pool1d, 2d and 3d; the traced size settles `ceil_mode`."""

    def windows(size: int, count: int, kernel: int, stride: int, pad: int) -> Iterator[Window]:
        for start in range(-pad, count * stride - pad, stride):
            end = min(start + kernel, size + pad)
            inside = max(start, 0), min(end, size)
            divisor = end - start if count_include_pad else inside[1] - inside[0]
            yield *inside, 1 if divisor_override else divisor

    settings = (_each(values, x.ndim - 2) for values in (kernel, stride or kernel, padding))
    sides = [list(windows(*each)) for each in zip(x.spatial(), _spatial(out), *settings, strict=True)]
    if divisor_override:  # of the whole window: one side's averages bear it
        sides[-1] = [(start, end, divisor_override) for start, end, _ in sides[-1]]
    return _averaged(g, x, sides)


def adaptive_avg_pool(g: Graph, out: Sequence[Shape], x: Tensor, _: Sequence[int]) -> OpResult:
    """aten.adaptive_avg_pool1d, 2d and 3d: window i of I reaches from floor(i n / I) to ceil((i + 1) n / I)."""

    def windows(size: int, count: int) -> Iterator[Window]:
        for index in range(count):
            start, end = index * size // count, -(-(index + 1) * size // count)
            yield start, end, end - start

    return _averaged(g, x, [list(windows(*each)) for each in zip(x.spatial(), _spatial(out), strict=True)])


def _averaged(g: Graph, x: Tensor, windows: Sequence[Sequence[Window]]) -> OpResult:
    """Averages over each side's windows, by position: a product with a matrix for each side."""
    if all(each == [(0, size, size)] for each, size in zip(windows, x.spatial(), strict=True)):
        share = np.full((1, 1, *x.spatial()), 1 / math.prod(x.spatial()), np.float32)
        return op_result(g.mean(x, range(2, x.ndim), keep=True), (x, lambda dy: g.mul(dy, g.constant(share))))
    matrices = []
    for each, size in zip(windows, x.spatial(), strict=True):
        matrix = np.zeros((len(each), size), np.float32)
        for row, (start, end, divisor) in zip(matrix, each, strict=True):
            row[start:end] = 1 / divisor
        matrices.append(matrix)
    return along_sides(g, x, matrices)


def along_sides(g: Graph, x: Tensor, matrices: Sequence[Matrix | None]) -> OpResult:
    """x (N, C, ...) multiplied by a matrix (new size, size) along each of its sides; None leaves a side alone."""
    back = [matrix if matrix is None else matrix.T.copy() for matrix in matrices]
    return op_result(_product(g, x, matrices), (x, lambda dy: _product(g, dy, back)))


def _product(g: Graph, x: Tensor, matrices: Sequence[Matrix | None]) -> Tensor:
    for side, matrix in enumerate(matrices, 2):
        if matrix is None:
            continue
        if side == x.ndim - 1:
            x = g.matmul(x, g.constant(matrix.T.copy()))
            continue
        behind = math.prod(x.known(axis) for axis in range(side + 1, x.ndim))
        flat = g.reshape(x, (*x.shape[: side + 1], behind))
        x = g.reshape(g.matmul(g.constant(matrix), flat), (*x.shape[:side], len(matrix), *x.shape[side + 1 :]))
    return x


def adaptive_max_pool(g: Graph, out: Sequence[Shape], x: Tensor, _: Sequence[int]) -> OpResult:
    """aten.adaptive_max_pool1d, 2d and 3d: the windows of averages, made equally long by their last entry again."""
    matrices: list[Matrix | None] = []
    kernel: list[int] = []
    for size, count in zip(x.spatial(), _spatial(out), strict=True):
        ends = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        length = max(end - start for start, end in ends)
        taken = np.concatenate([np.minimum(np.arange(start, start + length), end - 1) for start, end in ends])
        kernel.append(length)
        matrices.append(None if list(taken) == list(range(size)) else np.eye(size, dtype=np.float32)[taken])
    spread = along_sides(g, x, matrices)
    found = max_pool(g, out, spread.outputs[0], kernel, kernel)
    d_spread, d_maximum = spread.vjps[0][1], found.vjps[0][1]
    return op_result(found.outputs[0], (x, lambda dy: d_spread(d_maximum(dy))))


def _spatial(out: Sequence[Shape]) -> list[int]:
    """The sizes behind batch and channels of the first output."""
    return [size or 0 for size in out[0][2:]]


def _each(values: Sequence[int] | int, sides: int) -> list[int]:
    values = [values] if isinstance(values, int) else list(values)
    return values * (sides if len(values) == 1 else 1)
