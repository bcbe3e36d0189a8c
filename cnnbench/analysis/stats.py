"""Pure functions on raw samples; each names its source."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from statistics import NormalDist, fmean, median, stdev

CONFIDENCE = 0.95
PERCENTILE_CONFIDENCE = 0.99
NOISY_HALF_WIDTH = 0.05
"""A median whose interval is wider than 5 % to one side is called noisy."""
SHAPE_VALUES = 10
"""The fewest blocks in which a trend or a second mode is looked for."""
TREND_P = 0.01
MODE_GAP = 0.05
"""Of the median: modes that lie closer count as one."""
MODE_SPREADS = 3
"""Two modes are so many times further apart than the values inside either."""

Launches = Sequence[Sequence[Sequence[float]]]
"""Samples by launch and block."""


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

    def scaled(self, factor: float) -> "Estimate":
        """In another unit."""
        low, high = (None if bound is None else bound * factor for bound in (self.low, self.high))
        return Estimate(self.value * factor, low, high)


@cache
def median_ranks(n: int) -> tuple[int, int] | None:
    """Ranks (from 0) of the order statistics that enclose the median with a confidence of at least 95 %.

    The number of values below the median is binomial with p = 1/2, whatever the distribution, so the k-th smallest and
    k-th largest value enclose it with probability 1 - 2 P(B <= k - 1). None if even the extremes do not: n < 6 at 95 %.
    Conover, "Practical nonparametric statistics", 3rd ed., section 3.2.
    """
    from scipy.special import bdtrik

    quantile = float(bdtrik((1 - CONFIDENCE) / 2, n, 0.5))
    k = math.ceil(quantile) if quantile > 0 else 0
    return (k - 1, n - k) if k else None


def median_estimate(values: Sequence[float]) -> Estimate:
    """Median with its order-statistic interval, for values that can be taken as independent."""
    ordered, ranks = sorted(values), median_ranks(len(values))
    return Estimate(median(ordered), *(ordered[rank] for rank in ranks or ()))


def time_estimate(blocks: Sequence[Sequence[float]]) -> Estimate:
    """Median over blocks of each block's median, with an interval that rests on the blocks.

    Samples within a block are autocorrelated (same clock frequency, cache state and neighbours); blocks lie seconds
    apart, with other workers' blocks between them.
    """
    return median_estimate([median(block) for block in blocks])


def launch_median(launches: Launches) -> float:
    """The value of `launch_estimate` alone, which unlike an interval of logarithms may be 0."""
    return median(median(map(median, blocks)) for blocks in launches if blocks)


def launch_estimate(launches: Launches) -> Estimate:
    """Median over process launches of each launch's median over blocks; launches without blocks are left out.

    Processes of one program differ in memory layout and thread placement, which no number of blocks inside one process
    shows (Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013). The interval of three launches or
    more is Student's t interval of the logarithms of their medians, widened to the median of their own bounds, so that
    launches which agree by chance do not narrow it below what blocks allow. Of one or two it is the hull of their own
    intervals, if each has one: it knows too little of the variation between launches. Raises StatisticsError if there
    are no blocks at all.
    """
    estimates = [time_estimate(blocks) for blocks in launches if blocks]
    value = median(estimate.value for estimate in estimates)
    lows = [estimate.low for estimate in estimates if estimate.low is not None]
    highs = [estimate.high for estimate in estimates if estimate.high is not None]
    if len(estimates) < 3:
        return Estimate(value, min(lows), max(highs)) if len(lows) == len(estimates) else Estimate(value)
    centre, half = student_interval([math.log(estimate.value) for estimate in estimates], CONFIDENCE)
    low, high = math.exp(centre - half), math.exp(centre + half)
    if lows and highs:
        low, high = min(low, median(lows)), max(high, median(highs))
    return Estimate(value, min(low, value), max(high, value))


def launch_ratio_estimate(numerator: Launches, denominator: Launches) -> Estimate:
    """Median over launches of the median over rounds of the ratio of two participants' block medians.

    Both were measured in the same rounds, so what slows a round down cancels. Launches and their rounds are paired by
    position: a launch that is empty on either side is left out, and surplus blocks of one side are ignored. The
    interval is that of `launch_estimate`. Raises ValueError if the numbers of launches differ.
    """
    ratios = [
        [[median(above) / median(below)] for above, below in zip(*launch, strict=False)]
        for launch in zip(numerator, denominator, strict=True)
    ]
    return launch_estimate(ratios)


def student_quantile(p: float, degrees: int) -> float:
    """Of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, p))


