"""Every case of a run as a row of numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from cnnbench.analysis.kernel import faults_per_call, kernel_share, spends_much
from cnnbench.analysis.stats import Estimate, launch_median, percentile, ranks
from cnnbench.analysis.times import call_time, comparable_time, peak_mib, speedup
from cnnbench.records.record import MEASURED, Record, Status
from cnnbench.suite.case import PHASES, WORKLOADS, Allocator, Device, Layout, Precision, Workload

if TYPE_CHECKING:
    import pandas as pd

MS = 1e3
"""Milliseconds in a second."""
CASE_FIELDS = (
    *("workload", "batch", "device", "runtime", "precision", "layout", "allocator", "trainable", "backend"),
    "is_reference",
)
"""Fields of a row that are its case's."""


@dataclass(frozen=True, kw_only=True)
class CaseRow:
    """One case, measured or not. Times are of one call of the whole batch.

    Those of invalid and failed cases are shown and compared with nothing: they have no speedup and no rank.
    """

    model: str
    workload: Workload
    batch: int
    device: Device
    runtime: str
    precision: Precision
    layout: Layout
    allocator: Allocator
    trainable: str
    backend: str
    status: Status
    ms: Estimate | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    images_per_s: float | None = None
    forward_ms: float | None = None
    backward_ms: float | None = None
    optimizer_ms: float | None = None
    """The medians of a training step's phases, where the runtime separates them."""
    speedup: Estimate | None = None
    """How many times as fast as the reference runtime in the same rounds."""
    vs_fp32: Estimate | None = None
    """How many times as fast as the same runtime in float32 in the same rounds."""
    kernel_in_ratio: bool = False
    """Whether either of the two spends so much of its time in the kernel that the ratio depends on the allocator."""
    kernel_share: float | None = None
    """Of the CPU time of the timed calls."""
    faults_per_call: float | None = None
    """Page faults without reading from a disk."""
    peak_mib: float | None = None
    parity_error: float | None = None
    millijoules_per_image: float | None = None
    launches: int | None = None
    samples: int | None = None
    blocks: int | None = None
    blocks_with_interference: int | None = None
    stopped: str = ""
    codes: str = ""
    """Of its reasons."""
    reason: str = ""
    id: str
    is_reference: bool
    """Whether it is the one of its comparison group that ratios are taken to."""
    rank: int | None = None
    """In its comparison group, of cases that train the same: 1 the fastest; overlapping intervals share one.

    None for a case alone.
    """
    tied: bool = False

    @property
    def is_comparable(self) -> bool:
        """Whether it was measured and its time may be compared."""
        return self.status in MEASURED and self.ms is not None

    @property
    def phases_ms(self) -> dict[str, float]:
        """The phases of a training step; none where it was not measured in phases."""
        phases = dict(zip(PHASES["training"], (self.forward_ms, self.backward_ms, self.optimizer_ms), strict=True))
        return {phase: ms for phase, ms in phases.items() if ms is not None}


def beside_each_other(records: Iterable[Record]) -> list[Record]:
    """By network, workload and batch, so that what is compared stands together; else in the order given.

    A suite with several entries for a network measures some of its backends after all other networks.
    """
    given = list(records)
    labels = {label: place for place, label in enumerate(dict.fromkeys(record.case.label for record in given))}
    return sorted(given, key=lambda r: (labels[r.case.label], WORKLOADS.index(r.case.workload), r.case.batch))


def case_rows(records: Sequence[Record]) -> list[CaseRow]:
    """One row per case, inference first; else in the order given."""
    references = {record.case.work_key: record for record in records if record.case.is_reference}
    in_fp32 = {_all_but_precision(record): record for record in records if record.case.precision == "fp32"}
    places = _places(records)
    ordered = sorted(records, key=lambda record: WORKLOADS.index(record.case.workload))
    return [
        _case_row(
            record,
            references.get(record.case.work_key),
            in_fp32.get(_all_but_precision(record)),
            *places.get(record.id, ()),
        )
        for record in ordered
    ]


