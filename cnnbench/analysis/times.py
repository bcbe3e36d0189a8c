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
    theirs, ours = _shared_rounds(reference, record)
    return launch_ratio_estimate(theirs, ours) if any(theirs) else None


def _shared_rounds(a: Record, b: Record) -> tuple[list[list[list[float]]], list[list[list[float]]]]:
    """Seconds per call of two records in the comparison groups that both were in, by group and round.

    Rounds with interference in either are left out, unless too few others remain.
    """
    times: tuple[list[list[list[float]]], list[list[list[float]]]] = ([], [])
    launches_a, launches_b = (
        {_group_of(launch, each): launch for launch in (each.measurement.launches if each.measurement else [])}
        for each in (a, b)
    )
    for launches in ((launches_a[group], launches_b[group]) for group in launches_a if group in launches_b):
        blocks = [{block.round: block for block in launch.blocks} for launch in launches]
        shared = [number for number in blocks[0] if number in blocks[1]]
        clean = [number for number in shared if not any(each[number].interference for each in blocks)]
        chosen = clean if len(clean) >= MIN_BLOCKS else shared
        for launch, each, into in zip(launches, blocks, times, strict=True):
            into.append([[total / launch.calls_per_sample for total in each[n].totals_s()] for n in chosen])
    return times


def _group_of(launch: Launch, record: Record) -> str:
    """A launch's comparison group; records of the first schema have one for all launches."""
    return launch.group or record.group or record.id
