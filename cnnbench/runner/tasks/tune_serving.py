"""The configuration of a service that answers most queries per second within a bound of p99: successive halving.

tune.json    what is searched: suite, bound, memory, budget
tune.jsonl   every test, appended when it is made; a search that goes on makes none of them again
loadgen/     LoadGen's logs
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import psutil
from pydantic import BaseModel

from cnnbench.analysis import tuning
from cnnbench.analysis.rate_search import RateSearch, place_of, rate_at
from cnnbench.analysis.tuning import Knobs, Worth
from cnnbench.errors import CnnbenchError, InputError, RunFolderError, WorkerError
from cnnbench.records import artifact, files
from cnnbench.records.bounds import Count, Recorded
from cnnbench.records.json_object import read_each, read_model
from cnnbench.records.serving import MIN_QUERIES_P99, LoadTest
from cnnbench.runner import machine
from cnnbench.runner.artifacts import Artifacts, Building
from cnnbench.runner.interleave import WARMUP_LIMIT_S, Allowance, GroupMember
from cnnbench.runner.plan import compiled_ahead
from cnnbench.runner.serving import LOADGEN, Server, waiting_limit
from cnnbench.runner.tasks.probe import find_unavailable
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case

ABOUT, TESTS, LOGS = "tune.json", "tune.jsonl", "logs"
OFFLINE_S = 0.5
"""Of each test of throughput."""
RUNGS_SHARE = 0.6
"""Of a case's time; the rest is for the search among the finalists."""
CLIMBS = 2
"""About how often all configurations of a rung are tested, at rising rates."""
MIN_QUERIES = 24
ROUNDS = 3
"""How often at most the finalists' highest rates are searched."""

Stage = Literal["offline", "rung", "search"]
Watch = Callable[[str, float], None]
"""Told what begins, and how many seconds are left."""


class About(BaseModel):
    """`tune.json`."""

    cases: list[str]
    bound_s: float
    memory_bytes: int | None
    budget_s: float


class Evaluation(Recorded):
    """One test of one configuration, or why there is none."""

    case: str
    knobs: Knobs
    stage: Stage
    number: Count = 0
    """Of the rung, or of the round of searches."""
    rate: float
    test: LoadTest | None = None
    excluded: str = ""
    """Why the configuration is out: it could not be opened, or its memory is too much."""

    @property
    def key(self) -> tuple[object, ...]:
        """Of the test among all of a search."""
        return (self.case, self.knobs, self.stage, self.number, self.rate)


@dataclass(frozen=True)
class Finalist:
    """A configuration whose highest rate was searched."""

    knobs: Knobs
    valid: float | None
    """Queries per second."""
    invalid: float | None
    p99_s: float | None
    """At the highest VALID rate, at worst."""


@dataclass(frozen=True)
class Tuned:
    """What the search found out about one case."""

    case: Case
    bound_s: float
    finalists: list[Finalist]
    """The best first."""
    worths: list[Worth]
    rate: float
    """At which the knobs' worth was measured."""
    tested: int
    """Configurations that were tested under load."""
    excluded: dict[str, int]
    """How many were out, by the reason."""
    lowest_p99_s: float
    """Of all tests of the finalists."""

    def tuned_case(self, knobs: Knobs) -> Case:
        """The case in a configuration."""
        return self.case.model_copy(update={**knobs.model_dump(), "p99_ms": 1e3 * self.bound_s})


@dataclass
class TuneRequest:
    """What to search, and the folder to write."""

    cases: Sequence[Case]
    bound_s: float
    memory_bytes: int | None
    budget_s: float
    limit_s: float
    folder: Path
    known: dict[tuple[object, ...], Evaluation] = field(default_factory=dict)
    """All tests that are on disk."""

    def open(self, *, resume: bool) -> None:
        """Make the folder, or read what is in it. Raises RunFolderError if it holds another search."""
        about = About(
            cases=[case.id for case in self.cases],
            bound_s=self.bound_s,
            memory_bytes=self.memory_bytes,
            budget_s=self.budget_s,
        )
        before = read_model(self.folder / ABOUT, About, "give another --out")
        if before is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write(self.folder / ABOUT, about.model_dump_json(indent=1))
        elif before != about:
            raise RunFolderError(f"{self.folder}: holds the search of other cases or options; give another --out")
        elif not resume:
            raise RunFolderError(f"{self.folder}: already holds this search; add --resume, or give another --out")

        def add(content: dict[str, Any]) -> None:
            evaluation = Evaluation.model_validate(content)
            self.known[evaluation.key] = evaluation

        read_each(self.folder / TESTS, add)

    def keep(self, evaluation: Evaluation) -> None:
        """Write a test down at once."""
        self.known[evaluation.key] = evaluation
        files.append(self.folder / TESTS, evaluation.model_dump_json(exclude_defaults=True))


