"""A gate's verdicts for people and for GitHub, from results made by hand."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cnnbench.analysis.paired import Rule, Verdict, pairs_needed
from cnnbench.errors import WorkerError
from cnnbench.gate import checks, diagnose
from cnnbench.gate.arms import Arm
from cnnbench.gate.diagnose import Explanation, LayerChange, differences_of, explain
from cnnbench.gate.run import GateReport
from cnnbench.gate.verdict import ArmComparison, ArmName, CaseVerdict, Paired, Result, exit_code_of, ratio_of
from cnnbench.records.record import Ran
from cnnbench.records.task_messages import LayerTimes, Profiled
from cnnbench.records.toolchain import Toolchain
from cnnbench.report import verdicts
from cnnbench.runner.worker_process import HERE, Interpreter
from tests.noise import comparisons


def judged(comparison: ArmComparison, verdict: Verdict, percents: list[float], reason: str = "") -> CaseVerdict:
    pairs = [
        Paired(
            ("base", "head"), {"head": math.log1p(percent / 100)}, {"base": 0.01, "head": 0.01 * (1 + percent / 100)}
        )
        for percent in percents
    ]
    return CaseVerdict(comparison, verdict, reason, screened=pairs)


def arm(name: str, text: str = ".", torch: str = "2.14.1", python: str = "3.11.7", revision: str = "") -> Arm:
    versions = {"torch": torch, "onnx": "1.23", "onnxruntime-gpu": "1.31"}
    return Arm(name, text, HERE, revision, Toolchain("code", versions), python)


@pytest.fixture
def gate_report() -> GateReport:
    one, two, three = comparisons(3)
    cases = [
        judged(one, "same", [0.1, -0.1, 0.2, -0.2, 0.0, 0.1]),
        judged(two, "inconclusive", [8, -7, 5, -4, 6, -9]),
        judged(three, "slower", [6, 5.8, 6.2, 6, 5.9, 6.1]),
    ]
    cases.append(CaseVerdict(comparisons(4)[3], "missing", "head: crashed\nbadly, 100 %"))
    found = GateReport(Path("gate"), arm("base", "main"), arm("head"), Result(cases, Rule(), 61.0, position=0.001), {})
    found.explanations[three.name] = Explanation(
        ["torch: 2.13 in base, 2.14 in head"], [LayerChange("conv1", 0.001, 0.002)], (0.010, 0.011)
    )
    return found


def test_what_fails_stands_first_with_interval_pairs_and_the_detectable_slowdown(gate_report: GateReport) -> None:
    table = verdicts.table_of_verdicts(gate_report)
    assert list(table.cells["verdict"]) == ["✗ slower", "✗ missing", "? inconclusive", "✓ same"]
    slower, missing, unknown, same = (row for _, row in table.cells.iterrows())
    assert slower["head / base"] == "1.060 [1.059, 1.061]"
    assert slower["detectable"] == "+2.2%"
    assert unknown["pairs"].startswith("6 (needs ")
    assert missing["head / base"] == "–"
    assert same["in time order"] == "▇▃█▁▅▇"
    assert "head: crashed\nbadly, 100 %" in table.notes[0]


def test_the_summary_says_all_of_it_and_how_to_repeat_a_case(gate_report: GateReport) -> None:
    again = {
        case.comparison.name: f"cnnbench gate s --only {case.comparison.base.id}" for case in gate_report.result.cases
    }
    text = verdicts.summary(gate_report, verdicts.table_of_verdicts(gate_report), again)
    assert text.startswith("# 1 slower, 1 same, 1 inconclusive, 1 missing; geometric mean of head / base 1.0")
    assert "base is `main` and head is `.`." in text
    assert "- torch: 2.13 in base, 2.14 in head\n" in text
    assert "  - conv1: 1 to 2 ms (+1 ms)\n" in text
    assert "`cnnbench gate s --only lenet5/inference/ort/cpu/fp32/b3`" in text


def test_names_of_layers_and_differences_are_data_in_the_summary(gate_report: GateReport) -> None:
    evil = "![x](http:evil)\n<b>"
    for name, each in gate_report.explanations.items():
        layers = [replace(layer, name=evil) for layer in each.layers]
        gate_report.explanations[name] = replace(each, differences=[evil], layers=layers)
    again = dict.fromkeys(gate_report.explanations, "cnnbench gate")
    text = verdicts.summary(gate_report, verdicts.table_of_verdicts(gate_report), again)
    assert text.count("&lt;b&gt;") == 2
    assert "](http" not in text
    assert "<b>" not in text


def test_annotations_are_one_line_each_with_what_github_would_interpret_escaped(gate_report: GateReport) -> None:
    lines = verdicts.annotations(gate_report)
    assert [line.split(" ")[0] for line in lines] == ["::warning", "::error", "::error"]
    assert lines[2] == (
        "::error title=cnnbench missing::lenet5/inference/ort/cpu/fp32/b4: head: crashed%0Abadly, 100 %25"
    )


def test_the_geometric_mean_has_the_interval_of_pairs_drawn_anew_within_cases(gate_report: GateReport) -> None:
    mean = verdicts.geometric_mean(gate_report.result.cases)
    assert mean is not None
    value, low, high = mean
    logs = [
        [math.log(1 + p / 100) for p in case]
        for case in ([0.1, -0.1, 0.2, -0.2, 0.0, 0.1], [8, -7, 5, -4, 6, -9], [6, 5.8, 6.2, 6, 5.9, 6.1])
    ]
    assert value == pytest.approx(math.exp(sum(sum(case) / 6 for case in logs) / 3))
    assert low < value < high
    assert verdicts.geometric_mean([]) is None


def test_a_cases_call_is_the_median_of_the_pairs_that_have_one() -> None:
    found = CaseVerdict(comparisons(1)[0], screened=[Paired(("base",), {}, {"base": s}) for s in (0.01, 0.03, 0.02)])
    found.screened.append(Paired(("base", "head"), {}, missing="base: crashed"))
    assert (found.call_s("base"), found.call_s("head")) == (0.02, None)


def test_a_withdrawn_verdict_is_said_first() -> None:
    result = Result(
        [judged(comparisons(1)[0], "inconclusive", [5, 5.1])], Rule(), untrusted=["a: a second copy differs"]
    )
    assert verdicts.facts(result)[0] == "INCONCLUSIVE, the A/A controls differ: a: a second copy differs"


def test_differences_are_ordered_by_how_likely_they_are_the_cause() -> None:
    base, head = arm("base", torch="2.13"), arm("head", python="3.12.1", revision="abc")
    case = comparisons(1)[0].base
    comparison = ArmComparison(case.model_copy(update={"threads": 1}), case.model_copy(update={"threads": 2}), 1.0)
    ran = {
        (comparison.name, name): Ran(
            device="cpu", device_name="CPU", threads=threads, precision="fp32", facts={"p": "CPU"}
        )
        for name, threads in (("base", 1), ("head", 2))
    }
    other = Arm(
        "head",
        ".",
        Interpreter("other"),
        "abc",
        Toolchain("c", {**head.toolchain.versions, "onnxruntime-gpu": "1.32"}),
        "3.12.1",
    )
    assert differences_of(base, other, comparison, ran) == [
        "threads: 1 in base, 2 in head",
        "ran with threads: 1 in base, 2 in head",
        "onnxruntime-gpu: 1.31 in base, 1.32 in head",  # the runtime's own comes first
        "revision: this in base, abc in head",
        "python: 3.11.7 in base, 3.12.1 in head",
        "torch: 2.13 in base, 2.14.1 in head",
    ]
    assert differences_of(base, base, ArmComparison(case, case, 1.0), {}) == []


# --- what pairs come to ---


def pair(interference: bool = False, order: tuple[ArmName, ...] = ("base", "head"), **logs: float) -> Paired:
    return Paired(order, logs, interference=interference)  # type: ignore[arg-type]


def test_disturbed_pairs_are_left_out_where_six_others_remain() -> None:
    clean, disturbed = [pair(head=0.01 * number) for number in range(6)], pair(True, head=1.0)
    assert ratio_of([*clean, disturbed]).logs == tuple(0.01 * number for number in range(6))
    assert ratio_of([*clean[:5], disturbed]).logs == (0.0, 0.01, 0.02, 0.03, 0.04, 1.0)
    assert ratio_of([*clean[:5], pair(null=0.5)], "null").logs == (0.5,)


@pytest.mark.parametrize(
    ("verdicts", "code", "strict", "missing_allowed"),
    [
        (["same", "faster", "slower-small"], 0, 0, 0),
        (["same", "inconclusive"], 0, 4, 0),
        (["same", "unsteady"], 0, 4, 0),
        (["same", "missing"], 3, 3, 0),
        (["same", "wrong"], 3, 3, 3),
        (["slower", "wrong", "missing", "unsteady"], 1, 1, 1),
        ([], 3, 3, 3),
    ],
)
def test_exit_codes_follow_from_all_verdicts_together(
    verdicts: list[Verdict], code: int, strict: int, missing_allowed: int
) -> None:
    assert exit_code_of(verdicts, strict=False, allow_missing=False) == code
    assert exit_code_of(verdicts, strict=True, allow_missing=False) == strict
    assert exit_code_of(verdicts, strict=False, allow_missing=True) == missing_allowed


def test_a_gate_that_decided_nothing_because_it_has_no_pairs_has_not_measured() -> None:
    one, two = comparisons(2)

    def code(*cases: CaseVerdict, untrusted: bool = False, **how: bool) -> int:
        return Result(list(cases), Rule(), untrusted=["x"] * untrusted).exit_code(**how)

    waits, gone, same = (CaseVerdict(one, verdict) for verdict in ("inconclusive", "missing", "same"))
    begun = CaseVerdict(two, "inconclusive", screened=[pair(head=0.0)])
    confirmed = CaseVerdict(two, "inconclusive", fresh=[pair(head=0.0)])
    assert [code(waits), code(waits, gone, allow_missing=True), code(waits, same), code(waits, begun)] == [3, 3, 0, 0]
    assert [code(waits, confirmed), code(waits, begun, strict=True), code(gone, allow_missing=True)] == [0, 4, 0]
    assert [code(same, untrusted=True), code(same, untrusted=True, strict=True), code(same, strict=True)] == [0, 4, 0]
    assert code(CaseVerdict(one, "slower"), untrusted=True, strict=True) == 1


def test_the_pairs_that_would_tell_are_those_for_the_distance_from_the_margin() -> None:
    found = judged(comparisons(1)[0], "inconclusive", [5, 3, 5, 3])
    sd, mean = found.ratio.sd or 0.0, (math.log(1.05) + math.log(1.03)) / 2
    assert sd == pytest.approx((math.log(1.05) - math.log(1.03)) / math.sqrt(3))
    assert found.pairs_to_tell(0.02) == pairs_needed(sd, mean - math.log(1.02))
    assert found.pairs_to_tell(0.06) == pairs_needed(sd, math.log(1.06) - mean)
    assert judged(comparisons(1)[0], "inconclusive", [5]).pairs_to_tell(0.02) is None


def test_a_case_has_no_rate_once_a_whole_block_of_its_pairs_has_none() -> None:
    found, lost = CaseVerdict(comparisons(1)[0]), Paired(("base", "head"), {}, lost="a stall")
    found.screened.append(lost)
    found.fail(lost)
    assert found.verdict == "inconclusive"
    found.fresh.append(lost)
    found.fail(lost)
    assert (found.verdict, found.reason) == ("missing", "a stall")
    found.fail(Paired((), {}, wrong="parity"))
    assert (found.verdict, found.reason) == ("wrong", "parity")
    found.fail(Paired((), {}, missing="gone", wrong="parity"))
    assert (found.verdict, found.reason) == ("missing", "gone")


def test_a_comparison_is_named_by_both_cases_where_they_differ_and_the_null_arm_is_a_copy_of_base() -> None:
    one, two = (each.base for each in comparisons(2))
    assert [ArmComparison(one, one, 1.0).name, ArmComparison(one, two, 1.0).name] == [one.id, f"{one.id} → {two.id}"]
    assert [ArmComparison(one, two, 1.0).case(name) for name in ("base", "head", "null")] == [one, two, one]


# --- what a gate checks of itself ---


def with_nulls(count: int, log: float, pairs: int = 6) -> list[CaseVerdict]:
    """Cases whose second copy of base takes that logarithm more, but for hardly anything."""
    return [
        CaseVerdict(each, screened=[pair(null=log + 1e-4 * (-1) ** number) for number in range(pairs)])
        for each in comparisons(count)
    ]


def test_eight_null_arms_on_one_side_are_a_bias_and_seven_may_be_chance() -> None:
    """Of so many coins, all show the same face once in 64 and once in 128, and 0.01 lies between."""
    assert checks.untrusted(with_nulls(7, 0.001), Rule()) == []
    (found,) = checks.untrusted(with_nulls(8, 0.001), Rule())
    assert found == "8 of 8 null arms are slower than base: the measurement is biased"
    (found,) = checks.untrusted(with_nulls(8, -0.001), Rule())
    assert found.startswith("0 of 8 null arms")
    assert checks.untrusted([*with_nulls(7, 0.001), *with_nulls(1, -0.001)], Rule()) == []
    assert checks.untrusted(with_nulls(8, 0.001, pairs=5), Rule()) == [], "too few pairs tell nothing"
    assert checks.untrusted([], Rule()) == []


def test_a_second_copy_of_base_that_differs_beyond_the_margin_is_named_with_its_ratio() -> None:
    cases = [*with_nulls(1, 0.0), *with_nulls(3, 0.05)[1:2], *with_nulls(3, -0.05)[2:]]
    (_, two, three) = comparisons(3)
    assert checks.untrusted(cases, Rule()) == [
        f"{two.name}: a second copy of base seems slower, 1.051 times base",
        f"{three.name}: a second copy of base seems faster, 0.951 times base",
    ]


def leaning(*percents: float, pairs: int = 6) -> list[CaseVerdict]:
    return [judged(each, "same", [p] * pairs) for each, p in zip(comparisons(len(percents)), percents, strict=True)]


@pytest.mark.parametrize(
    ("cases", "note"),
    [
        (leaning(*[1] * 6), "6 of 6 cases lean slower"),
        (leaning(*[-1] * 6), "6 of 6 cases lean faster"),
        (leaning(*[1] * 5), ""),
        (leaning(*[1] * 9, -1), ""),  # no more than nine of ten
        (leaning(*[1] * 10, -1), "10 of 11 cases lean slower"),
        (leaning(*[-1] * 10, 1), "10 of 11 cases lean faster"),
        (leaning(*[1] * 6, 2.1), ""),  # one beyond the margin
        (leaning(*[1] * 6, -2.1), ""),
        (leaning(*[1] * 6, 1.9), "7 of 7 cases lean slower"),
        ([*leaning(*[1] * 6), *leaning(-9, pairs=5)], "6 of 6 cases lean slower"),  # too few pairs
    ],
)
def test_a_shift_is_of_six_cases_at_least_of_which_more_than_nine_in_ten_lean_one_way(
    cases: list[CaseVerdict], note: str
) -> None:
    assert checks.shift(cases, Rule()) == ([f"a shift of the whole suite: {note}"] if note else [])


def test_the_kernel_is_named_where_two_runtimes_are_compared_and_one_is_in_it() -> None:
    one, two, three = comparisons(3)
    both = [ArmComparison(each.base, each.head.model_copy(update={"runtime": "eager"}), 1.0) for each in (one, two)]
    busy, idle = Paired((), {}, in_kernel=True), Paired((), {})
    cases = [CaseVerdict(both[0], screened=[idle, busy]), CaseVerdict(both[1], screened=[idle])]
    (note,) = checks.kernel([*cases, CaseVerdict(three, screened=[busy])])
    assert note.startswith(f"{both[0].name}: ")


def test_what_a_place_costs_is_the_mean_over_pairs_of_the_arm_that_came_later() -> None:
    pairs = [pair(head=0.02), pair(order=("head", "base"), head=-0.01), pair(order=("head", "null", "base"), head=0.03)]
    cases = [CaseVerdict(comparisons(1)[0], screened=pairs[:2], fresh=pairs[2:]), CaseVerdict(comparisons(1)[0])]
    assert checks.position([*cases, CaseVerdict(comparisons(1)[0], screened=[pair(null=1.0)])]) == pytest.approx(0.0)
    assert checks.position([CaseVerdict(comparisons(1)[0], screened=pairs[:2])]) == pytest.approx(0.015)
    assert checks.position(cases[1:]) is None


# --- why a case is slower ---


def profiled(call_s: float, **layers: float) -> Profiled:
    times = [LayerTimes(name=name, operators=[], seconds=[seconds]) for name, seconds in layers.items()]
    return Profiled(modules=[], layers=times[:-1], other=times[-1:], call_s=[call_s])


def test_layers_are_those_that_lost_most_by_the_median_of_both_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    said = {
        "base": iter([profiled(1.0, a=0.1, b=0.2, c=0.3, d=0.1, e=0.1, f=0.1, x=0.4), profiled(3.0, a=0.3, x=0.4)]),
        "head": iter([profiled(4.0, a=0.5, b=0.3, c=0.2, d=0.3, e=0.45, f=0.4, x=0.4), profiled(6.0, a=0.7, new=0.05)]),
    }

    def profile(name: str, *of: Any) -> Profiled:
        asked.append(name)
        assert of[:2] == (comparison, pairs)
        assert of[2].is_dir()
        return next(said[name])

    monkeypatch.setattr(diagnose, "_profile", profile)
    pairs: Any = SimpleNamespace(base=arm("base"), head=arm("head", python="3.12"), ran={})
    (comparison,) = comparisons(1)
    found = explain(comparison, pairs)
    assert asked == ["base", "head", "head", "base"]
    assert (found.call_s, found.unprofiled) == ((2.0, 5.0), "")
    assert found.differences == ["python: 3.11.7 in base, 3.12 in head"]
    assert [layer.name for layer in found.layers] == ["a", "e", "f", "d", "b"]  # a sixth, `new`, lost less
    assert found.layers[0].base_s == pytest.approx(0.2)
    assert found.layers[0].head_s == pytest.approx(0.6)

    def broken(*_: object) -> Profiled:
        raise WorkerError("no profiler")

    monkeypatch.setattr(diagnose, "_profile", broken)
    assert explain(comparison, pairs) == Explanation(found.differences, [], None, "no profiler")


@pytest.mark.parametrize(
    ("arm", "changes"),
    [("both", {"workload": "training"}), ("head", {"runtime": "http"}), ("base", {"device": "cuda"})],
)
def test_layers_are_of_inference_on_a_cpu_where_both_runtimes_have_a_profiler(
    arm: str, changes: dict[str, str]
) -> None:
    case = comparisons(1)[0].base
    base, head = (case.model_copy(update=changes if arm in ("both", name) else {}) for name in ("base", "head"))
    pairs: Any = SimpleNamespace(base=Arm("base", "."), head=Arm("head", "."), ran={})
    found = explain(ArmComparison(base, head, 1.0), pairs)
    assert (found.layers, found.call_s) == ([], None)
    assert found.unprofiled.startswith("layers are profiled for inference on a CPU only, in eager and ort")


def test_a_profile_is_of_ten_calls_in_the_arms_own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Asked:
        def __init__(self, log: Path, threads: int, limit_s: float, *, interpreter: Interpreter) -> None:
            asked.append((log.name, threads, limit_s, interpreter.python))

        def __enter__(self) -> "Asked":
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing to end."""

        def ask(self, request: Any, answer: type) -> Profiled:
            asked.append(request)
            return profiled(1.0)

    monkeypatch.setattr(diagnose, "Worker", Asked)
    base, head = (comparisons(1)[0].base.model_copy(update={"threads": threads}) for threads in (2, 3))
    arms = {"base": Arm("base", ".", Interpreter("b")), "head": Arm("head", ".", Interpreter("h"))}
    pairs: Any = SimpleNamespace(**arms, logs=tmp_path, limit_s=9.0, folder=lambda name, spec: Path(f"artifact-{name}"))
    for name, case, python in (("base", base, "b"), ("head", head, "h")):
        asked.clear()
        diagnose._profile(name, ArmComparison(base, head, 1.0), pairs, tmp_path)  # type: ignore[arg-type]
        about, load, profile = asked
        assert about == (f"profile-{name}.log", case.threads, 9.0, python)
        assert (load.case, load.threads) == (case, case.threads)
        assert (profile.case, profile.folder, profile.scratch, profile.calls) == (
            case, f"artifact-{name}", str(tmp_path), 10
        )  # fmt: skip
