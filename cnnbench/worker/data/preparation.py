"""Stored images as a model takes them, batch by batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import InputError
from cnnbench.records.dataset import RESIZED, Scaling

CHUNK = 1000
"""Images of which sums are taken at once."""
SIDES = 2
"""Of an image."""


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


def resized(image: Any, sides: tuple[int, int]) -> Any:
    """A picture, or a tensor (..., H, W), of these sides: the smallest that covers them, cropped at the centre.

    Bilinear with antialiasing, as torchvision resizes before its pretrained networks; for square images what its
    Resize(side) and CenterCrop(side) give.
    """
    from torchvision.transforms import functional  # not where ONNX Runtime classifies

    _, own_height, own_width = functional.get_dimensions(image)
    height, width = sides
    if height * own_width >= width * own_height:
        covering = [height, height * own_width // own_height]
    else:
        covering = [width * own_height // own_width, width]
    return functional.center_crop(functional.resize(image, covering, antialias=True), [height, width])


class Preparation(NamedTuple):
    """Resizes images or puts them into the middle of zeros, normalises by channel, and repeats a single channel."""

    scaling: Scaling
    shape: tuple[int, ...]
    """(C, H, W) of a model's images, or (C, L) of its signals."""
    resize: bool = False

    def check(self, own: Sequence[int]) -> None:
        """Raises InputError if the model's images are of other axes or channels than `own`, or smaller unless resized.

        Signals cannot be resized.
        """
        expected, got = ("x".join(map(str, each)) for each in (own, self.shape))
        if self.resize and len(own) != 1 + SIDES:
            raise InputError(f"expected images to resize; got {expected}: leave out {RESIZED}")
        is_like = len(self.shape) == len(own) and own[0] in (1, self.shape[0])
        is_smaller = any(side < each for side, each in zip(self.shape[1:], own[1:], strict=False))
        if not is_like or (is_smaller and not self.resize):
            more = ", or of more channels" if own[0] == 1 else ""
            raise InputError(
                f"expected a model for images of at least {expected}{more}; its images are {got} (--image-size, or "
                f"{RESIZED} behind the data set's name)"
            )

    def resized(self, images: NDArray[Any]) -> NDArray[Any]:
        """Stored images (N, C, H, W) of the model's sides, in the same units and type, where they are resized."""
        if not self.resize or images.shape[2:] == self.shape[1:]:
            return images
        import torch

        _, height, width = self.shape
        found: NDArray[Any] = resized(torch.tensor(images), (height, width)).numpy()
        return found

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """(N, *shape) float32 of stored images (N, C, ...)."""
        images = self.resized(images)
        sides = (-1, *[1] * (len(self.shape) - 1))
        mean, deviation = (
            np.reshape(each, sides).astype(np.float32) for each in (self.scaling.mean, self.scaling.deviation)
        )
        left_over = [side - own for side, own in zip(self.shape[1:], images.shape[2:], strict=True)]
        middle = [slice(each // 2, each // 2 + own) for each, own in zip(left_over, images.shape[2:], strict=True)]
        found = np.zeros((len(images), *self.shape), np.float32)
        found[:, :, *middle] = (images.astype(np.float32) - mean) / deviation
        return found
