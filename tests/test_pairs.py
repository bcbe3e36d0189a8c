"""What is made of two launches: the median round's ratio, from the rounds that nothing disturbed."""

import math
import random
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cnnbench.gate import pairs as measuring
from cnnbench.gate.arms import Arm
from cnnbench.gate.pairs import Pair, Pairs, Rounds, difference_of_outputs
from cnnbench.gate.verdict import ArmComparison, ArmName, Paired
from cnnbench.records import artifact
from cnnbench.records.messages import Request, Warm
from cnnbench.records.reason import Interference, Reason
from cnnbench.records.record import Launch, Parity, Ran, Usage
from cnnbench.records.toolchain import Toolchain
from cnnbench.runner.fork_server import ForkServers
from cnnbench.runner.interleave import Allowance, GroupMember, Outcome
from cnnbench.runner.worker_process import Interpreter, Worker
from cnnbench.suite.case import Case, ModelSpec
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


def kept(launches: dict[ArmName, Launch], missing: str = "", wrong: str = "") -> Paired:
    about = {"comparison": "a", "stage": "screen", "number": 0, "order": list(launches), "launches": launches}
    return Pair.model_validate({**about, "missing": missing, "wrong": wrong}).paired()


def test_a_pair_of_three_arms_has_ratios_to_base_and_is_unsteady_for_heads_sake_alone() -> None:
    base, head, null = launch([0.010] * 20), launch([0.011] * 20), launch([0.009, 0.012] * 10)
    found = kept({"head": head, "base": base, "null": null})
    assert found.order == ("head", "base", "null")
    assert found.logs == {"head": pytest.approx(math.log(1.1)), "null": pytest.approx(math.log(1.05))}
    assert found.call_s == {"base": pytest.approx(0.01), "head": pytest.approx(0.011), "null": pytest.approx(0.0105)}
    assert (found.unsteady, found.interference, found.in_kernel, found.problem) == (False, False, False, "")
    assert kept({"base": base, "head": null}).unsteady
    disturbed = launch([0.010] * 20, tuple(range(15)))
    assert kept({"base": base, "head": head, "null": disturbed}).interference
    gone = kept({"base": base, "head": head}, missing="head: gone", wrong="x")
    assert (gone.order, gone.logs, gone.problem) == (("base", "head"), {}, "head: gone")
    wrong = kept({"base": base, "head": head}, wrong="head: parity")
    assert (wrong.problem, list(wrong.logs)) == ("head: parity", ["head"])
    usage = Usage(user_s=0.7, kernel_s=0.3, minor_faults=1, major_faults=0)
    busy = null.model_copy(update={"blocks": [each.model_copy(update={"usage": usage}) for each in null.blocks]})
    assert kept({"base": base, "head": head, "null": busy}).in_kernel


@pytest.mark.parametrize(("drift", "is_unsteady"), [(0.04, False), (-0.04, False), (0.06, True), (-0.06, True)])
def test_a_drift_of_more_than_a_twentieth_is_unsteady_whichever_way(drift: float, is_unsteady: bool) -> None:
    head = [0.01 * (1 + drift) ** (turn / 19) for turn in range(20)]
    assert Rounds.of(launch([0.01] * 20), launch(head)).is_unsteady == is_unsteady


OWN, LENET = ModelSpec(model="own_models:works"), ModelSpec(model="lenet5", image_size=(28, 28), classes=10)


@pytest.mark.parametrize(
    ("source", "code", "spec", "is_bases", "has_weights"),
    [
        ("", "a", LENET, True, False),
        ("", "a", OWN, True, False),
        ("abc", "a", LENET, True, False),  # the same code and libraries, of a model that is no user's own
        ("abc", "a", OWN, False, True),
        ("abc", "b", LENET, False, True),
        ("", "b", LENET, True, False),  # of one revision, both run in base's environment
    ],
)
def test_heads_artifact_is_bases_unless_it_may_be_another_and_is_then_built_with_bases_weights(
    tmp_path: Path, source: str, code: str, spec: ModelSpec, is_bases: bool, has_weights: bool
) -> None:
    toolchain, other = Toolchain("a", {"torch": "2"}), Interpreter("/other/python")
    base = Arm("base", ".", toolchain=toolchain)
    head = Arm("head", "x", other, source, replace(toolchain, code=code))
    with Pairs(base, head, tmp_path, 10.0, random.Random(0), lambda pair: None, 0.25) as pairs:
        of_base, of_head = (pairs._wanted(name, spec, ("all",)) for name in ("base", "head"))
        assert (of_base.spec, of_base.steps, of_base.weights) == (spec, ("all",), None)
        assert (of_head.key == of_base.key, of_head.interpreter != other) == (is_bases, is_bases)
        assert of_head.weights == (of_base.folder / artifact.WEIGHTS if has_weights else None)
        assert (pairs.folder("head", spec), pairs.folder("base", spec)) == (of_head.folder, of_base.folder)
        each = case("ort").model_copy(update={"spec": spec, "threads": 3, "allocator": "keep"})
        comparison = ArmComparison(each, each, 1.0)
        members = [pairs._member(comparison, name, 5) for name in ("base", "head", "null")]
        assert [member.slowdown for member in members] == [0.0, 0.25, 0.0]
        assert [member.folder for member in members] == [of_base.folder, of_head.folder, of_base.folder]
        assert {(member.case, member.threads) for member in members} == {(each, 3)}
        assert [member.log.name.partition("-")[0] for member in members] == ["base", "head", "null"]
        padding = [len(pairs._padded(other).variables["CNNBENCH_PADDING"]) for _ in range(100)]
        assert 0 <= min(padding) < 500 < 3500 < max(padding) < 4096


