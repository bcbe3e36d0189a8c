"""A race: cases that will be compared are alive together and measured in turn, in random order.

Whatever slows the machine down for a while then hits all of them alike. Those whose turn it is not are stopped, so that
their idle threads disturb nobody.
"""

import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import uuid4

from cnnbench.analysis.stats import time_estimate
from cnnbench.errors import CnnbenchError
from cnnbench.records.messages import Close, Closed, Load, Loaded, Open, Opened, Sample, Sampled, Warm, Warmed
from cnnbench.records.record import LEAST_TURNS, Launch, Parity, Ran, Turn
from cnnbench.runner.interference import Counters, between
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case

MIN_ROUNDS = LEAST_TURNS
PLANNED_ROUNDS = 20
"""A case's budget is cut into so many turns; the median of 20 keeps its interval with five wild turns on a side."""
WARMUP_LIMIT_S = 3.0
EVENING_LIMIT_S = 1.0
"""The longest that a worker warms up once more, to have made as many calls as the others of its race."""
NARROW_HALF_WIDTH = 0.01
"""Sampling may end early when the interval of every contestant's median is within 1 % to each side."""

Seconds = dict[str, list[float]]
OnTurn = Callable[[str], None]
T = TypeVar("T")


class Contestant(Protocol):
    """One that can be measured when it is its turn."""

    def thaw(self) -> None:
        """Let it run."""

    def freeze(self) -> None:
        """Stop it."""

    def sample(self, seconds: float) -> Seconds:
        """One turn of about so many seconds: by phase, the seconds of each sample. May raise CnnbenchError."""


@dataclass(frozen=True)
class Entry:
    """A case that takes part, and what it is run from and by."""

    case: Case
    folder: Path
    """The artifact's."""
    threads: int
    start: Callable[[Path], Worker]
    """Starts a worker that logs to a file."""
    log: Path
    slowdown: float = 0.0
    """By how much each call is slowed down on purpose, as a share of its own time."""


@dataclass
class Turns:
    """What one contestant measured, and why it ended."""

    turns: list[Turn] = field(default_factory=list)
    stopped: str = ""
    error: str | None = None


@dataclass
class Outcome:
    """What a race found out about one case."""

    case: Case
    race: str
    """The same for all cases of one race, and no other."""
    started: datetime
    launch: Launch | None = None
    parity: list[Parity] = field(default_factory=list)
    ran: Ran | None = None
    faults: list[str] = field(default_factory=list)
    error: str | None = None
    """Why the case failed, if it did."""
    call_s: float | None = None


def take_turns(
    contestants: Sequence[Contestant],
    budget_s: float,
    rng: random.Random,
    on_turn: OnTurn = lambda text: None,
    clock_s: Callable[[], float] = time.perf_counter,
    *,
    rounds: int | None = None,
    counters: Callable[[int], Counters] | None = None,
) -> list[Turns]:
    """Measure all contestants round by round, in a new random order each round.

    `budget_s` is for each contestant. Ends when all intervals are narrow or the budgets are spent, and not before
    MIN_ROUNDS rounds; or, where `rounds` is given, after exactly so many. A contestant that raises is left out from
    then on. `counters` reads the system's for a contestant by its place, before and after its turn.
    """
    cpus = os.cpu_count() or 1
    results = [Turns() for _ in contestants]
    start = clock_s()
    for number in range(10**6):
        alive = [index for index, result in enumerate(results) if result.error is None]
        if not alive:
            break
        if rounds is None:
            stopped = _stop_reason([results[i] for i in alive], number, clock_s() - start, budget_s * len(alive))
        else:
            stopped = f"{rounds} rounds asked for" if number == rounds else None
        if stopped:
            for index in alive:
                results[index].stopped = stopped
            break
        rng.shuffle(alive)
        for index in alive:
            contestant = contestants[index]
            try:
                contestant.thaw()
                before = counters(index) if counters else None
                seconds = contestant.sample(budget_s / PLANNED_ROUNDS)
                window = between(before, counters(index), cpus) if counters and before else None
                contestant.freeze()
            except CnnbenchError as error:
                results[index].error = str(error)
                continue
            results[index].turns.append(
                Turn(
                    round=number,
                    seconds=seconds,
                    disturbed=window.disturbances() if window else [],
                    joules=window.joules if window else None,
                )
            )
        on_turn(f"round {number + 1}")
    return results


def _stop_reason(results: Iterable[Turns], rounds: int, spent_s: float, budget_s: float) -> str | None:
    if rounds < MIN_ROUNDS:
        return None
    clean = [[turn.totals_s() for turn in result.turns if not turn.disturbed] for result in results]
    if all(len(turns) >= MIN_ROUNDS and time_estimate(turns).half_width <= NARROW_HALF_WIDTH for turns in clean):
        return f"all intervals within {NARROW_HALF_WIDTH:.0%}"
    if spent_s >= budget_s:
        return "budget spent"
    return None


