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

import pytest
from pydantic import BaseModel

from cnnbench.analysis.rate_search import RateSearch, place_of, rate_at
from cnnbench.analysis.serving import PAIRS, service_of
from cnnbench.analysis.tuning import Knobs, grid
from cnnbench.errors import RunFolderError, WorkerError, WorkerHung
from cnnbench.gate.pairs import Pair
from cnnbench.gate.verdict import ArmName, Paired
from cnnbench.records.messages import Closed, Opened, Request
from cnnbench.records.reason import Reason
from cnnbench.records.record import Launch, Parity
from cnnbench.records.serving import LoadTest
from cnnbench.records.serving_messages import Drive
from cnnbench.runner import serving
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
    readings, windows = count(1), []
    monkeypatch.setattr(serving, "SystemCounters", SimpleNamespace(read=lambda pid: (pid, next(readings))))
    monkeypatch.setattr(serving, "affinity_cores", lambda: 7)
    monkeypatch.setattr(serving, "between", lambda *given: windows.append(given) or QUIET)
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


class Stub:
    """Artifacts that are there."""

    def __init__(self, *_: object) -> None:
        """Nothing is built."""

    def __enter__(self) -> "Stub":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def get(self, _: ModelSpec) -> Any:
        return facts()


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
