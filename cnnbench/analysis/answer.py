"""What a run answers, in few figures: the fastest runtime, the best networks, what limits them, how sure that is."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from cnnbench.analysis.cases import CaseRow, case_rows
from cnnbench.analysis.explain import Explained, explain
from cnnbench.analysis.kernel import spends_much
from cnnbench.analysis.pareto import Point, data_sets, is_on_front, measured_points, of_smallest_batch, points_of
from cnnbench.analysis.serving import Service, services
from cnnbench.analysis.stats import Estimate, geometric_mean
from cnnbench.analysis.times import comparable_time, speedup
from cnnbench.records.reason import Code, InterferenceKind
from cnnbench.records.record import MEASURED, Record, Status
from cnnbench.records.run_folder import Run
from cnnbench.suite.case import DEFAULTS, Case, Device, Precision, Workload
from cnnbench.suite.runtimes import REFERENCE

MIN_COVERAGE = 0.5
"""A backend is compared if it measured at least this share of the cases of the one that measured most."""
NO_DRIVER = re.compile(r"found no nvidia driver", re.IGNORECASE)

Backend = tuple[str, ...]
"""Runtime, layout and allocator, without those that are the default: ("ort", "keep")."""


@dataclass(frozen=True, kw_only=True)
class Fastest:
    """The fastest backend of a workload, over the cases that all compared backends measured in shared rounds."""

    workload: Workload
    device: Device
    precision: Precision
    backend: Backend
    next: Backend
    """The second: of the other runtimes the fastest; of the same with another layout or allocator if there is none."""
    vs_next: Estimate
    """How many times as fast as the second; geometric mean of the cases."""
    vs_reference: Estimate | None
    """The same beside PyTorch eager; None where one of the two is eager, or eager was not measured."""
    cases: int
    """Those whose ratio has an interval, if any has one."""
    faster_in: int
    """Of the cases, those in which it is faster than the second by the whole interval."""
    slower_in: int
    kernel: int
    """Of the cases, those whose ratio depends on the memory allocator."""
    batches: list[int]
    """Of the cases, ascending: those at which all compared backends were measured."""

    @property
    def is_tied(self) -> bool:
        """Whether the interval of the mean ratio has 1 in it."""
        return self.vs_next.low is not None and self.vs_next.low <= 1


@dataclass(frozen=True, kw_only=True)
class Best:
    """A network on the Pareto front of accuracy and latency, in its fastest backend of a precision."""

    point: Point
    explained: Explained | None


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Cases that could not run here for one reason."""

    cases: int
    code: Code
    needs: str
    """A device, a runtime or an allocator; empty where the combination does not exist."""
    detail: str


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How well the times are known."""

    statuses: dict[Status, int]
    time_half_width: float | None
    """Median over the measured cases of the interval's larger side, relative to the time; None without intervals."""
    ratio_half_width: float | None
    """The same of the ratios to eager."""
    noise: dict[Code, int]
    """Cases by why they are noisy, the most frequent first."""
    blocks: int
    interference: dict[InterferenceKind, int]
    """Blocks by what the system's counters saw beside them."""
    launches: int
    """Median number of processes of a case; 0 where nothing was measured."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a run answers."""

    run: Run
    models: list[str]
    """Labels of the measured models, in the suite's order."""
    backends: list[Backend]
    workloads: list[Workload]
    measured: int
    served: list[tuple[Case, Service]]
    """Of each case that was served, what its launches found out."""
    fastest: list[Fastest]
    best: list[Best]
    """From the fastest network to the most accurate one, at the smallest batch: of each data set on which accuracy was
    measured, that of the most networks first, then by the published accuracy of networks that were not evaluated."""
    quickest: list[CaseRow]
    """Where there is no best: each network in its fastest backend at the smallest batch, the fastest first."""
    trust: Trust
    wrong: list[Record]
    """Failed and invalid."""
    left_out: list[LeftOut]
    not_reached: int
    """Cases of the suite without a record."""


