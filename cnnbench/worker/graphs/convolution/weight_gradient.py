"""The loss's gradient of a convolution's weight (K, C / groups, ...), from that of its output and the input."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from cnnbench.worker.graphs.convolution.forward import (
    FEW_CHANNELS,
    MANY_POSITIONS,
    Settings,
    channels_first,
    is_depthwise,
    joined_rows,
    joins_few,
)
from cnnbench.worker.graphs.graph import Graph, Tensor

MAX_ROWS = 64
"""The highest output whose depthwise gradient is fastest by pairs of rows: the work grows with the height's square."""

MAX_ELEMENTS = 64
"""Of a depthwise kernel whose gradient is one product after the other: each takes four nodes."""


def fastest(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """The loss's gradient (K, C / groups, ...) of the weight, in the formulation that is fastest for it on CPUs."""
    return g.noted("weight gradient", _fastest(g, dy, x, w, s), (dy, x, w), asdict(s))


def _fastest(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    overlaps = all(pad <= extent for pad, extent in zip(s.padding, s.dilated_extent(), strict=True))
    if overlaps:  # every window contains some of the input
        if is_depthwise(x, w, s) and s.sides == 2:
            few = joins_few(dy.spatial()[0], x.spatial()[0] + 2 * s.padding[0], s)
            if few and dy.spatial()[0] <= MAX_ROWS:
                return by_rows(g, dy, x, w, s)
            if math.prod(s.kernel) > MAX_ELEMENTS:
                return by_channels(g, dy, x, w, s)
        if s.groups == 1 and s.sides <= 2 and math.prod(s.kernel) > 1:
            place = 0 if w.known(1) < FEW_CHANNELS else s.sides
            return by_convolution(g, dy, x, w, s, place)
        if s.groups == 1 and math.prod(s.kernel) == 1 and math.prod(dy.spatial()) >= MANY_POSITIONS:
            return by_images(g, dy, x, w, s)
    return by_products(g, dy, x, w, s)


def by_convolution(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings, place: int) -> Tensor:
    """Of one group: x convolved with dy; images become channels, strides dilations and dilations strides.

    The channels of x become one more spatial axis, with a kernel of 1, before those of the image (`place` 0) or behind
    them, where whole rows of channels are copied. So the inner matrix product is as large as the forward one's, and its
    windows are gathered in the caches.
    """
    x, after = _covered(g, x, dy, s, list(range(s.sides)))
    order = [0, *_inserted(range(2, x.ndim), place, 1)]
    image = g.reshape(g.transpose(x, order), (1, None, *_inserted(x.spatial(), place, w.known(1))))
    kernel = g.reshape(channels_first(g, dy), (w.known(0), None, *_inserted(dy.spatial(), place, 1)))
    found = g(
        "Conv",
        image,
        kernel,
        shape=(1, w.known(0), *_inserted(s.kernel, place, w.known(1))),
        pads=[*_inserted(s.padding, place, 0), *_inserted(after, place, 0)],
        strides=_inserted(s.dilation, place, 1),
        dilations=_inserted(s.stride, place, 1),
    )
    flat = g.reshape(found, found.shape[1:])
    axes = list(range(1, flat.ndim))
    channels = axes.pop(place)
    return g.transpose(flat, [0, channels, *axes])


def _inserted(values: Iterable[int], place: int, value: int) -> tuple[int, ...]:
    given = list(values)
    return (*given[:place], value, *given[place:])


def _covered(g: Graph, x: Tensor, dy: Tensor, s: Settings, sides: Sequence[int]) -> tuple[Tensor, list[int]]:
    """x without the ends that no window covers along some of its sides, and the zeros that follow it there."""
    extent, positions = s.dilated_extent(), dy.spatial()
    ends = [extent[side] + (positions[side] - 1) * s.stride[side] + 1 - s.padding[side] for side in sides]
    sizes = [min(end, x.spatial()[side]) for end, side in zip(ends, sides, strict=True)]
    covered = g.window(x, [2 + side for side in sides], [0] * len(sides), sizes, [1] * len(sides))
    return covered, [end - size for end, size in zip(ends, sizes, strict=True)]


def by_images(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """Of a 1x1 kernel and one group: for each image dy (K, P) times its inputs (P, C), and the sum of these."""
    axes = list(range(2, x.ndim))
    inputs = g.window(g.pad(x, s.padding, s.padding), axes, [0] * s.sides, dy.spatial(), s.stride)
    positions = math.prod(dy.spatial())
    columns = g.transpose(g.reshape(inputs, (None, w.known(1), positions)), [0, 2, 1])
    products = g.matmul(g.reshape(dy, (None, w.known(0), positions)), columns)
    return g.reshape(g.sum(products, [0]), w.shape)


def by_products(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """A matrix product for each kernel element, over images and pixels: dy (K, N P) times its inputs (N P, C)."""
    first = channels_first(g, dy)
    rows = g.reshape(first, (s.groups, w.known(0) // s.groups, None))
    inputs = channels_first(g, g.pad(x, s.padding, s.padding))
    products = []
    for window in _windows(g, inputs, dy.spatial(), s):
        columns = g.reshape(window, (s.groups, w.known(1), None))
        product = g.matmul(rows, g.transpose(columns, [0, 2, 1]))  # (groups, K / groups, C / groups)
        products.append(g.reshape(product, (w.shape[0], w.shape[1], 1)))
    return g.reshape(g.concat(products, 2), w.shape)


def _windows(g: Graph, inputs: Tensor, sizes: Sequence[int], s: Settings) -> list[Tensor]:
    """For each kernel element, in the weight's order, what it multiplies of padded inputs (C, N, ...).

    With a stride they are cut along the last axis first, once for each kernel column: picking single values is slow,
    and the cuts along the other axes then copy whole rows.
    """
    last = inputs.ndim - 1
    if s.stride[-1] == 1:
        axes = list(range(2, last + 1))
        return [g.window(inputs, axes, element, sizes, s.stride) for element in s.kernel_elements()]
    columns = [g.window(inputs, [last], [j * s.dilation[-1]], [sizes[-1]], [s.stride[-1]]) for j in range(s.kernel[-1])]
    others = list(range(2, last))
    return [
        g.window(columns[element[-1] // s.dilation[-1]], others, element[:-1], sizes[:-1], s.stride[:-1])
        for element in s.kernel_elements()
    ]


def by_rows(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """Depthwise: all rows of dy with all rows of x, of which those that a window joins count.

    For each kernel column j, G[c, h, p, j] is the sum over n, w of dy[n, c, h, w] times x[n, c, p, w stride + j
    dilation]: for each channel a convolution along the columns, of a single image that has N channels, with H kernels.
    The gradient of element (i, j) is the sum of G[c, h, h stride + i dilation, j] over h.
    """
    channels, (height, width) = w.known(0), dy.spatial()
    x, (after,) = _covered(g, x, dy, s, [1])
    rows = x.spatial()[0] + 2 * s.padding[0]
    image = g.reshape(channels_first(g, x), (1, None, *x.spatial()))
    kernels = g.reshape(g.transpose(dy, [1, 2, 0, 3]), (channels * height, None, 1, width))
    pairs = g(
        "Conv",
        image,
        kernels,
        shape=(1, channels * height, rows, s.kernel[1]),
        group=channels,
        pads=[*s.padding, s.padding[0], after],
        strides=[1, s.dilation[1]],
        dilations=[1, s.stride[1]],
    )
    joined = joined_rows(height, rows, s)
    return g.reshape(g.matmul(g.reshape(pairs, (channels, len(joined))), g.constant(joined)), w.shape)


def by_channels(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """Depthwise: x convolved with dy, each channel by itself, with images as channels and strides as dilations."""
    channels = w.known(0)
    x, after = _covered(g, x, dy, s, list(range(s.sides)))
    image = g.reshape(channels_first(g, x), (1, None, *x.spatial()))
    found = g(
        "Conv",
        image,
        channels_first(g, dy),
        shape=(1, channels, *s.kernel),
        group=channels,
        pads=[*s.padding, *after],
        strides=s.dilation,
        dilations=s.stride,
    )
    return g.reshape(found, w.shape)


def by_windows(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """One matrix product: dy (K, N P) times the inputs of all kernel elements (N P, C elements), gathered first."""
    rows = g.reshape(channels_first(g, dy), (s.groups, w.known(0) // s.groups, None))
    cut = _windows(g, channels_first(g, g.pad(x, s.padding, s.padding)), dy.spatial(), s)
    windows = [g.reshape(window, (s.groups, w.known(1), 1, None)) for window in cut]
    columns = g.reshape(g.concat(windows, 2), (s.groups, w.known(1) * len(windows), None))
    return g.reshape(g.matmul(rows, g.transpose(columns, [0, 2, 1])), w.shape)


def by_columns(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """Depthwise: for each row of the kernel, the products of all pairs of columns, of which those of a window count."""
    (height, width), (_, padded) = dy.spatial(), [n + 2 * p for n, p in zip(x.spatial(), s.padding, strict=True)]
    channels = w.known(0)
    rows = g.reshape(g.transpose(dy, [1, 3, 0, 2]), (channels, width, None))
    inputs = channels_first(g, g.pad(x, s.padding, s.padding))
    products = []
    for i in range(s.kernel[0]):
        window = g.window(inputs, [2], [i * s.dilation[0]], [height], [s.stride[0]])
        product = g.matmul(rows, g.reshape(window, (channels, None, padded)))
        products.append(g.reshape(product, (channels, 1, width * padded)))
    pairs = g.reshape(g.concat(products, 1), (channels * s.kernel[0], width * padded))
    return g.reshape(g.matmul(pairs, g.constant(joined_columns(width, padded, s).T)), w.shape)


def joined_columns(width: int, padded: int, s: Settings) -> NDArray[np.float32]:
    """(kernel columns, width x padded) float32: 1 where a column of the kernel joins an output column and one of x."""
    found = np.zeros((s.kernel[1], width, padded), np.float32)
    columns = np.arange(width)
    for j in range(s.kernel[1]):
        found[j, columns, columns * s.stride[1] + j * s.dilation[1]] = 1
    return found.reshape(s.kernel[1], width * padded)
