"""A gate's verdicts for people and for GitHub, from results made by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from cnnbench.analysis.paired import Rule, Verdict
from cnnbench.gate.arms import Arm
from cnnbench.gate.diagnose import Explanation, LayerChange, differences_of
from cnnbench.gate.run import GateReport
from cnnbench.gate.verdict import ArmComparison, CaseVerdict, Paired, Result
from cnnbench.records.record import Ran
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
