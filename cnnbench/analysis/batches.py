"""The batch with the highest throughput, and how memory grows with the batch."""

import math
from collections.abc import Iterable
from statistics import linear_regression
from typing import NamedTuple

from cnnbench.analysis.cases import peak_mib
from cnnbench.analysis.times import comparable_time
from cnnbench.networks.units import MIB
from cnnbench.records.record import Record
from cnnbench.suite.case import Case

MIN_BATCHES = 3


class Batches(NamedTuple):
    """The batches of one model, workload and backend."""

    case: Case
    """One of them."""
    rates: dict[int, float]
    """Images per second by batch."""
    mib_per_image: float | None
    memory_full_at: int | None
    """The batch at which a straight line through the peaks of memory reaches the machine's."""

    @property
    def best(self) -> int:
        """The batch with the highest throughput."""
        return max(self.rates, key=lambda batch: self.rates[batch])


def batches(records: Iterable[Record]) -> list[Batches]:
    """One per model, workload and backend of which at least three batches were measured."""
    groups: dict[tuple[str, str, str], dict[int, Record]] = {}
    for record in records:
        if comparable_time(record) is not None:
            case = record.case
            groups.setdefault((case.label, case.workload, case.backend), {})[case.batch] = record
    return [_batches(members) for members in groups.values() if len(members) >= MIN_BATCHES]


def _batches(members: dict[int, Record]) -> Batches:
    rates = {batch: batch / time.value for batch, record in members.items() if (time := comparable_time(record))}
    peaks = {batch: peak for batch, record in members.items() if (peak := peak_mib(record))}
    some = next(iter(members.values()))
    if len(peaks) < 2:
        return Batches(some.case, rates, None, None)
    line = linear_regression(list(peaks), list(peaks.values()))
    if some.environment is None or line.slope <= 0:
        return Batches(some.case, rates, line.slope, None)
    full_at = math.floor((some.environment.machine.memory_bytes / MIB - line.intercept) / line.slope)
    return Batches(some.case, rates, line.slope, max(0, full_at))
