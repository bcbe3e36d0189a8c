"""The chained index and the steps in it: by hand on small graphs, by their rates on simulated histories."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from cnnbench.analysis.chain import (
    Edge,
    Step,
    chained_index,
    consistent_steps,
    find_steps,
    find_steps_in_series,
    moderated,
)
from tests.histories import LINK_EVERY, changes, simulate

PRIOR, STEP_SD = 0.01, 0.05
"""Of a change, before anything is measured: its probability, and the standard deviation of its logarithm."""
SIGMA = 0.007
"""Of one gate's mean, as of eight pairs on a typical virtual machine."""


def chain(rng: np.random.Generator, steps: dict[int, float], commits: int, *, link: bool = True) -> list[Edge]:
    """Gates of each commit against the one before, with known errors."""
    level = np.cumsum([steps.get(commit, 0.0) for commit in range(commits)])
    pairs = [(commit - 1, commit) for commit in range(1, commits)]
    pairs += [(0, commit) for commit in range(LINK_EVERY, commits, LINK_EVERY)] if link else []
    return [Edge(a, b, float(level[b] - level[a] + rng.normal(0, SIGMA)), SIGMA**2) for a, b in pairs]


def test_edges_in_series_add_variances_and_edges_side_by_side_add_weights() -> None:
    index = chained_index([Edge(0, 1, 0.1, 4.0), Edge(1, 2, 0.2, 5.0)], 3)
    assert index.logs == pytest.approx([0, 0.1, 0.3])
    assert index.errors**2 == pytest.approx([0, 4, 9])
    index = chained_index([Edge(0, 1, 0.1, 1.0), Edge(0, 1, 0.4, 2.0)], 2)
    assert index.logs[1] == pytest.approx((0.1 / 1 + 0.4 / 2) / (1 + 1 / 2))
    assert index.errors[1] ** 2 == pytest.approx(1 / (1 + 1 / 2))
    assert chained_index([Edge(1, 0, 0.1, 4.0)], 2).logs[1] == pytest.approx(-0.1)


def test_a_triangle_is_solved_by_least_squares() -> None:
    """The direct way has half of the resistance of the way round: of what closes the loop it takes a quarter each."""
    index = chained_index([Edge(0, 1, 0.0, 1.0), Edge(1, 2, 0.0, 1.0), Edge(0, 2, 0.4, 2.0)], 3)
    assert index.logs == pytest.approx([0, 0.1, 0.2])
    assert index.errors**2 == pytest.approx([0, 1 / (1 + 1 / 3), 1.0])


def test_commits_that_no_gate_connects_are_parts_of_their_own() -> None:
    index = chained_index([Edge(0, 1, 0.1, 1.0), Edge(3, 4, 0.2, 1.0)], 5)
    assert [int(part) for part in index.parts] == [0, 0, 1, 2, 2]
    assert index.logs == pytest.approx([0, 0.1, 0, 0, 0.2])
    assert chained_index([], 2).logs == pytest.approx([0, 0])


def test_links_keep_the_error_from_growing_with_the_root_of_the_length() -> None:
    rng, commits = np.random.default_rng(0), 401
    alone = chained_index(chain(rng, {}, commits, link=False), commits)
    linked = chained_index(chain(rng, {}, commits), commits)
    assert alone.errors[-1] == pytest.approx(SIGMA * math.sqrt(400))
    # Half-way between two links, which the rest of the chain makes better than one gate alone: 5 variances to a link.
    assert max(linked.errors) < SIGMA * math.sqrt(1 + LINK_EVERY / 4)
    assert abs(linked.logs[-1]) < 4 * linked.errors[-1]


def test_three_variances_are_drawn_to_what_the_trigamma_function_says() -> None:
    """Their logarithms' variance, less trigamma(5/2), is trigamma(2): the common value counts for four degrees."""
    apart = math.sqrt(math.pi**2 / 6 - 1 + math.pi**2 / 2 - 40 / 9)
    variances = [1e-4 * math.exp(side * apart) for side in (0, 1, -1)]
    found, prior = moderated(variances, [5, 5, 5])
    assert prior == pytest.approx(4.0)
    digamma = 1 - np.euler_gamma, 2 + 2 / 3 - np.euler_gamma - 2 * math.log(2)  # of 2, and of 5/2
    common = 1e-4 * math.exp(digamma[0] - math.log(2) - digamma[1] + math.log(2.5))
    assert found == pytest.approx([(4 * common + 5 * each) / 9 for each in variances])
    same, prior = moderated([1e-4] * 3, [5] * 3)
    assert prior == 1000
    common = 1e-4 * math.exp(-1 / 1000 - digamma[1] + math.log(2.5))  # digamma(500) is log(500) - 1/1000, almost
    assert same == pytest.approx([(1000 * common + 5 * 1e-4) / 1005] * 3, rel=1e-5)
    assert moderated([], []) == ([], 0.0)


