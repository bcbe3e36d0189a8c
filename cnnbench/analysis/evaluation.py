"""Predicted classes -> accuracy, confusion and comparison. Pure functions."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from cnnbench.analysis.stats import CONFIDENCE, Estimate


class Predictions(NamedTuple):
    """What several backends say of the same images."""

    names: Sequence[str]
    """Of the data set's classes; a model may have more."""
    labels: Sequence[int]
    """Of each image, the class that it belongs to."""
    classes: dict[str, list[int]]
    """By backend, of each image, the class that it is put into."""

    def correct(self, backend: str) -> list[bool]:
        """Whether each image is put into the right class."""
        return [found == label for found, label in zip(self.classes[backend], self.labels, strict=True)]

    def name(self, number: int) -> str:
        """Of a class; its number, where the data set has no such class."""
        return self.names[number] if number < len(self.names) else str(number)


class ClassAccuracy(NamedTuple):
    """How many images of one class are recognised."""

    name: str
    correct: int
    images: int
    accuracy: Estimate | None
    """None without images."""


class Difference(NamedTuple):
    """Two backends on the same images."""

    first: str
    second: str
    only_first: int
    """Images that the first alone puts into the right class."""
    only_second: int
    p: float
    """Of so unequal a pair of numbers or a more unequal one, if both were equally accurate."""
    images: list[int]
    """The places of all that they put into different classes, also where both are wrong."""


def accuracy(correct: int, images: int) -> Estimate:
    """The share of correct images, with the interval of Wilson 1927, "Probable inference", JASA 22."""
    from scipy.stats import binomtest

    interval = binomtest(correct, images).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(correct / images, float(interval.low), float(interval.high))


def by_class(predictions: Predictions, backend: str) -> list[ClassAccuracy]:
    """The accuracy on the images of each class."""
    found = []
    for number, (name, row) in enumerate(zip(predictions.names, confusion(predictions, backend), strict=False)):
        share = accuracy(row[number], sum(row)) if sum(row) else None
        found.append(ClassAccuracy(name, row[number], sum(row), share))
    return found


def confusion(predictions: Predictions, backend: str) -> list[list[int]]:
    """Images by their class, in rows, and the class they are put into, in columns."""
    found = predictions.classes[backend]
    count = max(len(predictions.names), 1 + max(found))
    matrix = [[0] * count for _ in range(count)]
    for label, number in zip(predictions.labels, found, strict=True):
        matrix[label][number] += 1
    return matrix


def differences(predictions: Predictions) -> Iterator[Difference]:
    """Each pair of backends, by the exact test of McNemar.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12: of the images that one alone gets right, each is as likely to be either's if both are equally
    accurate, so their number is binomial with p = 1/2.
    """
    from scipy.stats import binomtest

    for first, second in combinations(predictions.classes, 2):
        pairs = list(zip(predictions.correct(first), predictions.correct(second), strict=True))
        only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
        both = zip(predictions.classes[first], predictions.classes[second], strict=True)
        yield Difference(
            first,
            second,
            only_first,
            only_second,
            p=float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0,
            images=[place for place, (one, other) in enumerate(both) if one != other],
        )
