"""Convolution and its two gradients, in the formulations that ONNX Runtime computes fast (docs/training.md).

The input is (N, C, ...), the weight (K, C / groups, ...), the output (N, K, ...). Convolution is linear in both, so
both gradients are convolutions again; ONNX Runtime computes some of these many times slower than matrix products of the
same work, so the weight's gradient is written as a matrix product, and that of depthwise convolutions by rows.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnbench.worker.export.gradients.rule import Applied, Gradients, applied
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

    @property
    def is_pointwise(self) -> bool:
        """Whether each output pixel has one input pixel, at the same place."""
        return {*self.kernel, *self.stride} == {1} and not any(self.padding)

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
            raise NotImplementedError("padding='same' with an even kernel")
        padding = [end // 2 for end in ends]
    return Settings(kernel, each(stride), each(padding), each(dilation), groups)


def forward(g: Graph, x: Tensor, w: Tensor, b: Tensor | None, s: Settings) -> Tensor:
    """The convolution (N, K, ...)."""
    sizes = zip(x.spatial(), s.padding, s.reach(), s.stride, strict=True)
    out = tuple((size + 2 * pad - reach - 1) // step + 1 for size, pad, reach, step in sizes)
    shape = (x.shape[0], w.shape[0], *out)
    if _by_rows(x, w, s):
        return depthwise_by_rows(g, x, w, s, out)
    return g("Conv", *((x, w) if b is None else (x, w, b)), shape=shape, **s.attributes())


def _by_rows(x: Tensor, w: Tensor, s: Settings) -> bool:
    """Whether a depthwise convolution is better written by rows."""
    return False


# The input's gradient


def input_gradient(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """The loss's gradient (N, C, ...) of the input."""
    if s.groups == 1 and s.is_pointwise:
        turned = g.transpose(w, [1, 0, *range(2, w.ndim)])
        return g("Conv", dy, turned, shape=x.shape, kernel_shape=s.kernel)
    return input_gradient_by_transposed_convolution(g, dy, x, w, s)


