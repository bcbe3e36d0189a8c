"""A launch of services: all scenarios in turn, raced at the same arrivals, within the case's time; then tuning."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count, pairwise
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
from pydantic import BaseModel

from cnnbench.analysis.rate_search import RateSearch, place_of, rate_at
from cnnbench.analysis.serving import PAIRS, service_of
from cnnbench.analysis.tuning import Knobs, grid
from cnnbench.errors import InputError, RunFolderError, WorkerError, WorkerHung
from cnnbench.gate.pairs import Pair
from cnnbench.gate.verdict import ArmName, Paired
from cnnbench.records import artifact
from cnnbench.records.messages import Closed, Open, Opened, Request, Warm
from cnnbench.records.reason import Reason
from cnnbench.records.record import GraphFacts, Launch, Parity
from cnnbench.records.serving import LoadTest, Scenario
from cnnbench.records.serving_messages import Drive
from cnnbench.runner import serving
from cnnbench.runner.artifacts import Building, Built, Wanted
from cnnbench.runner.interference import Window
from cnnbench.runner.interleave import Allowance, GroupMember, Outcome
from cnnbench.runner.tasks import tune_serving
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, ModelSpec
from tests.records import case as plain_case
from tests.records import facts, record
from tests.simulated_service import SimulatedWorker
from tests.test_serving import load_test, serving_launch

SPEC = ModelSpec.checked("lenet5", None, None)
BOUND_MS = 60.0

QUIET = Window(
    seconds=1.0,
    cpus=2,
    steal_share=0.0,
    others_share=0.0,
    throttled_s=0.0,
    thermal_events=0,
    swapped_pages=0,
    joules=None,
)


@pytest.fixture(autouse=True)
def window(monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    """The last is what the counters say of each test: nothing that happens on this machine disturbs a simulation."""
    said = [QUIET]
    monkeypatch.setattr(serving, "between", lambda before, after, cpus: said[-1])
    return said


def case(runtime: str = "ort", **about: Any) -> Case:
    return Case.model_validate({"spec": SPEC, "workload": "serving", "runtime": runtime, "batch": 1, **about})


def starter(worker: SimulatedWorker) -> Callable[[Path], Worker]:
    return lambda _: cast(Worker, worker)


def launched(
    cases: list[Case],
    folder: Path,
    earlier: Mapping[Case, list[Launch]] | None = None,
    seconds: float = 1000.0,
    workers: Mapping[str, SimulatedWorker] | None = None,
    **options: Any,
) -> list[Outcome]:
    """One launch of simulated services."""
    found = workers or {each.runtime: SimulatedWorker(folder / "log", 1, 300.0) for each in cases}
    members = [GroupMember(each, folder, 1, starter(found[each.runtime]), folder / "log") for each in cases]
    known = earlier or {each: [] for each in cases}
    return serving.measure_services(members, Allowance(seconds), known, folder / "loadgen", seed=0, **options)


def launches(outcomes: list[Outcome]) -> list[Launch]:
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    return [outcome.launch for outcome in outcomes if outcome.launch is not None]


def test_a_launch_has_all_scenarios_and_the_interval_holds_the_highest_rate(tmp_path: Path) -> None:
    (launch,) = launches(launched([case(p99_ms=BOUND_MS)], tmp_path))
    service = service_of([launch])
    assert service is not None
    assert launch.serving is not None
    counts = {
        name: sum(test.scenario == name for test in launch.serving.tests) for name in ("single", "multi", "offline")
    }
    assert counts == {"single": 1 + PAIRS, "multi": 1, "offline": 1}
    # p99 = 10 ms * (1 + 4 load / (1 - load)) is 60 ms where load is 5/9, of 100 images per second
    assert service.valid is not None
    assert service.valid <= 500 / 9 < service.invalid <= 1.06 * service.valid  # type: ignore[operator]
    assert (service.faults(), service.noise()) == ([], [])
    assert launch.serving.stopped == "the interval's ends are neighbours"


class Slower(SimulatedWorker):
    """Whose calls take a tenth longer."""

    def capacity(self, batch: int) -> float:
        return super().capacity(batch) / 1.1


def test_a_gate_compares_the_rates_at_the_bound_and_searches_nothing_else(tmp_path: Path) -> None:
    served = case(p99_ms=BOUND_MS)
    workers = [kind(tmp_path / "log", 1, 300.0) for kind in (SimulatedWorker, Slower)]
    members = [GroupMember(served, tmp_path, 1, starter(each), tmp_path / f"{n}.log") for n, each in enumerate(workers)]

    def pair(earlier: list[Launch]) -> tuple[list[Launch], Paired]:
        known = {served: earlier}
        outcomes = serving.measure_services(
            members, Allowance(1000.0), known, tmp_path / "loadgen", seed=0, rate_alone=True
        )
        base, head = launches(outcomes)
        both: dict[ArmName, Launch] = {"base": base, "head": head}
        return [base, head], Pair(comparison="x", stage="screen", number=0, order=list(both), launches=both).paired()

    (base, head), first = pair([])
    assert first.problem == ""

    def rate(call_ms: float) -> float:
        waiting = (BOUND_MS / call_ms - 1) / 4  # load / (1 - load), as above
        return waiting / (1 + waiting) / call_ms

    assert first.call_s["base"] == pytest.approx(1e-3 / rate(10), rel=0.01)
    assert first.logs["head"] == pytest.approx(log(rate(10) / rate(11)), abs=0.01)
    assert base.serving is not None
    assert head.serving is not None
    made = {(test.scenario, test.purpose) for test in base.serving.tests}
    assert made == {("single", "scenario"), ("offline", "scenario"), ("server", "search")}
    assert base.serving.bound_s == head.serving.bound_s
    assert {test.logs for test in base.serving.tests}.isdisjoint(test.logs for test in head.serving.tests)
    _, again = pair([base])
    assert again.logs == pytest.approx(first.logs)
    searched = [each for each in workers[0].asked if each.min_queries == 662 and each.rate]
    assert len(searched) == len([test for test in base.serving.tests if test.purpose == "search"]) + 2, (
        "both ends alone"
    )


def test_a_search_without_an_end_says_nothing_of_times(tmp_path: Path) -> None:
    (launch,) = launches(launched([case(p99_ms=1.0)], tmp_path))
    made = Pair(comparison="x", stage="screen", number=0, order=["base"], launches={"base": launch}).paired()
    assert made.problem == ""
    assert made.lost.startswith("base: no highest rate with p99 within 1 ms was found: ")


def test_raced_services_share_the_bound_the_rates_and_the_arrivals(tmp_path: Path) -> None:
    workers = {name: SimulatedWorker(tmp_path / "log", threads, 300.0) for name, threads in (("eager", 1), ("ort", 2))}
    first, second = launches(launched([case("eager"), case("ort")], tmp_path, workers=workers))
    assert first.serving is not None
    assert second.serving is not None
    assert first.serving.bound_s == second.serving.bound_s == pytest.approx(5 * 0.010)  # the slower one's

    def searched(worker: SimulatedWorker) -> dict[float, int]:
        return {each.rate: each.seed for each in worker.asked if each.min_queries == 662 and each.rate}

    shared = searched(workers["eager"]).keys() & searched(workers["ort"]).keys()
    assert all(searched(workers["eager"])[rate] == searched(workers["ort"])[rate] for rate in shared)
    ratios = [b / a for a, b in pairwise(sorted({*searched(workers["eager"]), *searched(workers["ort"])}))]
    assert min(ratios) > 1.04  # all on one grid


def test_a_second_launch_confirms_the_interval_of_the_first_with_other_arrivals(tmp_path: Path) -> None:
    of = case(p99_ms=BOUND_MS)
    first = launches(launched([of], tmp_path))
    second = launches(launched([of], tmp_path, {of: first}))
    service = service_of([*first, *second])
    assert service is not None
    assert service.confirmed == 2
    assert second[0].serving is not None
    searched = [test for test in second[0].serving.tests if test.purpose == "search"]
    assert [test.rate for test in searched] == [service.valid, service.invalid]
    assert not any(test.scenario == "multi" for test in second[0].serving.tests)
    assert {test.seed for test in searched} == {2}


def test_too_little_time_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    (launch,) = launches(launched([case(p99_ms=BOUND_MS)], tmp_path, seconds=3.0))
    service = service_of([launch])
    assert service is not None
    assert [reason.code for reason in service.noise()] == ["low-load", "not-measured"]
    assert all("raise case_budget" in reason.detail for reason in service.noise())
    assert service.offline_per_s == pytest.approx(100.0)


class Timed(SimulatedWorker):
    """Whose tests take as long as their queries do."""

    now_s = spent_s = 0.0
    """And without the tests that measure LoadGen itself."""

    def _tested(self, request: Drive) -> LoadTest:
        test = super()._tested(request)
        seconds = test.queries / request.rate if request.scenario == "server" and request.rate else test.wall_s
        self.now_s += seconds
        self.spent_s += seconds if request.system == "model" and request.scenario != "multi" else 0.0
        return test


@pytest.mark.parametrize(("seconds", "last_tests"), [(70.0, 1), (1000.0, 2)])
def test_a_rate_whose_test_was_disturbed_is_tested_once_more_if_there_is_time(
    tmp_path: Path, window: list[Window], monkeypatch: pytest.MonkeyPatch, seconds: float, last_tests: int
) -> None:
    worker = Timed(tmp_path / "log", 1, 300.0)
    monkeypatch.setattr("time.perf_counter", lambda: worker.now_s)
    window.append(replace(QUIET, others_share=0.5))
    launches(launched([case(p99_ms=BOUND_MS)], tmp_path, seconds=seconds, workers={"ort": worker}))
    *earlier, last = Counter(each.rate for each in worker.asked if each.min_queries == 662 and each.rate).values()
    assert set(earlier) == {2}
    assert last == last_tests
    assert worker.spent_s <= seconds


def test_a_service_that_hangs_fails_alone(tmp_path: Path) -> None:
    workers = {name: SimulatedWorker(tmp_path / "log", 1, 300.0) for name in ("eager", "ort")}
    workers["eager"].fail = lambda request: WorkerHung("no answer") if request.min_queries == 662 else None
    bad, good = launched([case("eager"), case("ort")], tmp_path, workers=workers)
    assert bad.error is not None
    assert (bad.error.code, bad.launch) == ("hung", None)
    assert good.launch is not None


def requests(worker: SimulatedWorker) -> list[tuple[str, dict[str, Any]]]:
    """What LoadGen was asked: scenario and system, and what is no default."""
    plain = [
        each.model_dump(exclude_defaults=True, exclude={"op", "scenario", "system", "folder"}) for each in worker.asked
    ]
    return [(f"{each.scenario} {each.system}", about) for each, about in zip(worker.asked, plain, strict=True)]


@pytest.fixture
def undisturbed_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests take no time."""
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)


