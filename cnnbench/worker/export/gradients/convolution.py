"""Convolution and its two gradients, in the formulations that ONNX Runtime computes fast (docs/training.md).

The input is (N, C, ...), the weight (K, C / groups, ...), the output (N, K, ...). Convolution is linear in both, so
both gradients are convolutions again; ONNX Runtime computes some of these many times slower than matrix products of the
same work, so the weight's gradient is written as a matrix product, and that of depthwise convolutions by rows.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnbench.worker.export.gradients.rule import Applied, Gradients, NoRule, applied
from cnnbench.worker.export.graph import Graph, Tensor


@dataclass(frozen=True)
class Settings:
    """What a convolution is beside its weight; one number for each spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def sides(self) -> int:
        """How many spatial axes there are."""
        return len(self.kernel)

    def attributes(self) -> dict[str, Any]:
        """For ONNX's Conv and ConvTranspose."""
        return {
            "kernel_shape": self.kernel,
            "strides": self.stride,
            "pads": [*self.padding, *self.padding],
            "dilations": self.dilation,
            "group": self.groups,
        }

    def reach(self) -> tuple[int, ...]:
        """How far the last tap of a window lies from its first."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True))

    def taps(self) -> list[tuple[int, ...]]:
        """Where each tap of the first window lies in the padded input, in the weight's order."""
        return [
            tuple(index * d for index, d in zip(tap, self.dilation, strict=True))
            for tap in itertools.product(*map(range, self.kernel))
        ]


def convolution(
    g: Graph,
    _: Any,
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] | str = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Applied:
    """aten.conv1d, conv2d, conv3d."""
    s = _settings(w, stride, padding, dilation, groups)
    y = forward(g, x, w, b, s)

    def pull(dy: Tensor) -> Gradients:
        found: list[Tensor | None] = [
            input_gradient(g, dy, x, w, s) if x.varies else None,
            weight_gradient(g, dy, x, w, s) if w.varies else None,
        ]
        if b is not None:
            found.append(g.sum(dy, [0, *range(2, dy.ndim)]) if b.varies else None)
        return found

    return applied(y, pull)


