"""A race: cases that will be compared are alive together and measured in turn, in random order.

Whatever slows the machine down for a while then hits all of them alike. Those whose turn it is not are stopped, so that
their idle threads disturb nobody.
"""

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
from cnnbench.records.record import MIN_TURNS, Block, Launch, Parity, Ran
from cnnbench.runner.interference import SystemCounters, between
from cnnbench.runner.machine import affinity_cores
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case

MIN_ROUNDS = MIN_TURNS
PLANNED_ROUNDS = 20
"""A case's budget is cut into so many turns; the median of 20 keeps its interval with five wild turns on a side."""
WARMUP_LIMIT_S = 3.0
EQUALISE_LIMIT_S = 1.0
"""The longest that a worker warms up once more, to have made as many calls as the others of its race."""
NARROW_HALF_WIDTH = 0.01
"""Sampling may end early when the interval of every contestant's median is within 1 % to each side."""

Seconds = dict[str, list[float]]
OnProgress = Callable[[str], None]
T = TypeVar("T")


class Participant(Protocol):
    """One that can be measured when it is its turn."""

    def resume(self) -> None:
        """Let it run."""

    def suspend(self) -> None:
        """Stop it."""

    def sample(self, seconds: float) -> Seconds:
        """One turn of about so many seconds: by phase, the seconds of each sample. May raise CnnbenchError."""


@dataclass(frozen=True)
class GroupMember:
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
class Blocks:
    """What one contestant measured, and why it ended."""

    blocks: list[Block] = field(default_factory=list)
    stopped: str = ""
    error: str | None = None


@dataclass
class Outcome:
    """What a race found out about one case."""

    case: Case
    group: str
    """The same for all cases of one race, and no other."""
    started: datetime
    launch: Launch | None = None
    parity: list[Parity] = field(default_factory=list)
    ran: Ran | None = None
    faults: list[str] = field(default_factory=list)
    error: str | None = None
    """Why the case failed, if it did."""
    call_s: float | None = None


def measure_interleaved(
    participants: Sequence[Participant],
    budget_s: float,
    rng: random.Random,
    on_progress: OnProgress = lambda text: None,
    clock_s: Callable[[], float] = time.perf_counter,
    *,
    rounds: int | None = None,
    counters: Callable[[int], SystemCounters] | None = None,
) -> list[Blocks]:
    """Measure all contestants round by round, in a new random order each round.

    `budget_s` is for each contestant. Ends when all intervals are narrow or the budgets are spent, and not before
    MIN_ROUNDS rounds; or, where `rounds` is given, after exactly so many. A contestant that raises is left out from
    then on. `counters` reads the system's for a contestant by its place, before and after its turn.
    """
    cpus = affinity_cores()
    results = [Blocks() for _ in participants]
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
            participant = participants[index]
            try:
                participant.resume()
                before = counters(index) if counters else None
                seconds = participant.sample(budget_s / PLANNED_ROUNDS)
                window = between(before, counters(index), cpus) if counters and before else None
                participant.suspend()
            except CnnbenchError as error:
                results[index].error = str(error)
                continue
            results[index].blocks.append(
                Block(
                    round=number,
                    seconds=seconds,
                    interference=window.interference() if window else [],
                    joules=window.joules if window else None,
                )
            )
        on_progress(f"round {number + 1}")
    return results


def _stop_reason(results: Iterable[Blocks], rounds: int, spent_s: float, budget_s: float) -> str | None:
    if rounds < MIN_ROUNDS:
        return None
    clean = [[block.totals_s() for block in result.blocks if not block.interference] for result in results]
    if all(len(blocks) >= MIN_ROUNDS and time_estimate(blocks).half_width <= NARROW_HALF_WIDTH for blocks in clean):
        return f"all intervals within {NARROW_HALF_WIDTH:.0%}"
    if spent_s >= budget_s:
        return "budget spent"
    return None


@dataclass
class _WorkerParticipant:
    """A case in its worker; a Contestant."""

    member: GroupMember
    worker: Worker
    outcome: Outcome
    loaded: Loaded | None = None
    opened: Opened | None = None
    warmed: Warmed | None = None

    @property
    def case(self) -> Case:
        return self.member.case

    def resume(self) -> None:
        self.worker.resume()

    def suspend(self) -> None:
        self.worker.suspend()

    def sample(self, seconds: float) -> Seconds:
        try:
            return self.worker.ask(Sample(seconds=seconds), Sampled).seconds
        except CnnbenchError:
            self.worker.kill()
            raise


