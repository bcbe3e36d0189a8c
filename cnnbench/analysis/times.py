"""The time of a record's call, and how many times as fast one record is as another."""

from cnnbench.analysis.stats import Estimate, launch_estimate, launch_ratio_estimate
from cnnbench.records.record import MEASURED, MIN_BLOCKS, Launch, Record


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
    launches = record.measurement.launches if record.measurement else []
    return {launch.group or record.group or record.id: launch for launch in launches}


def _shared_rounds(*launches: Launch) -> list[list[list[float]]]:
    """Seconds per call of each of two launches, by the rounds that both were in.

    Rounds with interference in either are left out, unless too few others remain.
    """
    blocks = [{block.round: block for block in launch.blocks} for launch in launches]
    shared = [number for number in blocks[0] if number in blocks[1]]
    clean = [number for number in shared if not any(each[number].interference for each in blocks)]
    chosen = clean if len(clean) >= MIN_BLOCKS else shared
    return [
        [[total / launch.calls_per_sample for total in each[number].totals_s()] for number in chosen]
        for launch, each in zip(launches, blocks, strict=True)
    ]
