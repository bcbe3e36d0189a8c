"""Any data set that `--data` can name."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from cnnbench.errors import InputError
from cnnbench.records.dataset import DataSet, Kind
from cnnbench.records.task_messages import PrepareTest, TestPrepared
from cnnbench.worker.data import digits, idx, shapes, signals, torchvision_sets
from cnnbench.worker.data.parts import Part, Parts, limited
from cnnbench.worker.data.preparation import Preparation, scaling_of

Shape = tuple[int, ...]

READERS: Mapping[Kind, Callable[[str, Shape], Parts]] = {
    "idx": lambda folder, shape: idx.read(folder),
    "cifar10": lambda folder, shape: torchvision_sets.read_cifar("CIFAR10", folder),
    "cifar100": lambda folder, shape: torchvision_sets.read_cifar("CIFAR100", folder),
    "images": torchvision_sets.read_images,
    "digits": lambda folder, shape: digits.read(),
    "shapes": lambda folder, shape: shapes.read(shape),
    "signals": lambda folder, shape: signals.read(),
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
    train, test, names = READERS[source.kind](source.folder, shape)
    if source.classes is not None:
        train, test, names = _of_classes(Parts(train, test, names), source)
    for labels in (train.labels, test.labels):
        if classes is not None and (most := int(labels.max())) >= classes:
            raise InputError(
                f"{source.name}: expected labels below the model's {classes} classes; got {most}, which is "
                f"{names[most]!r} (--classes {len(names)})"
            )
    prepare = Preparation(scaling_of(train.images), shape)
    prepare.check(train.images.shape[1:])
    if source.images is not None:
        train = limited(train, source.images, source.seed)
    return Data(train, test, list(names), prepare)


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
    test, images = data.test, data.test.images
    if request.count is not None:
        test = limited(test, max(request.count, len(data.classes)), seed=0).chosen(slice(request.count))
        images = data.prepare(test.images)
    elif request.at_most is not None:
        test = limited(test, request.at_most, seed=0)
        images = test.images
    np.save(request.out, images)
    return TestPrepared(classes=data.classes, labels=test.labels.tolist(), scaling=data.prepare.scaling)
