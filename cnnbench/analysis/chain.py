"""A chain of measured ratios: the index of each commit, and the steps in it.

Each gate tells the logarithm of head's time over base's with a known error. The gates of many commits are the edges of
a graph, whose nodes are the commits in their order, numbered from 0. The index is the least-squares solution over all
edges; steps are looked for in the edges themselves, not in the index, whose errors add up along the chain.

A step's probability is that of a normal prior on its size (`STEP_SD`) against none, with `PRIOR` for each commit (Kass
and Raftery, "Bayes factors", JASA 90, 1995).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PRIOR = 0.01
"""Probability that a commit changes the time of a case, before anything is measured."""
STEP_SD = 0.05
"""Standard deviation of such changes, as logarithms."""
RANGE = 0.95
"""Probability that a step lies in the commits that are told, given that there is one."""
SURE = 0.99
"""Probability from which on a step is told."""
MIN_RUNS = 3
"""To each side of a step in a series of separate runs."""
MAX_SPIKE = 3.0
"""Standard deviations of a run from its neighbours."""
MAX_KEEPS = 0.95
"""The most of a run's deviation that the next one has too, on average."""
MAX_PRIOR_DEGREES = 1000.0
CONFLICT_P = 0.001
"""Probability below which chance does not explain that edges contradict each other."""


@dataclass(frozen=True)
class Edge:
    """A measured ratio of two commits."""

    base: int
    head: int
    log: float
    """Natural logarithm of head's time over base's."""
    variance: float


@dataclass(frozen=True)
class Index:
    """Logarithms of the time of each commit over that of the first commit of its part of the graph."""

    logs: Floats
    errors: Floats
    """Standard errors; 0 for the first commit of a part."""
    parts: NDArray[np.int32]
    """Commits with the same number are connected by edges; others cannot be compared."""


@dataclass(frozen=True)
class Step:
    """A lasting change of time."""

    first: int
    last: int
    """It came with one of these commits, most likely with `at`."""
    at: int
    log: float
    """Logarithm of the time after it over that before."""
    error: float
    probability: float
    """That there is a change in this range."""


def moderated(variances: Sequence[float], degrees: Sequence[int]) -> tuple[list[float], float]:
    """Variances drawn towards their common value, and the degrees of freedom that the common value counts for.

    A variance of six pairs may be four times too small by chance; the case's other gates say what to expect (Smyth,
    "Linear models and empirical Bayes methods", Stat. Appl. Genet. Mol. Biol. 3, 2004, section 6.2: method of moments
    on the logarithms). Variances of zero are left out of the common value.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    known = [(math.log(v), d) for v, d in zip(variances, degrees, strict=True) if v > 0 and d > 0]
    if len(known) < 3:
        pooled = fmean(variances) if variances else 0.0
        return [pooled or v for v in variances], 0.0
    z = [log - float(digamma(d / 2)) + math.log(d / 2) for log, d in known]
    centre = fmean(z)
    spread = sum((each - centre) ** 2 for each in z) / (len(z) - 1) - fmean(
        [float(polygamma(1, d / 2)) for _, d in known]
    )
    prior = MAX_PRIOR_DEGREES
    if spread > float(polygamma(1, MAX_PRIOR_DEGREES / 2)):
        prior = 2 * brentq(lambda half: float(polygamma(1, half)) - spread, 1e-3, MAX_PRIOR_DEGREES)
    common = math.exp(centre + float(digamma(prior / 2)) - math.log(prior / 2))
    found = [(prior * common + d * v) / (prior + d) for v, d in zip(variances, degrees, strict=True)]
    return found, prior


def chained_index(edges: Sequence[Edge], count: int) -> Index:
    """The index of `count` commits, by least squares over all edges, each weighted by its variance.

    The errors are those of the grounded Laplacian's inverse: one edge has its own, edges in series add their
    variances, and edges side by side their weights.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.sparse.linalg import splu

    base, head = (np.array([getattr(edge, end) for edge in edges], dtype=np.int64) for end in ("base", "head"))
    weights = np.array([1 / edge.variance for edge in edges])
    logs = np.array([edge.log for edge in edges])
    links = coo_array((np.ones(len(edges)), (base, head)), shape=(count, count))
    _, parts = connected_components(links, directed=False)
    first = np.unique(parts, return_index=True)[1]
    free = np.setdiff1d(np.arange(count), first)
    index, errors = np.zeros(count), np.zeros(count)
    if len(free):
        place = np.full(count, -1)
        place[free] = np.arange(len(free))
        rows = np.concatenate([base, head, base, head])
        columns = np.concatenate([base, head, head, base])
        values = np.concatenate([weights, weights, -weights, -weights])
        inner = (place[rows] >= 0) & (place[columns] >= 0)
        shape = (len(free), len(free))
        laplacian = coo_array((values[inner], (place[rows[inner]], place[columns[inner]])), shape=shape).tocsc()
        pull = np.zeros(count)
        np.add.at(pull, head, weights * logs)
        np.add.at(pull, base, -weights * logs)
        solver = splu(laplacian)
        index[free] = solver.solve(pull[free])
        for start in range(0, len(free), 256):
            chosen = np.arange(start, min(start + 256, len(free)))
            unit = np.zeros((len(free), len(chosen)))
            unit[chosen, np.arange(len(chosen))] = 1.0
            errors[free[chosen]] = np.sqrt(solver.solve(unit)[chosen, np.arange(len(chosen))])
    return Index(index, errors, parts)