@dataclass
class _Entrant:
    """A case in its worker; a Contestant."""

    entry: Entry
    worker: Worker
    outcome: Outcome
    loaded: Loaded | None = None
    opened: Opened | None = None
    warmed: Warmed | None = None

    @property
    def case(self) -> Case:
        return self.entry.case

    def thaw(self) -> None:
        self.worker.thaw()

    def freeze(self) -> None:
        self.worker.freeze()

    def sample(self, seconds: float) -> Seconds:
        try:
            return self.worker.ask(Sample(seconds=seconds), Sampled).seconds
        except CnnbenchError:
            self.worker.kill()
            raise


def run_race(
    entries: Sequence[Entry],
    *,
    budget_s: float,
    seed: int,
    on_turn: OnTurn = lambda text: None,
) -> list[Outcome]:
    """Start a worker of its own for each entry, prove it, warm it up, measure all in turn, and close them.

    They start and warm up in the order given. A worker that fails has its reason in its outcome; the others go on.
    """
    race, started = uuid4().hex[:12], datetime.now().astimezone()
    with ExitStack() as stack:
        entrants = []
        for entry in entries:
            worker = stack.enter_context(entry.start(entry.log))
            entrants.append(_Entrant(entry, worker, Outcome(entry.case, race, started)))
        on_turn("starting")
        for entrant in entrants:  # importing takes no measurement, so all import at once
            _attempt(entrant, lambda r: r.worker.send(Load(case=r.case, threads=r.entry.threads)))
        for entrant in entrants:
            entrant.loaded = _attempt(entrant, lambda r: r.worker.receive(Loaded))
            _attempt(entrant, lambda r: r.freeze())
        for entrant in entrants:  # cold-start figures are measured, so one at a time
            on_turn(f"opening {entrant.case.runtime}")
            _attempt(entrant, _open)
        most = max((r.warmed.calls for r in entrants if r.warmed), default=0)
        for entrant in entrants:
            _attempt(entrant, lambda r: _even_out(r, most))
        ready = [r for r in entrants if r.outcome.error is None and r.warmed is not None]
        turns = take_turns(
            ready,
            budget_s,
            random.Random(seed),
            on_turn,
            counters=lambda index: Counters.read(ready[index].worker.pid),
        )
        for entrant, result in zip(ready, turns, strict=True):
            entrant.outcome.error = result.error
            _attempt(entrant, lambda r, result=result: _close(r, result))  # type: ignore[misc]
        return [entrant.outcome for entrant in entrants]


def _attempt(entrant: _Entrant, step: Callable[[_Entrant], T]) -> T | None:
    """Do the step unless the case has failed already; if it fails, note why."""
    if entrant.outcome.error is not None:
        return None
    try:
        return step(entrant)
    except CnnbenchError as error:
        entrant.outcome.error = str(error)
        entrant.worker.kill()  # so that it holds nothing while the others are measured
        return None


def _open(entrant: _Entrant) -> None:
    """Load, prove and warm; a case whose outputs are wrong is not timed."""
    entrant.thaw()
    entrant.opened = entrant.worker.ask(
        Open(case=entrant.case, folder=str(entrant.entry.folder), slowdown=entrant.entry.slowdown), Opened
    )
    entrant.outcome.parity = entrant.opened.parity
    if all(parity.passed for parity in entrant.opened.parity):
        entrant.warmed = entrant.worker.ask(Warm(limit_s=WARMUP_LIMIT_S), Warmed)
        entrant.outcome.call_s = entrant.warmed.call_s
    entrant.freeze()


def _even_out(entrant: _Entrant, calls: int) -> None:
    """Warm up for the calls that others of the race have made more, within a bound."""
    warmed = entrant.warmed
    if warmed is None or warmed.calls >= calls:
        return
    entrant.thaw()
    more = entrant.worker.ask(Warm(limit_s=EVENING_LIMIT_S, least_calls=calls - warmed.calls), Warmed)
    entrant.freeze()
    total = {"calls": warmed.calls + more.calls, "seconds": warmed.seconds + more.seconds}
    entrant.warmed = more.model_copy(update={**total, "steady": warmed.steady})


def _close(entrant: _Entrant, result: Turns) -> None:
    assert entrant.loaded is not None
    assert entrant.opened is not None
    assert entrant.warmed is not None
    entrant.thaw()
    closed = entrant.worker.ask(Close(), Closed)
    entrant.outcome.parity = [*entrant.outcome.parity, *closed.parity]
    entrant.outcome.ran = closed.ran
    entrant.outcome.faults = closed.faults
    entrant.outcome.launch = Launch(
        import_s=entrant.loaded.import_s,
        load_s=entrant.opened.load_s,
        first_call_s=entrant.opened.first_call_s,
        warmup_calls=entrant.warmed.calls,
        warmup_s=entrant.warmed.seconds,
        steady=entrant.warmed.steady,
        calls_per_sample=entrant.warmed.calls_per_sample,
        turns=result.turns,
        stopped=result.stopped,
        memory=closed.memory,
        race=entrant.outcome.race,
        ran=closed.ran,
    )