def test_variances_are_drawn_to_the_common_one_the_more_the_less_they_differ() -> None:
    rng = np.random.default_rng(1)
    same = [float(each) for each in 0.02**2 * rng.chisquare(5, 400) / 5]
    found, prior = moderated(same, [5] * 400)
    assert prior > 50
    assert found == pytest.approx([0.02**2] * 400, rel=0.35)
    apart = [each * float(scale) for each, scale in zip(same, np.exp(rng.normal(0, 1, 400)), strict=True)]
    found, prior = moderated(apart, [5] * 400)
    assert 1 < prior < 6  # trigamma(d / 2) is the variance of the logarithms, 1: d is 3.2
    assert moderated([0.0, 0.0], [5, 5]) == ([0.0, 0.0], 0.0)
    few, prior = moderated([1e-4, 3e-4], [5, 5])
    assert few == pytest.approx([2e-4, 2e-4])
    assert prior == 0.0, "too few tell how they differ"
    assert min(moderated([0.0, 1e-4, 2e-4, 1e-4], [5] * 4)[0]) > 0
    three, of_three = moderated([1e-4, 4e-4, 1.6e-3], [5] * 3)
    four, of_four = moderated([1e-4, 4e-4, 1.6e-3, 9.0], [5, 5, 5, 0])
    assert (four[:3], of_four) == (three, of_three), "a variance of one value alone tells nothing"


def test_a_step_is_told_with_its_commit_size_and_probability() -> None:
    steps = {30: 0.05, 70: -0.04}
    found = find_steps(chain(np.random.default_rng(2), steps, 100), 100)
    assert [(step.first, step.at, step.last) for step in found] == [(30, 30, 30), (70, 70, 70)]
    for step in found:
        assert abs(step.log - steps[step.at]) < 3 * step.error
        assert step.error < SIGMA
        assert step.probability > 0.99


def test_steps_of_neighbouring_commits_are_told_apart() -> None:
    logs = {5: 0.3, 6: -0.2}
    found = find_steps([Edge(n - 1, n, logs.get(n, 0.0), 1e-4) for n in range(1, 12)], 12)
    assert [(step.first, step.at, step.last) for step in found] == [(5, 5, 5), (6, 6, 6)]


@pytest.mark.parametrize("log", [0.2, -0.25])
def test_a_steps_probability_is_bayes_rules(log: float) -> None:
    """Of one edge: noise alone, or noise and a step of the prior's size."""
    error = 0.06
    step = NormalDist(0, math.hypot(error, STEP_SD)).pdf(log) * PRIOR
    noise = NormalDist(0, error).pdf(log) * (1 - PRIOR)
    (found,) = find_steps([Edge(0, 1, log, error**2)], 2, least=0.01)
    assert found.probability == pytest.approx(step / (step + noise))
    assert (found.log, found.error) == pytest.approx((log, error))


@pytest.mark.parametrize("log", [0.2, -0.25])
def test_a_step_is_told_from_the_probability_on_that_is_asked(log: float) -> None:
    edges = [Edge(0, 1, log, 0.06**2)]
    (found,) = find_steps(edges, 2, least=0.01)
    assert [len(find_steps(edges, 2, least=found.probability + off)) for off in (-1e-6, 1e-6)] == [1, 0]


@pytest.mark.parametrize(("square", "factor"), [(13.7, 1.0), (14.0, 7.0), (40.0, 20.0)])
def test_edges_that_contradict_each_other_by_more_than_chance_are_known_less_well(square: float, factor: float) -> None:
    """Of two degrees of freedom chi square is above 13.8 in one of a thousand."""
    off = SIGMA * math.sqrt(square / 2)
    apart = [Edge(0, 1, off, SIGMA**2), Edge(1, 0, off, SIGMA**2)]
    steps, found = consistent_steps(apart, 2)
    assert steps == []
    assert found == pytest.approx(factor)
    # A step takes one degree; three of the five edges go over it.
    logs = {(0, 1): 0.0, (1, 2): 0.5 + off, (2, 1): -0.5 + off, (0, 3): 0.5, (3, 2): 0.0}
    edges = [Edge(base, head, log, SIGMA**2) for (base, head), log in logs.items()]
    (step,), found = consistent_steps(edges, 4)
    assert step.at == 2
    assert step.log == pytest.approx(0.5)
    assert found == pytest.approx(1.0 if square < 18 else square / 4)  # of four 18.5
    assert step.error == pytest.approx(SIGMA * math.sqrt(found / 3))


