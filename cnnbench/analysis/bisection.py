"""Which of many commits changed a time: beliefs over the commits, from noisy ratios of some of them to the first.

Commits are numbered from 1 to n, after the good one, which is base of every measured pair; n is the bad one. A halving
that trusts each answer goes wrong at the first wrong one; here no answer is final (Horstein, "Sequential transmission
using noiseless feedback", IEEE Trans. Inf. Theory 9, 1963: measure where the beliefs are halved).
"""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SURE = 0.99
"""Belief with which a commit is named."""
UNASKED = 1e-3
"""A commit is not measured where the change lies on one side of it with all but this probability."""
DECIDED = 0.98
"""Belief that a commit lies before, or after, the change, with which another one is measured."""
FIRST_PAIRS, MAX_FIRST_PAIRS = 6, 40
"""Of bad against good; more are measured, a block of two after the other, while they do not differ significantly."""
CHANGED_P = 0.001
"""Two-sided, of each such look."""
FREEDOM = 4
"""Degrees of freedom of the errors, as the source of `beliefs` recommends where they are not estimated."""
NORMAL_MAD, TINY = 1.4826, 1e-6
"""Standard deviation over median absolute deviation of normal errors; the least spread."""
VISIT_PAIRS = 10
"""The most of one commit before another is measured."""


def has_changed(logs: Sequence[float]) -> bool:
    """Whether bad differs from good, by Student's t on the logarithms of the pairs' ratios."""
    from scipy.stats import ttest_1samp

    if len(logs) < FIRST_PAIRS:
        return False
    return bool(len(set(logs)) == 1 and logs[0] != 0) or bool(ttest_1samp(logs, 0.0).pvalue < CHANGED_P)


def beliefs(commits: int, results: Mapping[int, Sequence[float]]) -> Floats:
    """Probability of each commit, 1 to `commits`, that it alone changed the time.

    `results` are logarithms of the time of a commit over the good one's, by commit, one for each pair. If commit c
    changed the time, those of c and later lie about an unknown change, and earlier ones about 0, all with one unknown
    scale. Errors are Student's t with few degrees of freedom, so that single pairs that are far off count little
    (Lange, Little and Taylor, "Robust statistical modeling using the t distribution", JASA 84, 1989). Change and scale
    are summed over, with flat priors on the change and on the logarithm of the scale, around median and median absolute
    deviation of the latest commit's pairs; all commits are equally likely before.
    """
    from scipy.special import logsumexp

    logs = np.array([log for own in results.values() for log in own])
    places = np.array([commit for commit, own in results.items() for _ in own])
    if len(logs) < 2:
        return np.full(commits, 1 / commits)
    latest = logs[places == places.max()]
    middle = float(np.median(latest))
    spread = max(NORMAL_MAD * float(np.median(np.abs(latest - middle))), TINY)
    scales = spread * np.geomspace(1 / 8, 8, 25)
    changes = middle + spread * np.linspace(-4, 4, 41)[:, None]
    without = _log_density(logs[:, None], scales)  # (pairs, scales)
    changed = _log_density(logs[:, None, None] - changes, scales)  # (pairs, changes, scales)
    densities = np.full(commits, -math.inf)
    for commit in range(1, commits + 1):
        after = places >= commit
        if after.any():
            densities[commit - 1] = logsumexp(without[~after].sum(0) + changed[after].sum(0))
    return np.asarray(np.exp(densities - logsumexp(densities)))


def _log_density(errors: Floats, scales: Floats) -> Floats:
    """Of Student's t, but for a constant."""
    return np.asarray(-(FREEDOM + 1) / 2 * np.log1p((errors / scales) ** 2 / FREEDOM) - np.log(scales))


def next_commit(believed: Floats, unmeasurable: Collection[int]) -> int | None:
    """The commit before which the change lies with a probability nearest to one half; None if none can tell more.

    One that cannot be measured is stepped over, and so is one whose answer is known already.
    """
    before = np.cumsum(believed)[:-1]
    asked = [commit for commit in range(1, len(believed)) if commit not in unmeasurable]
    best = min(asked, key=lambda commit: abs(before[commit - 1] - 0.5), default=None)
    if best is None or believed.max() >= SURE or not UNASKED < before[best - 1] < 1 - UNASKED:
        return None
    return best


def is_decided(believed: Floats, commit: int) -> bool:
    """Whether it is known well enough, for now, on which side of a commit the change lies."""
    before = float(believed[:commit].sum())
    return max(before, 1 - before) >= DECIDED


def suspects(believed: Floats) -> list[tuple[int, float]]:
    """The fewest commits that are believed with `SURE` together, the most believed first."""
    order = sorted(range(1, len(believed) + 1), key=lambda commit: -believed[commit - 1])
    sums = np.cumsum([believed[commit - 1] for commit in order])
    count = int(np.searchsorted(sums, SURE - 1e-12)) + 1
    return [(commit, float(believed[commit - 1])) for commit in order[:count]]