def _all_but_precision(record: Record) -> tuple[object, ...]:
    case = record.case
    return (case.group_key, case.runtime, case.layout, case.allocator, case.trainable)


def case_frame(rows: Sequence[CaseRow]) -> "pd.DataFrame":
    """A data frame of rows, a column for each field; an `Estimate` becomes value, `_low` and `_high`.

    Integers stay integers where some are missing.
    """
    import pandas as pd

    columns: dict[str, pd.Series[Any]] = {}
    for name, hint in get_type_hints(CaseRow).items():
        values = [getattr(row, name) for row in rows]
        types = set(get_args(hint) or [hint])
        if Estimate in types:
            for end, part in (("", "value"), ("_low", "low"), ("_high", "high")):
                columns[name + end] = pd.Series([getattr(value, part, None) for value in values], dtype="float64")
        else:
            dtype = "float64" if float in types else "Int64" if types == {int, type(None)} else None
            columns[name] = pd.Series(values, dtype=dtype)
    return pd.DataFrame(columns)


def _places(records: Sequence[Record]) -> dict[str, tuple[int, bool]]:
    """By id, each record's rank in its comparison group, and whether others share it."""
    groups: dict[tuple[object, ...], dict[str, Estimate]] = {}
    for record in records:
        if (time := comparable_time(record)) is not None:
            groups.setdefault((record.group, record.case.work_key), {})[record.id] = time
    found: dict[str, tuple[int, bool]] = {}
    for times in groups.values():
        if len(times) > 1:
            places = ranks(list(times.values()))
            found |= {id_: (rank, places.count(rank) > 1) for id_, rank in zip(times, places, strict=True)}
    return found


def _case_row(
    record: Record, reference: Record | None, in_fp32: Record | None, rank: int | None = None, tied: bool = False
) -> CaseRow:
    return CaseRow(
        model=record.case.label,
        **{name: getattr(record.case, name) for name in CASE_FIELDS},
        status=record.status,
        parity_error=max((p.error for p in record.parity if p.error is not None), default=None),
        codes="; ".join(reason.code for reason in record.reasons),
        reason="; ".join(map(str, record.reasons)),
        id=record.id,
        rank=rank,
        tied=tied,
        speedup=speedup(record, reference) if reference else None,
        vs_fp32=speedup(record, in_fp32) if in_fp32 else None,
        kernel_in_ratio=spends_much(record, reference),
        **_measured(record),
    )


def _measured(record: Record) -> dict[str, Any]:
    """The fields of a row that come from raw samples."""
    case, measurement, time = record.case, record.measurement, call_time(record)
    if measurement is None or time is None:
        return {}
    launches = measurement.launches
    samples = [sample for blocks in measurement.times() for block in blocks for sample in block]
    single_calls = all(launch.calls_per_sample == 1 for launch in launches)
    percentiles = {p: percentile(samples, p) if single_calls else None for p in (90, 95, 99)}
    joules = measurement.joules_per_image(case.images)
    phases = case.phases if case.phases == PHASES["training"] else ()
    return {
        "ms": time.scaled(MS),
        **{f"p{p}_ms": None if value is None else value * MS for p, value in percentiles.items()},
        "images_per_s": case.images / time.value,
        **{f"{phase}_ms": launch_median(measurement.times(phase)) * MS for phase in phases},
        "kernel_share": kernel_share(launches),
        "faults_per_call": faults_per_call(launches),
        "peak_mib": peak_mib(record),
        "millijoules_per_image": None if joules is None else 1e3 * joules,
        "launches": len(launches),
        "samples": len(samples),
        "blocks": sum(len(launch.blocks) for launch in launches),
        "blocks_with_interference": sum(bool(block.interference) for launch in launches for block in launch.blocks),
        "stopped": launches[-1].stopped,
    }