@pytest.mark.parametrize("degrees", [math.inf, 5.0])
@pytest.mark.parametrize("size", [0.035, -0.035, 0.06])
def test_a_step_of_gates_is_that_of_weighted_least_squares(size: float, degrees: float) -> None:
    """Of gates with errors of their own, of which some go over many commits and some backwards."""
    rng, count = np.random.default_rng(7), 9
    pairs = [(0, 1), (2, 1), (2, 3), (3, 5), (5, 6), (7, 6), (7, 8), (0, 8), (6, 2)]
    sigmas = [0.01, 0.02, 0.015, 0.01, 0.02, 0.01, 0.015, 0.03, 0.02]
    edges = [
        Edge(base, head, size * ((head >= 5) - (base >= 5)) + float(rng.normal(0, sigma)), sigma**2)
        for (base, head), sigma in zip(pairs, sigmas, strict=True)
    ]

    def fitted(at: int) -> tuple[float, float, float]:
        """Size, its error, and odds, of a step to a commit."""
        crosses = [(edge.head >= at) - (edge.base >= at) for edge in edges]
        weight = sum(abs(way) / edge.variance for way, edge in zip(crosses, edges, strict=True))
        fit = sum(way * edge.log / edge.variance for way, edge in zip(crosses, edges, strict=True)) / weight
        z = float(stats.norm.isf(stats.t.sf(abs(fit) * math.sqrt(weight), degrees)))
        share = STEP_SD**2 / (1 / weight + STEP_SD**2)
        odds = math.exp(z**2 * share / 2) * math.sqrt(1 - share) * PRIOR / (1 - PRIOR)
        return fit, 1 / math.sqrt(weight), odds

    odds = [fitted(at)[2] if at else 0.0 for at in range(count)]
    (step,) = find_steps(edges, count, 0.01, degrees)
    assert step.at == int(np.argmax(odds))
    assert (step.log, step.error) == pytest.approx(fitted(step.at)[:2])
    assert step.probability == pytest.approx(sum(odds) / (1 + sum(odds)))
    shares = [sum(odds[first : last + 1]) / sum(odds) for first, last in range_and_less(step)]
    assert shares[0] >= 0.95 > min(shares[1:], default=0.0)


@pytest.mark.parametrize(("at", "size"), [(5, 0.04), (7, 0.035), (9, -0.035), (10, 0.04)])
def test_a_step_between_others_is_fitted_with_them_and_lies_between_them(at: int, size: float) -> None:
    """Two large ones before it and two behind it; by least squares with all of them."""
    rng, count = np.random.default_rng(at), 14
    sizes = {2: 0.5, 4: -0.4, at: size, 11: 0.6, 13: 0.7}
    pairs = [*((n, n + 1) for n in range(4)), *((n, n + 2) for n in range(3, 12)), (12, 13), (0, 13), (12, 1)]
    level = np.cumsum([sizes.get(commit, 0.0) for commit in range(count)])
    edges = [Edge(a, b, float(level[b] - level[a] + rng.normal(0, 0.012)), 0.012**2) for a, b in pairs]
    logs = np.array([edge.log for edge in edges]) / 0.012

    def fitted(place: int) -> tuple[float, float, float]:
        """Size, its error, and odds, of a step to a commit beside the others."""
        places = [place, 2, 4, 11, 13]
        crosses = np.array([[(edge.head >= k) - (edge.base >= k) for k in places] for edge in edges]) / 0.012
        inverse = np.linalg.inv(crosses.T @ crosses)
        fit, error = float((inverse @ crosses.T @ logs)[0]), math.sqrt(inverse[0, 0])
        share = STEP_SD**2 / (error**2 + STEP_SD**2)
        odds = math.exp((fit / error) ** 2 * share / 2) * math.sqrt(1 - share) * PRIOR / (1 - PRIOR)
        return fit, error, odds

    odds = [fitted(place)[2] if 4 < place < 11 else 0.0 for place in range(count)]
    (step,) = (each for each in find_steps(edges, count, 0.3) if each.at not in (2, 4, 11, 13))
    assert step.at == int(np.argmax(odds))
    assert (step.log, step.error) == pytest.approx(fitted(step.at)[:2])
    assert step.probability == pytest.approx(sum(odds) / (1 + sum(odds)))
    shares = [sum(odds[first : last + 1]) / sum(odds) for first, last in range_and_less(step)]
    assert shares[0] >= 0.95 > min(shares[1:], default=0.0)


