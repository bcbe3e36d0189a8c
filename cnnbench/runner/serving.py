"""Services, measured: each in a worker of its own, tested by LoadGen in turn while the others are suspended."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

from cnnbench.analysis.rate_search import RateSearch, place_of, rate_at
from cnnbench.analysis.serving import PAIRS, service_of
from cnnbench.errors import CnnbenchError
from cnnbench.records.record import Launch
from cnnbench.records.serving import (
    IMAGES_OF_MULTI,
    MIN_QUERIES_P90,
    MIN_QUERIES_P99,
    LoadTest,
    Purpose,
    Scenario,
    ServingLaunch,
)
from cnnbench.records.serving_messages import Drive
from cnnbench.runner.interference import SystemCounters, between
from cnnbench.runner.interleave import Allowance, Blocks, GroupMember, OnProgress, Outcome, WorkerParticipant
from cnnbench.runner.machine import affinity_cores
from cnnbench.suite.case import Case
from cnnbench.suite.runtimes import OVER_HTTP, split

LOADGEN = "loadgen"
"""The folder of LoadGen's logs within a run's."""
MEDIANS_OF_BOUND = 5.0
"""The bound of p99 where the suite has none: so many medians of the slowest single stream of the group."""
LOW_LOAD = 0.1
"""Of the rate of the single stream, at which both latencies should be the same."""
PAIR_QUERIES = 11
MIN_DURATION_SHARE = 0.02
"""Of a case's time: the minimal duration of each test."""
SHARES: Mapping[Scenario, float] = {"single": 0.15, "offline": 0.1, "multi": 0.1}
"""Of a case's time: the longest that a scenario's own test may take."""
PAIRS_SHARE = 0.35
COST_QUERIES = 2000
COST_RATE, COST_ARRIVALS = 500.0, 200
COST_S = 1e-5
"""About what an empty system under test takes for a query."""
MAX_WAITING_BOUNDS = 4.0
"""A test in which as many queries wait as arrive in so many bounds is lost, and ends."""
MIN_WAITING = 64