def consistent_steps(
    edges: Sequence[Edge], count: int, least: float = SURE, degrees: float = math.inf
) -> tuple[list[Step], float]:
    """As `find_steps`, and what the variances of edges were multiplied by, since they contradict the steps.

    Chi square per degree of freedom (Birge, "The calculation of errors by the method of least squares", Phys. Rev. 40,
    1932); 1 where chance explains it.
    """
    from scipy.stats import chi2

    steps = find_steps(edges, count, least, degrees)
    square = 0.0
    for edge in edges:
        low, high = sorted((edge.base, edge.head))
        told = math.copysign(1.0, edge.head - edge.base) * sum(step.log for step in steps if low < step.at <= high)
        square += (edge.log - told) ** 2 / edge.variance
    free = len(edges) - len(steps)
    if free < 1 or chi2.sf(square, free) >= CONFLICT_P:
        return steps, 1.0
    wider = [Edge(edge.base, edge.head, edge.log, edge.variance * square / free) for edge in edges]
    return find_steps(wider, count, least, degrees), square / free


def find_steps(edges: Sequence[Edge], count: int, least: float = SURE, degrees: float = math.inf) -> list[Step]:
    """Steps between `count` commits whose probability is at least `least`, in order; `degrees` are of the variances.

    The logarithm of each edge is the sum of the steps between its two commits, and noise: what all edges say together
    of each possible step is known without the index, whose errors add up along the chain.
    """
    return _chosen(_Steps.of_edges(edges, count, degrees), count, least)


def find_steps_in_series(logs: Sequence[float], least: float = SURE) -> list[Step]:
    """The same of logarithms of times of separate runs, which wander with the state of the machine.

    Their noise is autoregressive of order 1. Its two parameters are taken from the differences of neighbours and of
    those beside them, whose medians few steps do not move. A step has at least three runs to each side, so that one
    bad run is none.
    """
    if len(logs) < 2 * MIN_RUNS:
        return []
    return _chosen(_Steps.of_series(np.array(logs)), len(logs), least)


def _chosen(model: "_Steps", count: int, least: float) -> list[Step]:
    """Steps are added one by one, the most probable first, with all sizes fitted anew each time; those that later ones
    make improbable are dropped."""
    chosen: list[int] = []
    bound = math.log(least / (1 - least))
    for _ in range(2 * count):
        odds = model.odds(chosen)
        best = int(np.argmax(odds)) if len(odds) else -1
        if best < 0 or odds[best] < bound:
            break
        chosen.append(best)
        worst = min(chosen, key=lambda k: model.odds_of(k, chosen))
        if worst != best and model.odds_of(worst, chosen) < bound:
            chosen.remove(worst)
    return [model.step(k, chosen) for k in sorted(chosen)]