def test_one_edge_contradicts_nothing() -> None:
    (step,), factor = consistent_steps([Edge(0, 1, 0.5, SIGMA**2)], 2)
    assert (step.at, factor) == (1, 1.0)
    assert consistent_steps([], 3) == ([], 1.0)
    (step,), factor = consistent_steps([Edge(0, 1, 0.5 + side * 3 * SIGMA, SIGMA**2) for side in (1, -1)], 2)
    assert step.at == 1
    assert factor == pytest.approx(18.0)


def test_a_gate_that_skips_commits_tells_a_range() -> None:
    edges = [Edge(0, 1, 0.0, SIGMA**2), Edge(1, 5, 0.06, SIGMA**2), Edge(6, 5, 0.0, SIGMA**2)]
    (step,) = find_steps(edges, 7)
    assert (step.first, step.last) == (2, 5)
    assert step.log == pytest.approx(0.06)


def test_a_step_that_those_beside_it_make_improbable_is_dropped() -> None:
    """The one to commit 4 comes first; with one before and one behind it, it is no more than likely."""
    logs = {(4, 6): 0.1, (0, 4): 0.2, (0, 5): 0.3, (0, 2): 0.0, (0, 3): 0.1}
    edges = [Edge(base, head, log, 0.02**2) for (base, head), log in logs.items()]
    edges += [Edge(6, 5, 0.0, 0.02**2)] * 2
    assert [step.at for step in find_steps(edges, 8)] == [3, 5]
    assert [step.at for step in find_steps(edges, 8, least=0.5)] == [3, 4, 5]


def test_a_step_that_stays_probable_is_kept() -> None:
    logs = {(1, 0): 0.1, (5, 6): 0.0, (6, 0): -0.2, (2, 3): 0.1, (6, 7): -0.1}
    edges = [Edge(base, head, log, 0.01**2) for (base, head), log in logs.items()]
    assert [step.at for step in find_steps([*edges, Edge(6, 5, 0.0, 0.01**2)], 8)] == [1, 2, 3, 7]


def test_nothing_is_told_of_too_little() -> None:
    assert find_steps([], 0) == find_steps([], 1) == find_steps([], 3) == []
    assert find_steps([Edge(0, 1, 0.02, SIGMA**2)], 2) == []
    assert find_steps([Edge(0, 1, 0.05, SIGMA**2)], 2, degrees=3) == []  # known from four pairs alone
    assert find_steps_in_series([0.0, 0.0, 1.0, 1.0]) == []
    assert find_steps_in_series([]) == find_steps_in_series([0.0]) == find_steps_in_series([0.0, 1.0]) == []
    # By Bayes' rule 0.987 and 0.991: 0.99 is asked for where nothing else is.
    assert [len(find_steps([Edge(0, 1, log, SIGMA**2)], 2)) for log in (0.033, 0.0335)] == [0, 1]


@pytest.mark.parametrize(
    ("lengths", "places"),
    [
        ([12], []),
        ([6, 6], [6]),
        ([3, 9], [3]),
        ([9, 3], [9]),
        ([2, 10], [3]),  # with three runs to each side at least
        ([10, 2], [9]),
        ([6, 3, 6], [6, 9]),
        ([6, 2, 7], [5, 8]),
    ],
)
def test_steps_of_runs_without_noise_have_three_runs_to_each_side(lengths: list[int], places: list[int]) -> None:
    logs = [float(level) for level, length in enumerate(lengths) for _ in range(length)]
    found = find_steps_in_series(logs)
    assert [step.at for step in found] == places
    if lengths == [6, 6]:
        assert found[0].log == pytest.approx(1.0)
        assert found[0].error == pytest.approx(1e-6 * math.sqrt(1 / 6 + 1 / 6))


def test_a_step_that_no_probability_of_a_float_can_hold_is_told_with_its_range() -> None:
    (step,) = find_steps([Edge(n, n + 1, 0.5 * (n == 4), 1e-7) for n in range(9)], 10, degrees=500.0)
    assert (step.first, step.at, step.last) == (5, 5, 5)
    assert step.probability == pytest.approx(1)


def test_false_alarms_are_rare_and_changes_of_five_percent_are_found() -> None:
    """Of 40 histories of 200 commits, with the errors of gates on a typical machine: 8,000 commits."""
    rng = np.random.default_rng(3)
    alarms = sum(len(find_steps(chain(rng, {}, 200), 200)) for _ in range(40))
    assert alarms <= 4
    found = sum(100 in [s.at for s in find_steps(chain(rng, {100: 0.05}, 200), 200)] for _ in range(40))
    assert found >= 38


