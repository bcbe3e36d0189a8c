"""What pairs say: intervals, tests, corrections, and verdicts, against figures worked out by hand or by simulation."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from cnnbench.analysis.paired import (
    PairedRatio,
    Rule,
    confirmed,
    flipped_signs_p,
    holm,
    is_suspect,
    pairs_needed,
    smallest_effect,
    unconfirmed,
)


def paired(*percents: float) -> PairedRatio:
    return PairedRatio(tuple(math.log1p(percent / 100) for percent in percents))


def noisy(mean: float, sd: float, pairs: int, seed: int = 0) -> PairedRatio:
    return PairedRatio(tuple(np.random.default_rng(seed).normal(math.log1p(mean), sd, pairs)))


def test_interval_and_p_are_students_t_on_the_logarithms() -> None:
    ratio = noisy(0.03, 0.02, 8)
    logs = list(ratio.logs)
    low, high = stats.t.interval(0.9, 7, np.mean(logs), stats.sem(logs))
    interval = ratio.interval()
    assert interval is not None
    assert interval == pytest.approx((math.exp(low), math.exp(high)))
    expected = stats.ttest_1samp(logs, math.log(1.02), alternative="greater").pvalue
    assert ratio.p_above(1.02) == pytest.approx(expected)


def test_a_gates_rule_is_the_one_whose_rates_are_documented() -> None:
    assert Rule() == Rule(
        margin=0.02,
        alpha=0.05,
        screen_pairs=6,
        max_screen_pairs=12,
        suspect_p=0.1,
        suspect_change=0.005,
        confirm_pairs=10,
        max_confirm_pairs=40,
        visible_beyond=0.01,
        max_unsteady=0.25,
    )


def test_one_pair_tells_nothing_however_large() -> None:
    one = paired(50)
    assert (one.sd, one.interval(), one.p_above(1.0), one.smallest_visible(0.02)) == (None, None, 1.0, None)
    assert not is_suspect(one, Rule())
    assert unconfirmed(one, 0.02) == "inconclusive"


def logs_of_two(t: float) -> PairedRatio:
    """Two pairs whose mean is so many standard errors, of 1 % each, above 0."""
    return PairedRatio(((t - 1) / 100, (t + 1) / 100))


def test_of_two_pairs_everything_is_known_by_hand() -> None:
    """Student's t of one degree of freedom is Cauchy's distribution."""
    two = logs_of_two(0.5)
    quantile, power = math.tan(0.45 * math.pi), math.tan(0.3 * math.pi)
    assert two.sd == pytest.approx(0.02 / math.sqrt(2))
    assert two.half_width == pytest.approx(0.01 * quantile)
    assert two.interval() == pytest.approx((math.exp(0.005 - 0.01 * quantile), math.exp(0.005 + 0.01 * quantile)))
    assert two.p_above(1.0) == pytest.approx(0.5 - math.atan(0.5) / math.pi)
    assert two.smallest_visible(0.02) == pytest.approx(1.02 * math.exp(0.01 * (quantile + power)) - 1)
    assert paired(50).half_width == math.inf


def test_swapping_the_arms_mirrors_the_interval_and_the_ps() -> None:
    ratio = noisy(0.03, 0.02, 9)
    interval, mirrored = ratio.interval(), ratio.mirrored().interval()
    assert interval is not None
    assert mirrored is not None
    assert mirrored == pytest.approx((1 / interval[1], 1 / interval[0]))
    below = stats.ttest_1samp(ratio.logs, math.log(1 / 1.02), alternative="less").pvalue
    assert ratio.mirrored().p_above(1.02) == pytest.approx(below)


def test_pairs_that_agree_exactly_are_judged_by_their_value() -> None:
    assert paired(3, 3, 3).p_above(1.02) == 0.0
    assert paired(1, 1, 1).p_above(1.02) == 1.0
    assert paired(0, 0, 0).p_above(1.0) == 1.0


def test_flipping_signs_counts_all_ways_that_give_as_much() -> None:
    assert flipped_signs_p([1.0, 1.0, 1.0], 1.0) == pytest.approx(1 / 8)
    assert flipped_signs_p([1.0, 2.0, -0.5], 1.0) == pytest.approx(2 / 8)
    expected = stats.permutation_test(
        ([0.3, -0.1, 0.2, 0.25, 0.05],), np.mean, permutation_type="samples", alternative="greater"
    ).pvalue
    assert flipped_signs_p([0.3, -0.1, 0.2, 0.25, 0.05], 1.0) == pytest.approx(expected)
    assert flipped_signs_p([0.1] * 13, 1.0) is None
    assert flipped_signs_p([0.1] * 12, 1.0) == pytest.approx(1 / 2**12)
    assert flipped_signs_p([0.1] * 2, 1.0) == pytest.approx(1 / 4)
    assert flipped_signs_p([0.1], 1.0) is None
    assert flipped_signs_p([0.1, 0.4], math.exp(0.2)) == pytest.approx(2 / 4)  # of -0.1 and 0.2


def test_holm_multiplies_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_pairs_needed_are_the_fewest_that_have_the_power() -> None:
    """By scipy's noncentral t: with so many pairs the power is close to 80 %, with a few less it is lower."""
    for sd, effect in ((0.02, 0.01), (0.01, 0.01), (0.05, 0.02)):
        pairs = pairs_needed(sd, effect)
        assert pairs is not None
        powers = [
            1 - stats.nct.cdf(stats.t.ppf(0.95, n - 1), n - 1, effect / sd * math.sqrt(n)) for n in (pairs - 3, pairs)
        ]
        assert powers[0] < 0.8
        assert powers[1] == pytest.approx(0.8, abs=0.03)
    assert pairs_needed(0.5, 0.001) is None
    assert pairs_needed(0.01, 0.0) is None
    for pairs in (3, 8, 999, 1000):
        assert pairs_needed(0.02, smallest_effect(0.02, pairs)) == pairs
        assert pairs_needed(0.02, 1.0001 * smallest_effect(0.02, pairs)) == pairs
    assert pairs_needed(0.02, 1.0) == 2
    assert pairs_needed(0.02, smallest_effect(0.02, 1001)) is None