@pytest.mark.usefixtures("undisturbed_clock")
def test_each_scenario_is_asked_for_by_what_the_ones_before_took(tmp_path: Path) -> None:
    """A call takes 10 ms; the case has 1000 s, of which no test takes less than 2 %, and a worker answers in 300 s."""
    worker = SimulatedWorker(tmp_path / "log", 1, 300.0)
    (launch,) = launches(launched([case(p99_ms=BOUND_MS)], tmp_path, workers={"ort": worker}))
    asked = requests(worker)
    cost = {"expected_s": 1e-5, "min_s": 0.0, "max_s": 150.0, "seed": 1}
    usual = {"expected_s": pytest.approx(0.01), "min_s": 20.0, "max_s": 150.0, "seed": 1}
    assert asked[:5] == [
        ("single none", {**cost, "min_queries": 2000}),
        ("single queue", {**cost, "min_queries": 2000}),
        ("server none", {**cost, "min_queries": 200, "rate": 500.0, "bound_s": 1.0}),
        ("single model", {**usual, "min_queries": 64}),
        ("offline model", {**usual, "min_queries": 1, "rate": pytest.approx(100.0)}),
    ]
    low = {**usual, "min_queries": 11, "bound_s": pytest.approx(0.06)}
    for round_ in range(6):
        pair = sorted(asked[5 + 2 * round_ : 7 + 2 * round_], key=lambda each: each[0])
        seed = {"seed": 1 + round_}
        assert pair == [
            ("server model", {**low, **seed, "rate": pytest.approx(10.0), "min_s": 40.0}),
            ("single model", {**low, **seed, "min_s": pytest.approx(4.0)}),
        ]
    assert len({each[0] for each in asked[5:17:2]}) == 2, "either begins"
    first = rate_at(round(log(60.0) / log(1.05)))
    searched = {**usual, "min_queries": 662, "bound_s": pytest.approx(0.06), "max_waiting": 64}
    assert asked[17] == ("server model", {**searched, "rate": first})
    assert asked[-1] == (
        "multi model", {**usual, "min_queries": 662, "expected_s": pytest.approx(0.08), "max_s": 100.0}
    )  # fmt: skip
    assert launch.serving is not None
    assert [(test.purpose, test.round) for test in launch.serving.tests[:6]] == [
        ("scenario", 0), ("scenario", 0), ("low-load", 0), ("low-load", 0), ("low-load", 1), ("low-load", 1),
    ]  # fmt: skip
    assert launch.serving.tests[0].logs == "log/1/03-single"


