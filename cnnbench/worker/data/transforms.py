"""Transforms of torchvision.transforms.v2 on single images, made from their names."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cnnbench.errors import InputError
from cnnbench.suite.transforms import parse_transform

MODES = {1: "L", 3: "RGB"}
"""Of pictures, by the number of channels."""
FULL = 255
"""What stands for 1 in images of bytes."""


class Transform(NamedTuple):
    """One transform, and how it was asked for."""

    text: str
    made: Callable[[Any], Any]

    def applied(self, image: Any) -> Any:
        """A picture, or a tensor (C, H, W). Raises InputError where torchvision cannot."""
        try:
            return self.made(image)
        except Exception as error:  # whatever torchvision raises for what it is given
            raise InputError(f"transform {self.text}: cannot be applied to {_kind(image)}: {_said(error)}") from None


def make(texts: Sequence[str]) -> list[Transform]:
    """The transforms of these names. Raises InputError where torchvision refuses what they are given."""
    from torchvision.transforms import v2

    found = []
    for text in texts:
        name, positional, named = parse_transform(text)
        try:
            with warnings.catch_warnings(action="ignore"):  # ToTensor is deprecated, and what introductions write
                found.append(Transform(text, getattr(v2, name)(*positional, **named)))
        except Exception as error:
            raise InputError(f"transform {text}: {_said(error)}") from None
    return found


def picture(image: NDArray[Any], what: str) -> Image.Image:
    """An image (C, H, W) of bytes as what transforms take first. Raises InputError for what is no picture."""
    if image.ndim != 3 or image.shape[0] not in MODES or image.dtype != np.uint8:
        raise InputError(
            f"{what}: expected images of bytes with 1 or 3 channels for transforms; got {image.dtype} of "
            f"{'x'.join(map(str, image.shape))}"
        )
    return Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))


def tensor(image: Any) -> torch.Tensor:
    """What transforms have made of a picture, as a tensor (C, H, W) of bytes or of floats."""
    if isinstance(image, Image.Image):
        pixels = np.array(image)
        image = torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
    return torch.Tensor.as_subclass(image, torch.Tensor)


class Augmentation:
    """Transforms of the images that a network is trained on, drawn anew for each step from a seed."""

    def __init__(self, texts: Sequence[str], example: NDArray[Any], what: str) -> None:
        """Try them on an image (C, H, W) of the data set that is called `what`. Raises InputError."""
        if normalises := next((text for text in texts if text.startswith("Normalize(")), None):
            raise InputError(
                f"transform {normalises}: training normalises by the mean and deviation of its own images, as the "
                "evaluation does; leave it out"
            )
        self.transforms, self.what = make(texts), what
        self.shape = self(example[None], 0).shape[1:]
        """(C, H, W) of what they make."""

    def __call__(self, images: NDArray[Any], seed: int) -> NDArray[Any]:
        """(N, C, H, W) of images (N, C, H, W), in the units in which they are stored; the seed settles what is drawn.

        Raises InputError for transforms that make images of several sizes.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = [self._applied(image) for image in images]
        if odd := next((each.shape for each in made if each.shape != made[0].shape), None):
            raise InputError(
                f"transforms: expected images of one size behind them; got {tuple(made[0].shape)} and {tuple(odd)}"
            )
        found: NDArray[Any] = torch.stack(made).numpy()
        return found

    def _applied(self, image: NDArray[Any]) -> torch.Tensor:
        made: Any = picture(image, self.what)
        for each in self.transforms:
            made = each.applied(made)
        found = tensor(made)
        return found * FULL if found.is_floating_point() else found


def _kind(image: Any) -> str:
    if isinstance(image, Image.Image):
        return f"a picture of {image.height}x{image.width}, {image.mode}"
    return f"a tensor of {'x'.join(map(str, image.shape))}, {str(image.dtype).removeprefix('torch.')}"


def _said(error: Exception) -> str:
    """An exception's own words, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