def test_more_pairs_see_smaller_changes_and_never_below_the_margin() -> None:
    sizes = [paired(*[-2, 1, 1] * times).smallest_visible(0.02) for times in (2, 4, 16, 256)]
    seen = [size for size in sizes if size is not None]
    assert len(seen) == 4
    assert all(larger > smaller for larger, smaller in pairwise(seen))
    assert seen[-1] > 0.02


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (paired(0.1, -0.1, 0.2, -0.2, 0.05, -0.05), "same"),
        (paired(1.0, 1.2, 0.8, 1.1, 0.9, 1.0), "slower-small"),
        (paired(5, -5, 6, -4, 3, -2), "inconclusive"),
        (paired(-5, -5.2, -4.8, -5, -5.1, -4.9), "inconclusive"),  # faster for certain, but not confirmed
    ],
)
def test_what_is_said_without_fresh_pairs_never_fails(ratio: PairedRatio, verdict: str) -> None:
    assert unconfirmed(ratio, 0.02) == verdict


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [
        (0.014, "slower-small"),
        (0.012, "inconclusive"),  # from just below 0 to beyond the margin
        (0.006, "same"),
        (-0.006, "same"),
        (-0.012, "inconclusive"),
        (-0.014, "inconclusive"),
    ],
)
def test_a_verdict_is_the_same_within_the_margin_to_either_side(mean: float, verdict: str) -> None:
    half = 0.013 / math.tan(0.45 * math.pi)  # so that the interval is 0.013 to each side; log(1.02) is 0.0198
    assert unconfirmed(PairedRatio((mean - half, mean + half)), 0.02) == verdict


@pytest.mark.parametrize(("p", "is_one"), [(0.06, True), (0.098, True), (0.102, False), (0.15, False)])
def test_a_suspects_p_is_below_one_in_ten(p: float, is_one: bool) -> None:
    ratio = logs_of_two(math.tan((0.5 - p) * math.pi))
    assert (is_suspect(ratio, Rule()), is_suspect(ratio.mirrored(), Rule())) == (is_one, is_one)


@pytest.mark.parametrize(("percent", "is_one"), [(0.3, False), (0.49, False), (0.51, True), (0.9, True)])
def test_a_suspect_differs_by_half_a_percent_at_least(percent: float, is_one: bool) -> None:
    assert is_suspect(paired(*[percent] * 6), Rule(margin=0.0)) == is_one


def test_a_suspect_differs_for_sure_enough_and_perhaps_by_more_than_the_margin() -> None:
    rule = Rule()
    assert is_suspect(paired(3, 4, 2, 5, 1, 3), rule)
    assert is_suspect(paired(-3, -4, -2, -5, -1, -3), rule)
    assert not is_suspect(paired(1, 1.2, 0.8, 1.1, 0.9, 1), rule)  # its whole interval lies within the margin
    assert not is_suspect(paired(5, -5, 6, -4, 3, -2), rule)  # may be nothing


def test_a_suspect_is_confirmed_the_way_its_screen_leaned_and_no_other() -> None:
    slow, fast = noisy(0.08, 0.01, 10, 1), noisy(-0.08, 0.01, 10, 2)
    rule = Rule()
    assert confirmed([slow, fast], [slow, fast], rule) == ["slower", "faster"]
    assert confirmed([fast, slow], [slow, fast], rule) == [None, None]


def test_a_change_within_the_margin_is_not_confirmed_however_certain() -> None:
    certain = paired(*[1.5] * 9, 1.6)
    assert confirmed([certain], [certain], Rule(margin=0.02)) == [None]
    assert confirmed([certain], [certain], Rule(margin=0.01)) == ["slower"]


def test_few_pairs_must_convince_a_test_of_signs_too() -> None:
    """Of four pairs the least p is 1/16, of five 1/32."""
    five = paired(8, 8.1, 7.9, 8, 8.05)
    four = PairedRatio(five.logs[:4])
    assert four.p_above(1.02) < 1e-4
    assert confirmed([five, five], [four, five], Rule()) == [None, "slower"]
    assert confirmed([five.mirrored()], [five.mirrored()], Rule()) == ["faster"]


def test_many_suspects_must_be_surer_than_one() -> None:
    """Its p is between 0.05 / 5 and 0.05: enough alone, not among five."""
    doubtful = PairedRatio(tuple(math.log(1.02) + value for value in np.linspace(-0.012, 0.03, 14)))
    assert 0.01 < doubtful.p_above(1.02) < 0.05
    assert confirmed([doubtful], [doubtful], Rule()) == ["slower"]
    others = [noisy(0.015, 0.02, 14, seed) for seed in range(4)]
    leaning = [paired(3, 3.1)] * 5
    assert confirmed(leaning, [doubtful, *others], Rule())[0] is None