@pytest.mark.usefixtures("undisturbed_clock")
def test_sessions_batches_and_a_short_time_change_what_is_asked_for(tmp_path: Path) -> None:
    """Four images in two sessions take 28 ms times two over 1.9; a worker that answers in 10 s is asked for 5 s."""
    for seconds, min_s, max_s, offline_s in (
        (1000.0, 20.0, 5.0, 20.0),
        (10.0, 0.2, 1.5, 16 * 0.056 / 1.9),
        (1.0, 0.02, 0.15, 0.1),
    ):
        worker = SimulatedWorker(tmp_path / "log", 1, 10.0)
        of = case(batch=4, sessions=2, p99_ms=1e3)
        launched([of], tmp_path, seconds=seconds, workers={"ort": worker})
        asked = requests(worker)
        single_s = 0.056 / 1.9
        assert asked[3] == ("single model", {
            "expected_s": pytest.approx(0.0025), "min_s": pytest.approx(min_s), "max_s": pytest.approx(max_s),
            "min_queries": 64, "seed": 1,
        })  # fmt: skip
        assert asked[4] == ("offline model", {
            "expected_s": pytest.approx(single_s), "min_s": pytest.approx(offline_s), "max_s": 5.0,
            "min_queries": 1, "rate": pytest.approx(2 / single_s), "seed": 1,
        })  # fmt: skip


class Odd(SimulatedWorker):
    """LoadGen costs less than the queue, and the first test of a scenario offline is too short."""

    def _tested(self, request: Drive) -> LoadTest:
        test = super()._tested(request)
        if request.system != "model":
            per_s = {"none": 1e5, "queue": 2e4}[request.system]
            return test.model_copy(update={"per_s": per_s, "p50_s": 0.25})
        is_short = request.scenario == "offline" and request.rate == pytest.approx(100.0)
        return test.model_copy(update={"valid": test.valid and not is_short})


@pytest.mark.usefixtures("undisturbed_clock")
def test_what_loadgen_costs_is_kept_and_a_short_test_is_made_again_with_a_fifth_more_images(tmp_path: Path) -> None:
    worker = Odd(tmp_path / "log", 1, 300.0)
    (launch,) = launches(launched([case(p99_ms=BOUND_MS)], tmp_path, workers={"ort": worker}))
    assert launch.serving is not None
    figures = [launch.serving.loadgen_s, launch.serving.queue_s, launch.serving.arrival_s, launch.serving.threads]
    assert figures == pytest.approx([1e-5, 5e-5, 0.25, 1])
    offline = [about["rate"] for what, about in requests(worker) if what == "offline model"]
    assert offline == pytest.approx([100.0, 120.0])


