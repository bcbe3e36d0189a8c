"""Stored images as a model takes them, batch by batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import InputError
from cnnbench.records.dataset import Scaling

CHUNK = 1000
"""Images of which sums are taken at once."""


def scaling_of(images: NDArray[Any]) -> Scaling:
    """Mean and deviation of each channel of images (N, C, ...); a channel that is constant is left as wide as it is."""
    axes = (0, *range(2, images.ndim))
    sums = squares = np.zeros(images.shape[1])
    for start in range(0, len(images), CHUNK):
        values = images[start : start + CHUNK].astype(np.float64)
        sums, squares = sums + values.sum(axes), squares + np.square(values).sum(axes)
    mean, square = (each * images.shape[1] / images.size for each in (sums, squares))
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return Scaling(mean=mean.tolist(), deviation=np.where(deviation > 0, deviation, 1).tolist())


class Preparation(NamedTuple):
    """Normalises by channel, puts images into the middle of zeros, and repeats a single channel."""

    scaling: Scaling
    shape: tuple[int, ...]
    """(C, H, W) of a model's images, or (C, L) of its signals."""

    def check(self, own: Sequence[int]) -> None:
        """Raises InputError if the model's images are smaller than `own`, or of other sides or channels."""
        is_like = len(self.shape) == len(own) and own[0] in (1, self.shape[0])
        if not is_like or any(side < each for side, each in zip(self.shape[1:], own[1:], strict=True)):
            expected, got = ("x".join(map(str, each)) for each in (own, self.shape))
            more = ", or of more channels" if own[0] == 1 else ""
            raise InputError(
                f"expected a model for images of at least {expected}{more}; its images are {got} (--image-size)"
            )

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """(N, *shape) float32 of stored images (N, C, ...)."""
        sides = (-1, *[1] * (len(self.shape) - 1))
        mean, deviation = (
            np.reshape(each, sides).astype(np.float32) for each in (self.scaling.mean, self.scaling.deviation)
        )
        left_over = [side - own for side, own in zip(self.shape[1:], images.shape[2:], strict=True)]
        middle = [slice(each // 2, each // 2 + own) for each, own in zip(left_over, images.shape[2:], strict=True)]
        found = np.zeros((len(images), *self.shape), np.float32)
        found[:, :, *middle] = (images.astype(np.float32) - mean) / deviation
        return found
