"""Networks by measured or published accuracy and measured latency, and which of them no other one beats in both."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cnnbench.analysis.cases import CaseRow
from cnnbench.analysis.stats import Estimate
from cnnbench.networks import registry
from cnnbench.records.record import Record


class Point(NamedTuple):
    """A case whose accuracy was measured, or whose model has a published one."""

    row: CaseRow
    top1: float
    """Accuracy in percent."""
    ms: Estimate
    data: str = ""
    """The data set that it was measured on with what was timed; empty where it is published for ImageNet."""


def points_of(records: Iterable[Record], measured: Iterable[CaseRow]) -> list[Point]:
    """The float32 inference cases with a published accuracy; `measured` are the rows of these records."""
    accuracies = {record.id: published_top1(record) for record in records}
    return [
        Point(row, top1, row.ms)
        for row in measured
        if (row.workload, row.precision) == ("inference", "fp32")
        and (top1 := accuracies[row.id]) is not None
        and row.ms
    ]


def measured_points(records: Iterable[Record], measured: Iterable[CaseRow]) -> list[Point]:
    """The inference cases in any precision that were evaluated; `measured` are the rows of these records."""
    found = {record.id: record.evaluation for record in records}
    return [
        Point(row, 100 * each.correct / each.images, row.ms, each.data)
        for row in measured
        if (each := found[row.id]) and each.images and row.ms
    ]


def of_smallest_batch(points: Sequence[Point], device: str) -> list[Point]:
    """Those on one device, of the smallest batch that any of them has."""
    there = [point for point in points if point.row.device == device]
    batch = min((point.row.batch for point in there), default=0)
    return [point for point in there if point.row.batch == batch]


def published_top1(record: Record) -> float | None:
    """ImageNet accuracy in percent, where it was published for the very image size and classes that ran."""
    if record.artifact is None or (published := record.artifact.counters.published) is None:
        return None
    architecture, size = registry.find(record.case.spec.model), published.image_size
    same_size = size is not None and record.artifact.input_shape[1:] == (size, size)
    same_classes = architecture is None or record.artifact.classes == architecture.classes
    return published.top1_percent if same_size and same_classes else None


def is_on_front(point: Point, points: Sequence[Point]) -> bool:
    """Whether no other point is at least as accurate and faster, by the medians."""
    return not any(other.top1 >= point.top1 and other.ms.value < point.ms.value for other in points)


def is_dominated(point: Point, points: Sequence[Point]) -> bool:
    """Whether another point is at least as accurate, and faster by its whole interval."""
    low = point.ms.low
    highs = [other.ms.high for other in points if other.top1 >= point.top1]
    return low is not None and any(high is not None and high < low for high in highs)
