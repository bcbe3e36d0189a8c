"""Statistics on raw samples, checked against known values and by simulation."""

import math
import random
from collections.abc import Callable
from statistics import StatisticsError, median

import pytest

from cnnbench.analysis.stats import (
    Estimate,
    geometric_mean,
    launch_estimate,
    launch_median,
    launch_ratio_estimate,
    median_estimate,
    median_of,
    median_ranks,
    min_sample_for,
    percentile,
    ranks,
    time_estimate,
    trend,
    two_modes,
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


def test_samples_within_a_block_do_not_narrow_the_interval() -> None:
    blocks = [[1.0 + index] for index in range(6)]
    many = [block * 1000 for block in blocks]
    assert time_estimate(blocks) == time_estimate(many)


def test_too_few_blocks_have_no_interval_and_an_infinite_width() -> None:
    estimate = time_estimate([[1.0], [2.0], [3.0]])
    assert (estimate.value, estimate.low, estimate.high) == (2.0, None, None)
    assert estimate.half_width == float("inf")


def test_the_half_width_is_that_of_the_larger_side_relative_to_the_value() -> None:
    assert [Estimate(2.0, *ends).half_width for ends in ((1.0, 5.0), (0.5, 3.0))] == [1.5, 0.75]
    assert [Estimate(2.0, *ends).half_width for ends in ((1.0, None), (None, 3.0))] == [math.inf, math.inf]
    assert Estimate(2.0, 1.0, 5.0).scaled(10) == Estimate(20.0, 10.0, 50.0)
    assert Estimate(2.0).scaled(10) == Estimate(20.0)


def test_a_slow_round_cancels_in_the_ratio() -> None:
    slowdown = [1, 1, 5, 1, 3, 1, 1, 2]
    fast, slow = [[1.0 * s] for s in slowdown], [[2.0 * s] for s in slowdown]
    ratio = launch_ratio_estimate([slow], [fast])
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)
    assert time_estimate(fast).half_width > 1


@pytest.mark.parametrize(("percent", "n"), [(90, 64), (95, 130), (99, 662)])
def test_a_percentile_needs_as_many_samples_as_loadgen_asks_for(percent: float, n: int) -> None:
    assert min_sample_for(percent) == n


@pytest.mark.parametrize(("percent", "n"), [(90, 64), (95, 130), (99, 662)])
def test_a_percentile_is_withheld_where_the_sample_is_too_small(percent: float, n: int) -> None:
    assert percentile([1.0] * (n - 1), percent) is None
    assert percentile([1.0] * n, percent) == 1.0


def test_a_percentile_is_a_measured_value() -> None:
    assert percentile([float(i) for i in range(1, 101)], 90) == 90.0
    assert percentile([float(i) for i in range(65, 0, -1)], 90) == 59.0  # 58.5 of 65 values


def test_the_estimate_is_the_median_of_block_medians() -> None:
    blocks = [[1.0, 9.0, 1.0], [2.0], [3.0, 3.0], [4.0], [5.0], [6.0]]
    assert time_estimate(blocks).value == median([1, 2, 3, 4, 5, 6])


def blocks_of_launches(
    rng: random.Random, launches: int, between: float, within: float = 0.02
) -> list[list[list[float]]]:
    """Launches of 12 blocks, with log-normal effects of the launch and of the block; the true median is 1."""
    effects = [rng.lognormvariate(0, between) for _ in range(launches)]
    return [[[effect * rng.lognormvariate(0, within)] for _ in range(12)] for effect in effects]


