"""Interleaved measurement: cases that will be compared are alive together and measured in rounds of random order.

Whatever slows the machine down for a while then affects all of them equally. All but the one that is measured are
suspended, so that their idle threads take no time from it.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import ParamSpec, Protocol
from uuid import uuid4

from cnnbench.analysis.stats import time_estimate
from cnnbench.errors import CnnbenchError
from cnnbench.records.messages import Close, Closed, Load, Loaded, Open, Opened, Sample, Sampled, Warm, Warmed
from cnnbench.records.reason import Reason, reason_for
from cnnbench.records.record import MIN_BLOCKS, Block, Launch, Parity
from cnnbench.runner.interference import SystemCounters, between
from cnnbench.runner.machine import affinity_cores
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case

MIN_ROUNDS = MIN_BLOCKS
PLANNED_ROUNDS = 20
"""A case's budget is cut into so many blocks; the median of 20 keeps its interval with five outliers on a side."""
WARMUP_LIMIT_S, LEAST_WARMUP_S = 3.0, 0.5
ANSWER_SHARE = 0.5
"""Of a worker's limit: the longest block or warm-up asked for, so that no slow case seems to hang."""
EQUALISE_SHARE = 1 / 3
"""Of a warm-up's limit: the longest that a worker warms up once more, to have made as many calls as the others."""
NARROW_HALF_WIDTH = 0.01
"""Sampling may end early when the interval of every participant's median is within 1 % to each side."""
WARMUP_SHARE = 0.5
"""Of the time for a group: the longest that all its warm-ups may take, even if that is for fewer than six calls."""
MIN_SAMPLING_S = 0.5
"""Of each participant, however late the group is."""

P = ParamSpec("P")
OnProgress = Callable[[str], None]


class Participant(Protocol):
    """One that can be measured block by block."""

    def resume(self) -> None:
        """Let it run."""

    def suspend(self) -> None:
        """Stop it."""

    def sample(self, seconds: float) -> Sampled:
        """A block of about so many seconds. May raise CnnbenchError."""


@dataclass(frozen=True)
class Allowance:
    """What a group's launch may take."""

    sampling_s: float
    """Of each case."""
    _: KW_ONLY
    warmup_s: float = WARMUP_LIMIT_S
    """Of each case, at most."""
    least_warmup_s: float = LEAST_WARMUP_S
    """Of each case, however soon its times are steady."""
    whole_s: float | None = None
    """Of all together; then sampling ends early, with fewer than MIN_ROUNDS rounds if need be."""


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
    """What one participant measured, and why it ended."""

    blocks: list[Block] = field(default_factory=list)
    stopped: str = ""
    error: Reason | None = None


@dataclass(frozen=True)
class Outcome:
    """What a group's launch found out about one case: a launch, or why there is none."""

    case: Case
    group: str
    """The same for all cases of one launch of a group, and no other."""
    started: datetime
    launch: Launch | None = None
    parity: tuple[Parity, ...] = ()
    faults: tuple[Reason, ...] = ()
    error: Reason | None = None
    """Why the case failed, if it did."""


def measure_interleaved(
    participants: Sequence[Participant],
    budget_s: float,
    rng: random.Random,
    on_progress: OnProgress = lambda text: None,
    clock_s: Callable[[], float] = time.perf_counter,
    *,
    rounds: int | None = None,
    ends_s: float = float("inf"),
    counters: Callable[[int], SystemCounters] = lambda place: SystemCounters(0.0),
) -> list[Blocks]:
    """Measure all participants round by round, in a new random order each round.

    `budget_s` is for each participant. Ends when all intervals are narrow or the budgets are spent, and not before
    MIN_ROUNDS rounds; after the first round that ends later than `ends_s` on the clock; or, where `rounds` is given,
    after exactly so many. A participant that raises is left out from then on. `counters` reads the system's for a
    participant by its place, before and after its block.
    """
    cpus = affinity_cores()
    results = [Blocks() for _ in participants]
    start = clock_s()
    for number in count():
        alive = [index for index, result in enumerate(results) if result.error is None]
        if not alive:
            break
        now = clock_s()
        if rounds is not None:
            stopped = f"{rounds} rounds asked for" if number == rounds else None
        elif number and now >= ends_s:
            stopped = "the time for the group was spent"
        else:
            stopped = _stop_reason([results[i] for i in alive], number, now - start, budget_s * len(alive))
        if stopped:
            for index in alive:
                results[index].stopped = stopped
            break
        rng.shuffle(alive)
        for index in alive:
            try:
                participants[index].resume()
                before = counters(index)
                sampled = participants[index].sample(budget_s / PLANNED_ROUNDS)
                window = between(before, counters(index), cpus)
                participants[index].suspend()
            except CnnbenchError as error:
                results[index].error = reason_for(error)
                continue
            block = Block(
                round=number,
                seconds=sampled.seconds,
                usage=sampled.usage,
                interference=window.interference(),
                joules=window.joules,
            )
            results[index].blocks.append(block)
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


