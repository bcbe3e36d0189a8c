"""Every single measurement of a run in the order of time, so that a reader can judge the noise."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cnnbench.analysis.stats import launch_estimate
from cnnbench.records.record import Launch, Record
from cnnbench.report.reasons import interference_text

MOST = 4000
"""Samples of one case that a page holds; of more, every second, third, ... of each turn is kept."""
DIGITS = 4
"""Significant digits of a sample: far finer than a page can draw."""


@dataclass(frozen=True)
class Samples:
    """The raw samples of cases, to be looked at one case at a time."""

    cases: list[dict[str, Any]]
    """By case: its id and status, median and interval in ms, and its launches: of each turn, whether it was left out,
    why, and its samples in ms per call."""


def samples(records: Iterable[Record]) -> Samples:
    """The samples of all records that have any."""
    return Samples([_case(record) for record in records if record.measurement and any(record.measurement.times())])


def _case(record: Record) -> dict[str, Any]:
    assert record.measurement is not None
    time = launch_estimate(record.measurement.times())
    count = sum(len(block.totals_s()) for launch in record.measurement.launches for block in launch.blocks)
    every = math.ceil(count / MOST)
    return {
        "id": record.id,
        "status": record.status,
        "count": count,
        "every": every,
        "ms": [_ms(value) for value in (time.value, time.low, time.high)],
        "launches": [_launch(launch, every) for launch in record.measurement.launches],
    }


def _launch(launch: Launch, every: int) -> dict[str, Any]:
    used = {block.round for block in launch.usable()}
    return {
        "calls": launch.calls_per_sample,
        "blocks": [
            {
                "out": block.round not in used,
                "why": interference_text(block.interference),
                "ms": [_ms(seconds / launch.calls_per_sample) for seconds in block.totals_s()[::every]],
            }
            for block in launch.blocks
        ],
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds * 1e3:.{DIGITS}g}")
