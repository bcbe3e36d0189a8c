"""A convolution's settings, and the convolution itself: the output (N, K, ...) from the input, weight and bias."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cnnbench.worker.graphs.graph import Graph, Tensor

FEW_CHANNELS = 8
"""With fewer input channels a convolution's matrix product has too few rows, and rows of channels are copied slowly."""
MANY_POSITIONS = 400
"""Of an output, for which a product of its own for each image costs less than putting channels before images."""
HEAVY = 2**18
"""Values of a weight, 1 MiB, from which on it no longer stays in a core's cache from one image to the next."""
BAND = 6
"""A depthwise image of at most so many times its kernel's height is faster by banded matrices, mostly zeros though."""
MAX_JOINED = 2**19
"""Values of the matrix of zeros and ones that bands and pairs of rows need, 2 MiB in the file: it grows with the
image's height squared and the kernel's elements, to 120 MB for 31x31 on 32x32."""


@dataclass(frozen=True)
class Settings:
    """What a convolution is beside its weight; one number for each spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, noted: Mapping[str, Any]) -> "Settings":
        """From a note in JSON, which has lists for tuples."""
        sides = {name: tuple(noted[name]) for name in ("kernel", "stride", "padding", "dilation")}
        return cls(**sides, groups=noted["groups"])

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

    def dilated_extent(self) -> tuple[int, ...]:
        """How far a window's last kernel element lies from its first."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True))

    def out(self, sizes: Iterable[int]) -> tuple[int, ...]:
        """The output's spatial sizes, of an input's."""
        each = zip(sizes, self.padding, self.dilated_extent(), self.stride, strict=True)
        return tuple((size + 2 * pad - extent - 1) // step + 1 for size, pad, extent, step in each)

    def kernel_elements(self) -> list[tuple[int, ...]]:
        """Where each kernel element of the first window lies in the padded input, in the weight's order."""
        return list(itertools.product(*(range(0, k * d, d) for k, d in zip(self.kernel, self.dilation, strict=True))))


def settings_of(
    w: Tensor, stride: Sequence[int], padding: Sequence[int] | str, dilation: Sequence[int], groups: int
) -> Settings:
    """From the arguments of aten's operators; one number stands for all spatial axes. Raises NoRule."""
    kernel = w.spatial()

    def each(values: Sequence[int]) -> tuple[int, ...]:
        return tuple(values) * (len(kernel) if len(values) == 1 else 1)

    if padding == "valid":
        padding = (0,)
    elif isinstance(padding, str):
        ends = [d * (k - 1) for d, k in zip(each(dilation), kernel, strict=True)]
        padding = [end // 2 for end in ends]
    return Settings(kernel, each(stride), each(padding), each(dilation), groups)


def more_behind(w: Tensor, padding: Sequence[int] | str, dilation: Sequence[int]) -> list[int]:
    """How many more zeros padding='same' puts behind each side than before it: one for an even kernel."""
    kernel = w.spatial()
    if padding != "same":
        return [0] * len(kernel)
    dilation = tuple(dilation) * (len(kernel) if len(dilation) == 1 else 1)
    return [d * (k - 1) % 2 for d, k in zip(dilation, kernel, strict=True)]


def is_depthwise(x: Tensor, w: Tensor, s: Settings) -> bool:
    """Whether each channel is convolved by itself, with one kernel."""
    return s.groups == x.shape[1] == w.shape[0] and s.groups > 1


def channels_first(g: Graph, x: Tensor) -> Tensor:
    """(N, C, ...) as (C, N, ...), so that a product can sum over images and pixels together."""
    return g.transpose(x, [1, 0, *range(2, x.ndim)])


def joined_rows(height: int, rows: int, s: Settings) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(height * rows * kernel columns, kernel elements) float32: 1 where it joins an output row and one of x."""
    found = np.zeros((height, rows, s.kernel[1], *s.kernel), np.float32)
    out = np.arange(height)
    for i, j in itertools.product(*map(range, s.kernel)):
        found[out, out * s.stride[0] + i * s.dilation[0], j, i, j] = 1
    return found.reshape(-1, math.prod(s.kernel))


def joins_few(height: int, rows: int, s: Settings) -> bool:
    """Whether the matrix of `joined_rows` is small enough to stand in the file."""
    return height * rows * s.kernel[1] * math.prod(s.kernel) <= MAX_JOINED


def fastest(g: Graph, x: Tensor, w: Tensor, b: Tensor | None, s: Settings) -> Tensor:
    """The convolution (N, K, ...), in the formulation that is fastest for its shape on CPUs."""
    return g.noted("forward", _fastest(g, x, w, b, s), (x, w, b), asdict(s))


def _fastest(g: Graph, x: Tensor, w: Tensor, b: Tensor | None, s: Settings) -> Tensor:
    height = x.spatial()[0]
    can_be_banded = is_depthwise(x, w, s) and s.sides == 2 and set(s.stride) == {1} and height <= BAND * s.kernel[0]
    if can_be_banded and joins_few(s.out(x.spatial())[0], height, s):
        return banded(g, x, w, b, s)
    is_heavy = math.prod(map(w.known, range(w.ndim))) >= HEAVY and math.prod(s.out(x.spatial())) < MANY_POSITIONS
    if s.groups == 1 and s.sides <= 2 and math.prod(s.kernel) > 1 and is_heavy:
        return as_one_image(g, x, w, b, s)
    return by_images(g, x, w, b, s)


def by_images(g: Graph, x: Tensor, w: Tensor, b: Tensor | None, s: Settings) -> Tensor:
    """ONNX's Conv, which ONNX Runtime computes as a matrix product for each image."""
    return g("Conv", x, w, b, shape=(x.shape[0], w.shape[0], *s.out(x.spatial())), **s.attributes())


def as_one_image(g: Graph, x: Tensor, w: Tensor, b: Tensor | None, s: Settings) -> Tensor:
    """Of one group: the images as one more spatial axis, so that one matrix product reads the weight once."""
    image = g.reshape(channels_first(g, x), (1, w.known(1), None, *x.spatial()))
    kernel = g.reshape(w, (w.known(0), w.known(1), 1, *s.kernel))
    among = Settings((1, *s.kernel), (1, *s.stride), (0, *s.padding), (1, *s.dilation), 1)
    shape = (w.known(0), None, *s.out(x.spatial()))
    return channels_first(g, g.reshape(g("Conv", image, kernel, b, shape=(1, *shape), **among.attributes()), shape))


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