@pytest.mark.usefixtures("undisturbed_clock")
@pytest.mark.parametrize(("seconds", "pairs"), [(20.7, 0), (20.8, 12)])
def test_pairs_at_low_load_are_left_out_where_they_take_more_than_their_share(
    tmp_path: Path, seconds: float, pairs: int
) -> None:
    """Six times eleven queries of 0.11 s each are 7.26 s, 35 % of 20.74 s."""
    worker = SimulatedWorker(tmp_path / "log", 1, 300.0)
    launched([case(p99_ms=BOUND_MS)], tmp_path, seconds=seconds, workers={"ort": worker})
    assert sum(about["min_queries"] == 11 for _, about in requests(worker)) == pairs
    lasting = [
        about["min_s"] for what, about in requests(worker) if about["min_queries"] == 11 and what[:6] == "server"
    ]
    assert lasting == pytest.approx([2 * 0.02 * 20.8] * (pairs // 2))


def test_of_a_server_in_another_process_what_others_use_is_no_interference(
    tmp_path: Path, window: list[Window]
) -> None:
    window.append(replace(QUIET, others_share=0.5, steal_share=0.5))
    found = launched([case("http", p99_ms=BOUND_MS), case("ort", p99_ms=BOUND_MS)], tmp_path)
    kinds = [
        {tuple(each.kind for each in test.interference) for test in launch.serving.tests}
        for launch in launches(found)
        if launch.serving is not None
    ]
    assert kinds == [{("steal",)}, {("steal", "other-processes")}]


@pytest.mark.parametrize(
    ("rate", "bound_s", "queries"), [(10.0, 1.0, 64), (16.0, 1.0, 64), (17.0, 1.0, 68), (100.0, 0.5, 200)]
)
def test_a_test_is_lost_when_what_arrives_in_four_bounds_waits(rate: float, bound_s: float, queries: int) -> None:
    assert serving.waiting_limit(rate, bound_s) == queries


def test_the_bound_is_the_cases_own_or_that_of_the_launch_before_or_five_medians_of_the_slowest(tmp_path: Path) -> None:
    cases = [case("eager"), case("ort", p99_ms=BOUND_MS)]
    workers = {"eager": Slower(tmp_path / "log", 1, 300.0), "ort": SimulatedWorker(tmp_path / "log", 1, 300.0)}
    first = launches(launched(cases, tmp_path, workers=workers))
    assert [each.serving.bound_s for each in first if each.serving] == pytest.approx([0.055, 0.06])
    workers = {name: SimulatedWorker(tmp_path / "log", 1, 300.0) for name in ("eager", "ort")}
    earlier = {of: [launch] for of, launch in zip(cases, first, strict=True)}
    again = launches(launched(cases, tmp_path, earlier, workers=workers))
    assert [each.serving.bound_s for each in again if each.serving] == pytest.approx([0.055, 0.06])


class Logged(SimulatedWorker):
    """Writes down what is done to it, in order."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.log_of: list[str] = []
        for name in ("resume", "suspend", "kill"):
            setattr(self, name, partial(self.log_of.append, name))

    def _tested(self, request: Drive) -> LoadTest:
        self.log_of.append("test")
        return super()._tested(request)


def server(folder: Path, worker: SimulatedWorker, allowed_s: float = 1000.0) -> serving.Server:
    """An open service, of which the single stream has been tested."""
    member = GroupMember(case(), folder, 1, starter(worker), folder / "log")
    found = serving.Server(member, folder / "loadgen", allowed_s, 1, ())
    with ExitStack() as stack:
        found.start(stack)
    found.load()
    found.open(Allowance(1.0))
    found.tests.append(load_test("single", "scenario"))
    return found


def test_a_service_runs_during_its_tests_alone_and_one_that_fails_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Logged(tmp_path / "log", 1, 300.0)
    found = server(tmp_path, worker)
    readings, windows = count(1), list[tuple[Any, ...]]()

    def between(*given: Any) -> Window:
        windows.append(given)
        return QUIET

    monkeypatch.setattr(serving, "SystemCounters", SimpleNamespace(read=lambda pid: (pid, next(readings))))
    monkeypatch.setattr(serving, "affinity_cores", lambda: 7)
    monkeypatch.setattr(serving, "between", between)
    worker.log_of.clear()
    about = {"expected_s": 0.01, "min_queries": 1}
    found.drive("single", about)
    assert worker.log_of == ["resume", "test", "suspend"]
    assert windows == [((worker.pid, 1), (worker.pid, 2), 7)]
    worker.log_of.clear()
    worker.fail = lambda _: WorkerHung("no answer")
    with pytest.raises(WorkerHung):
        found.drive("single", about)
    assert (worker.log_of, len(found.tests)) == (["resume", "kill"], 2)


@pytest.mark.usefixtures("undisturbed_clock")
@pytest.mark.parametrize(
    ("allowed_s", "spent_s", "stopped"),
    [
        (662 / 60.24, 0.0, ""),
        (662 / 60.24 - 0.01, 0.0, "budget spent"),
        (1000.0, 980.0, ""),
        (1000.0, 980.1, "budget spent"),
    ],
)
def test_a_rate_is_tested_while_there_is_time_for_its_queries_and_for_a_tests_least_duration(
    tmp_path: Path, window: list[Window], allowed_s: float, spent_s: float, stopped: str
) -> None:
    """662 queries at 60.24 a second, or 2 % of the case's time; once more if others disturbed the first."""
    worker = Odd(tmp_path / "log", 1, 300.0)
    found = server(tmp_path, worker, allowed_s)
    assert not found.step(), "no search has begun"
    found.search, found.spent_s, found.bound_s = RateSearch(100.0), spent_s, 0.06
    window.append(replace(QUIET, steal_share=0.5))
    assert found.step() == (stopped == "")
    assert (len(worker.asked), found.stopped) == (0 if stopped else 2, stopped)
    assert found.search.verdicts == ({} if stopped else {84: False}), "at 60.24 a second p99 is 0.07 s"
    found.search.verdicts = {84: True, 85: False}
    assert not found.step()
    assert found.stopped == (stopped or "the interval's ends are neighbours")
    worker.asked.clear()
    found.search.verdicts = {}
    assert not found.step()
    assert worker.asked == [], "it has stopped"


class Improving(SimulatedWorker):
    """Whose first test of a rate is lost."""

    def _tested(self, request: Drive) -> LoadTest:
        return super()._tested(request).model_copy(update={"valid": len(self.asked) > 1})


def test_of_a_rate_that_is_tested_twice_the_second_test_counts(tmp_path: Path, window: list[Window]) -> None:
    found = server(tmp_path, Improving(tmp_path / "log", 1, 300.0))
    found.search = RateSearch(100.0)
    window.append(replace(QUIET, steal_share=0.5))
    assert found.step()
    assert found.search.verdicts == {84: True}
    window.append(QUIET)
    assert found.step()
    assert [test.rate for test in found.tests[1:]] == [60.24, 60.24, 73.22], "one that nothing disturbed is made once"


def test_a_search_begins_with_the_last_throughput_offline_and_the_ends_that_earlier_launches_found(
    tmp_path: Path,
) -> None:
    found = server(tmp_path, SimulatedWorker(tmp_path / "log", 1, 300.0))
    found.tests += [load_test("offline", "scenario", per_s=per_s) for per_s in (50.0, 100.0)]
    (launch,) = record(plain_case(), [0.1] * 7).launches
    ends = [load_test(rate=60.24), load_test(rate=66.42, valid=False)]
    for tests, hints in ((None, []), (ends, [84, 86]), (ends[:1], [84]), (ends[1:], [86])):
        found.earlier = [] if tests is None else [launch.model_copy(update={"serving": serving_launch(*tests)})]
        found.begin_search()
        assert found.search == RateSearch(100.0, hints)


def test_a_launch_says_what_it_does(tmp_path: Path) -> None:
    said: list[str] = []
    launched([case(p99_ms=BOUND_MS)], tmp_path, on_progress=said.append)
    assert said[:4] == ["ort: opening", "ort: LoadGen's own cost", "ort: single stream", "ort: offline"]
    assert said[4:11] == [*(f"ort: low load, {n} of 6" for n in range(1, 7)), "ort: searching"]
    searched = said[11:-2]
    assert len(searched) > 3
    assert searched == [f"ort: searching the highest rate, test {n}" for n in range(15, 15 + len(searched))]
    assert said[-2:] == ["ort: multi-stream", "ort: closing"]


class Told(SimulatedWorker):
    """What it says of its outputs when it is opened, and when it is closed."""

    opened = Parity(what="opened", error=0.0, limit=1.0)
    closed = Parity(what="closed", error=0.0, limit=1.0)
    fault = Reason(code="layout")

    def _answer(self, request: Request) -> BaseModel:
        answer = super()._answer(request)
        if isinstance(answer, Opened):
            return answer.model_copy(update={"parity": [self.opened]})
        return (
            answer.model_copy(update={"parity": [self.closed], "faults": [self.fault]})
            if isinstance(answer, Closed)
            else answer
        )


def test_wrong_outputs_are_not_tested_under_load_and_what_each_step_said_is_kept(tmp_path: Path) -> None:
    wrong, right = (Told(tmp_path / "log", 1, 300.0) for _ in range(2))
    wrong.opened = Parity(what="opened", error=2.0, limit=1.0)
    bad, good = launched(
        [case("eager"), case("ort", p99_ms=BOUND_MS)], tmp_path, workers={"eager": wrong, "ort": right}
    )
    assert (bad.launch, bad.error, bad.parity, wrong.asked) == (None, None, (wrong.opened,), [])
    assert (good.parity, good.faults, good.error) == ((right.opened, right.closed), (right.fault,), None)
    assert good.launch is not None
    assert (good.launch.stopped, good.launch.group) == ("the interval's ends are neighbours", bad.group)


def test_a_launch_in_which_all_fail_has_a_reason_for_each(tmp_path: Path) -> None:
    worker = SimulatedWorker(tmp_path / "log", 1, 300.0)
    worker.fail = lambda _: WorkerHung("no answer")
    found = launched([case("eager"), case("ort")], tmp_path, workers={"eager": worker, "ort": worker})
    assert [str(outcome.error) for outcome in found] == ["hung: no answer"] * 2


def test_a_launch_has_the_number_behind_that_of_the_case_with_most(tmp_path: Path) -> None:
    cases = [case("eager", p99_ms=BOUND_MS), case("ort", p99_ms=BOUND_MS)]
    first, other = launches(launched(cases, tmp_path))
    again = launches(launched(cases, tmp_path, {cases[0]: [first], cases[1]: [other, other]}))
    for launch in again:
        assert launch.serving is not None
        assert launch.serving.tests[0].logs == "log/3/03-single"
        assert {test.seed for test in launch.serving.tests if test.purpose == "search"} == {3}


@pytest.mark.usefixtures("undisturbed_clock")
def test_a_pair_at_low_load_lasts_no_longer_than_its_part_of_their_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "PAIRS_SHARE", 0.06)
    worker = SimulatedWorker(tmp_path / "log", 1, 300.0)
    launched([case(p99_ms=BOUND_MS)], tmp_path, workers={"ort": worker})
    lasting = {(what, round(about["min_s"], 9)) for what, about in requests(worker) if about["min_queries"] == 11}
    assert lasting == {("server model", 10.0), ("single model", 1.0)}


@pytest.mark.parametrize(("allowed_s", "pair"), [(90.75, ["server", "single"]), (90.74, [])])
def test_pairs_that_just_fit_into_their_share_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed_s: float, pair: list[Scenario]
) -> None:
    """Six times eleven queries of 1 / 1.6 s and 1 / 16 s are 45.375 s."""
    monkeypatch.setattr(serving, "PAIRS_SHARE", 0.5)
    worker = SimulatedWorker(tmp_path / "log", 1, 300.0)
    found = server(tmp_path, worker, allowed_s)
    found.tests[:] = [load_test("single", "scenario", p50_s=0.0625)]
    found.measure_pair(3, ["server", "single"])
    assert [each.scenario for each in worker.asked] == pair
    assert [(test.purpose, test.round) for test in found.tests[1:]] == [("low-load", 3)] * len(pair)


