"""Networks by measured or published accuracy and measured latency, and which of them no other one beats in both."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cnnbench.analysis.cases import CaseRow
from cnnbench.analysis.counts import published_for
from cnnbench.analysis.evaluation import accuracy
from cnnbench.analysis.stats import Estimate
from cnnbench.records.record import Record


class Point(NamedTuple):
    """A case whose accuracy was measured, or whose model has a published one."""

    row: CaseRow
    accuracy: Estimate
    """In percent; published ones are points."""
    ms: Estimate
    data: str = ""
    """The data set that it was measured on with what was timed; empty where it is published for ImageNet."""

    @property
    def top1(self) -> float:
        """Accuracy in percent."""
        return self.accuracy.value


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
    found = {record.id: record for record in records}
    return [
        Point(row, top1, row.ms, data)
        for row in measured
        for data in data_sets([found[row.id]])
        if (top1 := measured_top1(found[row.id], data)) and row.ms
    ]


def data_sets(records: Iterable[Record]) -> list[str]:
    """Those on which what was timed was evaluated; the one with the most networks first."""
    evaluated = {(each.data, record.case.label) for record in records if (each := record.evaluation) and each.images}
    counted = Counter(data for data, _ in sorted(evaluated))
    return [data for data, _ in counted.most_common()]


def of_smallest_batch(points: Sequence[Point], device: str) -> list[Point]:
    """Those on one device, of the smallest batch that any of them has."""
    there = [point for point in points if point.row.device == device]
    batch = min((point.row.batch for point in there), default=0)
    return [point for point in there if point.row.batch == batch]


def measured_top1(record: Record, data: str) -> Estimate | None:
    """Accuracy in percent of what was timed on a data set's test images; None where that was not measured."""
    found = record.evaluation
    if found is None or found.data != data or not found.images:
        return None
    return accuracy(found.correct, found.images).scaled(100)


def published_top1(record: Record) -> Estimate | None:
    """ImageNet accuracy in percent, where it was published for the very image size and classes that ran."""
    published = published_for(record.case.spec, record.artifact) if record.artifact else None
    top1 = published.top1_percent if published else None
    return None if top1 is None else Estimate(top1, top1, top1)


def is_on_front(point: Point, points: Sequence[Point]) -> bool:
    """Whether no other point is at least as accurate and faster, by the medians."""
    return not any(other.top1 >= point.top1 and other.ms.value < point.ms.value for other in points)


def is_dominated(point: Point, points: Sequence[Point]) -> bool:
    """Whether another point is at least as accurate, and faster by its whole interval."""
    low = point.ms.low
    highs = [other.ms.high for other in points if other.top1 >= point.top1]
    return low is not None and any(high is not None and high < low for high in highs)