def test_wandering_times_of_separate_runs_raise_few_alarms_and_a_large_step_is_found() -> None:
    rng = np.random.default_rng(4)

    def series(step: float) -> list[float]:
        state, found = 0.0, []
        for place in range(200):
            state = 0.7 * state + rng.normal(0, 0.03)
            found.append(float(state + step * (place >= 100)))
        return found

    assert sum(len(find_steps_in_series(series(0.0))) for _ in range(20)) <= 4
    assert sum(any(abs(s.at - 100) < 5 for s in find_steps_in_series(series(0.5))) for _ in range(20)) >= 18
    spike = [0.001 * (place % 3) for place in range(40)]
    spike[20] += 1.0
    assert find_steps_in_series(spike) == []


@pytest.mark.parametrize(
    ("seed", "size"),
    [(0, 0.12), (2, -0.07), (6, 0.15), (0, 0.02), (0, -0.03), (3, -0.04), (4, -0.04), (7, 0.04)],
)
def test_a_step_of_separate_runs_is_that_of_generalised_least_squares(seed: int, size: float) -> None:
    """With the covariance of an autoregressive series, against an unknown level; the odds are of Bayes' rule."""
    rng, count = np.random.default_rng(seed), 24
    logs = np.zeros(count)
    for place in range(1, count):
        logs[place] = 0.5 * logs[place - 1] + rng.normal(0, 0.01)
    logs += size * (np.arange(count) >= 14)
    one, two = (float(np.median(np.abs(logs[lag:] - logs[:-lag]))) for lag in (1, 2))
    keeps = min(max((two / one) ** 2 - 1, 0.0), 0.95)
    variance = (one / NormalDist().inv_cdf(0.75)) ** 2 / (2 * (1 - keeps))
    inverse = np.linalg.inv(variance * keeps ** np.abs(np.subtract.outer(np.arange(count), np.arange(count))))

    def fitted(at: int) -> tuple[float, float, float]:
        """Size, its error, and odds, of a step at a place."""
        design = np.column_stack([np.ones(count), np.arange(count) >= at])
        covariance = np.linalg.inv(design.T @ inverse @ design)
        fit = float((covariance @ design.T @ inverse @ logs)[1])
        error = math.sqrt(covariance[1, 1])
        ratio = NormalDist(0, math.hypot(error, STEP_SD)).pdf(fit) / NormalDist(0, error).pdf(fit)
        return fit, error, ratio * PRIOR / (1 - PRIOR)

    odds = [fitted(at)[2] if at else 0.0 for at in range(count)]
    (step,) = find_steps_in_series(list(logs), least=0.2)
    assert step.at == 3 + int(np.argmax(odds[3:-2]))
    assert (step.log, step.error) == pytest.approx(fitted(step.at)[:2], rel=1e-6)
    assert step.probability == pytest.approx(sum(odds) / (1 + sum(odds)))
    shares = [sum(odds[first : last + 1]) / sum(odds) for first, last in range_and_less(step)]
    assert shares[0] >= 0.95 > min(shares[1:], default=0.0)


def range_and_less(step: Step) -> list[tuple[int, int]]:
    """The range of a step, and that without its first commit, and its last one."""
    less = [(step.first + 1, step.last), (step.first, step.last - 1)] if step.first < step.last else []
    return [(step.first, step.last), *less]


def test_a_run_more_than_three_deviations_off_its_neighbours_counts_as_their_median() -> None:
    alternating, step = np.tile([0.01, -0.01], 20), 0.5 * (np.arange(40) >= 20)
    deviation = 0.02 / NormalDist().inv_cdf(0.75) / math.sqrt(2)  # differences of neighbours are 0.02

    def found(deviations: float) -> Step:
        """With one run off so far, above those with the larger value or below those with the smaller one."""
        logs = alternating + step
        logs[10 if deviations > 0 else 11] += deviations * deviation
        (only,) = find_steps_in_series([float(log) for log in logs])
        return only

    assert found(3.1) == found(-3.1) == found(9.0) == found(0.0)
    assert found(2.9).log < found(0.0).log - 0.002 < found(0.0).log + 0.002 < found(-2.9).log


@pytest.mark.slow
def test_real_procedures_on_simulated_machines_find_changes_and_raise_no_alarm() -> None:
    from tests.benchmarks.history_steps import edges_of

    rng = np.random.default_rng(5)
    steps = changes(rng, 150, 2)
    history = simulate("typical", 5, 150, steps)
    edges, degrees = edges_of(history.gates)
    assert [step.at for step in find_steps(edges, 150, degrees=degrees)] == sorted(steps)