def answer(run: Run) -> Answer:
    """The answer of a run, whatever it measured."""
    records = list(run.records.values())
    rows = case_rows(records)
    measured = [row for row in rows if row.is_comparable]
    timed = [record for record in records if comparable_time(record) is not None]
    served = [(run.records[id_].case, service) for id_, service in services(records).items()]
    shown = [*(record.case for record in timed), *(case for case, _ in served)]
    best = _best(run, records, measured)
    return Answer(
        run=run,
        models=list(dict.fromkeys(case.spec.label for case in shown)),
        backends=list(dict.fromkeys(backend_of(case) for case in shown)),
        workloads=list(dict.fromkeys([*(row.workload for row in measured), *(case.workload for case, _ in served)])),
        measured=len(shown),
        served=served,
        fastest=fastest(timed),
        best=best,
        quickest=[] if best else _quickest(measured),
        trust=_trust(records, measured),
        wrong=[record for record in records if record.status in ("failed", "invalid")],
        left_out=left_out(records),
        not_reached=len(set(run.cases) - run.records.keys()),
    )


def backend_of(case: Case | CaseRow) -> Backend:
    """What executes a case, beside its device and precision."""
    return (case.runtime, *(part for part in (case.layout, case.allocator) if part not in DEFAULTS))


def fastest(records: Iterable[Record]) -> list[Fastest]:
    """One for each workload, device and precision in which several backends measured the same; inference first."""
    groups: dict[tuple[Workload, Device, Precision], dict[object, dict[Backend, Record]]] = {}
    for record in records:
        case = record.case
        works = groups.setdefault((case.workload, case.device, case.precision), {})
        works.setdefault(case.work_key, {})[backend_of(case)] = record
    found = [_fastest(key, list(works.values())) for key, works in groups.items()]
    return sorted((each for each in found if each is not None), key=lambda each: each.workload)


def _fastest(key: tuple[Workload, Device, Precision], works: Sequence[dict[Backend, Record]]) -> Fastest | None:
    counted = Counter(backend for work in works for backend in work)
    compared = [each for each, count in counted.items() if count >= MIN_COVERAGE * max(counted.values())]
    base = (REFERENCE,) if (REFERENCE,) in compared else compared[0]
    shared = [
        work
        for work in works
        if all(each in work for each in compared)
        and all(speedup(work[each], work[base]) for each in compared if each != base)
    ]
    if len(compared) < 2 or not shared:
        return None

    def ratios(one: Backend, other: Backend) -> list[Estimate]:
        return [ratio for work in shared if (ratio := speedup(work[one], work[other])) is not None]

    def mean(backend: Backend) -> float:
        return 1.0 if backend == base else geometric_mean(ratios(backend, base)).value

    first, *others = sorted(compared, key=mean, reverse=True)
    second = next((other for other in others if other[0] != first[0]), others[0])
    ratios_to_next = ratios(first, second)
    pairs = [ratio for ratio in ratios_to_next if ratio.low is not None] or ratios_to_next
    if not pairs:
        return None
    workload, device, precision = key
    has_reference = (REFERENCE,) in compared and (REFERENCE,) not in (first, second)
    return Fastest(
        workload=workload,
        device=device,
        precision=precision,
        backend=first,
        next=second,
        vs_next=geometric_mean(pairs),
        vs_reference=geometric_mean(ratios(first, base)) if has_reference else None,
        cases=len(pairs),
        faster_in=sum(ratio.low is not None and ratio.low > 1 for ratio in pairs),
        slower_in=sum(ratio.high is not None and ratio.high < 1 for ratio in pairs),
        kernel=sum(spends_much(work[first], work[second]) for work in shared),
        batches=sorted({work[first].case.batch for work in shared}),
    )


