"""The batch with the highest throughput, and how memory grows with the batch."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import linear_regression

from cnnbench.analysis.cases import peak_mib
from cnnbench.analysis.times import comparable_time
from cnnbench.networks.units import MIB
from cnnbench.records.record import Record
from cnnbench.suite.case import Workload

MIN_BATCHES = 3


@dataclass(frozen=True, kw_only=True)
class BatchRow:
    """The batch with the highest throughput, and how memory grows with the batch."""

    model: str
    workload: Workload
    backend: str
    batches: str
    best_batch: int
    images_per_s: float
    vs_batch_1: float | None
    mib_per_image: float | None
    memory_full_at: int | None
    """The batch at which a straight line through the peaks of memory reaches the machine's."""


def batch_rows(records: Iterable[Record]) -> list[BatchRow]:
    """One row per model, workload and backend of which at least three batches were measured."""
    groups: dict[tuple[str, Workload, str], dict[int, Record]] = {}
    for record in records:
        if comparable_time(record) is not None:
            case = record.case
            groups.setdefault((case.label, case.workload, case.backend), {})[case.batch] = record
    return [_row(*key, members) for key, members in groups.items() if len(members) >= MIN_BATCHES]


def _row(model: str, workload: Workload, backend: str, members: dict[int, Record]) -> BatchRow:
    rates = {batch: batch / time.value for batch, record in members.items() if (time := comparable_time(record))}
    best = max(rates, key=lambda batch: rates[batch])
    slope, full_at = _memory(members)
    return BatchRow(
        model=model,
        workload=workload,
        backend=backend,
        batches=", ".join(map(str, sorted(members))),
        best_batch=best,
        images_per_s=rates[best],
        vs_batch_1=rates[best] / rates[1] if 1 in rates else None,
        mib_per_image=slope,
        memory_full_at=full_at,
    )


def _memory(members: dict[int, Record]) -> tuple[float | None, int | None]:
    """Slope of the straight line through the peaks, in MiB per image, and the batch where it reaches all memory."""
    peaks = {batch: peak for batch, record in members.items() if (peak := peak_mib(record))}
    if len(peaks) < 2:
        return None, None
    line = linear_regression(list(peaks), list(peaks.values()))
    memory_bytes = next(iter(members.values())).environment.get("machine", {}).get("memory_bytes")
    if not memory_bytes or line.slope <= 0:
        return line.slope, None
    return line.slope, max(0, math.floor((memory_bytes / MIB - line.intercept) / line.slope))
