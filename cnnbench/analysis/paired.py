"""Verdicts on two arms from pairs of launches: ratios with intervals, tests, corrections.

A pair is one launch of each arm, measured interleaved; its value is the logarithm of head over base. The process is the
unit of replication, so a comparison rests on pairs alone: more samples inside a launch never narrow its interval.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal, get_args

from cnnbench.analysis.stats import student_interval, student_quantile

Verdict = Literal["slower", "slower-small", "same", "faster", "inconclusive", "unsteady", "wrong", "missing"]
"""
slower        confirmed with fresh pairs: slower by more than the margin, corrected for all suspects
slower-small  slower, but not confirmed to be slower by more than the margin
same          within the margin to both sides, by an equivalence test
faster        confirmed like slower
inconclusive  the pairs do not decide
unsteady      in too many pairs the ratio drifted or had two modes
wrong         the arms' outputs differ, or something else ran than was requested
missing       it could not be run in one arm
"""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

CONFIDENCE = 0.90
"""Of intervals, two-sided: each end is a one-sided bound at 95 %, as the tests are."""
POWER = 0.80
"""Of detecting the smallest visible change."""
MAX_PAIRS = 1000
"""The largest number of pairs that is reported as needed."""
SIGNS: dict[Verdict, int] = {"slower": 1, "faster": -1}
"""Of the logarithm of head over base."""
EXACT_PAIRS = 12
"""Up to so many pairs, an exact sign-flip test must agree with Student's t."""


@dataclass(frozen=True)
class Rule:
    """The constants of a gate. Tests on simulated noise hold its rates of false alarms and of detection."""

    margin: float = 0.02
    """A slowdown up to this is no regression."""
    alpha: float = 0.05
    """The chance that a gate with no slowdown beyond the margin calls any case slower."""
    screen_pairs: int = 6
    max_screen_pairs: int = 12
    """A case whose interval is wider than the margin gets more, whichever way it points."""
    suspect_p: float = 0.10
    suspect_change: float = 0.005
    """A suspect differs by at least this much, has a one-sided p below that, and may be beyond the margin."""
    confirm_pairs: int = 10
    max_confirm_pairs: int = 40
    visible_beyond: float = 0.01
    """The smallest slowdown beyond the margin that fresh pairs are to detect; fewer pairs detect a larger one."""
    max_unsteady: float = 0.25
    """The share of pairs that may be unsteady."""


@dataclass(frozen=True)
class PairedRatio:
    """Head over base, from the logarithms of the pairs' ratios."""

    logs: tuple[float, ...]

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return len(self.logs)

    @property
    def ratio(self) -> float:
        """Geometric mean of the pairs' ratios."""
        return math.exp(fmean(self.logs))

    @property
    def sd(self) -> float | None:
        """Standard deviation of the logarithms: close to the relative spread of a pair. None for less than two."""
        return stdev(self.logs) if len(self.logs) > 1 else None

    def interval(self) -> tuple[float, float] | None:
        """Of the ratio, two-sided, by Student's t on the logarithms; None for less than two pairs."""
        if self.pairs < 2:
            return None
        centre, half = student_interval(self.logs, CONFIDENCE)
        return math.exp(centre - half), math.exp(centre + half)

    @property
    def half_width(self) -> float:
        """Of the interval, on the logarithm's scale; infinite where there is none."""
        return student_interval(self.logs, CONFIDENCE)[1] if self.pairs > 1 else math.inf

    def p_above(self, bound: float) -> float:
        """One-sided p of `the ratio is at most bound` (Student's t on the logarithms); 1 for less than two pairs."""
        from scipy.special import stdtr

        if self.sd is None:
            return 1.0
        distance, error = fmean(self.logs) - math.log(bound), self.sd / math.sqrt(self.pairs)
        if error == 0:
            return 0.0 if distance > 0 else 1.0
        return float(stdtr(self.pairs - 1, -distance / error))

    def mirrored(self) -> "PairedRatio":
        """Base over head."""
        return PairedRatio(tuple(-log for log in self.logs))

    def smallest_visible(self, margin: float) -> float | None:
        """The smallest slowdown that as many pairs, with this noise, detect with a power of 80 %."""
        if self.sd is None:
            return None
        return math.expm1(math.log1p(margin) + smallest_effect(self.sd, self.pairs))


