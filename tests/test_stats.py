"""Statistics on raw samples, checked against known values and by simulation."""

import random
from statistics import median

import pytest

from cnnbench.stats import (
    least_sample_for,
    median_estimate,
    median_ranks,
    percentile,
    ratio_estimate,
    time_estimate,
)


@pytest.mark.parametrize(
    ("n", "ranks"),
    # Conover's table of the binomial: 6 values are needed, and 20 may leave out five at each end
    [(1, None), (5, None), (6, (0, 5)), (8, (0, 7)), (9, (1, 7)), (12, (2, 9)), (20, (5, 14))],
)
def test_the_medians_interval_is_made_of_order_statistics(n: int, ranks: tuple[int, int] | None) -> None:
    assert median_ranks(n) == ranks


@pytest.mark.parametrize("n", [6, 9, 20])
def test_the_interval_covers_the_true_median_as_often_as_it_claims(n: int) -> None:
    """On skewed noise, 2,000 seeded repetitions: at least 95 % less three standard errors."""
    rng = random.Random(n)
    true_median = 1.0
    covered = 0
    for _ in range(2000):
        estimate = median_estimate([true_median * rng.lognormvariate(0, 0.3) for _ in range(n)])
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= true_median <= estimate.high
    assert covered / 2000 > 0.95 - 3 * (0.95 * 0.05 / 2000) ** 0.5


def test_samples_within_a_turn_do_not_narrow_the_interval() -> None:
    turns = [[1.0 + index] for index in range(6)]
    many = [turn * 1000 for turn in turns]
    assert time_estimate(turns) == time_estimate(many)


def test_too_few_turns_have_no_interval_and_an_infinite_width() -> None:
    estimate = time_estimate([[1.0], [2.0], [3.0]])
    assert (estimate.value, estimate.low, estimate.high) == (2.0, None, None)
    assert estimate.half_width == float("inf")


def test_a_slow_round_cancels_in_the_ratio() -> None:
    slowdown = [1, 1, 5, 1, 3, 1, 1, 2]
    fast, slow = [[1.0 * s] for s in slowdown], [[2.0 * s] for s in slowdown]
    ratio = ratio_estimate(slow, fast)
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)
    assert time_estimate(fast).half_width > 1


@pytest.mark.parametrize(("percent", "n"), [(90, 64), (95, 130), (99, 662)])
def test_a_percentile_needs_as_many_samples_as_loadgen_asks_for(percent: float, n: int) -> None:
    assert least_sample_for(percent) == n


def test_a_percentile_is_withheld_where_the_sample_is_too_small() -> None:
    assert percentile([1.0] * 63, 90) is None
    assert percentile([float(i) for i in range(1, 101)], 90) == 90.0


def test_the_estimate_is_the_median_of_turn_medians() -> None:
    turns = [[1.0, 9.0, 1.0], [2.0], [3.0, 3.0], [4.0], [5.0], [6.0]]
    assert time_estimate(turns).value == median([1, 2, 3, 4, 5, 6])
