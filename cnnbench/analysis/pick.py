"""Which measured network and runtime meets bounds on latency, memory, accuracy and size, with the whole interval."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, NamedTuple, get_args

from cnnbench.analysis.explain import Explained, explain
from cnnbench.analysis.pareto import data_sets, measured_top1, published_top1
from cnnbench.analysis.stats import Estimate, independent_ratio, ranks
from cnnbench.analysis.times import comparable_time
from cnnbench.networks.units import MB
from cnnbench.records.record import Record
from cnnbench.records.run_folder import Run

Metric = Literal["p50", "memory", "accuracy", "size"]
UNITS: dict[Metric, str] = {"p50": "ms", "memory": "MB", "accuracy": "%", "size": "MB"}
Verdict = Literal["meets", "may", "unknown", "fails"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""
meets    the whole interval is within the bound
may      the bound is inside the interval, or the interval is not known
unknown  the figure is not known
fails    the whole interval is beyond the bound
"""
MAX_NEAR = 3
"""So many of those that fail are shown, the nearest first."""
Bounds = dict[Metric, float]
"""In the units above; accuracy from below, the others from above."""


class Check(NamedTuple):
    """A figure of a candidate beside its bound."""

    metric: Metric
    bound: float
    figure: Estimate | None

    @property
    def verdict(self) -> Verdict:
        """Whether the interval is within the bound."""
        if self.figure is None:
            return "unknown"
        if self.figure.low is None or self.figure.high is None:
            return "may"
        inside, outside = self.figure.high <= self.bound, self.figure.low > self.bound
        if self.metric == "accuracy":
            inside, outside = self.figure.low >= self.bound, self.figure.high < self.bound
        return "meets" if inside else "fails" if outside else "may"

    @property
    def used(self) -> float:
        """The figure as a multiple of what the bound allows, above 1 if it is beyond it; 1 where it is unknown."""
        if self.figure is None or not self.figure.value or not self.bound:
            return 1.0
        share = self.figure.value / self.bound
        return 1 / share if self.metric == "accuracy" else share


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network in a runtime that was measured at the batch."""

    run: Run
    record: Record
    figures: dict[Metric, Estimate | None]
    checks: tuple[Check, ...]
    explained: Explained | None
    rank: int = 0
    """Among those of one verdict, by latency: 1 the fastest; overlapping intervals share one."""
    tied: bool = False

    @property
    def verdict(self) -> Verdict:
        """The worst of its checks; without bounds it meets them."""
        return max((check.verdict for check in self.checks), key=VERDICTS.index, default="meets")

    @property
    def ms(self) -> Estimate:
        """Median milliseconds of a call of the whole batch."""
        found = self.figures["p50"]
        assert found is not None
        return found

    @property
    def failed(self) -> list[Check]:
        """What it fails, the furthest first."""
        return sorted((check for check in self.checks if check.verdict == "fails"), key=lambda check: -check.used)


@dataclass(frozen=True, kw_only=True)
class Picked:
    """Candidates by verdict, each list best first."""

    runs: Sequence[Run]
    bounds: Bounds
    batch: int
    data: str
    """The data set that accuracy was measured on; empty where it is the published one. The other kind is unknown."""
    meets: list[Candidate]
    may: list[Candidate]
    unknown: list[Candidate]
    fails: list[Candidate]
    """The nearest first: those that fail the fewest bounds, by the least."""
    excluded: list[Record]
    """Failed and invalid cases of the batch."""
    not_reached: dict[str, Run]
    """Ids of cases of the batch that have no record, with their run."""
    batches: list[int]
    """That were measured in inference."""

    def lead(self) -> Estimate | None:
        """How many times as long the first takes of those that are not tied with the best; None if there is none."""
        later = next((each for each in self.meets if each.rank > 1), None)
        return independent_ratio(later.ms, self.meets[0].ms) if later else None


def pick(runs: Sequence[Run], bounds: Bounds, batch: int = 1, data: str | None = None) -> Picked:
    """Judge every inference case of a batch by the bounds. Times of different runs are compared as independent.

    Accuracy is that on a data set, or the published one if `data` is empty; if it is None, that on the data set on
    which most networks were evaluated, or the published one where none was.
    """
    if data is None:
        data = next(iter(evaluated_on(runs)), "")
    found: dict[Verdict, list[Candidate]] = {verdict: [] for verdict in VERDICTS}
    for run in runs:
        explained = explain(run)
        for record in run.records.values():
            of_batch = record.case.workload == "inference" and record.case.batch == batch
            if of_batch and comparable_time(record) is not None:
                candidate = _candidate(run, record, bounds, data, explained.get(record.id))
                found[candidate.verdict].append(candidate)
    nearest = sorted(
        found["fails"], key=lambda each: (len(each.failed), fmean(check.used for check in each.failed), each.ms.value)
    )
    inference = [record for run in runs for record in run.records.values() if record.case.workload == "inference"]
    return Picked(
        runs=runs,
        bounds=bounds,
        batch=batch,
        data=data,
        meets=_ranked(found["meets"]),
        may=_ranked(found["may"]),
        unknown=_ranked(found["unknown"]),
        fails=nearest,
        excluded=[r for r in inference if r.case.batch == batch and r.status in ("failed", "invalid")],
        not_reached={
            id_: run
            for run in runs
            for id_ in run.cases
            if id_ not in run.records and "/inference/" in id_ and re.search(rf"/b{batch}(/|$)", id_)
        },
        batches=sorted({record.case.batch for record in inference if comparable_time(record) is not None}),
    )


def evaluated_on(runs: Sequence[Run]) -> list[str]:
    """The data sets on which the runs have measured accuracy; the one with the most networks first."""
    return data_sets(record for run in runs for record in run.records.values())


def _candidate(run: Run, record: Record, bounds: Bounds, data: str, explained: Explained | None) -> Candidate:
    time, facts = comparable_time(record), record.artifact
    size = (facts.onnx_bytes if record.case.is_exported else facts.weight_bytes) if facts else None
    figures: dict[Metric, Estimate | None] = {
        "p50": time.scaled(1e3) if time else None,
        "memory": _memory(record),
        "accuracy": measured_top1(record, data) if data else published_top1(record),
        "size": None if size is None else Estimate(size / MB, size / MB, size / MB),
    }
    checks = tuple(Check(metric, bound, figures[metric]) for metric, bound in bounds.items())
    return Candidate(run=run, record=record, figures=figures, checks=checks, explained=explained)


def _memory(record: Record) -> Estimate | None:
    """Peak MB of its launches, of the device where that is not the CPU: the largest, with the range of all."""
    memories = [launch.memory for launch in record.launches]
    peaks = [each.peak_bytes if record.case.device == "cpu" else each.device_allocated_bytes for each in memories]
    known = [peak / MB for peak in peaks if peak is not None]
    return Estimate(max(known), min(known), max(known)) if known else None


def _ranked(candidates: list[Candidate]) -> list[Candidate]:
    """By rank of latency; of those that share one the more accurate first, then the one of less memory."""
    places = ranks([each.ms for each in candidates])
    ranked = [
        replace(each, rank=place, tied=places.count(place) > 1) for each, place in zip(candidates, places, strict=True)
    ]

    def order(each: Candidate) -> tuple[float, ...]:
        accuracy, memory = each.figures["accuracy"], each.figures["memory"]
        return (each.rank, -(accuracy.value if accuracy else 0), memory.value if memory else 0, each.ms.value)

    return sorted(ranked, key=order)
