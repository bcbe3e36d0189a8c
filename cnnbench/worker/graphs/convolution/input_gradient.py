"""The loss's gradient of a convolution's input (N, C, ...), from that of its output (N, K, ...) and the weight."""

import math
from dataclasses import asdict

import numpy as np

from cnnbench.worker.graphs.convolution import forward
from cnnbench.worker.graphs.convolution.forward import FEW_CHANNELS, Settings, is_depthwise
from cnnbench.worker.graphs.graph import Graph, Tensor

MAX_FLIPPED = 256
"""Elements of the largest kernel that is flipped by a matrix of their number squared."""


def fastest(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """The loss's gradient (N, C, ...) of the input, in the formulation that is fastest for its shape on CPUs."""
    return g.noted("input gradient", _fastest(g, dy, x, w, s), (dy, x, w), asdict(s))


def _fastest(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    has_few_rows = s.groups == 1 and w.known(1) < FEW_CHANNELS and math.prod(s.kernel) > 1
    if set(s.stride) == {1} and (s.groups == 1 or is_depthwise(x, w, s)) and not has_few_rows:
        return by_convolution(g, dy, x, w, s)
    return by_transposed_convolution(g, dy, x, w, s)


def by_convolution(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """For strides of 1, and one group or as many as channels: a convolution with the flipped weight."""
    exchanged = g.transpose(w, [1, 0, *range(2, w.ndim)]) if s.groups == 1 else w
    margins = [extent - pad for extent, pad in zip(s.dilated_extent(), s.padding, strict=True)]
    around = [max(margin, 0) for margin in margins]
    backwards = Settings(s.kernel, (1,) * s.sides, tuple(around), s.dilation, s.groups)
    wide = forward.fastest(g, dy, flipped(g, exchanged), None, backwards)
    inside = [around_ - margin for around_, margin in zip(around, margins, strict=True)]
    return g.window(wide, list(range(2, x.ndim)), inside, x.spatial(), [1] * len(margins))


def flipped(g: Graph, w: Tensor) -> Tensor:
    """A weight reversed along every spatial axis: a product, which is faster than slicing backwards."""
    elements = math.prod(w.spatial())
    if elements == 1:
        return w
    if elements > MAX_FLIPPED:
        axes = list(range(2, w.ndim))
        bounds = [g.integers(each) for each in ([-1] * len(axes), [-(2**62)] * len(axes), axes, [-1] * len(axes))]
        return g("Slice", w, *bounds)
    rows = g.reshape(w, (w.known(0) * w.known(1), elements))
    return g.reshape(g.matmul(rows, g.constant(np.eye(elements, dtype=np.float32)[::-1].copy())), w.shape)


def by_transposed_convolution(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """ONNX's ConvTranspose, with what the strides leave over at the end put out too."""
    sizes = zip(x.spatial(), dy.spatial(), s.padding, s.dilated_extent(), s.stride, strict=True)
    left_over = [size + 2 * pad - extent - 1 - (out - 1) * step for size, out, pad, extent, step in sizes]
    return g("ConvTranspose", dy, w, shape=x.shape, output_padding=left_over, **s.attributes())