def encloses(estimate: Estimate, value: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= value <= estimate.high


@pytest.mark.parametrize("between", [0.01, 0.03])
@pytest.mark.parametrize("launches", [3, 5, 8])
def test_the_interval_over_launches_covers_the_true_median_and_pooled_blocks_do_not(
    launches: int, between: float
) -> None:
    """1,000 seeded repetitions: at least 95 % less three standard errors."""
    rng = random.Random(launches)
    covered = pooled = 0
    for _ in range(1000):
        sample = blocks_of_launches(rng, launches, between)
        covered += encloses(launch_estimate(sample), 1.0)
        pooled += encloses(time_estimate([block for launch in sample for block in launch]), 1.0)
    assert covered / 1000 > 0.95 - 3 * (0.95 * 0.05 / 1000) ** 0.5
    assert pooled / 1000 < (0.88 if between == 0.01 else 0.7)


def test_the_interval_of_ratios_over_launches_covers_the_true_ratio() -> None:
    """With a common slowdown of each round, which cancels, and a launch effect of each participant, which does not."""
    rng = random.Random(0)
    covered = 0
    for _ in range(500):
        above, below = blocks_of_launches(rng, 5, 0.02), blocks_of_launches(rng, 5, 0.02)
        for launch, other in zip(above, below, strict=True):
            for block, other_block in zip(launch, other, strict=True):
                slowdown = rng.choice([1, 1, 1, 2])
                block[0] *= 1.5 * slowdown
                other_block[0] *= slowdown
        covered += encloses(launch_ratio_estimate(above, below), 1.5)
    assert covered / 500 > 0.95 - 3 * (0.95 * 0.05 / 500) ** 0.5


def test_more_blocks_do_not_narrow_what_launches_differ_by_and_more_launches_do() -> None:
    launches = [[[1.0]] * 8, [[1.1]] * 8, [[1.2]] * 8, [[1.05]] * 8]
    assert launch_estimate([launch * 100 for launch in launches]) == launch_estimate(launches)
    assert launch_estimate(launches * 4).half_width < launch_estimate(launches).half_width / 2


def test_students_interval_of_three_launches_by_hand() -> None:
    estimate = launch_estimate([[[math.exp(-0.01)]], [[math.exp(0.01)]], [[1.0]]])
    half = 4.302653 * 0.01 / 3**0.5
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1.0, math.exp(-half), math.exp(half)))


def test_launches_that_agree_by_chance_keep_the_width_of_their_blocks() -> None:
    launch = [[1.0], [1.1], [1.2], [1.3], [1.4], [1.5]]
    assert launch_estimate([launch] * 3) == time_estimate(launch) == Estimate(1.25, 1.0, 1.5)


def test_one_launch_has_its_own_interval_and_two_have_both_of_theirs() -> None:
    first, second = [[1.0]] * 5 + [[1.5]] * 5, [[2.0]] * 5 + [[3.0]] * 5
    assert launch_estimate([first]) == time_estimate(first)
    assert launch_estimate([first, second]) == Estimate(1.875, 1.0, 3.0)
    assert launch_estimate([first, second[:3]]) == Estimate(1.625)


def test_an_interval_of_many_launches_holds_their_median_where_their_mean_is_far_off() -> None:
    """Of 100 logarithms, 51 are 0 and 49 are 1: the mean is 0.49 with an interval of 0.1 to each side."""
    for sign in (1, -1):
        found = launch_estimate([[[math.exp(sign * (number >= 51))]] for number in range(100)])
        half = 1.984217 * 0.502418 / 10  # t(0.975, 99), and the standard deviation
        far = math.exp(sign * (0.49 + half))
        assert (found.value, found.low, found.high) == pytest.approx((1.0, min(far, 1.0), max(far, 1.0)), rel=1e-5)


def test_the_median_over_launches_may_be_zero() -> None:
    assert launch_median([[], [[1.0, 3.0, 2.0]], [[9.0], [4.0], [5.0]]]) == 3.5
    assert launch_median([[[0.0]], [[0.0]], [[1.0]]]) == 0.0


def test_the_median_of_a_few_estimates_has_the_hull_of_their_intervals() -> None:
    three = [Estimate(2.0, 1.5, 3.0), Estimate(1.0, 0.5, 1.2), Estimate(5.0, 4.0, 6.0)]
    assert median_of(three) == Estimate(2.0, 0.5, 6.0)
    for lacking in (Estimate(5.0), Estimate(5.0, 4.0), Estimate(5.0, None, 6.0)):
        assert median_of([*three[:2], lacking]) == Estimate(2.0)
        assert geometric_mean([Estimate(0.2, 0.1, 0.3), lacking]).low is None
    six = [Estimate(value, value - 0.5, value + 0.5) for value in (3.0, 1.0, 2.0, 6.0, 5.0, 4.0)]
    assert median_of(six) == Estimate(3.5, 1.0, 6.0)


def test_launches_without_blocks_are_left_out() -> None:
    launch = [[1.0 + index] for index in range(6)]
    assert launch_estimate([[], launch, []]) == time_estimate(launch)
    assert launch_ratio_estimate([launch, launch, []], [[], launch, launch]) == Estimate(1.0, 1.0, 1.0)
    with pytest.raises(StatisticsError):
        launch_estimate([[], []])


