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


def test_one_pair_tells_nothing_however_large() -> None:
    one = paired(50)
    assert (one.sd, one.interval(), one.p_above(1.0), one.smallest_visible(0.02)) == (None, None, 1.0, None)
    assert not is_suspect(one, Rule())
    assert unconfirmed(one, 0.02) == "inconclusive"


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


def test_flipping_signs_counts_all_ways_that_give_as_much() -> None:
    assert flipped_signs_p([1.0, 1.0, 1.0], 1.0) == pytest.approx(1 / 8)
    assert flipped_signs_p([1.0, 2.0, -0.5], 1.0) == pytest.approx(2 / 8)
    expected = stats.permutation_test(
        ([0.3, -0.1, 0.2, 0.25, 0.05],), np.mean, permutation_type="samples", alternative="greater"
    ).pvalue
    assert flipped_signs_p([0.3, -0.1, 0.2, 0.25, 0.05], 1.0) == pytest.approx(expected)
    assert flipped_signs_p([0.1] * 13, 1.0) is None


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


def test_many_suspects_must_be_surer_than_one() -> None:
    """Its p is between 0.05 / 5 and 0.05: enough alone, not among five."""
    doubtful = PairedRatio(tuple(math.log(1.02) + value for value in np.linspace(-0.012, 0.03, 14)))
    assert 0.01 < doubtful.p_above(1.02) < 0.05
    assert confirmed([doubtful], [doubtful], Rule()) == ["slower"]
    others = [noisy(0.015, 0.02, 14, seed) for seed in range(4)]
    leaning = [paired(3, 3.1)] * 5
    assert confirmed(leaning, [doubtful, *others], Rule())[0] is None