def targets(cases: Sequence[Case]) -> list[Case]:
    """What is tuned: each model in each backend, once. Raises InputError where nothing is served."""
    plain = {"p99_ms": None, "sessions": 1, "delay_ms": 0.0, "batch": 1, "threads": None}
    found = [case.model_copy(update=plain) for case in cases if case.workload == "serving"]
    if not found:
        raise InputError("expected a suite with cases of the workload serving; got none; see docs/serving.md")
    return list(dict.fromkeys(found))


def tune(request: TuneRequest, watch: Watch) -> list[Tuned]:
    """Search the configuration of each case. Raises WorkerError for one that cannot be served at all."""
    unavailable, _ = find_unavailable(request.cases, request.folder / LOGS)
    for case in request.cases:
        if reason := unavailable.get(case.id):
            raise InputError(f"{case.id}: cannot be served here: {reason}")

    def tell(building: Building) -> bool:
        if building.seconds is None:
            watch(f"{building.spec.label}: {building.what}", request.budget_s)
        return True

    found = []
    with Artifacts(request.folder / LOGS, request.limit_s) as artifacts:
        for case in request.cases:
            tried = [_served(case, knobs) for knobs in tuning.grid(machine.usable_threads(), request.bound_s)]
            ahead = compiled_ahead([tried], case.spec)
            artifacts.build([wanted := artifacts.wanted(case.spec, ahead=ahead)], tell)
            built = artifacts.find(wanted)
            built.require()
            if ahead and (problem := built.problem(ahead[0])):
                raise WorkerError(f"{case.id}: cannot be served: {problem.reason}")
            with ExitStack() as stack:
                found.append(Search(request, case, wanted.folder, watch, stack).run())
    return found


def _served(case: Case, knobs: Knobs) -> Case:
    """The case as a configuration runs it."""
    return case.model_copy(update={"sessions": knobs.sessions, "threads": knobs.threads, "batch": knobs.batch})