class Stub:
    """Artifacts that are there."""

    def __init__(self, *_: object) -> None:
        """Nothing is built."""

    def __enter__(self) -> "Stub":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def wanted(self, spec: ModelSpec, ahead: tuple[Case, ...]) -> Wanted:
        return Wanted(spec, "key", ahead=ahead)

    def build(self, wanted: list[Wanted], watch: Callable[[Building], bool]) -> None:
        """All is built, and told."""
        for each in wanted:
            for case in each.ahead:
                assert watch(Building(each.spec, f"making {artifact.made_for(case, case.threads or 0)}"))

    def find(self, wanted: Wanted) -> Built:
        built = Built(wanted.folder, facts())
        for each in wanted.ahead:
            error = "a value overflows" if each.calibration != "noise" else None
            built = built.with_made(each, GraphFacts(error=error))
        return built


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Drive]:
    """All that tuning asks its simulated workers, on two cores."""
    found: list[Drive] = []
    monkeypatch.setattr(
        tune_serving, "Worker", lambda log, threads, limit_s: SimulatedWorker(log, threads, limit_s, asked=found)
    )
    monkeypatch.setattr(tune_serving, "Artifacts", Stub)
    monkeypatch.setattr("cnnbench.runner.machine.usable_threads", lambda: 2)
    return found


def tuned(folder: Path, bound_ms: float = BOUND_MS, *, resume: bool = False, **about: Any) -> tune_serving.Tuned:
    request = tune_serving.TuneRequest([case()], bound_ms / 1e3, about.get("memory"), 130.0, 300.0, folder)
    request.open(resume=resume)
    (found,) = tune_serving.tune(request, lambda what, left_s: None)
    return found


def best_of_all(bound_s: float) -> float:
    """By the simulation's own formula, the highest rate of any configuration."""
    best = 0.0
    for knobs in grid(2, bound_s):
        worker = SimulatedWorker(Path(), knobs.threads, 300.0)
        worker.case = case(sessions=knobs.sessions)
        rates = [rate_at(place) for place in range(40, 130)]
        good = [r for r in rates if worker.latencies_s(r, knobs.batch, knobs.delay_ms / 1e3)[1] <= bound_s]
        best = max(best, *good) if good else best
    return best


@pytest.mark.parametrize("bound_ms", [30.0, 60.0, 200.0])
def test_tuning_finds_what_an_exhaustive_sweep_finds(tmp_path: Path, asked: list[Drive], bound_ms: float) -> None:
    found = tuned(tmp_path / "out", bound_ms)
    assert found.finalists[0].valid is not None
    assert found.finalists[0].valid >= 0.95 * best_of_all(bound_ms / 1e3)
    seconds = sum(each.min_queries / each.rate for each in asked if each.scenario == "server" and each.rate)
    sweep_s = 6 * 662 / found.finalists[0].valid * len(grid(2, bound_ms / 1e3))  # six rates of each
    assert seconds < 0.2 * sweep_s
    assert {worth.knob for worth in found.worths} == {"sessions", "threads", "batch", "delay_ms"}


