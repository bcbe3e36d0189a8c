"""The chained index and the steps in it: by hand on small graphs, by their rates on simulated histories."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from cnnbench.analysis.chain import (
    PRIOR,
    STEP_SD,
    Edge,
    Step,
    chained_index,
    find_steps,
    find_steps_in_series,
    moderated,
)
from tests.histories import LINK_EVERY, changes, simulate

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


def test_a_gate_that_skips_commits_tells_a_range() -> None:
    edges = [Edge(0, 1, 0.0, SIGMA**2), Edge(1, 5, 0.06, SIGMA**2), Edge(6, 5, 0.0, SIGMA**2)]
    (step,) = find_steps(edges, 7)
    assert (step.first, step.last) == (2, 5)
    assert step.log == pytest.approx(0.06)


def test_nothing_is_told_of_too_little() -> None:
    assert find_steps([], 0) == find_steps([], 1) == find_steps([], 3) == []
    assert find_steps([Edge(0, 1, 0.02, SIGMA**2)], 2) == []
    assert find_steps([Edge(0, 1, 0.05, SIGMA**2)], 2, degrees=3) == []  # known from four pairs alone
    assert find_steps_in_series([0.0, 0.0, 1.0, 1.0]) == []


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
