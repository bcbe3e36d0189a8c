"""Pure functions on raw samples; each names its source."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

CONFIDENCE = 0.95
PERCENTILE_CONFIDENCE = 0.99
NOISY_HALF_WIDTH = 0.05
"""A median whose interval is wider than 5 % to one side is called noisy."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; the interval is None where the sample is too small for one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def half_width(self) -> float:
        """The interval's larger side, relative to the value; infinite where there is no interval."""
        if self.low is None or self.high is None:
            return math.inf
        return max(self.high - self.value, self.value - self.low) / self.value


def median_ranks(n: int, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """Ranks (from 0) of the order statistics that enclose the median with at least this confidence.

    The number of values below the median is binomial with p = 1/2, whatever the distribution, so the k-th smallest and
    k-th largest value enclose it with probability 1 - 2 P(B <= k - 1). None if even the extremes do not: n < 6 at 95 %.
    Conover, "Practical nonparametric statistics", 3rd ed., section 3.2.
    """
    from scipy.special import bdtr

    best = None
    for k in range(1, n // 2 + 1):
        if 1 - 2 * float(bdtr(k - 1, n, 0.5)) < confidence:
            break
        best = (k - 1, n - k)
    return best


def median_estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Median with its order-statistic interval, for values that can be taken as independent."""
    ordered = sorted(values)
    ranks = median_ranks(len(ordered), confidence)
    if ranks is None:
        return Estimate(median(ordered))
    return Estimate(median(ordered), ordered[ranks[0]], ordered[ranks[1]])


def time_estimate(turns: Sequence[Sequence[float]], confidence: float = CONFIDENCE) -> Estimate:
    """Median over turns of each turn's median, with an interval that rests on the turns.

    Samples within a turn follow each other closely and share the machine's mood, so they are not independent; turns lie
    seconds apart, with other workers' turns between them.
    """
    return median_estimate([median(turn) for turn in turns], confidence)


def ratio_estimate(
    numerator: Sequence[Sequence[float]],
    denominator: Sequence[Sequence[float]],
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Median of the round-by-round ratios of two contestants' turn medians.

    Both were measured in the same rounds, so what slows a round down cancels.
    """
    pairs = zip(numerator, denominator, strict=True)
    return median_estimate([median(above) / median(below) for above, below in pairs], confidence)


def least_sample_for(percentile: float, confidence: float = PERCENTILE_CONFIDENCE) -> int:
    """The least sample size that supports a percentile: 64 for p90, 130 for p95, 662 for p99.

    With one exceedance left over, the chance that a sample of n has at most one value above the true percentile must be
    at most 1 - confidence (MLPerf Inference, LoadGen's early stopping).
    """
    p = percentile / 100
    n = 2
    while p**n + n * (1 - p) * p ** (n - 1) > 1 - confidence:
        n += 1
    return n


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The percentile by nearest rank, or None where the sample is too small to support it."""
    if len(values) < least_sample_for(percent):
        return None
    ordered = sorted(values)
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1]