def _best(run: Run, records: Sequence[Record], measured: Sequence[CaseRow]) -> list[Best]:
    """The fronts, each on the first device that has one; of published accuracies only where two networks have one."""
    evaluated = measured_points(records, measured)
    models = {point.row.model for point in evaluated}
    published = [point for point in points_of(records, measured) if point.row.model not in models]
    fronts = [_front([point for point in evaluated if point.data == data], 1) for data in data_sets(records)]
    found = [point for front in (*fronts, _front(published, 2)) for point in front]
    explained = explain(run) if found else {}
    return [Best(point=point, explained=explained.get(point.row.id)) for point in found]


def _front(points: Sequence[Point], least: int) -> list[Point]:
    """By latency, in the fastest backend of each precision; on the first device where so many networks have a point."""
    for device in dict.fromkeys(point.row.device for point in points):
        slowest_first = sorted(of_smallest_batch(points, device), key=lambda point: point.ms.value, reverse=True)
        fastest = {(point.row.model, point.row.precision): point for point in slowest_first}
        if len({model for model, _ in fastest}) >= least:
            there = sorted(fastest.values(), key=lambda point: point.ms.value)
            return [point for point in there if is_on_front(point, there)]
    return []


def _quickest(measured: Sequence[CaseRow]) -> list[CaseRow]:
    batch = min((row.batch for row in measured if row.workload == "inference"), default=0)
    rows = [row for row in measured if (row.workload, row.batch) == ("inference", batch) and row.ms]
    slowest_first = sorted(rows, key=_ms, reverse=True)
    return sorted({row.model: row for row in slowest_first}.values(), key=_ms)


def _ms(row: CaseRow) -> float:
    return row.ms.value if row.ms else 0.0


def _trust(records: Sequence[Record], measured: Sequence[CaseRow]) -> Trust:
    times = [row.ms.half_width for row in measured if row.ms and row.ms.low is not None]
    ratios = [row.speedup.half_width for row in measured if row.speedup and row.speedup.low is not None]
    timed = [record for record in records if record.status in MEASURED]
    blocks = [block for record in timed for launch in record.launches for block in launch.blocks]
    kinds = Counter(kind for block in blocks for kind in {each.kind for each in block.interference})
    codes = Counter(code for record in timed for code in dict.fromkeys(reason.code for reason in record.reasons))
    return Trust(
        statuses=dict(Counter(record.status for record in records).most_common()),
        time_half_width=median(times) if times else None,
        ratio_half_width=median(ratios) if ratios else None,
        noise=dict(codes.most_common()),
        blocks=len(blocks),
        interference=dict(kinds.most_common()),
        launches=round(median(len(record.launches) for record in timed)) if timed else 0,
    )


def left_out(records: Iterable[Record]) -> list[LeftOut]:
    """The unavailable cases by what they need, the most frequent first."""
    groups: dict[tuple[Code, str, str], list[str]] = {}
    for record in records:
        if record.status == "unavailable":
            reason = record.reasons[0] if record.reasons else None
            code: Code = reason.code if reason else "other"
            needs, detail = _needs(record.case, code), reason.detail if reason else ""
            # a device is missing for one reason, which PyTorch tells best; another runtime only falls back
            key = (code, needs, "" if code == "no-device" else detail)
            details = groups.setdefault(key, [])
            details.insert(0 if record.case.runtime == REFERENCE else len(details), detail)
    found = [
        LeftOut(cases=len(details), code=code, needs=needs, detail=_short(details[0]))
        for (code, needs, _), details in groups.items()
    ]
    return sorted(found, key=lambda each: -each.cases)


def _needs(case: Case, code: Code) -> str:
    if code == "no-device":
        return case.device.upper()
    return {"no-runtime": case.runtime, "no-allocator": case.allocator}.get(code, "")


def _short(detail: str) -> str:
    """The first sentence, without the case's runtime and device before it."""
    if NO_DRIVER.search(detail):
        return "no NVIDIA driver"
    return re.sub(r"^\S+ on (cpu|cuda): ", "", detail).split(". ")[0]
