"""Services under load by LoadGen: an open loop whose latency counts from the schedule, and what is read off it."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cnnbench.analysis.rate_search import STEP, RateSearch, place_of, rate_at
from cnnbench.analysis.serving import Service, rate_at_bound, service_of, services
from cnnbench.analysis.stats import Estimate
from cnnbench.analysis.tuning import Knobs, grid, interval, keeps_up, kept_of, ranked, worths
from cnnbench.errors import WorkerError
from cnnbench.records.reason import Interference
from cnnbench.records.serving import LoadTest, ServingLaunch
from cnnbench.records.serving_messages import Drive
from cnnbench.worker.serving.batcher import Batcher, Query
from tests.records import case, record

CALL_S = 0.004


def sleeping(images: list[int]) -> None:
    """A system under test that takes as long for any batch."""
    time.sleep(CALL_S)


def driven(folder: Path, scenario: str, serve: Callable[[list[int]], None] = sleeping, **about: object) -> LoadTest:
    """A short test of one session."""
    from cnnbench.worker.serving import loadgen

    request = {"scenario": scenario, "folder": str(folder / scenario), "expected_s": CALL_S, "min_s": 0.05, **about}
    batch = int(str(request.pop("batch", 1)))
    return loadgen.drive(Drive.model_validate({"min_queries": 64, **request}), [serve], batch, 0.0, 4)


@pytest.mark.alone
def test_an_overloaded_server_is_slower_the_longer_it_lasts_and_a_closed_loop_does_not_show_it(tmp_path: Path) -> None:
    """Arrivals come half as often again as they can be served. In the open loop the queue grows with the test; the
    closed loop asks only when it has been answered, and so sees the same latency however long it lasts."""
    rate = 1.5 / CALL_S
    overload = [
        driven(tmp_path, "server", rate=rate, bound_s=5 * CALL_S, min_queries=count, seed=3) for count in (60, 240)
    ]
    closed = [driven(tmp_path, "single", min_queries=count) for count in (60, 240)]
    assert not any(test.valid for test in overload)
    assert overload[1].p50_s > 2 * overload[0].p50_s > 10 * CALL_S
    assert closed[1].p50_s == pytest.approx(closed[0].p50_s, rel=0.25)
    assert max(test.p90_s for test in closed) < overload[0].p50_s


def test_a_lost_test_ends_where_too_many_queries_wait(tmp_path: Path) -> None:
    test = driven(tmp_path, "server", rate=2 / CALL_S, bound_s=CALL_S, min_queries=662, max_waiting=20)
    assert not test.valid
    assert test.queries < 100
    assert "exited early" in test.why


def test_a_server_within_its_bound_is_valid_and_its_log_is_kept(tmp_path: Path) -> None:
    test = driven(tmp_path, "server", rate=0.3 / CALL_S, bound_s=1.0, min_queries=100)
    assert (test.queries, test.over) == (100, 0)
    assert not test.valid  # early stopping needs 459 queries of which none is late
    assert "mlperf_log_summary.txt" in {file.name for file in Path(test.logs).iterdir()}
    fast = driven(tmp_path, "server", lambda _: None, rate=5000.0, bound_s=1.0, min_queries=662, expected_s=1e-4)
    assert fast.valid
    assert not fast.why


@pytest.mark.alone
def test_our_clock_agrees_with_loadgens(tmp_path: Path) -> None:
    test = driven(tmp_path, "single")
    assert test.valid
    assert test.own_p50_s == pytest.approx(test.p50_s, rel=0.1)


@pytest.mark.alone
def test_offline_and_multi_stream_form_batches(tmp_path: Path) -> None:
    offline = driven(tmp_path, "offline", rate=8 / CALL_S, min_queries=1, batch=8)
    assert offline.images / offline.calls > 6
    multi = driven(tmp_path, "multi", min_queries=20, batch=8)
    assert multi.images == 8 * multi.queries
    assert multi.early_s is None  # p99 needs 662 queries


def test_a_session_that_fails_ends_its_test_with_one_sentence(tmp_path: Path) -> None:
    def broken(images: list[int]) -> None:
        raise OSError("no such\nthing")

    with pytest.raises(WorkerError, match="a call under load failed: OSError: no such thing"):
        driven(tmp_path, "single", broken)


def batches(batch: int, delay_s: float, arrivals_s: Sequence[float], sessions: int = 1) -> list[list[int]]:
    """What is served together of queries that arrive so long after each other."""
    found: list[list[int]] = []
    batcher = Batcher([found.append] * sessions, batch, delay_s, lambda _: None)
    for number, wait_s in enumerate(arrivals_s):
        time.sleep(wait_s)
        batcher.put(Query(number, number, time.perf_counter()))
    batcher.close()
    return found


@pytest.mark.alone
def test_a_batch_waits_for_others_until_it_is_full_or_its_first_query_has_waited_long_enough() -> None:
    assert batches(4, 0.2, [0.0] * 6)[0] == [0, 1, 2, 3]
    assert batches(4, 0.0, [0.0, 0.5, 0.5]) == [[0], [1], [2]]
    assert batches(4, 0.5, [0.0, 0.02, 1.2]) == [[0, 1], [2]]
    assert sorted(number for batch in batches(2, 0.01, [0.0] * 9, sessions=3) for number in batch) == list(range(9))


@pytest.mark.parametrize("highest", [3.0, 40.0, 61.0, 99.0])
def test_the_search_ends_with_neighbours_and_the_highest_rate_between_them(highest: float) -> None:
    search, tested = RateSearch(100.0), []
    while (place := search.next()) is not None:
        tested.append(rate_at(place))
        search.learn(place, tested[-1] <= highest)
    valid = max(rate for rate in tested if rate <= highest)
    invalid = min(rate for rate in tested if rate > highest)
    assert valid <= highest < invalid < 1.06 * valid
    assert len(tested) <= 10


def test_the_search_ends_where_nothing_or_everything_is_valid() -> None:
    for verdict, limit in ((False, 0.02), (True, 1.3)):
        search, tested = RateSearch(100.0), []
        while (place := search.next()) is not None:
            tested.append(place)
            search.learn(place, verdict)
        assert tested[-1] == place_of(limit * 100.0)


def test_an_interval_of_earlier_launches_is_confirmed_first() -> None:
    search = RateSearch(100.0, [50, 52])
    assert search.next() == 50
    search.learn(50, True)
    assert search.next() == 52
    search.learn(52, False)
    assert search.next() == 51


@pytest.mark.parametrize(
    ("valid", "invalid", "place"),
    [
        ([], [], 84),  # 60 a second, of a capacity of 100
        ([84], [], 88),
        ([84, 88], [], 96),
        ([84, 88, 96], [], 100),  # 130 a second
        ([84, 88, 96, 100], [], None),
        ([], [84], 80),
        ([], [84, 80], 72),
        ([], [84, 80, 72, 56, 24], 14),  # 2 a second
        ([], [84, 80, 72, 56, 24, 14], None),
        ([84], [88], 86),
        ([84], [87], 85),
        ([84], [86], 85),
        ([84], [85], None),
        ([90], [84], 76),  # what is valid above an invalid rate counts for nothing
        ([80, 90], [84], 82),
        ([80, 82], [84, 90], 83),
    ],
)
def test_the_search_doubles_its_stride_until_it_has_both_ends_and_then_halves_what_is_between(
    valid: list[int], invalid: list[int], place: int | None
) -> None:
    verdicts = dict.fromkeys(invalid, False) | dict.fromkeys(valid, True)
    assert RateSearch(100.0, verdicts=verdicts).next() == place


def test_a_hint_that_the_verdicts_have_answered_is_not_tested() -> None:
    assert RateSearch(100.0, [50, 52], {50: False}).next() == 46
    assert RateSearch(100.0, [50, 52], {52: True}).next() == 56
    assert RateSearch(100.0, [52, 50], {40: True, 60: False}).next() == 52
    assert RateSearch(100.0, [52, 50], {40: True, 51: False}).next() == 50


def test_a_place_of_the_grid_has_four_digits_and_is_the_nearest() -> None:
    assert [rate_at(place) for place in (0, 1, 84)] == [1.0, 1.05, 60.24]
    assert [place_of(rate) for rate in (1.0, 60.24, 61.0, 62.0)] == [0, 84, 84, 85]


def load_test(scenario: str = "server", purpose: str = "search", **about: object) -> LoadTest:
    """A test by hand."""
    figures = {"queries": 662, "per_s": 100.0, "p50_s": 0.01, "p90_s": 0.02, "p99_s": 0.03, "own_p50_s": 0.01}
    rest = {"valid": True, "wall_s": 10.0, "cpu_s": 15.0, "calls": 331, "images": 662, "min_queries": 662, "min_s": 1.0}
    return LoadTest.model_validate(
        {"scenario": scenario, "purpose": purpose, "seed": 1, "logs": "loadgen", **figures, **rest, **about}
    )


def serving_launch(*tests: LoadTest, bound_s: float = 0.05) -> ServingLaunch:
    """A launch with six good pairs."""
    pairs = [
        load_test(scenario, "low-load", round=round_, rate=10.0)
        for round_ in range(6)
        for scenario in ("single", "server")
    ]
    return ServingLaunch(
        bound_s=bound_s,
        loadgen_s=1e-5,
        queue_s=5e-5,
        arrival_s=1e-4,
        threads=2,
        tests=[*pairs, *tests],
        stopped="budget spent",
    )


def test_a_knob_is_worth_what_the_best_of_its_other_values_takes() -> None:
    p90_s = {(1, 1): 0.02, (1, 4): 0.05, (2, 1): 0.03, (2, 4): 0.04}
    tests = {
        Knobs(sessions=sessions, threads=1, batch=batch, delay_ms=0.0): load_test(p90_s=p90, p99_s=0.06)
        for (sessions, batch), p90 in p90_s.items()
    }
    found = worths(Knobs(sessions=1, threads=1, batch=1, delay_ms=0.0), tests)
    assert [(each.knob, each.value, each.other, each.other_p90_s) for each in found] == [
        ("sessions", 1, 2, 0.03),
        ("threads", 1, None, None),
        ("batch", 1, 4, 0.04),
        ("delay_ms", 0, None, None),
    ]
    assert {each.p90_s for each in found} == {0.02}


def test_configurations_use_no_more_threads_than_there_are_cores_and_wait_for_a_share_of_the_bound() -> None:
    found = grid(6, 0.1)
    counts = [(1, 1), (1, 2), (1, 4), (1, 6), (2, 1), (2, 2), (4, 1), (6, 1)]
    assert list(dict.fromkeys((knobs.sessions, knobs.threads) for knobs in found)) == counts
    waits = [(knobs.batch, knobs.delay_ms) for knobs in found if (knobs.sessions, knobs.threads) == (2, 2)]
    assert waits == [(1, 0.0), *((batch, delay_ms) for batch in (2, 4, 8) for delay_ms in (0.0, 10.0, 25.0))]
    assert (kept_of(60), kept_of(9), kept_of(3)) == (20, 3, 2)
    alone = [(knobs.sessions, knobs.threads, knobs.batch, knobs.delay_ms) for knobs in grid(1, 0.0333335)]
    assert alone == [(1, 1, 1, 0.0), *((1, 1, batch, ms) for batch in (2, 4, 8) for ms in (0.0, 3.333, 8.333))]


@pytest.mark.parametrize(
    ("queries", "late", "is_kept"),
    [(662, 0, True), (662, 6, True), (662, 7, False), (70, 1, True), (70, 2, False), (69, 0, False)],
)
def test_a_configuration_keeps_up_with_one_query_in_a_hundred_late_or_one_at_all(
    queries: int, late: int, is_kept: bool
) -> None:
    assert keeps_up(load_test(queries=queries, over=late, min_queries=662 if queries == 662 else 70)) == is_kept


def test_the_best_configuration_keeps_up_with_the_smallest_share_of_late_queries_and_then_the_lowest_p90() -> None:
    figures: list[dict[str, object]] = [
        {"over": 3, "p90_s": 0.02},
        {"over": 0, "p90_s": 0.04, "p99_s": 0.05},
        {"over": 0, "p90_s": 0.03, "p99_s": 0.06},
        {"over": 4, "queries": 1324, "p90_s": 0.01},
        {"queries": 100, "p90_s": 0.01},  # lost before its end
    ]
    tests = {
        Knobs(sessions=1, threads=1, batch=place, delay_ms=0.0): load_test("server", "search", **each)
        for place, each in enumerate(figures)
    }
    assert [knobs.batch for knobs in ranked(tests)] == [2, 1, 3, 0, 4]


def test_the_interval_of_a_configuration_ends_below_the_lowest_rate_that_was_invalid() -> None:
    rates = ((50.0, True), (60.0, True), (70.0, False), (80.0, True), (90.0, False))
    tests = [load_test(rate=rate, valid=valid) for rate, valid in rates]
    assert interval(tests) == (60.0, 70.0)
    assert interval(tests[2:]) == (None, 70.0)
    assert interval(tests[:2]) == (60.0, None)
    both = load_test(rate=60.0, valid=False)
    assert interval([*tests[:2], both]) == (50.0, 60.0), "one test of a rate was lost"
    assert interval([load_test(valid=False), *tests]) == (60.0, 70.0), "one without a rate tells nothing"


def test_the_interval_is_what_no_launch_contradicts() -> None:
    offline = load_test("offline", "scenario", rate=120.0, per_s=100.0)
    first = serving_launch(offline, load_test(rate=60.0), load_test(rate=70.0), load_test(rate=80.0, valid=False))
    second = serving_launch(offline, load_test(rate=60.0), load_test(rate=70.0, valid=False))
    assert (Service([first]).valid, Service([first]).invalid, Service([first]).confirmed) == (70.0, 80.0, 1)
    both = Service([first, second])
    assert (both.valid, both.invalid, both.confirmed) == (60.0, 70.0, 2)
    assert both.efficiency == pytest.approx(0.6)
    assert both.cpus == pytest.approx(1.5)
    assert both.batch_formed == pytest.approx(2.0)
    assert both.half_width == pytest.approx(5 / 65)
    assert (both.faults(), both.noise()) == ([], [])


def test_rates_are_in_order_and_one_that_was_lost_once_is_invalid() -> None:
    tests = [load_test(rate=rate, valid=valid) for rate, valid in ((80.0, False), (70.0, True), (60.0, True))]
    found = Service([serving_launch(*tests, load_test(rate=70.0, valid=False))])
    assert list(found.searched) == [60.0, 70.0, 80.0]
    assert (found.valid, found.invalid, len(found.at_bound)) == (60.0, 70.0, 1)
    twice = Service([serving_launch(*[load_test(rate=60.0)] * 2), serving_launch(load_test(rate=50.0))])
    assert (twice.valid, twice.invalid, twice.confirmed, twice.half_width) == (60.0, None, 1, 1.0)


def test_what_the_load_itself_costs_is_the_median_of_the_launches() -> None:
    launch = serving_launch()
    launches = [
        launch.model_copy(update={"loadgen_s": 1e-5 * n, "queue_s": 2e-5 * n, "arrival_s": 3e-5 * n}) for n in (1, 9, 2)
    ]
    found = Service(launches)
    assert (found.loadgen_s, found.queue_s, found.arrival_s) == pytest.approx((2e-5, 4e-5, 6e-5))
    assert found.low_load == found.timers == Estimate(1.0, 1.0, 1.0)
    assert [str(reason) for reason in found.noise()] == [
        "not-measured: no test of 662 queries fitted into the case's time; raise case_budget"
    ]
    assert (found.valid, found.confirmed, found.at_bound, found.best_seen, found.cpus) == (None, 0, [], None, None)


def test_only_launches_that_served_are_a_service() -> None:
    plain = record(case(), [0.01] * 7)
    (launch,) = plain.launches
    served = launch.model_copy(update={"serving": serving_launch(load_test(rate=60.0))})
    assert service_of([launch]) is None
    assert plain.measurement is not None
    measurement = plain.measurement.model_copy(update={"launches": [launch, served]})
    both = services([plain.model_copy(update={"measurement": measurement})])
    assert [(id_, len(found.launches), found.bound_s) for id_, found in both.items()] == [(plain.id, 1, 0.05)]
    assert services([plain]) == {}


def test_the_throughput_offline_is_of_valid_tests_where_there_are_any() -> None:
    tests = [load_test("offline", "scenario", per_s=per_s, valid=per_s != 10.0) for per_s in (10.0, 90.0, 100.0)]
    assert Service([serving_launch(*tests)]).offline_per_s == 95.0
    assert Service([serving_launch(tests[0])]).offline_per_s == 10.0
    untold = Service([serving_launch(load_test(rate=60.0, calls=0))])
    assert (untold.offline_per_s, untold.efficiency, untold.batch_formed) == (None, None, None)


def test_the_rate_at_the_bound_lies_between_the_ends_of_the_interval() -> None:
    ends = load_test(rate=50.0, p99_s=0.04), load_test(rate=60.0, p99_s=0.0625, valid=False)
    rate = rate_at_bound(serving_launch(*ends))  # sqrt(0.04 * 0.0625) is the bound
    assert rate == pytest.approx((50 * 60) ** 0.5)
    lost = ends[0], load_test(rate=60.0, p99_s=0.01, valid=False)
    assert rate_at_bound(serving_launch(*lost)) == pytest.approx((50 * 60) ** 0.5), "its p99 tells nothing"
    strict = ends[0].model_copy(update={"p99_s": 0.051}), ends[1]
    assert rate_at_bound(serving_launch(*strict)) == pytest.approx(50.0)
    slack = ends[0], ends[1].model_copy(update={"p99_s": 0.045})
    assert rate_at_bound(serving_launch(*slack)) == pytest.approx(60.0)
    level = ends[0], ends[1].model_copy(update={"p99_s": 0.04})
    assert rate_at_bound(serving_launch(*level)) == pytest.approx((50 * 60) ** 0.5)
    nearer = ends[0].model_copy(update={"p99_s": 0.025}), ends[1].model_copy(update={"p99_s": 0.4})
    assert rate_at_bound(serving_launch(*nearer)) == pytest.approx(50 * 1.2**0.25)  # 0.025 x 16^0.25 is the bound
    assert rate_at_bound(serving_launch(ends[0])) is None
    assert rate_at_bound(serving_launch(ends[1])) is None


def test_tests_with_interference_count_only_where_there_are_no_others() -> None:
    beside = [Interference(kind="other-processes", amount=0.4)]
    disturbed = load_test(rate=60.0, valid=False, interference=beside)
    assert Service([serving_launch(disturbed, load_test(rate=60.0))]).valid == 60.0
    only = Service([serving_launch(disturbed)])
    assert (only.invalid, only.half_width) == (60.0, 1.0)
    assert [reason.code for reason in only.noise()] == ["no-rate", "interference"]


def test_a_bound_that_nothing_meets_tells_the_best_that_was_seen() -> None:
    launch = serving_launch(load_test(rate=60.0, valid=False), load_test(rate=30.0, valid=False, p99_s=0.012))
    (reason,) = Service([launch.model_copy(update={"bound_s": 0.01})]).noise()
    assert str(reason) == "no-rate: bound 10 ms; the best p99 seen was 12 ms, at 30 queries/s"


def test_a_check_that_fails_is_a_reason() -> None:
    good = serving_launch(load_test(rate=60.0), load_test(rate=62.0, valid=False))

    def changed(scenario: str, **about: object) -> Service:
        tests = [
            test.model_copy(update=about) if (test.scenario, test.purpose) == (scenario, "low-load") else test
            for test in good.tests
        ]
        return Service([good.model_copy(update={"tests": tests})])

    assert changed("server", p50_s=0.0104).noise() == []
    assert [str(reason) for reason in changed("server", p50_s=0.0108).noise()] == [
        "low-load: 1.080 times [1.080, 1.080]"
    ]
    assert [reason.code for reason in changed("server", p50_s=0.0092).noise()] == ["low-load"]
    assert changed("single", own_p50_s=0.010105).faults() == []
    assert [str(reason) for reason in changed("single", own_p50_s=0.0098).faults()] == ["timers: -2.0 %"]
    assert [str(reason) for reason in changed("single", own_p50_s=0.0102).faults()] == ["timers: +2.0 %"]
    short = good.model_copy(update={"tests": [test for test in good.tests if test.round < 3]})
    (reason,) = Service([short]).noise()
    assert str(reason).startswith("low-load: not checked: 3 of 6 pairs fitted into")
    assert Service([short]).faults() == []


@pytest.mark.parametrize("ratio", [0.8, 1.2])
def test_a_check_fails_with_its_whole_interval_alone(ratio: float) -> None:
    """Of six pairs, whose least and greatest are the interval; a seventh has no partner."""
    good = serving_launch(load_test(rate=60.0), load_test(rate=62.0, valid=False))

    def changed(rounds: int) -> Service:
        tests = [
            test.model_copy(
                update={"p50_s": 0.01 * ratio} if test.scenario == "server" else {"own_p50_s": 0.01 * ratio}
            )
            if test.purpose == "low-load" and test.round < rounds
            else test
            for test in good.tests
        ]
        alone = load_test("single", "low-load", round=6, rate=10.0)
        return Service([good.model_copy(update={"tests": [*tests, alone]})])

    assert (changed(5).noise(), changed(5).faults()) == ([], [])
    assert [reason.code for reason in (*changed(6).noise(), *changed(6).faults())] == ["low-load", "timers"]
    low_load = changed(3).low_load
    assert low_load == changed(3).timers
    assert low_load is not None
    assert (low_load.value, low_load.low, low_load.high) == pytest.approx(
        ((1 + ratio) / 2, min(1.0, ratio), max(1.0, ratio))
    )


def test_neighbouring_rates_are_the_grids_step_apart() -> None:
    assert rate_at(place_of(50.0) + 1) / rate_at(place_of(50.0)) == pytest.approx(STEP, rel=1e-3)
