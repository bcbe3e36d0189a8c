"""A data set in memory: images as they are stored, their labels and the classes' names; and seeded shares of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import InputError

TEST_SHARE = 0.2
"""Of a data set that comes in one part."""
TEST_SEED = 0
"""Of that part: the same for whoever trains and whoever evaluates, whatever other seeds they have."""

Labels = NDArray[np.int64]


class Part(NamedTuple):
    """Images with a class number each."""

    images: NDArray[Any]
    """(N, C, H, W), or (N, C, L) of signals; uint8 or float32."""
    labels: Labels

    def chosen(self, places: NDArray[np.intp] | slice) -> "Part":
        """Some of them."""
        return Part(self.images[places], self.labels[places])


class Parts(NamedTuple):
    """A data set for training and test."""

    train: Part
    test: Part
    classes: Sequence[str]


def split(part: Part, share: float, seed: int, what: str) -> tuple[Part, Part]:
    """What is left, and a seeded share that has each class in proportion.

    `what` is the option or data set that asks for it. Raises InputError where either would have no image.
    """
    count = round(share * len(part.labels))
    if not 0 < count < len(part.labels):
        raise InputError(
            f"{what}: expected a share that leaves images on both sides; got {count:,} of {len(part.labels):,} images"
        )
    order, ranks = _shuffled(part.labels, seed)
    sizes = np.bincount(part.labels)[part.labels[order]]
    order = order[np.argsort((ranks + 0.5) / sizes, kind="stable")]
    return part.chosen(order[count:]), part.chosen(order[:count])


def in_two(part: Part, classes: Sequence[str], what: str) -> Parts:
    """A data set that comes in one part, of which a seeded fifth becomes the test images. Raises InputError."""
    return Parts(*split(part, TEST_SHARE, TEST_SEED, what), classes)


def limited(part: Part, count: int, seed: int) -> Part:
    """At most so many images, seeded, of each class as many as of any other as far as there are; at least one of each.

    Raises InputError where there are more classes than images.
    """
    present = len(np.unique(part.labels))
    if count < present:
        raise InputError(f"--images: expected at least one image of each of the {present} classes; got {count}")
    order, ranks = _shuffled(part.labels, seed)
    return part.chosen(order[np.argsort(ranks, kind="stable")][:count])


def _shuffled(labels: Labels, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All places in random order, and of each the number of those before it that are of its class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    ranks = np.empty(len(labels), np.intp)
    for each in np.unique(labels):
        (places,) = np.nonzero(labels[order] == each)
        ranks[places] = np.arange(len(places))
    return order, ranks
