"""How services are configured, and which of many configurations are worth another test: no clock, no process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cnnbench.records.bounds import Recorded
from cnnbench.records.serving import LoadTest

BATCHES = (1, 2, 4, 8)
DELAY_SHARES = (0.0, 0.1, 0.25)
"""Of the bound: how long a query may wait for others of its batch."""
KEPT = 1 / 3
"""Of the configurations of a rung, the share that is tested again, for three times as long."""
FINALISTS = 2
FIRST_SHARE, FASTER, SLOWER = 0.7, 1.12, 0.9
"""Of the largest throughput offline, the rate of the first rung; by what the next differs from it."""
FEW_LATE, MANY_LATE = 0.01, 0.1
"""Shares of late queries: so few that the rate may rise, so many that it must fall."""


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


def late_share(test: LoadTest) -> float:
    """The share of queries beyond the bound."""
    return (test.over or 0) / test.queries


def ranked(tests: Mapping[Knobs, LoadTest]) -> list[Knobs]:
    """The best first, of tests with the same arrivals: fewest late queries, then the lowest p90."""
    return sorted(tests, key=lambda knobs: (late_share(tests[knobs]), tests[knobs].p90_s))


def survivors(tests: Mapping[Knobs, LoadTest]) -> list[Knobs]:
    """Those that are tested again, the best first."""
    return ranked(tests)[: max(FINALISTS, round(KEPT * len(tests)))]


def next_rate(rate: float, tests: Mapping[Knobs, LoadTest]) -> float:
    """Higher if all survivors keep up with it, lower if none does."""
    shares = [late_share(tests[knobs]) for knobs in survivors(tests)]
    if max(shares) <= FEW_LATE:
        return rate * FASTER
    return rate * SLOWER if min(shares) > MANY_LATE else rate


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
    below = [test.rate for test in tests if test.rate and test.valid and (invalid is None or test.rate < invalid)]
    return max(below, default=None), invalid