class _Steps:
    """Normal equations of logarithms as sums of steps."""

    def __init__(self, gram: Floats, pull: Floats, degrees: float, free: Sequence[int] = (), margin: int = 1) -> None:
        """`free`: parameters that are always fitted and are no steps; `margin`: places between two steps."""
        self.gram, self.pull, self.degrees, self.free, self.margin = gram, pull, degrees, list(free), margin

    @classmethod
    def of_edges(cls, edges: Sequence[Edge], count: int, degrees: float) -> "_Steps":
        """An edge is the sum of the steps from its lower commit to its higher one.

        It adds its weight to a square of the normal matrix, which is written down by its corners and summed along both
        axes at the end.
        """
        base, head = (np.array([getattr(edge, end) for edge in edges], dtype=np.int64) for end in ("base", "head"))
        low, high = np.minimum(base, head), np.maximum(base, head)
        weights = np.array([1 / edge.variance for edge in edges])
        pulls = np.sign(head - base) * weights * np.array([edge.log for edge in edges])
        corners, ends = np.zeros((count, count)), np.zeros(count)
        for rows, columns, sign in ((low, low, 1), (high, high, 1), (low, high, -1), (high, low, -1)):
            np.add.at(corners, (rows, columns), sign * weights)
        np.add.at(ends, low, pulls)
        np.add.at(ends, high, -pulls)
        return cls(corners.cumsum(0).cumsum(1)[:-1, :-1], ends.cumsum()[:-1], degrees)

    @classmethod
    def of_series(cls, logs: Floats) -> "_Steps":
        """A series is its first value and the steps so far, with noise that is whitened."""
        logs = _without_spikes(logs)
        one, two = (float(np.median(np.abs(logs[lag:] - logs[:-lag]))) for lag in (1, 2))
        keeps = min(max((two / one) ** 2 - 1, 0.0), MAX_KEEPS) if one > 0 else 0.0
        variance = (one / NormalDist().inv_cdf(0.75)) ** 2 / (2 * (1 - keeps))  # of the series
        innovation = max(variance * (1 - keeps**2), 1e-12)
        design = np.tril(np.ones((len(logs), len(logs))))
        whitened, values = design.copy(), logs.copy()
        whitened[1:] -= keeps * design[:-1]
        values[1:] -= keeps * logs[:-1]
        scale = np.full(len(logs), 1 / innovation)
        scale[0] = 1 / max(variance, 1e-12)
        gram, pull = whitened.T @ (scale[:, None] * whitened), whitened.T @ (scale * values)
        return cls(gram, pull, math.inf, [0], MIN_RUNS)

    def odds(self, chosen: Sequence[int]) -> Floats:
        """Logarithm of the odds of a step at each place, with those that are chosen."""
        sizes, variances = self._partial([*self.free, *chosen])
        odds = self._odds(sizes, variances)
        for k in (*self.free, *chosen):
            odds[max(k - self.margin + 1, 0) : k + self.margin] = -math.inf
        odds[len(odds) - self.margin + 1 :] = -math.inf
        return odds

    def odds_of(self, k: int, chosen: Sequence[int]) -> float:
        """Of one of the chosen steps, with the others."""
        sizes, variances = self._partial([*self.free, *(each for each in chosen if each != k)])
        return float(self._odds(sizes, variances)[k])

    def step(self, k: int, chosen: Sequence[int]) -> Step:
        """One of the chosen steps, with the neighbouring places where it may be as well."""
        others = [*self.free, *(each for each in chosen if each != k)]
        sizes, variances = self._partial(others)
        odds = self._odds(sizes, variances)
        low = max((each + 1 for each in others if each < k), default=0)
        high = min((each for each in others if each > k), default=len(odds))
        total = float(np.logaddexp.reduce(odds[low:high]))
        share = np.exp(odds[low:high] - total)
        first = last = k - low
        while share[first : last + 1].sum() < RANGE:
            left = share[first - 1] if first > 0 else -1.0
            right = share[last + 1] if last + 1 < len(share) else -1.0
            if max(left, right) <= 0:
                break
            first, last = (first - 1, last) if left >= right else (first, last + 1)
        shift = 0 if self.free else 1  # parameter k is the step to commit k + 1 or, after the first value, to k
        return Step(
            first=low + first + shift,
            last=low + last + shift,
            at=k + shift,
            log=float(sizes[k]),
            error=math.sqrt(variances[k]),
            probability=1 / (1 + math.exp(-total)),
        )

    def _partial(self, others: Sequence[int]) -> tuple[Floats, Floats]:
        """Size and variance of a step at each place, fitted together with others; the variance is infinite there."""
        pull, information = self.pull.copy(), np.diag(self.gram).copy()
        if others:
            block = self.gram[np.ix_(others, others)]
            across = self.gram[others]
            solved = np.linalg.solve(block, np.column_stack([self.pull[list(others)], across]))
            pull -= across.T @ solved[:, 0]
            information -= np.einsum("ij,ij->j", across, solved[:, 1:])
        known = information > 1e-9 * np.maximum(np.diag(self.gram), 1e-300)
        known[list(others)] = False
        sizes = np.divide(pull, information, out=np.zeros_like(pull), where=known)
        return sizes, np.divide(1.0, information, out=np.full_like(pull, np.inf), where=known)

    def _odds(self, sizes: Floats, variances: Floats) -> Floats:
        """Logarithms of Bayes factors times prior odds, of normal errors; t counts as the normal quantile of its p."""
        known = np.isfinite(variances)
        z = np.zeros_like(sizes)
        z[known] = np.abs(sizes[known]) / np.sqrt(variances[known])
        if math.isfinite(self.degrees):
            from scipy.special import ndtri_exp
            from scipy.stats import t

            with np.errstate(divide="ignore"):
                quantiles = np.maximum(-ndtri_exp(t.logsf(z, self.degrees)), 0.0)
            z = np.where(np.isfinite(quantiles), quantiles, z)  # beyond what a float's logarithm of p holds
        odds = np.full_like(sizes, -math.inf)
        share = STEP_SD**2 / (variances[known] + STEP_SD**2)
        odds[known] = 0.5 * z[known] ** 2 * share + 0.5 * np.log1p(-share) + math.log(PRIOR / (1 - PRIOR))
        return odds


def _without_spikes(logs: Floats) -> Floats:
    """With values far from the median of their five neighbours drawn to it, so that a bad run or two are no step.

    Hampel, "The influence curve and its role in robust estimation", JASA 69, 1974: beyond three standard deviations,
    here of what differences of neighbours say.
    """
    windows = [logs[max(place - 2, 0) : place + 3] for place in range(len(logs))]
    medians = np.array([np.median(window) for window in windows])
    sd = float(np.median(np.abs(np.diff(logs)))) / NormalDist().inv_cdf(0.75) / math.sqrt(2)
    return np.where(np.abs(logs - medians) > MAX_SPIKE * sd, medians, logs)