def test_what_is_wrong_with_an_arm_is_its_outputs_or_what_ran_and_not_its_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, each = Gate(tmp_path, monkeypatch), case("ort")
    good, bad = Parity(what="ort b1", error=1e-6, limit=1e-5), Parity(what="ort b8", error=0.5, limit=1e-5)
    fault = Reason(code="layout", detail="lost")

    def outcome(of: Launch | None, *parity: Parity, faults: tuple[Reason, ...] = ()) -> Outcome:
        return Outcome(each, "g", datetime.now(), of, parity, faults)

    comparison = ArmComparison(each, each, 1.0)
    with Pairs(Arm("base", "."), Arm("head", "."), gate.folder, 10.0, random.Random(0), gate.kept.append) as pairs:
        told: list[str] = []
        pairs.build([comparison], told.append)
        assert told == ["lenet5: building, counting and exporting"]
        said = [
            pairs._wrong(comparison, "head", found)
            for found in (
                outcome(None),
                outcome(None, good),
                outcome(None, good, bad),
                outcome(launch([0.01, 0.03])),  # noisy
                outcome(launch([0.01] * 8), good, bad),
                outcome(launch([0.01] * 8), faults=(fault,)),
            )
        ]
    parity = "parity: ort b8, error 5.0e-01, limit 1.0e-05 (relative)"
    assert said == [None, None, parity, None, parity, "layout: lost"]


def test_launches_are_shortened_by_the_scale_and_those_of_services_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, seen = Gate(tmp_path, monkeypatch), list[Any]()
    ran = Ran(device="cpu", device_name="CPU", threads=1, precision="fp32")

    def measured(members: list[GroupMember], allowance: Allowance, *more: Any, **about: Any) -> list[Outcome]:
        seen.append((allowance.sampling_s, allowance.least_warmup_s, more[:1], about.pop("seed") < 2**31, about))
        made = launch([0.01] * 6, ran=ran)
        return [Outcome(member.case, "g", datetime.now(), made) for member in members]

    closed: list[int | None] = []
    monkeypatch.setattr(ForkServers, "close", lambda servers, before=None: closed.append(before))
    monkeypatch.setattr(measuring, "measure_group", measured)
    monkeypatch.setattr(measuring, "measure_services", measured)
    one, served = case("ort"), case("ort", "serving")
    base = Arm("base", ".")
    with Pairs(base, base, gate.folder, 10.0, random.Random(0), gate.kept.append) as pairs:
        comparisons = [ArmComparison(each, each, 0.8) for each in (one, served)]
        pairs.build(comparisons, lambda what: None)
        closed.clear()
        for comparison, arms, scale in (
            (comparisons[0], ["base", "head"], 0.5),
            (comparisons[0], ["head"], 0.5),
            (comparisons[1], ["base", "head"], 0.5),
            (comparisons[1], ["head", "base"], 0.5),
        ):
            pairs.measure(comparison, "confirm", arms, 7, scale)  # type: ignore[arg-type]
        assert closed == [6] * 4  # each block has two pairs
        assert set(pairs.ran) == {(each.id, arm) for each in (one, served) for arm in ("base", "head")}
    sampled = [each[:2] for each in seen]
    assert sampled == [(0.4, 0.2), (0.4, 0.5), (0.8, 0.5), (0.8, 0.5)]
    (before,), (after,) = (each[2] for each in seen[2:])
    assert (before, [len(launches) for launches in after.values()]) == ({served: []}, [1])
    assert [each[3] for each in seen] == [True] * 4
    assert [each[4] for each in seen] == [{}, {}, {"rate_alone": True}, {"rate_alone": True}]
    assert [(pair.stage, pair.number, pair.order) for pair in gate.kept] == [
        ("confirm", 7, ["base", "head"]),
        ("confirm", 7, ["head"]),
        ("confirm", 7, ["base", "head"]),
        ("confirm", 7, ["head", "base"]),
    ]
