"""Turns are taken in a random order each round, until the intervals are narrow or the budget is spent."""

import random

from cnnbench.errors import WorkerCrashed
from cnnbench.runner.interleave import MIN_ROUNDS, PLANNED_ROUNDS, Seconds, measure_interleaved
from cnnbench.runner.run import group_cases
from cnnbench.suite.case import Case, ModelSpec


class Fake:
    """A contestant on a shared clock that writes down what is done to it."""

    log: list[str]

    def __init__(
        self, name: str, log: list[str], clock: list[float], noise: random.Random | None, dies_in: int = 10**9
    ) -> None:
        self.name, self.log, self.clock, self.noise, self.dies_in = name, log, clock, noise, dies_in
        self.blocks = 0

    def resume(self) -> None:
        self.log.append(f"thaw {self.name}")

    def suspend(self) -> None:
        self.log.append(f"freeze {self.name}")

    def sample(self, seconds: float) -> Seconds:
        if self.blocks == self.dies_in:
            raise WorkerCrashed("killed")
        self.blocks += 1
        self.clock[0] += seconds
        self.log.append(f"sample {self.name}")
        return {"forward": [0.01 * (self.noise.lognormvariate(0, 0.2) if self.noise else 1.0)]}


def pair(noisy: bool, **options: int) -> tuple[list[Fake], list[str], list[float]]:
    log: list[str] = []
    clock = [0.0]
    noise = random.Random(1) if noisy else None
    return [Fake("a", log, clock, noise, **options), Fake("b", log, clock, noise)], log, clock


def test_each_turn_runs_alone_while_the_other_is_stopped() -> None:
    participants, log, clock = pair(noisy=False)
    measure_interleaved(participants, 1.0, random.Random(0), clock_s=lambda: clock[0])
    for index in range(0, len(log), 3):
        name = log[index][-1]
        assert log[index : index + 3] == [f"thaw {name}", f"sample {name}", f"freeze {name}"]


def test_the_order_within_a_round_is_random_and_comes_from_the_seed() -> None:
    orders = []
    for _ in range(2):
        participants, log, clock = pair(noisy=True)
        measure_interleaved(participants, 10.0, random.Random(7), clock_s=lambda clock=clock: clock[0])  # type: ignore[misc]
        orders.append([line[-1] for line in log if line.startswith("sample")])
    assert orders[0] == orders[1]
    rounds = {"".join(orders[0][i : i + 2]) for i in range(0, len(orders[0]), 2)}
    assert rounds == {"ab", "ba"}


def test_narrow_intervals_end_a_race_early() -> None:
    participants, _, clock = pair(noisy=False)
    results = measure_interleaved(participants, 100.0, random.Random(0), clock_s=lambda: clock[0])
    assert [len(result.blocks) for result in results] == [MIN_ROUNDS] * 2
    assert {result.stopped for result in results} == {"all intervals within 1%"}


def test_wide_intervals_use_the_whole_budget_of_both() -> None:
    participants, _, clock = pair(noisy=True)
    results = measure_interleaved(participants, 2.0, random.Random(0), clock_s=lambda: clock[0])
    assert {result.stopped for result in results} == {"budget spent"}
    assert [len(result.blocks) for result in results] == [PLANNED_ROUNDS] * 2


def test_a_budget_too_small_still_gives_enough_rounds_for_an_interval() -> None:
    participants, _, clock = pair(noisy=True)
    results = measure_interleaved(participants, 1e-9, random.Random(0), clock_s=lambda: clock[0] * 1e9)
    assert [len(result.blocks) for result in results] == [MIN_ROUNDS] * 2


def test_a_contestant_that_dies_leaves_the_others_to_go_on() -> None:
    participants, _, clock = pair(noisy=True, dies_in=3)
    a, b = measure_interleaved(participants, 2.0, random.Random(0), clock_s=lambda: clock[0])
    assert (str(a.error), len(a.blocks)) == ("crashed: killed", 3)
    assert b.error is None
    assert len(b.blocks) > MIN_ROUNDS


def test_cases_that_differ_in_their_runtime_alone_race_together() -> None:
    def case(runtime: str, batch: int) -> Case:
        spec = ModelSpec(model="lenet5")
        return Case.model_validate({"spec": spec, "workload": "inference", "runtime": runtime, "batch": batch})

    mixed = [case("eager", 1), case("eager", 8), case("ort", 1), case("ort", 8)]
    groups = [[c.id.removeprefix("lenet5/inference/") for c in group] for group in group_cases(mixed)]
    assert groups == [["eager/cpu/fp32/b1", "ort/cpu/fp32/b1"], ["eager/cpu/fp32/b8", "ort/cpu/fp32/b8"]]