def test_rounds_are_paired_within_a_launch_and_launches_within_a_group() -> None:
    rounds = [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]]
    doubled = [[2 * block[0]] for block in rounds]
    assert launch_ratio_estimate([[*doubled, [99.0]]], [rounds]) == Estimate(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="zip"):
        launch_ratio_estimate([doubled], [rounds, rounds])


@pytest.mark.parametrize(
    ("estimates", "expected"),
    [
        ([], []),
        ([Estimate(3, 2.9, 3.1), Estimate(1, 0.9, 1.1), Estimate(2, 1.9, 2.1)], [3, 1, 2]),
        # the second and third overlap the first, though not each other
        (
            [Estimate(1, 0.9, 1.5), Estimate(1.1, 1.0, 1.2), Estimate(1.4, 1.3, 1.5), Estimate(2, 1.9, 2.1)],
            [1, 1, 1, 4],
        ),
        # each overlaps its neighbour, but the third not the best
        ([Estimate(1, 0.9, 1.1), Estimate(1.15, 1.05, 1.25), Estimate(1.3, 1.2, 1.4)], [1, 1, 3]),
        # two that touch overlap
        ([Estimate(1, 0.9, 1.1), Estimate(1.2, 1.1, 1.3), Estimate(1.3, 1.11, 1.4)], [1, 1, 3]),
        # without an interval: with the best, in the middle, all
        ([Estimate(1), Estimate(2, 1.9, 2.1), Estimate(3, 2.9, 3.1)], [1, 1, 3]),
        ([Estimate(1, 0.9, 1.1), Estimate(2, 1.9, 2.1), Estimate(2.5), Estimate(3, 2.9, 3.1)], [1, 2, 2, 4]),
        ([Estimate(2), Estimate(1), Estimate(3)], [1, 1, 1]),
    ],
)
def test_ranks_are_shared_where_intervals_overlap_that_of_the_best(
    estimates: list[Estimate], expected: list[int]
) -> None:
    assert ranks(estimates) == expected


Noise = Callable[[random.Random], float]
NOISES: dict[str, Noise] = {
    "normal 2 %": lambda rng: rng.gauss(1, 0.02),
    "normal 15 %": lambda rng: max(0.1, rng.gauss(1, 0.15)),
    "log-normal 30 %": lambda rng: rng.lognormvariate(0, 0.3),
    "exponential": lambda rng: 1 + 0.2 * rng.expovariate(1),
    "one block in ten slowed down": lambda rng: rng.gauss(1, 0.01) * (1 + (rng.random() < 0.1) * rng.random()),
}


@pytest.mark.parametrize("name", NOISES)
def test_noise_is_seldom_taken_for_two_modes(name: str) -> None:
    rng = random.Random(name)
    found = sum(two_modes([NOISES[name](rng) for _ in range(20)]) is not None for _ in range(2000))
    assert found / 2000 < 0.01


@pytest.mark.parametrize("name", ["normal 2 %", "log-normal 30 %", "exponential"])
def test_noise_is_seldom_taken_for_a_trend(name: str) -> None:
    """By Kendall's test in one of a hundred; three standard errors more are allowed."""
    rng = random.Random(name)

    def blocks(count: int) -> list[float]:
        return [NOISES[name](rng) for _ in range(count)]

    found = sum(trend(blocks(20)) is not None for _ in range(1000))
    assert found / 1000 < 0.01 + 3 * (0.01 * 0.99 / 1000) ** 0.5
    found = sum(trend(blocks(6), blocks(6), blocks(6)) is not None for _ in range(1000))
    assert found / 1000 < 0.01 + 3 * (0.01 * 0.99 / 1000) ** 0.5


def test_a_clear_second_mode_is_found() -> None:
    """14 and 25 ms, as of one network with two behaviours of malloc, with a outlier in one of twenty."""
    rng = random.Random(0)
    found = []
    for _ in range(200):
        values = [rng.choice([0.014, 0.025]) * rng.gauss(1, 0.01) * (1 + 2 * (index == 3)) for index in range(20)]
        if 5 <= sum(value < 0.02 for value in values) <= 15:
            found.append(two_modes(values))
    assert sum(modes is not None for modes in found) / len(found) > 0.97
    assert all(modes == pytest.approx((0.014, 0.025), rel=0.02) for modes in found if modes)