def _settings(
    w: Tensor, stride: Sequence[int], padding: Sequence[int] | str, dilation: Sequence[int], groups: int
) -> Settings:
    kernel = w.spatial()

    def each(values: Sequence[int]) -> tuple[int, ...]:
        return tuple(values) * (len(kernel) if len(values) == 1 else 1)

    if padding == "valid":
        padding = (0,)
    elif isinstance(padding, str):
        ends = [d * (k - 1) for d, k in zip(each(dilation), kernel, strict=True)]
        if any(end % 2 for end in ends):
            raise NoRule("padding='same' with an even kernel")
        padding = [end // 2 for end in ends]
    return Settings(kernel, each(stride), each(padding), each(dilation), groups)


def forward(g: Graph, x: Tensor, w: Tensor, b: Tensor | None, s: Settings) -> Tensor:
    """The convolution (N, K, ...)."""
    sizes = zip(x.spatial(), s.padding, s.reach(), s.stride, strict=True)
    out = tuple((size + 2 * pad - reach - 1) // step + 1 for size, pad, reach, step in sizes)
    shape = (x.shape[0], w.shape[0], *out)
    return g("Conv", *((x, w) if b is None else (x, w, b)), shape=shape, **s.attributes())


# The input's gradient


def _is_depthwise(x: Tensor, w: Tensor, s: Settings) -> bool:
    return s.groups == x.shape[1] == w.shape[0] and s.groups > 1


def input_gradient(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """The loss's gradient (N, C, ...) of the input."""
    if set(s.stride) == {1} and (s.groups == 1 or _is_depthwise(x, w, s)):
        return input_gradient_by_convolution(g, dy, x, w, s)
    return input_gradient_by_transposed_convolution(g, dy, x, w, s)


def input_gradient_by_convolution(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """For strides of 1, and one group or as many as channels: a convolution with the weight turned around."""
    exchanged = g.transpose(w, [1, 0, *range(2, w.ndim)]) if s.groups == 1 else w
    axes = [axis for axis in range(2, w.ndim) if w.known(axis) > 1]
    if axes:
        ends = [g.integers([value] * len(axes)) for value in (-1, -(2**31))]
        steps = g.integers([-1] * len(axes))
        exchanged = g("Slice", exchanged, *ends, g.integers(axes), steps, shape=exchanged.shape)
    margins = [reach - pad for reach, pad in zip(s.reach(), s.padding, strict=True)]
    around = [max(margin, 0) for margin in margins]
    shape = (*x.shape[:2], *(n + 2 * (a - m) for n, a, m in zip(x.spatial(), around, margins, strict=True)))
    wide = g(
        "Conv",
        dy,
        exchanged,
        shape=shape,
        kernel_shape=s.kernel,
        pads=[*around, *around],
        dilations=s.dilation,
        group=s.groups,
    )
    inside = [around_ - margin for around_, margin in zip(around, margins, strict=True)]
    return g.window(wide, list(range(2, x.ndim)), inside, x.spatial(), [1] * len(margins))


def input_gradient_by_transposed_convolution(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """ONNX's ConvTranspose, with what the strides leave over at the end put out too."""
    sizes = zip(x.spatial(), dy.spatial(), s.padding, s.reach(), s.stride, strict=True)
    left_over = [size + 2 * pad - reach - 1 - (out - 1) * step for size, out, pad, reach, step in sizes]
    return g("ConvTranspose", dy, w, shape=x.shape, output_padding=left_over, **s.attributes())


# The weight's gradient


FEW_CHANNELS = 16
"""With fewer input channels in a group, a matrix product for each tap would be too narrow."""
WIDEST_ROWS = 28
"""The widest output whose depthwise gradient is fastest by rows: the work grows with the square of the width."""


def weight_gradient(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """The loss's gradient (K, C / groups, ...) of the weight, in the formulation that is fastest for its shape."""
    if _is_depthwise(x, w, s) and s.sides == 2 and dy.spatial()[1] <= WIDEST_ROWS:
        return weight_gradient_by_rows(g, dy, x, w, s)
    if s.groups == 1 and w.known(1) < FEW_CHANNELS:
        return weight_gradient_by_windows(g, dy, x, w, s)
    return weight_gradient_by_products(g, dy, x, w, s)


def weight_gradient_by_products(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """One matrix product for each tap, over all images and pixels: dy (K, N P) times the tap's inputs (N P, C)."""
    first = _channels_first(g, dy)
    rows = g.reshape(first, (s.groups, w.known(0) // s.groups, None))
    inputs = _channels_first(g, g.pad(x, s.padding, s.padding))
    products = []
    for window in _windows(g, inputs, dy.spatial(), s):
        columns = g.reshape(window, (s.groups, w.known(1), None))
        product = g.matmul(rows, g.transpose(columns, [0, 2, 1]))  # (groups, K / groups, C / groups)
        products.append(g.reshape(product, (w.shape[0], w.shape[1], 1)))
    return g.reshape(g.concat(products, 2), w.shape)


def weight_gradient_by_windows(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """One matrix product in all: dy (K, N P) times all taps' inputs (N P, C taps), which are gathered first."""
    rows = g.reshape(_channels_first(g, dy), (s.groups, w.known(0) // s.groups, None))
    inputs = _channels_first(g, g.pad(x, s.padding, s.padding))
    windows = [g.reshape(window, (s.groups, w.known(1), 1, None)) for window in _windows(g, inputs, dy.spatial(), s)]
    columns = g.reshape(g.concat(windows, 2), (s.groups, w.known(1) * len(windows), None))
    return g.reshape(g.matmul(rows, g.transpose(columns, [0, 2, 1])), w.shape)


def _windows(g: Graph, inputs: Tensor, sizes: Sequence[int], s: Settings) -> list[Tensor]:
    """For each tap, in the weight's order, what it meets of padded inputs (C, N, ...).

    With a stride they are cut along the last axis first, once for each column of taps: picking single values is slow,
    and the cuts along the other axes then copy whole rows.
    """
    last = inputs.ndim - 1
    if s.stride[-1] == 1:
        return [g.window(inputs, list(range(2, last + 1)), tap, sizes, s.stride) for tap in s.taps()]
    columns = [g.window(inputs, [last], [j * s.dilation[-1]], [sizes[-1]], [s.stride[-1]]) for j in range(s.kernel[-1])]
    others = list(range(2, last))
    return [
        g.window(columns[tap[-1] // s.dilation[-1]], others, tap[:-1], sizes[:-1], s.stride[:-1]) for tap in s.taps()
    ]


def weight_gradient_by_rows(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """Of a depthwise convolution: for each row of taps, the products of all pairs of columns, of which the bands count.

    For row i of the taps and the rows h' of x that it meets, G[c, q, p] is the sum over n, h of dy[n, c, h, q] times
    x[n, c, h', p]; the gradient of tap (i, j) is the sum of G[c, q, q stride + j dilation] over q.
    """
    (height, width), (_, padded) = dy.spatial(), [n + 2 * p for n, p in zip(x.spatial(), s.padding, strict=True)]
    channels = w.known(0)
    rows = g.reshape(_channels_first(g, dy), (channels, None, width))
    inputs = _channels_first(g, g.pad(x, s.padding, s.padding))
    transposed = g.transpose(rows, [0, 2, 1])
    products = []
    for i in range(s.kernel[0]):
        window = g.window(inputs, [2], [i * s.dilation[0]], [height], [s.stride[0]])
        product = g.matmul(transposed, g.reshape(window, (channels, None, padded)))
        products.append(g.reshape(product, (channels, 1, width * padded)))
    pairs = g.reshape(g.concat(products, 1), (channels * s.kernel[0], width * padded))
    return g.reshape(g.matmul(pairs, g.constant(bands(width, padded, s).T)), w.shape)


def bands(width: int, padded: int, s: Settings) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(taps of a row, width x padded) float32: 1 where an output column meets an input column in this tap."""
    found = np.zeros((s.kernel[1], width, padded), np.float32)
    for j in range(s.kernel[1]):
        columns = np.arange(width)
        found[j, columns, columns * s.stride[1] + j * s.dilation[1]] = 1
    return found.reshape(s.kernel[1], width * padded)


def _channels_first(g: Graph, x: Tensor) -> Tensor:
    """(N, C, ...) as (C, N, ...), so that a matrix product can sum over images and pixels together."""
    return g.transpose(x, [1, 0, *range(2, x.ndim)])
