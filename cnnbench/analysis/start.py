"""Cold start: the first launch of each model and backend, and after how many images a slower one is amortised."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from cnnbench.analysis.times import comparable_time
from cnnbench.records.record import Launch, Record
from cnnbench.suite.case import Case


class Start(NamedTuple):
    """The stages before the first output, each measured once."""

    case: Case
    launch: Launch
    """Its first call is of one image whatever the case's batch, but for runtimes that compile for it."""
    export_s: float | None
    break_even_images: float | None


def starts(records: Sequence[Record]) -> list[Start]:
    """One per model, workload and backend, of the measured case with the smallest batch."""
    found: dict[tuple[str, ...], Start] = {}
    references = {record.case.group_key: record for record in records if record.case.is_reference}
    for record in sorted(records, key=lambda r: r.case.batch):
        case = record.case
        key = (case.label, case.workload, case.backend)
        if key not in found and record.measurement and record.artifact:
            export_s = record.artifact.seconds.get("export") if case.is_exported else None
            later = break_even(record, references.get(case.group_key))
            found[key] = Start(case, record.measurement.launches[0], export_s, later)
    return list(found.values())


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
    export_s = record.artifact.seconds.get("export", 0.0) if record.case.is_exported else 0.0
    return export_s + launch.load_s + launch.first_call_s, time.value / record.case.batch