@dataclass
class Server(WorkerParticipant):
    """A service in its worker, and what LoadGen has found out about it."""

    member: GroupMember
    logs: Path
    """The folder of its tests' logs."""
    allowed_s: float
    seed: int
    earlier: Sequence[Launch]
    tests: list[LoadTest] = field(default_factory=list)
    costs_s: list[float] = field(default_factory=list)
    spent_s: float = 0.0
    bound_s: float = 0.0
    search: RateSearch | None = None
    stopped: str = ""

    def __post_init__(self) -> None:
        super().__init__(self.member)

    @property
    def left_s(self) -> float:
        """Of the case's time."""
        return self.allowed_s - self.spent_s

    @property
    def min_s(self) -> float:
        """The minimal duration of a test."""
        return MIN_DURATION_SHARE * self.allowed_s

    @property
    def single_s(self) -> float:
        """The median latency of the single stream."""
        return next(test.p50_s for test in self.tests if test.scenario == "single")

    def drive(
        self, scenario: Scenario, about: Mapping[str, object], purpose: Purpose = "scenario", round_: int = 0
    ) -> LoadTest:
        """One test, kept; `about` are further fields of the request."""
        start = time.perf_counter()
        number = len(self.tests) + len(self.costs_s)
        request = Drive.model_validate(
            {
                "scenario": scenario,
                "folder": str(self.logs / f"{number:02}-{scenario}"),
                "min_s": self.min_s,
                "seed": self.seed,
                **about,
            }
        )
        request = request.model_copy(update={"max_s": self._bounded(request.max_s or float("inf"))})
        self.resume()
        before = SystemCounters.read(self.worker.pid)
        try:
            test = self.worker.ask(request, LoadTest)
        except CnnbenchError:
            self.worker.kill()
            raise
        window = between(before, SystemCounters.read(self.worker.pid), affinity_cores())
        self.suspend()
        interference = window.interference()
        if split(self.member.case.runtime)[0] == OVER_HTTP:  # the server is another process, which is what is measured
            interference = [each for each in interference if each.kind != "other-processes"]
        logs = "/".join(Path(test.logs).parts[-3:])
        test = test.model_copy(update={"purpose": purpose, "round": round_, "logs": logs, "interference": interference})
        if request.system == "model":
            self.tests.append(test)
            self.spent_s += time.perf_counter() - start
        else:
            self.costs_s.append(test.p50_s if scenario == "server" else 1 / test.per_s)
        return test

    def measure_costs(self) -> None:
        """What LoadGen, and our queue, cost a query."""
        for system in ("none", "queue"):
            about = {"system": system, "expected_s": COST_S, "min_s": 0.0}
            self.drive("single", {**about, "min_queries": COST_QUERIES})
        arrivals = {"rate": COST_RATE, "bound_s": 1.0, "min_queries": COST_ARRIVALS}
        self.drive("server", {**about, **arrivals, "system": "none"})

    def measure_single(self) -> None:
        """One query after the other."""
        assert self.warmed is not None
        expected_s, max_s = self.warmed.call_s / self.member.case.batch, SHARES["single"] * self.allowed_s
        self.drive("single", {"min_queries": MIN_QUERIES_P90, "expected_s": expected_s, "max_s": max_s})

    def measure_offline(self) -> None:
        """All images at once; again with more of them where they were answered before the minimal duration."""
        case = self.member.case
        duration_s = max(self.min_s, 2 * case.batch * case.sessions * self.single_s)
        min_s = min(duration_s, SHARES["offline"] * self.allowed_s)
        about = {"expected_s": self.single_s, "min_queries": 1, "min_s": min_s}
        test = self.drive("offline", {**about, "rate": case.sessions / self.single_s})
        if not test.valid:
            self.drive("offline", {**about, "rate": 1.2 * test.per_s})

    def measure_multi(self) -> None:
        """Eight images in a query."""
        expected_s, max_s = IMAGES_OF_MULTI * self.single_s, SHARES["multi"] * self.allowed_s
        self.drive("multi", {"min_queries": MIN_QUERIES_P99, "expected_s": expected_s, "max_s": max_s})

    def measure_pair(self, round_: int, scenarios: Sequence[Scenario]) -> None:
        """The single stream and the server at low load, if there is time for them."""
        rate = LOW_LOAD / self.single_s
        whole_s = PAIR_QUERIES * (1 / rate + self.single_s)
        if PAIRS * whole_s > PAIRS_SHARE * self.allowed_s:
            return
        seconds = min(PAIRS_SHARE * self.allowed_s / PAIRS, 2 * self.min_s)
        for scenario in scenarios:
            is_server = scenario == "server"
            about = {
                "rate": rate if is_server else None,
                "bound_s": self.bound_s,
                "expected_s": self.single_s,
                "min_queries": PAIR_QUERIES,
                "min_s": seconds if is_server else LOW_LOAD * seconds,
                "seed": self.seed + round_,
            }
            self.drive(scenario, about, "low-load", round_)

    def begin_search(self) -> None:
        """Where to begin: at the ends of the interval of earlier launches, or from the throughput offline."""
        offline = [test for test in self.tests if test.scenario == "offline"][-1]
        known = service_of(self.earlier)
        ends = [known.valid, known.invalid] if known is not None else []
        self.search = RateSearch(offline.per_s, [place_of(rate) for rate in ends if rate is not None])

    def step(self) -> bool:
        """Test the next rate; False when there is none, or no time for it."""
        if self.search is None or self.stopped:
            return False
        place = self.search.next()
        if place is None:
            self.stopped = "the interval's ends are neighbours"
            return False
        rate = rate_at(place)
        if max(MIN_QUERIES_P99 / rate, self.min_s) > self.left_s:
            self.stopped = "budget spent"
            return False
        test = self._test_rate(rate)
        if test.interference and max(MIN_QUERIES_P99 / rate, self.min_s) <= self.left_s:
            test = self._test_rate(rate)
        self.search.learn(place, test.valid)
        return True

    def _test_rate(self, rate: float) -> LoadTest:
        about = {
            "rate": rate,
            "bound_s": self.bound_s,
            "expected_s": self.single_s,
            "min_queries": MIN_QUERIES_P99,
            "max_waiting": waiting_limit(rate, self.bound_s),
        }
        return self.drive("server", about, "search")

    def finish(self, group: str) -> None:
        """Close it, and put together all that the launch is."""
        self.close(Blocks(stopped=self.stopped), group)
        assert self.launch is not None
        serving = ServingLaunch(
            bound_s=self.bound_s,
            loadgen_s=self.costs_s[0],
            queue_s=self.costs_s[1],
            arrival_s=self.costs_s[2],
            threads=self.member.threads,
            tests=self.tests,
            stopped=self.stopped,
        )
        self.launch = self.launch.model_copy(update={"serving": serving})


