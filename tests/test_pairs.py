"""What is made of two launches: the median round's ratio, from the rounds that nothing disturbed."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cnnbench.gate.arms import Arm
from cnnbench.gate.pairs import Pair, Pairs, Rounds, difference_of_outputs
from cnnbench.gate.verdict import ArmComparison, ArmName, Paired
from cnnbench.records import artifact
from cnnbench.records.messages import Request, Warm
from cnnbench.records.reason import Interference
from cnnbench.records.record import Launch
from cnnbench.runner.fork_server import ForkServers
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case
from cnnbench.worker.timing import measure
from tests.in_process import ScriptedWorker
from tests.records import case, facts, measurement


def launch(times: list[float], interference: tuple[int, ...] = (), samples: int = 2, **changes: Any) -> Launch:
    """One turn a value; the turns of those places were disturbed."""
    made = measurement(times, samples=samples).launches[0]
    blocks = [
        block.model_copy(
            update={"interference": [Interference(kind="steal", amount=0.9)] if place in interference else []}
        )
        for place, block in enumerate(made.blocks)
    ]
    return made.model_copy(update={"blocks": blocks, **changes})


def test_what_slows_a_round_down_for_both_cancels() -> None:
    slow_rounds = [1.0, 3.0, 1.0, 2.0, 1.0, 1.5, 1.0]
    rounds = Rounds.of(launch([0.010 * f for f in slow_rounds]), launch([0.011 * f for f in slow_rounds]))
    assert rounds.log_ratio == pytest.approx(math.log(1.1))
    assert not rounds.interference


def test_times_are_of_one_call_however_many_a_sample_holds() -> None:
    base = launch([0.020] * 6, calls_per_sample=2)
    head = launch([0.040] * 6, calls_per_sample=4)
    assert Rounds.of(base, head).log_ratio == pytest.approx(0.0)


def test_disturbed_rounds_are_left_out_of_both_by_what_counters_say() -> None:
    base = launch([0.010] * 8, interference=(0,))
    head = launch([0.5, 0.5, *[0.010] * 6], interference=(1,))
    rounds = Rounds.of(base, head)
    assert (len(rounds.ratios), rounds.interference) == (6, False)
    assert rounds.log_ratio == pytest.approx(0.0)
    few = Rounds.of(launch([0.010] * 8, interference=(0, 1, 2)), head)
    assert (len(few.ratios), few.interference) == (8, True)


def test_a_round_that_one_arm_did_not_reach_is_not_compared() -> None:
    assert len(Rounds.of(launch([0.01] * 9), launch([0.01] * 7)).ratios) == 7


def test_more_samples_or_another_order_of_them_inside_turns_change_nothing() -> None:
    rng = random.Random(1)
    times = [0.01 * rng.lognormvariate(0, 0.1) for _ in range(20)]
    base, head = launch(times), launch([1.03 * time_s for time_s in times])
    more = launch([1.03 * time_s for time_s in times], samples=200)
    assert Rounds.of(base, more).ratios == pytest.approx(Rounds.of(base, head).ratios)
    shuffled = [
        block.model_copy(
            update={"seconds": {"forward": rng.sample(block.seconds["forward"], len(block.seconds["forward"]))}}
        )
        for block in more.blocks
    ]
    assert Rounds.of(base, more.model_copy(update={"blocks": shuffled})).ratios == Rounds.of(base, more).ratios


def test_a_ratio_that_drifts_or_has_two_modes_is_unsteady_and_drift_of_both_is_not() -> None:
    rising = [0.01 * (1 + 0.02 * block) for block in range(20)]
    flat = [0.01] * 20
    assert not Rounds.of(launch(rising), launch(rising)).is_unsteady
    assert Rounds.of(launch(flat), launch(rising)).is_unsteady
    assert Rounds.of(launch(flat), launch([0.01, 0.013] * 10)).is_unsteady


def test_a_pair_without_base_has_times_and_no_ratio() -> None:
    paired = Pair(
        comparison="a", stage="screen", number=0, order=["head"], launches={"head": launch([0.01] * 6)}
    ).paired()
    assert (dict(paired.logs), paired.interference) == ({}, False)
    assert paired.call_s["head"] == pytest.approx(0.01)


def test_a_slowdown_that_is_made_on_purpose_is_that_share_of_each_calls_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that goes on by a millisecond whenever it is read."""
    now = 0.0

    def read() -> float:
        nonlocal now
        now += 0.001
        return now

    def work() -> None:
        nonlocal now
        now += 10.0

    monkeypatch.setattr("time.perf_counter", read)
    phases = {"forward": measure.slowed(work, 0.5)}
    phases["forward"]()
    assert now == pytest.approx(15.0, abs=0.01)


