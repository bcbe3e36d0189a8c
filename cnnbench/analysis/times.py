"""The times of records: of one call, beside the reference's, of the start, and by batch."""

import math
from collections.abc import Iterable, Sequence
from statistics import linear_regression
from typing import NamedTuple

from cnnbench.analysis.stats import Estimate, launch_estimate, launch_ratio_estimate
from cnnbench.networks.units import MIB
from cnnbench.records.record import MEASURED, MIN_BLOCKS, ArtifactFacts, Block, Launch, Record
from cnnbench.suite.case import Case

MIN_BATCHES = 3


def call_time(record: Record) -> Estimate | None:
    """Median seconds of one call of the whole batch; None where nothing was measured."""
    times = record.measurement.times() if record.measurement else []
    return launch_estimate(times) if any(times) else None


def comparable_time(record: Record) -> Estimate | None:
    """The same, and None also where the record's status excludes it from comparisons."""
    return call_time(record) if record.status in MEASURED else None


def speedup(record: Record, reference: Record) -> Estimate | None:
    """How many times as fast a record is as another, from the rounds that both took part in; None if there are none."""
    if record.id == reference.id or record.status not in MEASURED or reference.status not in MEASURED:
        return None
    ours, theirs = _by_group(record), _by_group(reference)
    rounds = [_shared_rounds(launch, ours[group]) for group, launch in theirs.items() if group in ours]
    numerator, denominator = [above for above, _ in rounds], [below for _, below in rounds]
    return launch_ratio_estimate(numerator, denominator) if any(numerator) else None


def _by_group(record: Record) -> dict[str, Launch]:
    """Launches by comparison group; records of the first schema have one for all."""
    return {launch.group or record.group or record.id: launch for launch in record.launches}


def shared_blocks(first: Launch, second: Launch) -> tuple[list[tuple[Block, Block]], bool]:
    """Blocks of the rounds that both launches were in, and whether they had to be used in spite of interference.

    Rounds with interference in either are left out, unless too few others remain.
    """
    of_first = {block.round: block for block in first.blocks}
    both = [(of_first[block.round], block) for block in second.blocks if block.round in of_first]
    clean = [(one, other) for one, other in both if not one.interference and not other.interference]
    return (clean, False) if len(clean) >= MIN_BLOCKS else (both, True)


def _shared_rounds(first: Launch, second: Launch) -> list[list[list[float]]]:
    """Seconds per call of each of two launches, by the rounds that both were in."""
    blocks, _ = shared_blocks(first, second)
    return [
        [[total / launch.calls_per_sample for total in pair[place].totals_s()] for pair in blocks]
        for place, launch in enumerate((first, second))
    ]


class Start(NamedTuple):
    """The stages before the first output, each measured once."""

    case: Case
    launch: Launch
    """Its first call is of one image whatever the case's batch, but for runtimes that compile for it."""
    export_s: float | None
    compile_s: float | None
    """Of what was compiled ahead."""
    break_even_images: float | None


def starts(records: Sequence[Record]) -> list[Start]:
    """One per model, workload and backend, of the measured case with the smallest batch."""
    found: dict[tuple[str, ...], Start] = {}
    references = {record.case.work_key: record for record in records if record.case.is_reference}
    for record in sorted(records, key=lambda r: r.case.batch):
        case = record.case
        key = (case.label, case.workload, case.backend)
        if key not in found and record.measurement and record.artifact:
            later = break_even(record, references.get(case.work_key))
            found[key] = Start(case, record.measurement.launches[0], *_built_s(record, record.artifact), later)
    return list(found.values())


def _built_s(record: Record, artifact: ArtifactFacts) -> tuple[float | None, float | None]:
    """Seconds of exporting and of compiling ahead what the case runs, each None where that was not done."""
    if record.case.is_compiled_ahead and (ran := record.launches[0].ran):
        export_s, compile_s = (ran.facts.get(name) for name in ("export_s", "compile_s"))
        return (float(export_s), float(compile_s)) if export_s and compile_s else (None, None)
    return artifact.seconds.get("export") if record.case.is_exported else None, None


def break_even(record: Record, reference: Record | None) -> float | None:
    """The images after which a slower start-up (export, load, compile, first call) is amortised by faster calls.

    0 where it starts sooner and runs faster; infinite where it is never amortised; None where the two cannot be
    compared.
    """
    if reference is None or reference.id == record.id:
        return None
    theirs, ours = _start_and_rate(reference), _start_and_rate(record)
    if theirs is None or ours is None:
        return None
    later_s, saved_s_per_image = ours[0] - theirs[0], theirs[1] - ours[1]
    return max(0.0, later_s / saved_s_per_image) if saved_s_per_image > 0 else math.inf


def _start_and_rate(record: Record) -> tuple[float, float] | None:
    """Seconds from the imported libraries to the first output, and seconds for each image from then on."""
    time = comparable_time(record)
    if time is None or record.measurement is None or record.artifact is None:
        return None
    launch = record.measurement.launches[0]
    built_s = sum(seconds or 0.0 for seconds in _built_s(record, record.artifact))
    return built_s + launch.load_s + launch.first_call_s, time.value / record.case.batch


def peak_mib(record: Record) -> float | None:
    """Of the worker process's resident memory; on CUDA of torch's allocator."""
    memories = [launch.memory for launch in record.launches]
    on_cpu = record.case.device == "cpu"
    peaks = [memory.peak_bytes if on_cpu else memory.device_allocated_bytes for memory in memories]
    return max((peak / MIB for peak in peaks if peak is not None), default=None)


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
    groups: dict[tuple[str, str, str], dict[int, tuple[Record, float]]] = {}
    for record in records:
        if time := comparable_time(record):
            case = record.case
            group = groups.setdefault((case.label, case.workload, case.backend), {})
            group[case.batch] = record, case.images / time.value
    return [_batches(members) for members in groups.values() if len(members) >= MIN_BATCHES]


def _batches(members: dict[int, tuple[Record, float]]) -> Batches:
    rates = {batch: rate for batch, (_, rate) in members.items()}
    peaks = {batch: peak for batch, (record, _) in members.items() if (peak := peak_mib(record))}
    some, _ = next(iter(members.values()))
    if len(peaks) < 2:
        return Batches(some.case, rates, None, None)
    line = linear_regression(list(peaks), list(peaks.values()))
    if some.environment is None or line.slope <= 0:
        return Batches(some.case, rates, line.slope, None)
    full_at = math.floor((some.environment.machine.memory_bytes / MIB - line.intercept) / line.slope)
    return Batches(some.case, rates, line.slope, max(0, full_at))