def smallest_effect(sd: float, pairs: int) -> float:
    """The smallest change beyond a bound, as a logarithm, that so many pairs detect at 5 % with a power of 80 %.

    In standard errors: the quantile that the test asks for and that of the power (an approximation of the noncentral t
    distribution by a shifted central one).
    """
    quantiles = student_quantile((1 + CONFIDENCE) / 2, pairs - 1) + student_quantile(POWER, pairs - 1)
    return quantiles * sd / math.sqrt(pairs)


def pairs_needed(sd: float, effect: float) -> int | None:
    """The fewest pairs, of standard deviation `sd`, that show a change of `effect` beyond a bound; None if too many.

    Both on the logarithm's scale, one-sided at 5 %, with a power of 80 %.
    """
    if effect <= 0 or smallest_effect(sd, MAX_PAIRS) > effect:
        return None
    return 2 + bisect_left(range(2, MAX_PAIRS), True, key=lambda pairs: smallest_effect(sd, pairs) <= effect)


def flipped_signs_p(logs: Sequence[float], bound: float) -> float | None:
    """Exact one-sided p of `symmetric about a ratio of at most bound`, over all sign flips; None if too many pairs.

    Fisher, "The design of experiments", 1935, section 21.
    """
    import numpy as np
    from scipy.stats import permutation_test

    if not 2 <= len(logs) <= EXACT_PAIRS:
        return None
    shifted = [log - math.log(bound) for log in logs]
    flips = permutation_test((shifted,), np.sum, permutation_type="samples", alternative="greater", n_resamples=np.inf)
    return float(flips.pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """Each p adjusted for all, so that the probability of any false alarm stays below alpha.

    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979.
    """
    adjusted = [1.0] * len(ps)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        worst = max(worst, (len(ps) - rank) * ps[index])
        adjusted[index] = min(1.0, worst)
    return adjusted


def is_suspect(screened: PairedRatio, rule: Rule) -> bool:
    """Whether fresh pairs are needed: it seems to differ, possibly by more than the margin."""
    leaning = screened if screened.ratio > 1 else screened.mirrored()
    interval = leaning.interval()
    if interval is None or leaning.ratio <= 1 + rule.suspect_change or leaning.p_above(1.0) >= rule.suspect_p:
        return False
    return interval[1] > 1 + rule.margin


def confirmed(screened: Sequence[PairedRatio], fresh: Sequence[PairedRatio], rule: Rule) -> list[Verdict | None]:
    """For each suspect, from its fresh pairs: `slower` or `faster`, confirmed beyond the margin, or None.

    The test is one-sided, in the direction of the screen, and corrected for all suspects of that direction: selection
    and test use different pairs. Where there are few enough pairs, an exact sign-flip test must agree with Student's t.
    """
    found: list[Verdict | None] = [None] * len(fresh)
    bound = 1 + rule.margin
    for verdict, sign in SIGNS.items():
        family = [index for index, ratio in enumerate(screened) if sign * math.log(ratio.ratio) > 0]
        asked = [fresh[index] if sign > 0 else fresh[index].mirrored() for index in family]
        for index, ratio, p in zip(family, asked, holm([ratio.p_above(bound) for ratio in asked]), strict=True):
            if p < rule.alpha and (flipped_signs_p(ratio.logs, bound) or 0.0) < rule.alpha:
                found[index] = verdict
    return found


def unconfirmed(ratio: PairedRatio, margin: float) -> Verdict:
    """The verdict without a confirmed difference: `slower-small`, `same` or `inconclusive`.

    `same` is the equivalence test: two one-sided tests at 5 %, which is the 90 % interval within the margin
    (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987).
    """
    interval = ratio.interval()
    if interval is None:
        return "inconclusive"
    low, high = interval
    if low > 1:
        return "slower-small"
    return "same" if low > 1 / (1 + margin) and high < 1 + margin else "inconclusive"