def test_what_is_no_second_mode() -> None:
    assert two_modes([1.0] * 20) is None
    assert two_modes([1.0] * 5 + [2.0] * 4) is None  # too few blocks
    assert two_modes([1.0] * 17 + [2.0] * 3) is None  # too few of them
    assert two_modes([1.0] * 16 + [2.0] * 4) == (1.0, 2.0)
    assert two_modes([1.0] * 10 + [1.05] * 10) is None  # too close
    assert two_modes([1.0 + index for index in range(20)]) is None


@pytest.mark.parametrize(
    ("values", "modes"),
    [
        ([1.0] * 5 + [2.0] * 5, (1.0, 2.0)),
        ([1.0] * 4 + [2.0] * 16, (1.0, 2.0)),
        ([1.0] * 3 + [2.0] * 17, None),
        ([1.0] * 2 + [2.0] * 10, None),  # a fifth of twelve is more than two
        ([1.0] * 10 + [1.06] * 10, (1.0, 1.06)),
        # The inner range of either side, without its least and greatest, is 2; three times that is not enough.
        ([9.0, 9.5, 11.0, 11.5, 12.0] + [18.0] * 5, None),
        ([9.0, 9.5, 11.0, 11.5, 12.0] + [18.1] * 5, (11.0, 18.1)),
        ([10.0] * 5 + [16.0, 16.5, 17.0, 18.5, 19.0], None),
        ([10.0] * 5 + [16.1, 16.6, 17.0, 18.6, 19.0], (10.0, 17.0)),
    ],
)
def test_modes_are_apart_by_more_than_five_percent_and_three_inner_ranges(
    values: list[float], modes: tuple[float, float] | None
) -> None:
    assert two_modes(values) == two_modes(values[::-1]) == modes


def test_a_trend_is_the_change_from_the_first_block_to_the_last() -> None:
    rng = random.Random(0)
    assert trend([1.01**index for index in range(11)]) == pytest.approx(1.01**10 - 1)
    noisy = trend([(1 + 0.1 * index / 19) * rng.gauss(1, 0.01) for index in range(20)])
    assert noisy == pytest.approx(0.1, abs=0.03)
    falling = trend([2.0 - index / 19 for index in range(20)])
    assert falling == pytest.approx(-0.5, abs=0.02)


def test_a_trend_of_short_launches_is_that_within_each() -> None:
    """Each falls from 1.0 to 0.5, of which no launch by itself tells for certain; that they differ is no trend."""
    falling = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    assert trend(falling) is None
    assert trend(falling, [2 * block for block in falling]) == pytest.approx(-0.5, abs=0.03)
    assert trend([1.0] * 6, [2.0] * 6, [3.0] * 6) is None
    assert trend(falling, falling[::-1]) is None
    assert trend(*([float(launch)] for launch in range(1, 20))) is None


@pytest.mark.parametrize(
    ("launches", "change"),
    [
        # Kendall's S of ten blocks has a variance of 125: at one in a hundred, 31 is a trend and 29 is none.
        ([[7, 0, 1, 2, 3, 4, 5, 6, 8, 9]], math.expm1(0.09)),
        ([[8, 0, 1, 2, 3, 4, 5, 6, 7, 9]], None),
        # Of three launches of six blocks 85: 25 is a trend, and 23 is none.
        ([[0, 1, 2, 3, 4, 5], [5, 0, 1, 2, 3, 4], [5, 0, 1, 2, 3, 4]], math.expm1(0.05)),
        ([[0, 1, 2, 3, 4, 5], [5, 0, 1, 2, 3, 4], [5, 0, 1, 2, 4, 3]], None),
        # To the last block of the longest launch.
        ([[0, 1, 2, 3], [5, 6, 7, 8, 9, 10, 11, 12]], math.expm1(0.07)),
    ],
)
def test_a_trend_is_significant_at_one_in_a_hundred(launches: list[list[int]], change: float | None) -> None:
    found = trend(*([math.exp(0.01 * log) for log in blocks] for blocks in launches))
    assert found == (None if change is None else pytest.approx(change))


def test_what_is_no_trend() -> None:
    assert trend([1.0 + index for index in range(9)]) is None  # too few blocks
    assert trend([1.0] * 20) is None
    assert trend([1.0, 2.0] * 10) is None
    assert trend([1.0] * 19 + [100.0]) is None  # one outlier