def waiting_limit(rate: float, bound_s: float) -> int:
    """So many queries wait only in a test that is lost."""
    return max(MIN_WAITING, round(MAX_WAITING_BOUNDS * rate * bound_s))


def measure_services(
    members: Sequence[GroupMember],
    allowance: Allowance,
    earlier: Mapping[Case, Sequence[Launch]],
    folder: Path,
    *,
    seed: int,
    rate_alone: bool = False,
    on_progress: OnProgress = lambda text: None,
) -> list[Outcome]:
    """Start a worker for each member, check it, and have LoadGen test all of them in turn, with the same arrivals.

    `earlier` has the launches before; the interval that they found is confirmed. LoadGen's logs go into the folder. A
    worker that fails has its reason in its outcome; the others go on. `rate_alone`: the highest rate is searched, and
    what it does not need is left out: the pairs at low load and `multi`.
    """
    group, started = uuid4().hex[:12], datetime.now().astimezone()
    launch = 1 + max(len(earlier[member.case]) for member in members)
    rng = random.Random(f"{seed} {launch}")
    with ExitStack() as stack:
        servers = [
            Server(
                member,
                folder / member.log.stem / str(launch),
                allowance.sampling_s,
                seed + launch,
                earlier[member.case],
            )
            for member in members
        ]

        def each(what: str, step: Callable[[Server], None]) -> None:
            for server in _alive(servers):
                on_progress(f"{server.member.case.runtime}: {what}")
                server.attempt(step, server)

        for server in servers:
            server.attempt(server.start, stack)
        for server in servers:
            server.attempt(server.load)
        each("opening", lambda server: server.open(allowance))
        each("LoadGen's own cost", Server.measure_costs)
        each("single stream", Server.measure_single)
        each("offline", Server.measure_offline)
        _set_bounds(_alive(servers))
        for round_ in range(0 if rate_alone else PAIRS):
            scenarios: list[Scenario] = ["single", "server"]
            rng.shuffle(scenarios)
            pair = partial(Server.measure_pair, round_=round_, scenarios=scenarios)
            each(f"low load, {round_ + 1} of {PAIRS}", pair)
        each("searching", Server.begin_search)
        searching = _alive(servers)
        while searching:
            went_on = [server for server in searching if _stepped(server, on_progress)]
            searching = [server for server in went_on if server.error is None]
        if launch == 1 and not rate_alone:
            each("multi-stream", Server.measure_multi)
        each("closing", lambda server: server.finish(group))
        return [
            Outcome(s.member.case, group, started, s.launch, tuple(s.parity), tuple(s.faults), s.error) for s in servers
        ]


def _alive(servers: Sequence[Server]) -> list[Server]:
    """Those that have not failed, and whose outputs are right."""
    return [server for server in servers if server.error is None and (server.opened is None or server.warmed)]


def _set_bounds(servers: Sequence[Server]) -> None:
    """The case's own bound, the one of the first launch, or one for all from the slowest single stream."""
    slowest_s = max((server.single_s for server in servers), default=0.0)
    for server in servers:
        known, own_ms = service_of(server.earlier), server.member.case.p99_ms
        if own_ms is not None:
            server.bound_s = own_ms / 1e3
        else:
            server.bound_s = known.bound_s if known is not None else MEDIANS_OF_BOUND * slowest_s


def _stepped(server: Server, on_progress: OnProgress) -> bool:
    """Whether it has tested a rate."""
    on_progress(f"{server.member.case.runtime}: searching the highest rate, test {len(server.tests) + 1}")
    went_on = [False]

    def step() -> None:
        went_on[0] = server.step()

    server.attempt(step)
    return went_on[0]
