"""Every sample of a run in the order of time, so that a reader can judge the noise."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cnnbench.analysis.stats import Estimate
from cnnbench.analysis.times import call_time
from cnnbench.records.record import Launch, Record
from cnnbench.report.reasons import interference_text

MAX_SAMPLES = 4000
"""Samples of one case that a page holds; of more, every second, third, ... of each block is kept."""
DIGITS = 4
"""Significant digits of a sample: far finer than a page can draw."""


@dataclass(frozen=True)
class Samples:
    """The raw samples of cases, each as the JSON that the page's script reads."""

    cases: Sequence[dict[str, Any]]


def samples(records: Iterable[Record]) -> Samples:
    """The samples of all records that have any."""
    return Samples([_case(record, time) for record in records if (time := call_time(record)) is not None])


def _case(record: Record, time: Estimate) -> dict[str, Any]:
    """Median and interval in ms, and samples by launch and block, of which every so many-th is kept."""
    count = sum(len(block.totals_s()) for launch in record.launches for block in launch.blocks)
    every = math.ceil(count / MAX_SAMPLES)
    return {
        "id": record.id,
        "status": record.status,
        "count": count,
        "every": every,
        "ms": [None if value is None else _ms(value) for value in (time.value, time.low, time.high)],
        "launches": [
            {"calls": launch.calls_per_sample, "blocks": _blocks(launch, launch.calls_per_sample, every)}
            for launch in record.launches
        ],
    }


def _blocks(launch: Launch, calls: int, every: int) -> list[dict[str, Any]]:
    """Whether and why each block is left out of statistics, and the ms of one call in each sample."""
    used = {block.round for block in launch.usable()}
    return [
        {
            "out": block.round not in used,
            "why": interference_text(block.interference),
            "ms": [_ms(seconds / calls) for seconds in block.totals_s()[::every]],
        }
        for block in launch.blocks
    ]


def _ms(seconds: float) -> float:
    return float(f"{seconds * 1e3:.{DIGITS}g}")
