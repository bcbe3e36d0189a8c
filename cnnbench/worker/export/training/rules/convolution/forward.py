"""The convolution itself: the output (N, K, ...) from the input, the weight and the bias."""

import math

import numpy as np

from cnnbench.worker.export.training.graph import Graph, Tensor
from cnnbench.worker.export.training.rules.convolution.settings import (
    MANY_POSITIONS,
    Settings,
    channels_first,
    is_depthwise,
    joined_rows,
)

HEAVY = 2**18
"""Values of a weight, 1 MiB, from which on it no longer stays in a core's cache from one image to the next."""
BAND = 6
"""A depthwise image of at most so many times its kernel's height is faster by banded matrices, mostly zeros though."""


def fastest(g: Graph, x: Tensor, w: Tensor, b: Tensor | None, s: Settings) -> Tensor:
    """The convolution (N, K, ...), in the formulation that is fastest for its shape."""
    if is_depthwise(x, w, s) and s.sides == 2 and set(s.stride) == {1} and x.spatial()[0] <= BAND * s.kernel[0]:
        return banded(g, x, w, b, s)
    is_heavy = math.prod(map(w.known, range(w.ndim))) >= HEAVY and math.prod(s.out(x.spatial())) < MANY_POSITIONS
    if s.groups == 1 and s.sides <= 2 and math.prod(s.kernel) > 1 and is_heavy:
        return as_one_image(g, x, w, b, s)
    return by_images(g, x, w, b, s)


def by_images(g: Graph, x: Tensor, w: Tensor, b: Tensor | None, s: Settings) -> Tensor:
    """ONNX's Conv, which ONNX Runtime computes as a matrix product for each image."""
    given = (x, w) if b is None else (x, w, b)
    return g("Conv", *given, shape=(x.shape[0], w.shape[0], *s.out(x.spatial())), **s.attributes())


def as_one_image(g: Graph, x: Tensor, w: Tensor, b: Tensor | None, s: Settings) -> Tensor:
    """Of one group: the images as one more spatial axis, so that one matrix product reads the weight once."""
    image = g.reshape(channels_first(g, x), (1, w.known(1), None, *x.spatial()))
    kernel = g.reshape(w, (w.known(0), w.known(1), 1, *s.kernel))
    among = Settings((1, *s.kernel), (1, *s.stride), (0, *s.padding), (1, *s.dilation), 1)
    given = (image, kernel) if b is None else (image, kernel, b)
    sizes = s.out(x.spatial())
    found = g("Conv", *given, shape=(1, w.known(0), None, *sizes), **among.attributes())
    return channels_first(g, g.reshape(found, (w.known(0), None, *sizes)))


def banded(g: Graph, x: Tensor, w: Tensor, b: Tensor | None, s: Settings) -> Tensor:
    """Depthwise by banded (Toeplitz) matrices: rows become channels, so that vector times matrix is a matrix product.

    For each channel and column j of the kernel, output rows (P) are input rows (H) times a banded matrix (P, H) of that
    column's elements. So it is a convolution along the columns, of C groups with H inputs and P outputs each.
    """
    channels, (height, width), (rows, columns) = w.known(0), x.spatial(), s.out(x.spatial())
    padded = joined_rows(rows, height + 2 * s.padding[0], s).reshape(rows, -1, s.kernel[1], math.prod(s.kernel))
    inside = padded[:, s.padding[0] : s.padding[0] + height].reshape(-1, math.prod(s.kernel))
    banded = g.matmul(g.reshape(w, (channels, math.prod(s.kernel))), g.constant(inside.T.copy()))
    kernels = g.reshape(banded, (channels * rows, height, 1, s.kernel[1]))
    lines = Settings((1, s.kernel[1]), (1, s.stride[1]), (0, s.padding[1]), (1, s.dilation[1]), channels)
    bias = b and g.reshape(g.mul(g.reshape(b, (channels, 1)), g.constant(np.ones(rows))), (channels * rows,))
    found = by_images(g, g.reshape(x, (None, channels * height, 1, width)), kernels, bias, lines)
    return g.reshape(found, (None, channels, rows, columns))
