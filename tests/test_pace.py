"""How a run's time is foreseen and shared out, on a clock of our own."""

import pytest

from cnnbench.runner.budget import FIRST_GUESS_LAYER_S, MIN_SCALE, BudgetEstimator
from cnnbench.suite.case import Case, ModelSpec


def case(model: str, batch: int = 1) -> Case:
    spec = ModelSpec(model=model, image_size=(224, 224) if model == "resnet50" else (28, 28))
    return Case(spec=spec, workload="inference", runtime="eager", batch=batch)


SMALL = [case("lenet5", batch) for batch in range(1, 11)]


def estimator(budget_s: float, now: list[float]) -> BudgetEstimator:
    cases = [*SMALL, case("resnet50", 8)]
    return BudgetEstimator(budget_s, {c.id: 4.0 for c in cases}, clock_s=lambda: now[0])


def test_with_time_enough_every_race_has_its_whole_budget() -> None:
    assert estimator(1000, [0.0]).scale([[c] for c in SMALL], builds=[SMALL[0].spec]) == 1.0


def test_with_less_time_all_races_are_cut_alike_and_fit() -> None:
    now = [0.0]
    watched = estimator(50, now)
    watched.group_measured([SMALL[0]], seconds=5.0, timed_s=4.0, calls_s=[1e-4])  # one second to start
    groups = [[c] for c in SMALL[1:]]
    assert watched.left_s(groups, builds=[]) == pytest.approx(45.0)
    assert watched.scale(groups, builds=[]) == 1.0
    now[0] = 20.0  # 30 s are left for nine races of one second to start and four to measure
    scale = watched.scale(groups, builds=[])
    assert MIN_SCALE < scale < 1.0
    assert watched.left_s(groups, [], scale) == pytest.approx(30.0)


def test_no_race_is_cut_below_a_quarter() -> None:
    now = [0.0]
    watched = estimator(10, now)
    now[0] = 9.0
    assert watched.scale([[c] for c in SMALL], builds=[SMALL[0].spec] * 2) == MIN_SCALE
    now[0] = 10.9
    assert watched.budget_left_s < 0
    assert not watched.is_over, "first launches may overdraw the budget by a tenth"
    now[0] = 11.1
    assert watched.is_over


def test_builds_are_foreseen_by_layers_and_learnt() -> None:
    watched = estimator(1000, [0.0])
    small, big = SMALL[0].spec, case("resnet50").spec
    assert FIRST_GUESS_LAYER_S * 12 < watched.left_s([], builds=[small, small]) < watched.left_s([], builds=[big])
    watched.built(small, 3.0)
    assert watched.left_s([], builds=[small, small]) == pytest.approx(6.0)
    foreseen = watched.left_s([], builds=[big])  # 175 layers against 12
    assert 10.0 < foreseen < 3.0 * 175 / 12
    watched.built(big, 2 * foreseen)
    assert foreseen < watched.left_s([], builds=[big]) < 2 * foreseen


def test_a_large_model_is_foreseen_to_take_longer_than_its_budget() -> None:
    watched = estimator(1000, [0.0])
    big = [case("resnet50", 8)]
    watched.group_measured(big, seconds=10, timed_s=9, calls_s=[3.3])  # 32.7 G MACs in 3.3 s
    assert watched.group_s(big) == pytest.approx(1 + 13 * 3.3, rel=0.01)


def test_tiny_networks_do_not_make_large_ones_look_slow() -> None:
    watched = estimator(1000, [0.0])
    before = watched.group_s([case("resnet50", 8)])
    watched.group_measured([SMALL[0]], seconds=7, timed_s=4, calls_s=[1e-3])
    assert watched.group_s([case("resnet50", 8)]) == pytest.approx(before)
