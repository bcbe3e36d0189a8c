"""How services are configured, and which of many configurations are worth another test: no clock, no process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cnnbench.records.bounds import Recorded
from cnnbench.records.serving import LoadTest

BATCHES = (1, 2, 4, 8)
DELAY_SHARES = (0.0, 0.1, 0.25)
"""Of the bound: how long a query may wait for others of its batch."""
KEPT = 1 / 3
"""Of the configurations of a rung, the share that is tested again, for longer."""
FINALISTS = 2
STEPS = (1.3, 1.15, 1.07)
"""Of each rung, by what the rate rises until no more keep up with it than are kept."""
FIRST_SHARE, LOWEST_SHARE = 0.6, 0.02
"""Of the largest throughput offline: the first rate, and where no lower one is tried."""
MAX_LATE = 0.01
"""The share of late queries with which a configuration keeps up; one query is none."""


class Knobs(Recorded):
    """A configuration of a service."""

    sessions: int
    threads: int
    """Of each session."""
    batch: int
    delay_ms: float

    def __str__(self) -> str:
        return f"{self.sessions} x {self.threads} threads, batch {self.batch}, delay {self.delay_ms:g} ms"


def grid(cores: int, bound_s: float) -> list[Knobs]:
    """All configurations that use no more threads than there are cores."""
    counts = sorted({count for power in range(11) for count in (2**power, cores) if count <= cores})
    shapes = [(sessions, threads) for sessions in counts for threads in counts if sessions * threads <= cores]
    return [
        Knobs(sessions=sessions, threads=threads, batch=batch, delay_ms=round(1e3 * share * bound_s, 3))
        for sessions, threads in shapes
        for batch in BATCHES
        for share in (DELAY_SHARES if batch > 1 else (0.0,))
    ]


def keeps_up(test: LoadTest) -> bool:
    """Whether so few queries are late that p99 may be within the bound, and the test was not lost before its end."""
    late = test.over or 0
    return test.queries >= test.min_queries and (late <= 1 or late <= MAX_LATE * test.queries)


def ranked(tests: Mapping[Knobs, LoadTest]) -> list[Knobs]:
    """The best first, of tests with the same arrivals: fewest late queries, then the lowest p90."""
    return sorted(
        tests,
        key=lambda knobs: (
            not keeps_up(tests[knobs]),
            (tests[knobs].over or 0) / tests[knobs].queries,
            tests[knobs].p90_s,
        ),
    )


def kept_of(count: int) -> int:
    """How many of so many configurations are tested again."""
    return max(FINALISTS, round(KEPT * count))


@dataclass(frozen=True)
class Worth:
    """What a knob was worth: p90 at the same arrivals, as it is set and at the best of its other values."""

    knob: str
    value: float
    p90_s: float
    other: float | None
    other_p90_s: float | None


def worths(winner: Knobs, tests: Mapping[Knobs, LoadTest]) -> list[Worth]:
    """For each knob of the winner; `tests` are those of the rung that had all configurations."""
    found = []
    for knob in Knobs.model_fields:
        own = getattr(winner, knob)
        others = {knobs: test for knobs, test in tests.items() if getattr(knobs, knob) != own}
        best = ranked(others)[0] if others else None
        found.append(
            Worth(
                knob=knob,
                value=own,
                p90_s=tests[winner].p90_s,
                other=None if best is None else getattr(best, knob),
                other_p90_s=None if best is None else tests[best].p90_s,
            )
        )
    return found


def interval(tests: Sequence[LoadTest]) -> tuple[float | None, float | None]:
    """The highest VALID rate below the lowest INVALID one, and that; None where there is none."""
    invalid = min((test.rate for test in tests if test.rate and not test.valid), default=None)
    below = [test.rate for test in tests if test.rate and (invalid is None or test.rate < invalid)]
    return max(below, default=None), invalid
