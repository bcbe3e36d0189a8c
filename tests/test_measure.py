"""The timed loop on a clock of our own: what is inside, when it is warm, when it ends."""

import gc

import pytest

from cnnbench.worker.timing import measure
from cnnbench.worker.timing.measure import HostStopwatch


class Clock:
    """A clock that moves only when a step says so."""

    def __init__(self) -> None:
        self.now_ns = 0

    def ns(self) -> int:
        return self.now_ns

    def s(self) -> float:
        return self.now_ns / 1e9

    def taking(self, *milliseconds: float) -> measure.Phases:
        """A step that takes these times in turn, the last one for ever."""
        times = list(milliseconds)

        def step() -> None:
            self.now_ns += round((times.pop(0) if len(times) > 1 else times[0]) * 1e6)

        return {"forward": step}


def test_a_block_of_one_phase_is_timed_as_a_whole() -> None:
    clock = Clock()
    assert measure.time_block(clock.taking(1, 2, 3), 3, HostStopwatch(clock.ns)) == {"forward": pytest.approx(6e-3)}


def test_phases_are_timed_apart_and_in_order() -> None:
    clock = Clock()
    order: list[str] = []

    def phase(name: str, ms: int) -> None:
        order.append(name)
        clock.now_ns += ms * 10**6

    phases = {
        "forward": lambda: phase("forward", 1),
        "backward": lambda: phase("backward", 2),
        "optimizer": lambda: phase("optimizer", 4),
    }
    spent = measure.time_block(phases, 2, HostStopwatch(clock.ns))
    assert order == ["forward", "backward", "optimizer"] * 2
    assert spent == {
        "forward": pytest.approx(2e-3),
        "backward": pytest.approx(4e-3),
        "optimizer": pytest.approx(8e-3),
    }


def test_warming_up_lasts_until_the_times_are_steady() -> None:
    clock = Clock()
    slow_start = [400, 300, 200, 150, 120, 110, 105]
    done = measure.warm_up(clock.taking(*slow_start, 100), HostStopwatch(clock.ns), 60, clock.s)
    assert done.converged
    # the two windows of five agree once all ten calls took 100 ms, or nearly so
    assert 13 <= done.calls <= len(slow_start) + 10
    assert done.call_s == pytest.approx(0.1, rel=0.05)


def test_steady_times_are_not_enough_before_the_least_time_of_a_warm_up() -> None:
    for least_s, calls in ((0.0, 10), (2.0, 20), (90.0, 30)):  # at 3 s the limit ends it
        clock = Clock()
        done = measure.warm_up(clock.taking(100), HostStopwatch(clock.ns), 3, clock.s, least_s=least_s)
        assert done.calls == pytest.approx(calls, abs=1)


def test_warming_up_gives_up_at_its_limit_and_says_so() -> None:
    clock = Clock()
    ever_slower = [100 * 1.1**n for n in range(60)]
    done = measure.warm_up(clock.taking(*ever_slower), HostStopwatch(clock.ns), 3, clock.s)
    assert not done.converged
    assert done.seconds >= 3
    assert done.calls < 20


def test_a_call_longer_than_the_limit_is_still_made_as_often_as_any() -> None:
    clock = Clock()
    done = measure.warm_up(clock.taking(10_000), HostStopwatch(clock.ns), 3, clock.s)
    assert (done.calls, done.converged) == (measure.MIN_WARMUP_CALLS, False)


def test_where_no_time_is_left_one_call_is_all() -> None:
    clock = Clock()
    done = measure.warm_up(clock.taking(10_000), HostStopwatch(clock.ns), 3, clock.s, hard_limit_s=0.0)
    assert done.calls == 1


@pytest.mark.parametrize(("call_s", "calls"), [(2.0, 1), (1e-3, 1), (0.4e-3, 3), (1e-5, 100), (0.0, 1_000_000)])
def test_a_sample_is_a_call_or_a_millisecond_of_calls(call_s: float, calls: int) -> None:
    assert measure.calls_per_sample(call_s) == calls


def test_a_turn_lasts_about_as_long_as_asked_and_keeps_every_sample() -> None:
    clock = Clock()
    samples = measure.sample(clock.taking(30), 1, 0.1, HostStopwatch(clock.ns), clock_s=clock.s)
    assert samples.seconds == {"forward": [pytest.approx(0.03)] * 4}


def test_a_turn_has_one_sample_at_least() -> None:
    clock = Clock()
    assert (
        len(measure.sample(clock.taking(500), 1, 0.1, HostStopwatch(clock.ns), clock_s=clock.s).seconds["forward"]) == 1
    )


def test_the_waking_call_is_not_counted() -> None:
    clock = Clock()
    samples = measure.sample(clock.taking(900, 10), 1, 0.02, HostStopwatch(clock.ns), wake=True, clock_s=clock.s)
    assert samples.seconds["forward"] == [pytest.approx(0.01)] * 2


def test_garbage_is_not_collected_inside_a_turn_and_is_again_after() -> None:
    clock = Clock()
    seen: list[bool] = []

    def step() -> None:
        seen.append(gc.isenabled())
        clock.now_ns += 10**9

    measure.sample({"forward": step}, 1, 0.1, HostStopwatch(clock.ns), clock_s=clock.s)
    assert seen == [False]
    assert gc.isenabled()


def test_steady_needs_two_full_windows() -> None:
    assert not measure.has_converged([1.0] * 9)
    assert measure.has_converged([1.0] * 10)
    assert not measure.has_converged([2.0] * 5 + [1.0] * 5)