class Search:
    """The search of one case."""

    def __init__(self, request: TuneRequest, case: Case, artifact_folder: Path, watch: Watch, stack: ExitStack) -> None:
        self.request, self.case, self.folder, self.watch, self.stack = request, case, artifact_folder, watch, stack
        self.budget_s = request.budget_s / len(request.cases)
        self.began_s = time.monotonic()
        self.spent_before_s = sum(
            each.test.wall_s for each in request.known.values() if each.case == case.id and each.test is not None
        )
        self.servers: dict[tuple[int, int, int], Server | str] = {}
        """By sessions, threads and batch; or why there is none."""
        self.excluded: dict[Knobs, str] = {}
        self.latencies_s: list[float] = []

    @property
    def left_s(self) -> float:
        """Of the case's share of the budget; earlier tests count."""
        return self.budget_s - self.spent_before_s - (time.monotonic() - self.began_s)

    def run(self) -> Tuned:
        """Offline, then rungs, then the finalists' highest rates."""
        candidates = tuning.grid(machine.usable_threads(), self.request.bound_s)
        offline = self.offline(candidates)
        if not offline:
            self._fail()
        capacity = max(test.per_s for test in offline.values())
        # One that answers single images fastest: a rate that it keeps up with is where all are compared.
        swift = max(offline, key=lambda knobs: (-knobs.batch, offline[knobs].per_s))
        rate = self._reachable(swift, capacity)
        kept, first, first_rate = list(offline), dict[Knobs, LoadTest](), rate
        for rung in range(len(tuning.STEPS)):
            kept, tests, rate = self._rung(rung, kept, rate)
            first = first or tests
            if len(kept) <= tuning.FINALISTS:
                break
        if not kept:
            self._fail()
        finalists = self.finals(kept[: tuning.FINALISTS], capacity, rate)
        winner = finalists[0].knobs
        return Tuned(
            case=self.case,
            bound_s=self.request.bound_s,
            finalists=finalists,
            worths=tuning.worths(winner, first),
            rate=first_rate,
            tested=len(first),
            excluded={why: list(self.excluded.values()).count(why) for why in self.excluded.values()},
            lowest_p99_s=min(self.latencies_s, default=0.0),
        )

    def _reachable(self, knobs: Knobs, capacity: float) -> float:
        """About the highest rate that a configuration keeps up with, from short tests; or the lowest that is tried."""
        rate = tuning.FIRST_SHARE * capacity
        while rate > tuning.LOWEST_SHARE * capacity:
            test = self._load(knobs, "rung", 0, _on_grid(rate), MIN_QUERIES, f"a rate for {knobs}")
            if test is None or tuning.keeps_up(test):
                break
            rate /= tuning.STEPS[0]
        return _on_grid(rate)

    def _rung(self, rung: int, kept: Sequence[Knobs], rate: float) -> tuple[list[Knobs], dict[Knobs, LoadTest], float]:
        """Raise the rate until no more keep up with it than are kept; these, the first tests, and the rate before."""
        count, before = tuning.kept_of(len(kept)), rate
        seconds = RUNGS_SHARE / len(tuning.STEPS) * self.budget_s / CLIMBS / len(kept)
        queries = min(max(MIN_QUERIES * 2**rung, round(seconds * rate)), MIN_QUERIES_P99)
        first: dict[Knobs, LoadTest] = {}
        best: list[Knobs] = []
        alive = list(kept)
        while True:
            tests = {
                knobs: test
                for number, knobs in enumerate(alive, start=1)
                if (
                    test := self._load(
                        knobs, "rung", 1 + rung, rate, queries, f"rung {rung + 1}, {number} of {len(alive)}"
                    )
                )
            }
            first = first or tests
            order = tuning.ranked(tests)
            passed = [knobs for knobs in order if tuning.keeps_up(tests[knobs])]
            best = [*order, *(knobs for knobs in best if knobs not in tests)]
            if len(passed) <= count or self.left_s < (1 - RUNGS_SHARE) * self.budget_s:
                return best[:count], first, before
            alive, before, rate = passed, rate, _on_grid(rate * tuning.STEPS[rung])

    def _fail(self) -> NoReturn:
        reasons = "; ".join(dict.fromkeys(self.excluded.values()))
        raise WorkerError(f"{self.case.id}: no configuration can be served: {reasons}"[:1000])

    def offline(self, candidates: Sequence[Knobs]) -> dict[Knobs, LoadTest]:
        """The throughput of every configuration that opens and whose calls are shorter than the bound."""
        found: dict[Knobs, LoadTest] = {}
        by_shape: dict[tuple[int, int, int], LoadTest | None] = {}
        for knobs in candidates:
            shape = (knobs.sessions, knobs.threads, knobs.batch)
            if shape not in by_shape:
                by_shape[shape] = self._load(knobs, "offline", 0, 0.0, 1, f"throughput of {knobs}")
            test = by_shape[shape]
            if test is None:
                continue
            call_s = test.wall_s * knobs.sessions / max(test.calls, 1)
            if knobs.batch > 1 and call_s > self.request.bound_s:
                self.excluded[knobs] = "a call of the whole batch takes longer than the bound"
            else:
                found[knobs] = test
        return found

    def finals(self, kept: Sequence[Knobs], capacity: float, rate: float, rounds: int = ROUNDS) -> list[Finalist]:
        """The highest rate of each, searched in turn from that of the last rung; the best first.

        The first round is made, however late it is. Each further one has other arrivals and begins where the one before
        ended; it is made if there is time for as long a one. A configuration is known by its median round: one stall
        decides a p99.
        """
        hints = {knobs: [place_of(rate), place_of(rate * tuning.STEPS[1])] for knobs in kept}
        found: dict[Knobs, list[Finalist]] = {knobs: [] for knobs in kept}
        took_s = 0.0
        for number in range(rounds):
            before_s = self.left_s
            if number and before_s < took_s:
                break
            for knobs, tests in self._round(number, hints, capacity).items():
                valid, invalid = tuning.interval(tests)
                p99_s = max((test.p99_s for test in tests if test.rate == valid), default=None)
                found[knobs].append(Finalist(knobs, valid, invalid, p99_s))
                if ends := [place_of(end) for end in (valid, invalid) if end]:
                    hints[knobs] = ends
            took_s = before_s - self.left_s
        finalists = [sorted(each, key=_highest)[(len(each) - 1) // 2] for each in found.values()]
        return sorted(finalists, key=_highest, reverse=True)  # ties stay in the order of the last rung

    def _round(
        self, number: int, hints: Mapping[Knobs, list[int]], capacity: float
    ) -> Mapping[Knobs, Sequence[LoadTest]]:
        """The tests of one search of each configuration's highest rate, in turn."""
        searches = {knobs: RateSearch(capacity, places) for knobs, places in hints.items()}
        tests: dict[Knobs, list[LoadTest]] = {knobs: [] for knobs in hints}
        open_ = list(hints)
        while open_:
            for knobs in list(open_):
                place = searches[knobs].next()
                # The first test is made, however late it is, so that there is a verdict.
                if place is None or (tests[knobs] and not self._has_time(knobs, number, rate_at(place))):
                    open_.remove(knobs)
                    continue
                what = f"highest rate of {knobs}"
                test = self._load(knobs, "search", number, rate_at(place), MIN_QUERIES_P99, what)
                if test is None:
                    open_.remove(knobs)
                    continue
                searches[knobs].learn(place, test.valid)
                tests[knobs].append(test)
        return tests

    def _has_time(self, knobs: Knobs, number: int, rate: float) -> bool:
        is_known = (self.case.id, knobs, "search", number, rate) in self.request.known
        return is_known or MIN_QUERIES_P99 / rate <= self.left_s

    def _load(self, knobs: Knobs, stage: Stage, number: int, rate: float, queries: int, what: str) -> LoadTest | None:
        """One test of a configuration, made or known; None if it is out."""
        if knobs in self.excluded:
            return None
        wanted = Evaluation(case=self.case.id, knobs=knobs, stage=stage, number=number, rate=rate)
        found = self.request.known.get(wanted.key)
        if found is None:
            self.watch(f"{self.case.spec.label}/{self.case.runtime}: {what}", max(self.left_s, 0.0))
            seed = 1 + queries + (number if stage == "search" else 0)
            found = wanted.model_copy(update=self._made(knobs, stage, rate, queries, seed))
            self.request.keep(found)
        if found.test is None:
            self.excluded[knobs] = found.excluded
        elif stage == "search":
            self.latencies_s.append(found.test.p99_s)
        return found.test

    def _made(self, knobs: Knobs, stage: Stage, rate: float, queries: int, seed: int) -> Mapping[str, object]:
        server = self._server(knobs)
        if isinstance(server, str):
            return {"excluded": server}
        about: dict[str, object] = {"batch": knobs.batch, "delay_s": knobs.delay_ms / 1e3, "seed": seed}
        assert server.warmed is not None
        call_s = server.warmed.call_s
        about |= {"expected_s": call_s, "bound_s": self.request.bound_s, "min_queries": queries}
        try:
            if stage == "offline":
                expected = knobs.sessions / call_s * server.member.case.batch
                test = server.drive("offline", {**about, "rate": expected, "min_s": OFFLINE_S})
            else:
                waiting = waiting_limit(rate, self.request.bound_s)
                more = {"rate": rate, "min_s": 0.0, "max_waiting": waiting}
                test = server.drive("server", {**about, **more}, "search")
            held_bytes = psutil.Process(server.worker.pid).memory_info().rss
        except (CnnbenchError, psutil.Error) as error:
            self._forget(server, str(error))
            return {"excluded": str(error)}
        if self.request.memory_bytes is not None and held_bytes > self.request.memory_bytes:
            return {"excluded": f"{knobs.sessions} sessions hold more than --memory"}
        return {"test": test}

    def _forget(self, server: Server, why: str) -> None:
        """A service that failed is out in all its configurations."""
        self.servers = {shape: why if found is server else found for shape, found in self.servers.items()}

    def _server(self, knobs: Knobs) -> Server | str:
        """The open service of this shape; where the runtime takes any batch, it is the same for all batches."""
        any_shape = (knobs.sessions, knobs.threads, 0)
        shape = (knobs.sessions, knobs.threads, knobs.batch)
        if any_shape in self.servers:
            return self.servers[any_shape]
        if shape in self.servers:
            return self.servers[shape]
        case = _served(self.case, knobs)
        log = self.request.folder / LOGS / f"{artifact.file_name(case.id)}.log"
        limit_s = self.request.limit_s
        member = GroupMember(case, self.folder, knobs.threads, lambda log: Worker(log, knobs.threads, limit_s), log)
        logs = self.request.folder / LOADGEN / artifact.file_name(case.id) / str(int(time.time()))
        server = Server(member, logs, self.budget_s, 1, ())
        server.attempt(server.start, self.stack)
        server.attempt(server.load)
        server.attempt(server.open, Allowance(self.budget_s, warmup_s=WARMUP_LIMIT_S / 3))
        takes_any = server.opened is not None and server.opened.takes_any_batch
        found: Server | str = server
        if server.error is not None:
            found = str(server.error)
        elif server.warmed is None:
            found = f"outputs differ from the float64 reference: {server.parity[-1].what}"
        self.servers[any_shape if takes_any else shape] = found
        return found


def _highest(finalist: Finalist) -> float:
    return finalist.valid or 0.0


def _on_grid(rate: float) -> float:
    return rate_at(place_of(rate))
