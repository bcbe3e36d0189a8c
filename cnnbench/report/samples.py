"""Every sample of a run in the order of time, so that a reader can judge the noise."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from cnnbench.analysis.stats import Estimate
from cnnbench.analysis.times import call_time
from cnnbench.records.record import Launch, Record, Status
from cnnbench.report.reasons import interference_text

MAX_SAMPLES = 4000
"""Samples of one case that a page holds; of more, every second, third, ... of each block is kept."""
DIGITS = 4
"""Significant digits of a sample: far finer than a page can draw."""


@dataclass(frozen=True)
class BlockSamples:
    """One block: whether and why it is left out of statistics, and its samples."""

    out: bool
    why: str
    ms: list[float]
    """Of one call."""


@dataclass(frozen=True)
class LaunchSamples:
    """One launch, and the calls that each of its samples is made of."""

    calls: int
    blocks: list[BlockSamples]


@dataclass(frozen=True)
class CaseSamples:
    """One case: its median and interval in ms, and its samples, of which every so many-th is kept."""

    id: str
    status: Status
    count: int
    every: int
    ms: list[float | None]
    launches: list[LaunchSamples]


@dataclass(frozen=True)
class Samples:
    """The raw samples of cases, to be looked at one case at a time."""

    cases: Sequence[CaseSamples]

    def content(self) -> list[dict[str, object]]:
        """What the page's script reads."""
        return [asdict(case) for case in self.cases]


def samples(records: Iterable[Record]) -> Samples:
    """The samples of all records that have any."""
    return Samples([_case(record, time) for record in records if (time := call_time(record)) is not None])


def _case(record: Record, time: Estimate) -> CaseSamples:
    launches = record.measurement.launches if record.measurement else []
    count = sum(len(block.totals_s()) for launch in launches for block in launch.blocks)
    every = math.ceil(count / MAX_SAMPLES)
    return CaseSamples(
        id=record.id,
        status=record.status,
        count=count,
        every=every,
        ms=[None if value is None else _ms(value) for value in (time.value, time.low, time.high)],
        launches=[_launch(launch, every) for launch in launches],
    )


def _launch(launch: Launch, every: int) -> LaunchSamples:
    used = {block.round for block in launch.usable()}
    calls = launch.calls_per_sample
    blocks = [
        BlockSamples(
            out=block.round not in used,
            why=interference_text(block.interference),
            ms=[_ms(seconds / calls) for seconds in block.totals_s()[::every]],
        )
        for block in launch.blocks
    ]
    return LaunchSamples(calls, blocks)


def _ms(seconds: float) -> float:
    return float(f"{seconds * 1e3:.{DIGITS}g}")