def test_tuning_goes_on_where_it_was_stopped(tmp_path: Path, asked: list[Drive]) -> None:
    whole = tuned(tmp_path / "whole")
    count = len(asked)
    file = tmp_path / "whole" / tune_serving.TESTS
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == count
    file.write_text("".join(lines[: count // 2]) + lines[-1][:20])
    asked.clear()
    again = tuned(tmp_path / "whole", resume=True)
    assert [finalist.knobs for finalist in again.finalists] == [finalist.knobs for finalist in whole.finalists]
    assert 0 < len(asked) <= count - count // 2
    with pytest.raises(RunFolderError, match="add --resume"):
        tuned(tmp_path / "whole")
    with pytest.raises(RunFolderError, match="other cases or options"):
        tuned(tmp_path / "whole", 70.0, resume=True)


def test_a_bound_that_nothing_meets_has_no_rate_and_tells_the_best(tmp_path: Path, asked: list[Drive]) -> None:
    found = tuned(tmp_path / "out", 5.0)
    assert found.finalists[0].valid is None
    assert 0.005 < found.lowest_p99_s < 0.02


def test_configurations_beyond_the_memory_are_out(tmp_path: Path, asked: list[Drive]) -> None:
    with pytest.raises(WorkerError, match="no configuration can be served: 1 sessions hold more than --memory"):
        tuned(tmp_path / "out", memory=1)


@pytest.mark.parametrize(
    ("left_s", "rounds", "rates"), [(1e9, 3, [rate_at(95), rate_at(94)]), (200.0, 1, [rate_at(98), rate_at(94)])]
)
def test_the_finalists_are_searched_again_while_there_is_time_and_the_median_counts(
    left_s: float, rounds: int, rates: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each test takes 10 s; one finalist keeps up with much more in the first round than in the two others."""
    places = {1: [98, 94, 95], 2: [94, 94, 94]}
    tested: set[int] = set()

    def load(self: tune_serving.Search, knobs: Knobs, stage: str, number: int, rate: float, *_: Any) -> LoadTest:
        tested.add(number)
        self.budget_s -= 10.0
        return load_test(rate=rate, valid=place_of(rate) <= places[knobs.sessions][number])

    monkeypatch.setattr(tune_serving.Search, "_load", load)
    request = tune_serving.TuneRequest([case()], 0.1, None, left_s, 300.0, tmp_path)
    knobs = [Knobs(sessions=count, threads=1, batch=1, delay_ms=0.0) for count in (2, 1)]
    with ExitStack() as stack:
        search = tune_serving.Search(request, case(), tmp_path, lambda *_: None, stack)
        found = search.finals(knobs, 150.0, rate_at(90))
    assert len(tested) == rounds
    assert [(each.knobs.sessions, each.valid) for each in found] == list(zip((1, 2), rates, strict=True))


def knobs(sessions: int = 1, threads: int = 1, batch: int = 1, delay_ms: float = 0.0) -> Knobs:
    return Knobs(sessions=sessions, threads=threads, batch=batch, delay_ms=delay_ms)


Load = tuple[Knobs, str, int, float, int]
"""A test that a search asks for: configuration, stage, number, rate and queries."""


def search(
    folder: Path,
    answer: Callable[..., LoadTest | None] | None = None,
    *,
    budget_s: float = 90.0,
    bound_s: float = 0.1,
    memory: int | None = None,
) -> tuple[tune_serving.Search, list[Load]]:
    """The search of one of two cases, whose tests are answered by a function; and what it has asked for."""
    request = tune_serving.TuneRequest([case(), case("eager")], bound_s, memory, 2 * budget_s, 300.0, folder)
    found = tune_serving.Search(request, case(), folder, lambda *_: None, ExitStack())
    asked: list[Load] = []

    def load(*about: Any) -> LoadTest | None:
        asked.append(about[:5])
        return answer(*about[:5]) if answer else None

    if answer:
        setattr(found, "_load", load)  # noqa: B010
    return found, asked


def kept_up(is_kept: bool, **about: Any) -> LoadTest:
    return load_test(over=0 if is_kept else 50, **about)


@pytest.mark.parametrize(("highest", "steps"), [(60.24, 0), (60.0, 1), (40.0, 2), (0.0, 13)])
def test_a_reachable_rate_is_looked_for_from_six_tenths_of_the_capacity_down_to_a_fiftieth(
    tmp_path: Path, highest: float, steps: int
) -> None:
    rates = [rate_at(place_of(60 / 1.3**n)) for n in range(14)]
    found, asked = search(tmp_path, lambda *about: kept_up(about[3] <= highest))
    assert found._reachable(knobs(2), 100.0) == rates[steps]
    assert asked == [(knobs(2), "rung", 0, rate, 24) for rate in rates[: steps + (steps < 13)]]
    found, asked = search(tmp_path, lambda *_: None)
    assert (found._reachable(knobs(), 100.0), len(asked)) == (rates[0], 1)


@pytest.mark.parametrize(
    ("rung", "rate", "queries"), [(0, 10.0, 24), (1, 10.0, 48), (2, 10.0, 96), (0, 100.0, 100), (0, 1000.0, 662)]
)
def test_a_rungs_tests_take_a_tenth_of_the_cases_time_together_and_have_enough_queries(
    tmp_path: Path, rung: int, rate: float, queries: int
) -> None:
    """Of 90 s, each of nine one second."""
    found, asked = search(tmp_path, lambda *_: kept_up(False))
    found._rung(rung, [knobs(batch=n) for n in range(1, 10)], rate)
    assert {each[1:] for each in asked} == {("rung", 1 + rung, rate, queries)}


@pytest.mark.parametrize(
    ("spent_s", "counts", "best", "before"),
    [(0.0, [9, 9, 6], [1, 2, 3], 1), (54.0, [9, 9, 6], [1, 2, 3], 1), (54.1, [9, 0, 0], [9, 8, 7], 0)],
)
def test_a_rungs_rate_rises_until_no_more_keep_up_than_are_kept_or_its_time_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spent_s: float, counts: list[int], best: list[int], before: int
) -> None:
    """Of nine, which keep up as long as they are better; at low rates the others have the lower p90."""
    rates = [60.24, rate_at(place_of(60.24 * 1.3)), rate_at(place_of(rate_at(place_of(60.24 * 1.3)) * 1.3))]
    passed = {rates[0]: 9, rates[1]: 6, rates[2]: 2}
    now_s = [100.0]
    monkeypatch.setattr(tune_serving, "time", SimpleNamespace(monotonic=lambda: now_s[0]))

    def answer(of: Knobs, stage: str, number: int, rate: float, queries: int) -> LoadTest:
        return kept_up(
            of.batch <= passed[rate],
            p90_s=(0.02 if rate > rates[0] else 0.0) + 1e-3 * (of.batch if rate > rates[0] else 10 - of.batch),
        )

    found, asked = search(tmp_path, answer)
    now_s[0] += spent_s
    kept, first, rate = found._rung(0, [knobs(batch=n) for n in range(1, 10)], rates[0])
    assert [sum(each[3] == rate for each in asked) for rate in rates] == counts
    assert ([each.batch for each in kept], len(first), rate) == (best, 9, rates[before])
    assert first[knobs(batch=9)].p90_s == pytest.approx(1e-3), "the first tests"


def test_configurations_whose_calls_are_longer_than_the_bound_are_out(tmp_path: Path) -> None:
    """Of 10 s and 100 calls, in each session; one test for all delays."""
    tests = {
        (1, 1): load_test(wall_s=100.0, calls=100),
        (1, 2): load_test(wall_s=10.0, calls=100),
        (2, 2): load_test(wall_s=10.0, calls=100),
        (2, 4): None,
        (1, 8): load_test(wall_s=0.09, calls=0),
    }
    candidates = [knobs(*each) for each in ((1, 1, 1), (1, 1, 2), (1, 1, 2, 5.0), (2, 1, 2), (2, 1, 4), (1, 1, 8))]
    found, asked = search(tmp_path, lambda of, *_: tests[of.sessions, of.batch])
    offline = found.offline(candidates)
    assert offline == {of: tests[of.sessions, of.batch] for of in (*candidates[:3], candidates[5])}
    assert asked == [(of, "offline", 0, 0.0, 1) for of in (*candidates[:2], *candidates[3:])]
    assert found.excluded == {candidates[3]: "a call of the whole batch takes longer than the bound"}


def test_a_case_has_its_share_of_the_time_and_earlier_tests_are_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    monkeypatch.setattr(tune_serving, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    request = search(tmp_path)[0].request
    of = case().id
    for each in (
        tune_serving.Evaluation(
            case=of, knobs=knobs(), stage="search", number=1, rate=20.0, test=load_test(wall_s=7.0)
        ),
        tune_serving.Evaluation(case=of, knobs=knobs(2), stage="search", number=1, rate=20.0, excluded="no memory"),
        tune_serving.Evaluation(case=case("eager").id, knobs=knobs(), stage="rung", rate=1.0, test=load_test()),
    ):
        request.keep(each)
    found = tune_serving.Search(request, case(), tmp_path, lambda *_: None, ExitStack())
    now_s[0] += 3.0
    assert found.left_s == 90.0 - 7.0 - 3.0
    assert found._has_time(knobs(), 0, 662 / 80)
    assert not found._has_time(knobs(), 0, 662 / 80.1)
    now_s[0] += 100.0
    assert [found._has_time(knobs(), number, 20.0) for number in (0, 1)] == [False, True], "a known one takes none"
    assert len((tmp_path / tune_serving.TESTS).read_text().splitlines()) == 3


def test_a_test_is_made_once_and_what_is_out_is_not_tested_again(tmp_path: Path) -> None:
    found, _ = search(tmp_path)
    said: list[tuple[str, float]] = []
    found.watch = lambda what, left_s: said.append((what, left_s))
    made: list[tuple[Any, ...]] = []

    def answer(*about: Any) -> Mapping[str, object]:
        made.append(about)
        of, stage = about[:2]
        return (
            {"excluded": "no memory"}
            if of == knobs(2)
            else {"test": load_test(p99_s=0.25 if stage == "search" else 0.125)}
        )

    setattr(found, "_made", answer)  # noqa: B010
    for of, stage, number in ((knobs(), "rung", 3), (knobs(), "search", 2), (knobs(2), "search", 0)) * 2:
        test = found._load(of, stage, number, 50.0, 24, "a test")  # type: ignore[arg-type]
        assert (test is None) == (of == knobs(2))
    assert made == [
        (knobs(), "rung", 50.0, 24, 25),
        (knobs(), "search", 50.0, 24, 27),
        (knobs(2), "search", 50.0, 24, 25),
    ]
    assert [what for what, _ in said] == ["lenet5/ort: a test"] * 3
    assert all(60.0 < left_s <= 90.0 for _, left_s in said)
    assert (found.excluded, found.latencies_s) == ({knobs(2): "no memory"}, [0.25, 0.25])
    found.budget_s = -1.0
    found._load(knobs(), "rung", 4, 50.0, 24, "a late test")
    assert said[-1][1] == 0.0


class OneBatch(SimulatedWorker):
    """Whose runtime takes no other batch, and which warms up for a second at most."""

    def _answer(self, request: Request) -> BaseModel:
        answer = super()._answer(request)
        assert not isinstance(request, Warm) or request.limit_s == 1.0
        return answer.model_copy(update={"takes_any_batch": False}) if isinstance(answer, Opened) else answer


def test_a_configuration_is_tested_by_its_own_queue_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of one image takes 10 ms."""
    drives: list[Drive] = []
    started: list[tuple[int, float]] = []

    def start(kind: type[SimulatedWorker]) -> Callable[[Path, int, float], SimulatedWorker]:
        def started_worker(log: Path, threads: int, limit_s: float) -> SimulatedWorker:
            started.append((threads, limit_s))
            return kind(log, threads, limit_s, asked=drives)

        return started_worker

    usual = {"expected_s": pytest.approx(0.01), "bound_s": 0.5, "batch": 4, "delay_s": 0.006, "max_s": 150.0}
    for kind, starts in ((SimulatedWorker, 1), (OneBatch, 2)):
        monkeypatch.setattr(tune_serving, "Worker", start(kind))
        started.clear()
        drives.clear()
        found, _ = search(tmp_path / kind.__name__, bound_s=0.5)
        found.request.open(resume=False)
        assert found._load(knobs(2, 1, 4, 6.0), "offline", 0, 0.0, 1, "x") is not None
        test = found._load(knobs(2, 1, 4, 6.0), "search", 1, 50.0, 662, "x")
        assert test is not None
        assert (test.purpose, test.seed) == ("search", 664)
        assert found._load(knobs(2, 1, 2, 6.0), "rung", 0, 50.0, 24, "x") is not None
        asked = [each.model_dump(exclude_defaults=True, exclude={"op", "folder"}) for each in drives]
        loaded = {**usual, "scenario": "server", "rate": 50.0, "min_s": 0.0, "max_waiting": 100}
        assert asked == [
            {**usual, "scenario": "offline", "rate": pytest.approx(800.0), "min_queries": 1, "min_s": 0.5, "seed": 2},
            {**loaded, "min_queries": 662, "seed": 664},
            {**loaded, "min_queries": 24, "seed": 25, "batch": 2},
        ]
        assert started == [(1, 300.0)] * starts
        assert Path(drives[0].folder).relative_to(tmp_path / kind.__name__ / "loadgen").name == "00-offline"


@pytest.mark.parametrize(("memory", "is_out"), [(None, False), (100, False), (99, True)])
def test_a_service_that_holds_more_than_the_memory_is_out(
    tmp_path: Path, asked: list[Drive], monkeypatch: pytest.MonkeyPatch, memory: int | None, is_out: bool
) -> None:
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=100))
    monkeypatch.setattr(tune_serving, "psutil", SimpleNamespace(Process=lambda pid: process, Error=psutil.Error))
    found, _ = search(tmp_path, memory=memory)
    assert (found._load(knobs(2), "offline", 0, 0.0, 1, "x") is None) == is_out
    assert found.excluded == ({knobs(2): "2 sessions hold more than --memory"} if is_out else {})


def test_a_service_that_fails_is_out_with_its_reason_and_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    wrong = Parity(what="eager b1", error=2.0, limit=1.0)

    class Failing(SimulatedWorker):
        def _answer(self, request: Request) -> BaseModel:
            if isinstance(request, Open) and request.case.sessions == 2:
                raise WorkerError("no memory")
            answer = super()._answer(request)
            is_wrong = isinstance(answer, Opened) and self.case is not None and self.case.sessions == 3
            return answer.model_copy(update={"parity": [wrong]}) if is_wrong else answer

    def start(log: Path, threads: int, limit_s: float) -> SimulatedWorker:
        started.append(threads)
        made = Failing(log, threads, limit_s)
        made.fail = lambda _: WorkerHung("no answer")
        return made

    monkeypatch.setattr(tune_serving, "Worker", start)
    found, _ = search(tmp_path)
    for of in (knobs(1), knobs(1, batch=2), knobs(2), knobs(3)):
        assert found._load(of, "offline", 0, 0.0, 1, "x") is None
    assert list(found.excluded.values()) == [
        "no answer",
        "no answer",
        "error: no memory",
        "outputs differ from the float64 reference: eager b1",
    ]
    assert len(started) == 3, "one for both batches"


def test_a_search_goes_from_all_configurations_to_the_best_of_the_last_rung(tmp_path: Path) -> None:
    offline = {knobs(2): load_test(per_s=50.0), knobs(1): load_test(per_s=60.0), knobs(batch=8): load_test(per_s=100.0)}
    first = {of: load_test(p90_s=0.01 * n) for n, of in enumerate(offline, start=1)}
    asked: list[tuple[Any, ...]] = []
    found, _ = search(tmp_path)
    found.excluded = {knobs(4): "no memory", knobs(8): "no memory", knobs(16): "hung"}

    def reachable(*about: Any) -> float:
        asked.append(about)
        return 40.0

    def rung(*about: Any) -> Any:
        asked.append(about)
        kept = [knobs(1), knobs(batch=8), knobs(2)][: 3 - about[0]]
        return kept, first if about[0] == 0 else {}, about[2] + 10.0

    def finals(*about: Any) -> list[tune_serving.Finalist]:
        asked.append(about)
        found.latencies_s += [0.5, 0.25]
        return [tune_serving.Finalist(of, 70.0, 80.0, 0.1) for of in about[0]]

    steps = {"offline": lambda _: offline, "_reachable": reachable, "_rung": rung, "finals": finals}
    for name, function in steps.items():
        setattr(found, name, function)
    result = found.run()
    assert asked == [
        (knobs(1), 100.0),
        (0, list(offline), 40.0),
        (1, [knobs(1), knobs(batch=8), knobs(2)], 50.0),
        ([knobs(1), knobs(batch=8)], 100.0, 60.0),
    ]
    assert (result.case, result.bound_s, result.rate, result.tested) == (case(), 0.1, 40.0, 3)
    assert (result.excluded, result.lowest_p99_s) == ({"no memory": 2, "hung": 1}, 0.25)
    assert [(each.knob, each.p90_s, each.other_p90_s) for each in result.worths if each.other] == [
        ("sessions", 0.02, 0.01),
        ("batch", 0.02, 0.03),
    ]
    tuned_case = result.tuned_case(knobs(2, 3, 8, 2.5))
    assert tuned_case == case(sessions=2, threads=3, batch=8, delay_ms=2.5, p99_ms=100.0)
    nothing = {"_rung": lambda *_: ([], {}, 1.0), "offline": lambda _: {}}
    for name, none in nothing.items():
        setattr(found, name, none)
        with pytest.raises(WorkerError, match=r"no configuration can be served: no memory; hung$"):
            found.run()


def test_a_finalist_has_the_p99_of_its_highest_rate_and_is_searched_again_from_its_interval(tmp_path: Path) -> None:
    found, asked = search(
        tmp_path, lambda *about: load_test(rate=about[3], valid=about[3] < 72.0, p99_s=about[3] / 1e3)
    )
    (finalist,) = found.finals([knobs()], 100.0, 60.24, rounds=2)
    assert (finalist.valid, finalist.invalid, finalist.p99_s) == (69.74, 73.22, 0.06974)
    rates = [rate for _, _, number, rate, _ in asked if number == 0]
    assert rates == [rate_at(place) for place in (84, 87, 95, 91, 89, 88)]
    assert [rate for _, _, number, rate, _ in asked if number == 1] == [69.74, 73.22], "the ends of its interval"
    assert {(stage, queries) for _, stage, _, _, queries in asked} == {("search", 662)}


def test_the_first_test_of_a_finalist_is_made_however_late_and_one_that_is_out_has_none(tmp_path: Path) -> None:
    found, asked = search(tmp_path, lambda of, *about: None if of.sessions == 2 else load_test(rate=about[2]))
    found.budget_s = -1.0
    first, second = found.finals([knobs(2), knobs(1)], 100.0, 60.24)
    assert (first.knobs, first.valid, second.knobs, second.valid) == (knobs(1), 60.24, knobs(2), None)
    assert [(of, rate) for of, _, _, rate, _ in asked] == [(knobs(2), 60.24), (knobs(1), 60.24)]


def test_a_case_that_cannot_be_served_here_is_told_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = Reason(code="no-device")
    monkeypatch.setattr(tune_serving, "find_unavailable", lambda cases, logs: ({cases[1].id: reason}, {}))
    monkeypatch.setattr(tune_serving, "Artifacts", None)
    with pytest.raises(InputError, match=f"{case('eager').id}: cannot be served here: {reason}"):
        tune_serving.tune(search(tmp_path)[0].request, lambda *_: None)


def test_a_graph_in_a_precision_is_made_before_it_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_serving, "find_unavailable", lambda cases, logs: ({}, {}))
    monkeypatch.setattr(tune_serving, "Artifacts", Stub)
    made, refused = case(precision="int8"), case(precision="int8", calibration="shapes")
    request = replace(search(tmp_path)[0].request, cases=[made, case()])
    monkeypatch.setattr(tune_serving, "Search", lambda *about: SimpleNamespace(run=lambda: about))
    found = cast(list[Any], tune_serving.tune(request, lambda *_: None))
    assert [(about[1], about[2].name) for about in found] == [(made, "lenet5-key"), (case(), "lenet5-key")]
    with pytest.raises(WorkerError, match=f"{refused.id}: cannot be served: no-graph: a value overflows"):
        tune_serving.tune(replace(request, cases=[refused]), lambda *_: None)


def test_packages_are_compiled_for_all_batches_and_threads_that_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_serving, "find_unavailable", lambda cases, logs: ({}, {}))
    monkeypatch.setattr(tune_serving, "Artifacts", Stub)
    monkeypatch.setattr("cnnbench.runner.machine.usable_threads", lambda: 2)
    request = replace(search(tmp_path)[0].request, cases=[case("aot"), case()])
    monkeypatch.setattr(tune_serving, "Search", lambda *about: SimpleNamespace(run=lambda: about))
    told: list[str] = []
    tune_serving.tune(request, lambda what, left_s: told.append(what))
    packages = [artifact.package_name(case("aot", batch=b, threads=t), t) for b in (1, 2, 4, 8) for t in (1, 2)]
    assert sorted(told) == sorted(f"lenet5: making {name}" for name in packages)


def test_each_model_is_tuned_once_in_each_backend() -> None:
    served = [case(batch=batch, sessions=2, delay_ms=1.0, threads=1, p99_ms=9.0) for batch in (1, 8)]
    other = case("eager")
    plain = plain_case()
    assert tune_serving.targets([served[0], plain, other, served[1]]) == [case(), other]
    with pytest.raises(InputError, match="got none"):
        tune_serving.targets([plain])