def input_gradient_by_transposed_convolution(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """ONNX's ConvTranspose, with what the strides leave over at the end put out too."""
    sizes = zip(x.spatial(), dy.spatial(), s.padding, s.reach(), s.stride, strict=True)
    left_over = [size + 2 * pad - reach - 1 - (out - 1) * step for size, out, pad, reach, step in sizes]
    return g("ConvTranspose", dy, w, shape=x.shape, output_padding=left_over, **s.attributes())


def input_gradient_by_convolution(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """A convolution of the output's gradient, spread by the strides, with the weight turned around."""
    spread = stuffed(g, dy, s.stride)
    reach = s.reach()
    before = [r - pad for r, pad in zip(reach, s.padding, strict=True)]
    after = [size - n + pad for size, n, pad in zip(x.spatial(), spread.spatial(), s.padding, strict=True)]
    padded = g.pad(spread, before, after)
    turned = turned_around(g, w, s.groups)
    return g("Conv", padded, turned, shape=x.shape, kernel_shape=s.kernel, dilations=s.dilation, group=s.groups)


def turned_around(g: Graph, w: Tensor, groups: int) -> Tensor:
    """The weight (K, C / groups, ...) as (C, K / groups, ...), with its taps in reverse order."""
    per_group = w.known(0) // groups
    grouped = g.reshape(w, (groups, per_group, *w.shape[1:]))
    exchanged = g.reshape(
        g.transpose(grouped, [0, 2, 1, *range(3, grouped.ndim)]), (groups * w.known(1), per_group, *w.spatial())
    )
    axes = [axis for axis in range(2, w.ndim) if w.known(axis) > 1]
    if not axes:
        return exchanged
    far = -(2**31)
    bounds = [g.integers([value] * len(axes)) for value in (-1, far)]
    return g("Slice", exchanged, *bounds, g.integers(axes), g.integers([-1] * len(axes)), shape=exchanged.shape)


def stuffed(g: Graph, x: Tensor, stride: Sequence[int]) -> Tensor:
    """x (N, C, ...) with stride - 1 zeros between its entries."""
    if set(stride) == {1}:
        return x
    interleaved, widened = list(x.shape[:2]), list(x.shape[:2])
    for size, step in zip(x.spatial(), stride, strict=True):
        interleaved += [size, 1]
        widened += [size, step]
    after = [0] * len(interleaved)
    after[3::2] = [step - 1 for step in stride]
    column = g.reshape(x, interleaved)
    zeros = g("Pad", column, g.integers([0] * len(after) + after), shape=widened)
    whole = g.reshape(zeros, (*x.shape[:2], *(n * step for n, step in zip(x.spatial(), stride, strict=True))))
    sizes = [(n - 1) * step + 1 for n, step in zip(x.spatial(), stride, strict=True)]
    axes = list(range(2, x.ndim))
    return g.window(whole, axes, [0] * len(axes), sizes, [1] * len(axes))


# The weight's gradient


def weight_gradient(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """The loss's gradient (K, C / groups, ...) of the weight."""
    depthwise = s.groups == x.shape[1] == w.shape[0] and s.groups > 1
    if depthwise and s.sides == 2:
        return weight_gradient_by_rows(g, dy, x, w, s)
    if s.sides == 2 and set(s.stride) == {1} and s.reach()[0] >= s.reach()[1] > 0:
        return weight_gradient_by_offsets(g, dy, x, w, s)
    return weight_gradient_by_products(g, dy, x, w, s)


def weight_gradient_by_products(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """One matrix product for each tap, over all images and pixels: dy (K, N P) times the tap's inputs (N P, C)."""
    first = _channels_first(g, dy)
    rows = g.reshape(first, (s.groups, w.known(0) // s.groups, None))
    inputs = _channels_first(g, g.pad(x, s.padding, s.padding))
    axes = list(range(2, x.ndim))
    products = []
    for tap in s.taps():
        window = g.window(inputs, axes, tap, dy.spatial(), s.stride)
        columns = g.reshape(window, (s.groups, w.known(1), None))
        product = g.matmul(rows, g.transpose(columns, [0, 2, 1]))  # (groups, K / groups, C / groups)
        products.append(g.reshape(product, (w.shape[0], w.shape[1], 1)))
    return g.reshape(g.concat(products, 2), w.shape)


def weight_gradient_by_offsets(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """As by products, for strides of 1: padded images are laid out as one line, in which a tap is an offset.

    The output's gradient is laid out in the same rows, with zeros where no window begins. Tap (i, j) pairs entry q of
    its line with entry q + i row + j of the input's. Offsets by rows are taken on the input's side and those by columns
    on the other, so that few and long stretches are copied.
    """
    height, width = (n + 2 * p for n, p in zip(x.spatial(), s.padding, strict=True))
    down, right = s.reach()
    inputs, outputs = (s.groups, w.known(1), None), (s.groups, w.known(0) // s.groups, None)
    line = g.reshape(_channels_first(g, g.pad(x, s.padding, s.padding)), inputs)
    out = g.pad(dy, (0, right), (height - dy.spatial()[0], width - dy.spatial()[1] - right))
    gradient = g.reshape(_channels_first(g, out), outputs)
    by_rows = [g.cut(line, 2, i, i - down * width) for i in range(0, down * width + 1, s.dilation[0] * width)]
    by_columns = [g.cut(gradient, 2, right - j, right - j - down * width) for j in range(0, right + 1, s.dilation[1])]
    products = [
        g.reshape(g.matmul(columns, g.transpose(rows, [0, 2, 1])), (w.shape[0], w.shape[1], 1))
        for rows in by_rows
        for columns in by_columns
    ]
    return g.reshape(g.concat(products, 2), w.shape)


def weight_gradient_by_windows(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """One matrix product in all: dy (K, N P) times all taps' inputs (N P, C taps), which are gathered first."""
    rows = g.reshape(_channels_first(g, dy), (s.groups, w.known(0) // s.groups, None))
    inputs = _channels_first(g, g.pad(x, s.padding, s.padding))
    axes = list(range(2, x.ndim))
    windows = [
        g.reshape(g.window(inputs, axes, tap, dy.spatial(), s.stride), (s.groups, w.known(1), 1, None))
        for tap in s.taps()
    ]
    taps = math.prod(s.kernel)
    columns = g.reshape(g.concat(windows, 2), (s.groups, w.known(1) * taps, None))
    return g.reshape(g.matmul(rows, g.transpose(columns, [0, 2, 1])), w.shape)


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


def depthwise_by_rows(g: Graph, x: Tensor, w: Tensor, s: Settings, out: tuple[int, ...]) -> Tensor:
    """A depthwise convolution as a matrix product of each row with a banded matrix that is made of the weight."""
    (height, width), channels = out, w.known(0)
    padded = x.spatial()[1] + 2 * s.padding[1]
    inputs = g.pad(x, s.padding, s.padding)
    rows = [g.window(inputs, [2], [i * s.dilation[0]], [height], [s.stride[0]]) for i in range(s.kernel[0])]
    taps = g.reshape(w, (channels * s.kernel[0], s.kernel[1]))
    banded = g.matmul(taps, g.constant(bands(width, padded, s)))  # (C kernel, Q P)
    matrices = g.reshape(banded, (channels, s.kernel[0], width, padded))
    stacked = g.reshape(g.transpose(matrices, [0, 1, 3, 2]), (channels, s.kernel[0] * padded, width))
    return g.matmul(g.concat(rows, 3), stacked)


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
