"""Any data set that `--data` can name."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import InputError
from cnnbench.records.dataset import SCALES, DataSet, Kind, Scaling
from cnnbench.records.task_messages import PrepareTest, TestPrepared
from cnnbench.worker.data import digits, idx, shapes, signals, torchvision_sets, words
from cnnbench.worker.data.parts import Part, Parts, limited
from cnnbench.worker.data.preparation import CHUNK, Preparation, scaling_of

Shape = tuple[int, ...]

READERS: Mapping[Kind, Callable[[DataSet, Shape], Parts]] = {
    "idx": lambda source, shape: idx.read(source.folder),
    "cifar10": lambda source, shape: torchvision_sets.read_cifar("CIFAR10", source.folder),
    "cifar100": lambda source, shape: torchvision_sets.read_cifar("CIFAR100", source.folder),
    "images": lambda source, shape: torchvision_sets.read_images(source.folder, shape, crop=source.resize),
    "digits": lambda source, shape: digits.read(),
    "shapes": lambda source, shape: shapes.read(shape),
    "signals": lambda source, shape: signals.read(),
    "words": lambda source, shape: words.read(shape),
}


class Data(NamedTuple):
    """A data set for one model."""

    train: Part
    test: Part
    classes: list[str]
    prepare: Preparation
    """Of any of its images for the model, by the mean and deviation of all training images."""


def read(source: DataSet, shape: Shape, classes: int | None) -> Data:
    """The data set for a model of images (C, H, W), or signals (C, L), and so many classes, if labels are used.

    Raises InputError for what cannot be read, and for images or labels that do not fit the model.
    """
    train, test, names = READERS[source.kind](source, shape)
    if source.classes is not None:
        train, test, names = _of_classes(Parts(train, test, names), source)
    for labels in (train.labels, test.labels):
        if classes is not None and (most := int(labels.max())) >= classes:
            raise InputError(
                f"{source.name}: expected labels below the model's {classes} classes; got {most}, which is "
                f"{names[most]!r} (--classes {len(names)})"
            )
    prepare = Preparation(_scaling(source, train.images, shape), shape, source.resize)
    prepare.check(train.images.shape[1:])
    if source.images is not None:
        train = limited(train, source.images, source.seed)
    return Data(train, test, list(names), prepare)


def _scaling(source: DataSet, images: NDArray[Any], shape: Shape) -> Scaling:
    """The one that is named, or that of the images. Raises InputError where what is named does not fit."""
    if source.scale is None:
        return scaling_of(images)
    found = SCALES[source.scale]
    if images.dtype != np.uint8:
        raise InputError(f"{source.name}: expected images of whole numbers up to 255; leave out @{source.scale}")
    if len(found.mean) not in (1, shape[0]):
        raise InputError(f"{source.name}: expected a model of {len(found.mean)} channels; its images have {shape[0]}")
    return found


def _of_classes(parts: Parts, source: DataSet) -> Parts:
    """Images of some of the classes, which are numbered anew. Raises InputError for a class that there is not."""
    assert source.classes is not None
    for name in source.classes:
        if name not in parts.classes:
            raise InputError(f"{source.name}: expected some of its classes, {', '.join(parts.classes)}; got {name!r}")
    numbers = np.full(len(parts.classes), -1)
    numbers[[list(parts.classes).index(name) for name in source.classes]] = np.arange(len(source.classes))
    kept = [Part(part.images[where := numbers[part.labels] >= 0], numbers[part.labels[where]]) for part in parts[:2]]
    return Parts(kept[0], kept[1], source.classes)


def prepare_test(request: PrepareTest) -> TestPrepared:
    """Write the test images, or some of them. Raises InputError as `read` does."""
    data = read(request.data, request.shape, request.classes)
    test = data.test
    if request.count is not None:
        test = limited(test, max(request.count, len(data.classes)), seed=0).chosen(slice(request.count))
        np.save(request.out, data.prepare(test.images))
    else:
        if request.at_most is not None:
            test = limited(test, request.at_most, seed=0)
        _save_resized(request.out, test.images, data.prepare)
    return TestPrepared(classes=data.classes, labels=test.labels.tolist(), scaling=data.prepare.scaling)


def _save_resized(file: str, images: NDArray[Any], prepare: Preparation) -> None:
    """Some at a time, so that memory need not hold all of them at the model's size."""
    first = prepare.resized(images[:1])
    out = np.lib.format.open_memmap(file, "w+", first.dtype, (len(images), *first.shape[1:]))
    for start in range(0, len(images), CHUNK):
        out[start : start + CHUNK] = prepare.resized(images[start : start + CHUNK])
    out.flush()