class Gate:
    """A gate of one environment against itself, with workers in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.least_warmups_s: list[float] = []
        self.folder, self.kept = folder, list[Pair]()
        monkeypatch.setenv("CNNBENCH_CACHE", str(folder / "cache"))
        monkeypatch.setattr(ForkServers, "start", lambda servers, lineage, log: self._start(log))
        monkeypatch.setattr(ForkServers, "fork", lambda servers, lineage, log: self._start(log, "fork "))

    def _start(self, log: Path, how: str = "") -> Worker:
        self.asked.append(f"{how}{log.stem}")
        least_warmups_s = self.least_warmups_s

        class Listening(ScriptedWorker):
            def send(self, request: Request) -> None:
                if isinstance(request, Warm):
                    least_warmups_s.append(request.least_s)
                super().send(request)

        return Listening({"build": facts()}, [], log.stem)

    def measure(
        self, *cases: Case, arms: tuple[ArmName, ...] = ("base", "head"), seconds: float = 0.001
    ) -> list[Paired]:
        base = Arm("base", ".")
        comparisons = [ArmComparison(each, each, seconds) for each in cases]
        with Pairs(base, base, self.folder, 10.0, random.Random(0), self.kept.append) as pairs:
            pairs.build(comparisons, lambda what: None)
            return [pairs.measure(each, "screen", arms, 0, 1.0) for each in comparisons]


def test_a_gate_builds_everything_before_it_measures_and_onnx_runtime_needs_no_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(tmp_path, monkeypatch)
    found = gate.measure(case("ort"), case("ort", model="simple_cnn"))
    assert [len(pair.logs) for pair in found] == [1, 1]
    assert [pair.comparison for pair in gate.kept] == [case("ort").id, case("ort", model="simple_cnn").id]
    starts = [line.split("-")[0] for line in gate.asked]
    assert starts == ["fork build", "fork build", "base", "head", "base", "head"]


def test_arms_of_pytorch_are_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(tmp_path, monkeypatch)
    gate.measure(case("eager"))
    assert [line.split("-")[0] for line in gate.asked] == ["build", "fork base", "fork head"]


def test_arms_that_are_compared_with_each_other_warm_up_for_half_of_what_they_measure_and_an_arm_alone_as_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An arm alone is compared with launches of an earlier run, which were as warm as a run's are."""
    gate = Gate(tmp_path, monkeypatch)
    gate.measure(case("ort"), seconds=0.01)
    gate.measure(case("ort"), seconds=0.01, arms=("head",))
    gate.measure(case("ort"), seconds=2.0)
    assert gate.least_warmups_s == [0.005, 0.005, 0.5, 0.5, 0.5]


FEW, MANY = 0.9e-7, 1.1e-7
"""Just below and just above what the limit, 1e-5 of an output RMS of 0.01, allows."""


def artifact_with(folder: Path, weights: tuple[int, ...], **outputs: np.ndarray) -> Path:
    """An artifact's folder, as far as arms are compared by it."""
    folder.mkdir()
    save_file({"conv.weight": np.zeros(weights)}, folder / artifact.WEIGHTS)
    save_file({"images": np.zeros(3), **outputs}, folder / artifact.GOLDEN)
    (folder / artifact.FACTS).write_text(facts().model_dump_json())
    return folder


@pytest.mark.parametrize(
    ("weights", "outputs", "difference"),
    [
        ((2, 3), {"reference": [[1.0, 2.0 + FEW]]}, ""),
        ((2, 3), {"reference": [[1.0, 2.0 + MANY]]}, "head's outputs differ from base's by 1.1e-05 of the output RMS"),
        ((2, 3), {"reference": [[1.0, 2.0 - MANY]]}, "head's outputs differ from base's by 1.1e-05 of the output RMS"),
        ((2, 3), {"reference": [[1.0, 2.0, 3.0]]}, "outputs of shape (1, 3) in head, (1, 2) in base"),
        ((2, 3), {"reference": [[1.0, 2.0]], "reference.1": [[0.0]]}, "2 outputs in head, 1 in base"),
        ((3, 2), {"reference": [[5.0, 6.0]]}, ""),
    ],
    ids=["within-the-limit", "above", "below", "another-shape", "another-number", "other-weights"],
)
def test_arms_whose_outputs_differ_beyond_the_limit_are_told_unless_their_weights_have_other_shapes(
    tmp_path: Path, weights: tuple[int, ...], outputs: dict[str, Any], difference: str
) -> None:
    base = artifact_with(tmp_path / "base", (2, 3), reference=np.array([[1.0, 2.0]]))
    head = artifact_with(tmp_path / "head", weights, **{name: np.array(each) for name, each in outputs.items()})
    found = difference_of_outputs(base, head)
    assert found.startswith(difference)
    assert bool(found) == bool(difference)