def measure_group(
    members: Sequence[GroupMember], allowance: Allowance, *, seed: int, on_progress: OnProgress = lambda text: None
) -> list[Outcome]:
    """Start a worker for each member, check it, warm it up, measure all interleaved, and close them, in this order.

    A worker that fails has its reason in its outcome; the others go on.
    """
    group, started, began_s = uuid4().hex[:12], datetime.now().astimezone(), time.perf_counter()
    with ExitStack() as stack:
        participants = [WorkerParticipant(member) for member in members]
        on_progress("starting")
        for participant in participants:  # importing takes no measurement, so all import at once
            participant.attempt(participant.start, stack)
        for participant in participants:
            participant.attempt(participant.load)
        whole_s = float("inf") if allowance.whole_s is None else allowance.whole_s
        hard_limit_s = None if allowance.whole_s is None else WARMUP_SHARE * whole_s / len(members)
        for participant in participants:  # cold-start figures are measured, so one at a time
            on_progress(f"opening {participant.member.case.runtime}")
            participant.attempt(participant.open, allowance, hard_limit_s)
        most = max((p.warmed.calls for p in participants if p.warmed), default=0)
        for participant in participants:
            left_s = began_s + whole_s - time.perf_counter()
            if left_s > 0:
                participant.attempt(participant.equalise_warmup, most, min(EQUALISE_SHARE * allowance.warmup_s, left_s))
        ready = [p for p in participants if p.error is None and p.warmed is not None]
        ends_s = max(began_s + whole_s, time.perf_counter() + MIN_SAMPLING_S * len(ready))
        measured = measure_interleaved(
            ready,
            allowance.sampling_s,
            random.Random(seed),
            on_progress,
            ends_s=ends_s,
            counters=lambda index: SystemCounters.read(ready[index].worker.pid),
        )
        for participant, blocks in zip(ready, measured, strict=True):
            participant.error = blocks.error
            participant.attempt(participant.close, blocks, group)
        return [
            Outcome(p.member.case, group, started, p.launch, tuple(p.parity), tuple(p.faults), p.error)
            for p in participants
        ]


class WorkerParticipant:
    """A case in its worker: started, loaded, opened, sampled, closed, in this order."""

    def __init__(self, member: GroupMember) -> None:
        self.member = member
        self._worker: Worker | None = None
        self.error: Reason | None = None
        self.parity: list[Parity] = []
        self.faults: list[Reason] = []
        self.loaded: Loaded | None = None
        self.opened: Opened | None = None
        self.warmed: Warmed | None = None
        self.launch: Launch | None = None

    @property
    def worker(self) -> Worker:
        """Its process, once it is started."""
        assert self._worker is not None
        return self._worker

    def attempt(self, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do one of the steps below unless the case has failed already; if it fails, note why."""
        if self.error is not None:
            return
        try:
            step(*args, **kwargs)
        except CnnbenchError as error:
            self.error = reason_for(error)
            if self._worker is not None:
                self._worker.kill()  # so that it holds nothing while the others are measured

    def start(self, stack: ExitStack) -> None:
        """Start the worker, until the stack unwinds, and have it import."""
        self._worker = stack.enter_context(self.member.start(self.member.log))
        self.worker.send(Load(case=self.member.case, threads=self.member.threads))

    def load(self) -> None:
        """Wait until it has imported."""
        self.loaded = self.worker.receive(Loaded)
        self.suspend()

    def open(self, allowance: Allowance, hard_limit_s: float | None = None) -> None:
        """Load, check and warm up; a case whose outputs are wrong is not timed."""
        case, folder = self.member.case, str(self.member.folder)
        self.resume()
        self.opened = self.worker.ask(Open(case=case, folder=folder, slowdown=self.member.slowdown), Opened)
        self.parity += self.opened.parity
        if all(parity.passed for parity in self.opened.parity):
            hard_limit_s = None if hard_limit_s is None else self._bounded(hard_limit_s)
            limit_s, least_s = self._bounded(allowance.warmup_s), allowance.least_warmup_s
            request = Warm(limit_s=limit_s, least_s=least_s, hard_limit_s=hard_limit_s)
            self.warmed = self.worker.ask(request, Warmed)
        self.suspend()

    def equalise_warmup(self, calls: int, limit_s: float) -> None:
        """Warm up for the calls that others of the group have made more, within a bound."""
        warmed = self.warmed
        if warmed is None or warmed.calls >= calls:
            return
        self.resume()
        limit_s = self._bounded(limit_s)
        request = Warm(limit_s=limit_s, hard_limit_s=limit_s, min_calls=calls - warmed.calls)
        more = self.worker.ask(request, Warmed)
        self.suspend()
        total = {"calls": warmed.calls + more.calls, "seconds": warmed.seconds + more.seconds}
        self.warmed = more.model_copy(update={**total, "converged": warmed.converged})

    def resume(self) -> None:
        """Let it run."""
        self.worker.resume()

    def suspend(self) -> None:
        """Stop it."""
        self.worker.suspend()

    def _bounded(self, seconds: float) -> float:
        return min(seconds, ANSWER_SHARE * self.worker.limit_s)

    def sample(self, seconds: float) -> Sampled:
        """A block of about so many seconds."""
        try:
            return self.worker.ask(Sample(seconds=self._bounded(seconds)), Sampled)
        except CnnbenchError:
            self.worker.kill()
            raise

    def close(self, measured: Blocks, group: str) -> None:
        """Prove the last output, and put together all that the launch is."""
        assert self.loaded is not None
        assert self.opened is not None
        assert self.warmed is not None
        self.resume()
        closed = self.worker.ask(Close(), Closed)
        self.parity += closed.parity
        self.faults += closed.faults
        self.launch = Launch(
            import_s=self.loaded.import_s,
            load_s=self.opened.load_s,
            first_call_s=self.opened.first_call_s,
            warmup_calls=self.warmed.calls,
            warmup_s=self.warmed.seconds,
            converged=self.warmed.converged,
            calls_per_sample=self.warmed.calls_per_sample,
            blocks=measured.blocks,
            stopped=measured.stopped,
            memory=closed.memory,
            group=group,
            ran=closed.ran,
        )