def measure_group(
    members: Sequence[GroupMember],
    *,
    budget_s: float,
    seed: int,
    on_progress: OnProgress = lambda text: None,
) -> list[Outcome]:
    """Start a worker of its own for each entry, prove it, warm it up, measure all in turn, and close them.

    They start and warm up in the order given. A worker that fails has its reason in its outcome; the others go on.
    """
    group, started = uuid4().hex[:12], datetime.now().astimezone()
    with ExitStack() as stack:
        participants = []
        for member in members:
            worker = stack.enter_context(member.start(member.log))
            participants.append(_WorkerParticipant(member, worker, Outcome(member.case, group, started)))
        on_progress("starting")
        for participant in participants:  # importing takes no measurement, so all import at once
            _attempt(participant, lambda r: r.worker.send(Load(case=r.case, threads=r.member.threads)))
        for participant in participants:
            participant.loaded = _attempt(participant, lambda r: r.worker.receive(Loaded))
            _attempt(participant, lambda r: r.suspend())
        for participant in participants:  # cold-start figures are measured, so one at a time
            on_progress(f"opening {participant.case.runtime}")
            _attempt(participant, _open)
        most = max((r.warmed.calls for r in participants if r.warmed), default=0)
        for participant in participants:
            _attempt(participant, lambda r: _equalise_warmup(r, most))
        ready = [r for r in participants if r.outcome.error is None and r.warmed is not None]
        blocks = measure_interleaved(
            ready,
            budget_s,
            random.Random(seed),
            on_progress,
            counters=lambda index: SystemCounters.read(ready[index].worker.pid),
        )
        for participant, result in zip(ready, blocks, strict=True):
            participant.outcome.error = result.error
            _attempt(participant, lambda r, result=result: _close(r, result))  # type: ignore[misc]
        return [participant.outcome for participant in participants]


def _attempt(participant: _WorkerParticipant, step: Callable[[_WorkerParticipant], T]) -> T | None:
    """Do the step unless the case has failed already; if it fails, note why."""
    if participant.outcome.error is not None:
        return None
    try:
        return step(participant)
    except CnnbenchError as error:
        participant.outcome.error = str(error)
        participant.worker.kill()  # so that it holds nothing while the others are measured
        return None


def _open(participant: _WorkerParticipant) -> None:
    """Load, prove and warm; a case whose outputs are wrong is not timed."""
    participant.resume()
    participant.opened = participant.worker.ask(
        Open(case=participant.case, folder=str(participant.member.folder), slowdown=participant.member.slowdown), Opened
    )
    participant.outcome.parity = participant.opened.parity
    if all(parity.passed for parity in participant.opened.parity):
        participant.warmed = participant.worker.ask(Warm(limit_s=WARMUP_LIMIT_S), Warmed)
        participant.outcome.call_s = participant.warmed.call_s
    participant.suspend()


def _equalise_warmup(participant: _WorkerParticipant, calls: int) -> None:
    """Warm up for the calls that others of the race have made more, within a bound."""
    warmed = participant.warmed
    if warmed is None or warmed.calls >= calls:
        return
    participant.resume()
    more = participant.worker.ask(Warm(limit_s=EQUALISE_LIMIT_S, min_calls=calls - warmed.calls), Warmed)
    participant.suspend()
    total = {"calls": warmed.calls + more.calls, "seconds": warmed.seconds + more.seconds}
    participant.warmed = more.model_copy(update={**total, "converged": warmed.converged})


def _close(participant: _WorkerParticipant, result: Blocks) -> None:
    assert participant.loaded is not None
    assert participant.opened is not None
    assert participant.warmed is not None
    participant.resume()
    closed = participant.worker.ask(Close(), Closed)
    participant.outcome.parity = [*participant.outcome.parity, *closed.parity]
    participant.outcome.ran = closed.ran
    participant.outcome.faults = closed.faults
    participant.outcome.launch = Launch(
        import_s=participant.loaded.import_s,
        load_s=participant.opened.load_s,
        first_call_s=participant.opened.first_call_s,
        warmup_calls=participant.warmed.calls,
        warmup_s=participant.warmed.seconds,
        converged=participant.warmed.converged,
        calls_per_sample=participant.warmed.calls_per_sample,
        blocks=result.blocks,
        stopped=result.stopped,
        memory=closed.memory,
        group=participant.outcome.group,
        ran=closed.ran,
    )