def student_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Mean, and half the width of its t interval ("Student", "The probable error of a mean", Biometrika 6, 1908)."""
    half = student_quantile((1 + confidence) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values), half


def median_of(estimates: Sequence[Estimate]) -> Estimate:
    """The median of estimates of several things, such as machines, with its order-statistic interval.

    Of fewer than six it is the hull of their own intervals, if each has one: it holds the median less often.
    """
    found = median_estimate([each.value for each in estimates])
    if found.low is None and all(each.low is not None and each.high is not None for each in estimates):
        ends = [(each.low, each.high) for each in estimates if each.low is not None and each.high is not None]
        return Estimate(found.value, min(low for low, _ in ends), max(high for _, high in ends))
    return found


def independent_ratio(numerator: Estimate, denominator: Estimate) -> Estimate:
    """The ratio of two values that were measured apart, such as on two machines.

    The variance of a difference of independent estimates is recovered from their own intervals (Zou and Donner,
    "Construction of confidence limits about effect measures: a general approach", Statistics in Medicine 27, 2008), on
    the logarithms: log low = log(a/b) - sqrt(log(a/a_low)^2 + log(b_high/b)^2), and alike above. There is no interval
    where either has none.
    """
    value = numerator.value / denominator.value
    if None in (numerator.low, numerator.high, denominator.low, denominator.high):
        return Estimate(value)
    above, below = _log_sides(numerator), _log_sides(denominator)
    return Estimate(
        value,
        value * math.exp(-math.hypot(above[0], below[1])),
        value * math.exp(math.hypot(above[1], below[0])),
    )


def geometric_mean(estimates: Sequence[Estimate]) -> Estimate:
    """The geometric mean of independent ratios: the one mean that does not depend on which of two is the reference.

    Fleming and Wallace, "How not to lie with statistics: the correct way to summarize benchmark results", CACM 29(3),
    1986. The interval is by the same rule as that of `independent_ratio`, and tells how well these cases are known,
    not how other cases would be. There is none where one has none. Raises StatisticsError for no estimates.
    """
    value = math.exp(fmean(math.log(estimate.value) for estimate in estimates))
    if any(estimate.low is None or estimate.high is None for estimate in estimates):
        return Estimate(value)
    sides = [_log_sides(estimate) for estimate in estimates]
    low, high = (math.hypot(*(side[end] for side in sides)) / len(sides) for end in (0, 1))
    return Estimate(value, value * math.exp(-low), value * math.exp(high))


def _log_sides(estimate: Estimate) -> tuple[float, float]:
    """How far the interval reaches to either side, in logarithms."""
    assert estimate.low is not None
    assert estimate.high is not None
    return math.log(estimate.value / estimate.low), math.log(estimate.high / estimate.value)


def ranks(estimates: Sequence[Estimate]) -> list[int]:
    """Rank of each from the smallest value, 1; in competition ranking those that share one leave the next ones empty.

    From the smallest value on, an estimate shares the rank of the best before it while their intervals overlap; the
    first whose interval does not is the best of the next rank. One without an interval may lie anywhere, so it shares
    the rank at its place and is nobody's best.
    """
    found = [1] * len(estimates)
    best_high: float | None = None
    rank = 1
    for place, index in enumerate(sorted(range(len(estimates)), key=lambda i: estimates[i].value), start=1):
        low, high = estimates[index].low, estimates[index].high
        if low is not None and high is not None:
            if best_high is None:
                best_high = high
            elif low > best_high:
                rank, best_high = place, high
        found[index] = rank
    return found


def trend(*launches: Sequence[float]) -> float | None:
    """Relative change from a launch's first block to its last, where the trend is significant, else None.

    Blocks are compared within each launch, and at least ten are needed in all. Significant: the sum over launches of
    Kendall's S is further from 0 than chance has it in one of a hundred (Mann, "Nonparametric tests against trend",
    Econometrica 13, 1945; summed, and the slope: Hirsch, Slack and Smith, "Techniques of trend analysis for monthly
    water quality data", Water Resources Research 18, 1982). The change: the median slope of all pairs, of logarithms.
    """
    variance = sum(n * (n - 1) * (2 * n + 5) / 18 for n in map(len, launches))
    if sum(map(len, launches)) < SHAPE_VALUES or not variance:
        return None
    slopes = [
        (after - before) / (later - earlier)
        for blocks in launches
        for (earlier, before), (later, after) in combinations(enumerate(map(math.log, blocks)), 2)
    ]
    score = sum((slope > 0) - (slope < 0) for slope in slopes)
    if NormalDist().cdf((1 - abs(score)) / math.sqrt(variance)) > TREND_P / 2:
        return None
    return math.expm1(median(slopes) * (max(map(len, launches)) - 1))


def two_modes(values: Sequence[float]) -> tuple[float, float] | None:
    """Medians of the two groups that the medians of at least ten blocks form, or None if they form one.

    The values are cut at their widest gap that leaves a fifth of them on each side. They are two groups if that gap is
    wider than 5 % of the median, and than three times the spread of either group: its range without a fifth of its
    values at each end, so that an outlier hides nothing (Tukey, "Exploratory data analysis", 1977, on trimming).
    The tests show the rate of false alarms.
    """
    if len(values) < SHAPE_VALUES:
        return None
    ordered = sorted(values)
    least = math.ceil(len(ordered) / 5)
    cut = max(range(least, len(ordered) - least + 1), key=lambda i: ordered[i] - ordered[i - 1])
    lower, upper = ordered[:cut], ordered[cut:]
    gap = upper[0] - lower[-1]
    if gap <= MODE_GAP * median(ordered) or gap <= MODE_SPREADS * max(_inner_range(lower), _inner_range(upper)):
        return None
    return median(lower), median(upper)


def _inner_range(ordered: Sequence[float]) -> float:
    left_out = len(ordered) // 5
    return ordered[-1 - left_out] - ordered[left_out]


def min_sample_for(percentile: float) -> int:
    """The smallest sample that supports a percentile: 64 for p90, 130 for p95, 662 for p99.

    With one exceedance left over, the chance that a sample of n has at most one value above the true percentile must be
    at most 1 % (MLPerf Inference, LoadGen's early stopping).
    """
    p = percentile / 100
    n = 2
    while p**n + n * (1 - p) * p ** (n - 1) > 1 - PERCENTILE_CONFIDENCE:
        n += 1
    return n


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The percentile by nearest rank, or None where the sample is too small to support it."""
    if len(values) < min_sample_for(percent):
        return None
    ordered = sorted(values)
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1]
