"""Data sets that torchvision.datasets reads: CIFAR-10 and -100, and folders of images by class."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from cnnbench.errors import InputError
from cnnbench.worker.data.parts import Part, Parts, in_two
from cnnbench.worker.data.preparation import resized

TEST_FOLDERS = ("test", "val")
"""Beside `train`; the first that is there."""
MODES = {1: "L", 3: "RGB"}
"""Of pictures, by the number of channels."""
IMAGE_AXES = 3
MAX_MEMORY_SHARE = 0.5
MAX_PROPORTION = 100
"""Of the sides of a picture that is resized whole and then cropped."""


def read_cifar(name: str, folder: str) -> Parts:
    """CIFAR10 or CIFAR100 by torchvision. Raises InputError where its files are not whole."""
    from torchvision import datasets

    def part(train: bool) -> Any:
        try:
            return getattr(datasets, name)(str(Path(folder).parent), train=train)
        except (RuntimeError, OSError):
            raise InputError(
                f"{folder}: expected {name} as torchvision.datasets.{name}(FOLDER, download=True) leaves it; a file is "
                "missing, or its MD5 sum is another"
            ) from None

    with warnings.catch_warnings(action="ignore"):  # numpy's, on how the files were pickled
        train, test = part(True), part(False)
    return Parts(_stored(train), _stored(test), train.classes)


def _stored(found: Any) -> Part:
    return Part(np.ascontiguousarray(found.data.transpose(0, 3, 1, 2)), np.asarray(found.targets, np.int64))


def read_images(folder: str, shape: Sequence[int], *, crop: bool) -> Parts:
    """Pictures in a folder for each class, resized to a model's images (C, H, W): stretched to them, or cropped.

    With folders `train` and `test` or `val`, they are the two parts. Raises InputError for a picture that cannot be
    read, a class without pictures, and for more than fits into memory.
    """
    root = Path(folder)
    if len(shape) != IMAGE_AXES or shape[0] not in MODES:
        raise InputError(
            f"{folder}: expected a model for images of 1 or 3 channels; its inputs are {'x'.join(map(str, shape))}"
        )
    if not (root / "train").is_dir():
        whole, classes = _pictures(root, shape, crop)
        return in_two(whole, classes, folder)
    beside = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if beside is None:
        raise InputError(f"{folder}: expected a folder `test` or `val` beside `train`; there is none")
    train, classes = _pictures(root / "train", shape, crop)
    test, found = _pictures(beside, shape, crop)
    if odd := sorted(set(found) ^ set(classes)):
        where = beside if odd[0] in classes else root / "train"
        raise InputError(f"{folder}: expected the same classes in train and {beside.name}; {where} has no {odd[0]!r}")
    return Parts(train, test, classes)


def training_files(folder: str) -> list[str]:
    """The training images in a folder of images by class. Raises InputError for a class without pictures."""
    root = Path(folder)
    return [file for file, _ in _listed(root / "train" if (root / "train").is_dir() else root).samples]


def _listed(folder: Path) -> Any:
    """The folder as torchvision lists it. Raises InputError where there are no classes, or one without pictures."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder), allow_empty=True)
    except FileNotFoundError:
        raise InputError(f"{folder}: expected a folder of images for each class; there is none") from None
    counts = np.bincount(np.asarray(found.targets, np.int64), minlength=len(found.classes))
    if not counts.all():
        empty = found.classes[int(counts.argmin())]
        raise InputError(f"{folder}: class {empty!r} has no images; expected one at least in {folder / empty}")
    return found


def _pictures(folder: Path, shape: Sequence[int], crop: bool) -> tuple[Part, list[str]]:
    found = _listed(folder)
    labels = np.asarray(found.targets, np.int64)
    size_bytes = len(labels) * int(np.prod(shape))
    if size_bytes > MAX_MEMORY_SHARE * psutil.virtual_memory().available:
        raise InputError(
            f"{folder}: {len(labels):,} images of {'x'.join(map(str, shape))} take {size_bytes / 1e9:.1f} GB, which is "
            "more than half of the free memory; expected fewer or smaller ones (--image-size)"
        )
    images = np.empty((len(labels), *shape), np.uint8)
    for place, (file, _) in enumerate(found.samples):
        images[place] = _picture(file, shape, crop)
    return Part(images, labels), found.classes


def _picture(file: str, shape: Sequence[int], crop: bool) -> NDArray[np.uint8]:
    channels, height, width = shape
    stored = opened(file, MODES[channels])
    if crop and max(stored.size) > MAX_PROPORTION * min(stored.size):
        own = "x".join(map(str, stored.size))
        raise InputError(f"{file}: expected sides of at most 1 to {MAX_PROPORTION} to resize and crop it; got {own}")
    picture = resized(stored, (height, width)) if crop else stored.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)


def opened(file: str, mode: str) -> Image.Image:
    """A picture in memory, as "L" or "RGB"; of 16 bits per value the upper 8. Raises InputError for no picture."""
    try:
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(file) as picture,
        ):
            if picture.mode.startswith("I;16"):  # which Pillow would cut off at 255
                return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert(mode)
            if picture.mode in ("I", "F"):
                raise ValueError("expected 8 or 16 bits per value; it has 32, whose range is not known")
            return picture.convert(mode)
    except Exception as error:  # whatever a decoder raises
        raise InputError(f"{file}: cannot be read as an image: {' '.join(str(error).split())[:200]}") from None
