"""Predicted classes -> accuracy, confusion and comparison. Pure functions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import Literal, NamedTuple

from cnnbench.analysis.stats import CONFIDENCE, Estimate
from cnnbench.records.evaluation import Evaluation

TARGET = 0.99
"""Of float32's accuracy: the line of MLPerf Inference for models that were quantised (MLCommons, inference rules)."""
Verdict = Literal["meets", "fails", "undecided"]


class Predictions(NamedTuple):
    """What several backends say of the same images."""

    names: Sequence[str]
    """Of the data set's classes; a model may have more."""
    labels: Sequence[int]
    """Of each image, the class that it belongs to."""
    classes: dict[str, list[int]]
    """By backend, of each image, the class that it is put into."""
    draws: Mapping[str, Sequence[int]] = MappingProxyType({})
    """By backend in int8, right images with other draws of the images that it is calibrated with."""

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
    for first, second in combinations(predictions.classes, 2):
        pairs = list(zip(predictions.correct(first), predictions.correct(second), strict=True))
        only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
        both = zip(predictions.classes[first], predictions.classes[second], strict=True)
        yield Difference(
            first,
            second,
            only_first,
            only_second,
            p=mcnemar(only_first, only_second),
            images=[place for place, (one, other) in enumerate(both) if one != other],
        )


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact test's p, from the numbers of images that one of two alone gets right."""
    from scipy.stats import binomtest

    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def paired_difference(both: int, only_first: int, only_second: int, neither: int) -> Estimate:
    """How much more accurate the first is than the second on the same images, as a share of them.

    With the interval of method 10 in Newcombe 1998, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17: Wilson's of both shares, less what their correlation
    takes away.
    """
    images = both + only_first + only_second + neither
    first, second = accuracy(both + only_first, images), accuracy(both + only_second, images)
    cross = both * neither - only_first * only_second
    corrected = max(cross - images / 2, 0.0) if cross > 0 else cross
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    correlation = corrected / math.sqrt(margins) if margins else 0.0

    def half(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    (value, low, high), (other, other_low, other_high) = _ends(first), _ends(second)
    difference = value - other
    below, above = half(value - low, other_high - other), half(high - value, other - other_low)
    return Estimate(difference, difference - below, difference + above)


def _ends(found: Estimate) -> tuple[float, float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.value, found.low, found.high


def versus_float32(found: Evaluation) -> Estimate | None:
    """The difference of accuracies; None where float32 was not evaluated."""
    if not found.reference:
        return None
    both = found.correct - found.only_this
    neither = found.images - both - found.only_this - found.only_reference
    return paired_difference(both, found.only_this, found.only_reference, neither)


def verdict(found: Evaluation) -> Verdict | None:
    """Whether 99 % of float32's accuracy on these images is kept, with the whole interval of the difference."""
    difference = versus_float32(found)
    if difference is None or difference.low is None or difference.high is None:
        return None
    line = (TARGET - 1) * found.reference_correct / found.images
    return "meets" if difference.low >= line else "fails" if difference.high < line else "undecided"
