"""What a gate makes of whatever its workers do, with workers that follow a script; test_gate_live.py has real ones."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cnnbench.analysis.paired import Rule, Verdict
from cnnbench.errors import RunFolderError
from cnnbench.gate import run as running
from cnnbench.gate.arms import Arm
from cnnbench.gate.pairs import Pairs
from cnnbench.gate.run import GateRequest, measure_all, measure_gate, open_pairs, read_pairs, write_verdicts
from cnnbench.gate.verdict import ArmComparison, ArmName, CaseVerdict, Paired, Result
from cnnbench.records import messages
from cnnbench.records.record import Parity
from cnnbench.suite.load import load_suite
from tests import scripted
from tests.conftest import Cli, FillDisk, write_suite
from tests.noise import comparisons
from tests.records import ENVIRONMENT
from tests.scripted import Dies, Says, lenet

Gates = Callable[..., tuple[int, str]]

SUITE = """
defaults: {workloads: [inference], runtimes: [ort], batches: [1, 4], case_budget: 0.1s}
models: [lenet5]
"""
FAST, SLOW = (messages.Sampled(seconds={"forward": [seconds] * 2}) for seconds in (0.010, 0.016))
OPENED = messages.Opened(load_s=0.1, first_call_s=0.01, parity=[])


@pytest.fixture
def gate(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> Gates:
    """`gate(words, *script)` runs a gate of two cases: exit code, and what was said."""

    def call(words: str, *script: Says) -> tuple[int, str]:
        scripted.use(monkeypatch, home, *script, *lenet())
        done = cli("gate", write_suite(home, SUITE), *words.split(), "--out", "out", "--budget", "5m")
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    return call


def verdicts(home: Path) -> dict[str, str]:
    found = json.loads((home / "out" / "gate.json").read_text())["found"]["cases"]
    return {name.removeprefix("lenet5/inference/ort/cpu/fp32/"): case["verdict"] for name, case in found.items()}


def test_the_same_is_the_same_and_every_pair_is_kept(gate: Gates, home: Path) -> None:
    code, said = gate("--base . --head .")
    assert code == 0, said
    assert verdicts(home) == {"b1": "same", "b4": "same"}
    pairs = read_pairs(home / "out")
    assert {pair.stage for pair in pairs} == {"screen"}
    assert all(set(pair.launches) == set(pair.order) for pair in pairs)
    orders = [pair.order for pair in pairs]
    assert all(first == second[::-1] for first, second in zip(orders[::2], orders[1::2], strict=True))
    assert any("null" in order for order in orders)


def test_a_slower_head_is_screened_confirmed_and_fails(gate: Gates, home: Path) -> None:
    """By a setting: head has one thread, and the script makes that slow at a batch of four."""
    code, said = gate("--base threads=2 --head threads=1", Says("sample", SLOW, threads=1, batch=4))
    assert code == 1, said
    assert sorted(verdicts(home).values()) == ["same", "slower"]
    assert {pair.stage for pair in read_pairs(home / "out")} == {"screen", "confirm"}
    assert "threads: 2 in base, 1 in head" in said


def test_a_faster_head_passes(gate: Gates, home: Path) -> None:
    code, said = gate("--base threads=2 --head threads=1 --only */b4", Says("sample", SLOW, threads=2))
    assert code == 0, said
    assert list(verdicts(home).values()) == ["faster"]


def test_a_slowdown_that_is_asked_for_is_heads_alone(gate: Gates, home: Path) -> None:
    code, said = gate("--inject 60% --only */b4", Says("sample", SLOW, slowdown=0.6))
    assert code == 0, said  # it was seen, as it should be
    assert verdicts(home) == {"b4": "slower"}
    assert "detected in 1 of 1 cases" in said


def test_a_slowdown_that_is_asked_for_and_not_seen_fails(gate: Gates, home: Path) -> None:
    code, said = gate("--inject 60% --only */b4")
    assert code != 0
    assert verdicts(home) == {"b4": "same"}
    assert "detected in 0 of 1 cases" in said


@pytest.mark.parametrize(
    ("line", "verdict", "reason"),
    [
        (Says("open", Dies("SIGKILL"), threads=1), "missing", "head: crashed: the worker was killed by SIGKILL"),
        (Says("build", messages.Failure(failure="no such weights", is_user_error=True)), "missing", "no such weights"),
        (
            Says(
                "open",
                OPENED.model_copy(update={"parity": [Parity(what="ort b1", error=0.5, limit=1e-5)]}),
                threads=1,
            ),
            "wrong",
            "head: parity: ort b1",
        ),
    ],
    ids=["crashes", "cannot be built", "computes something else"],
)
def test_what_cannot_be_compared_is_told_and_no_pass(
    gate: Gates, home: Path, line: Says, verdict: str, reason: str
) -> None:
    code, said = gate("--base threads=2 --head threads=1", line)
    assert code == 3, said
    assert set(verdicts(home).values()) == {verdict}
    assert reason in json.dumps(json.loads((home / "out" / "gate.json").read_text())["found"])


def test_an_interrupted_gate_keeps_its_pairs_and_exits_with_130(
    gate: Gates, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Pairs.measure

    def interrupted(pairs: Pairs, *words: object) -> object:
        if len(read_pairs(home / "out")) == 3:
            raise KeyboardInterrupt
        return measure(pairs, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(Pairs, "measure", interrupted)
    code, said = gate("--base . --head .")
    assert code == 130
    assert "interrupted" in said
    assert len(read_pairs(home / "out")) == 3


def test_a_calibration_is_kept_and_a_margin_below_it_refused(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [messages.Sampled(seconds={"forward": [0.01 * (1 + 0.05 * (number % 3))]}) for number in range(40)]
    scripted.use(monkeypatch, home, Says("sample", *times), *lenet())
    suite, kept = write_suite(home, SUITE), str(home / "noise.json")
    done = cli("calibrate", suite, "--pairs", "6", "--only", "*/b4", "--out", "calibrated", "--calibration", kept)
    assert done.returncode == 0, done.stderr
    assert f"kept in {kept}" in done.stdout
    assert "false alarms: in " in done.stdout
    known = json.loads((home / "noise.json").read_text())["cases"]
    assert [len(session["logs"]) for sessions in known.values() for session in sessions] == [6]


def test_a_full_disk_takes_neither_the_verdict_nor_its_exit_code(gate: Gates, home: Path, fill_disk: FillDisk) -> None:
    fill_disk((home / "out" / "gate.json").exists)
    code, said = gate("--base threads=2 --head threads=1 --only */b4", Says("sample", SLOW, threads=1))
    assert code == 1, said
    assert "1 slower" in said
    assert "pairs.jsonl: No space left on device; not all pairs are on disk" in said
    for name in ("gate.json", "summary.md"):
        assert f"out/{name}: not written: No space left on device" in said


def test_a_summary_of_the_job_that_cannot_be_written_is_told_and_the_verdict_stands(
    gate: Gates, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(home))  # a folder
    code, said = gate("--base threads=2 --head threads=1 --only */b4", Says("sample", SLOW, threads=1))
    assert code == 1, said
    assert f"warning: {home}: not written: " in said
    assert set(verdicts(home).values()) == {"slower"}


# --- how a budget is spent, with pairs made by hand on a clock of their own ---


@dataclass
class Clocked:
    """Pairs of 5 s, behind builds of 10 s; it writes down what it is asked, and what is told."""

    now_s: float = 0.0
    broken: str = ""
    asked: list[tuple[int, tuple[str, ...], int]] = field(default_factory=list)
    told: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def open(self, request: GateRequest, observer: Any) -> Iterator[tuple[Any, list[ArmComparison], dict[str, str]]]:
        self.now_s += 10.0
        yield self, comparisons(2), {"x": "no-device"}

    def measure(self, comparison: ArmComparison, stage: str, order: Sequence[str], number: int, scale: float) -> Paired:
        assert (stage, scale) == ("screen", 1.0)
        self.now_s += 5.0
        self.asked.append((comparison.base.batch, tuple(order), number))
        return Paired(("head",), {}, missing="gone" if comparison.name == self.broken else "")

    def doing(self, what: str, left_s: float) -> None:
        self.told.append((what.partition(": ")[2], left_s))


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Clocked:
    found = Clocked()
    monkeypatch.setattr(running, "open_pairs", found.open)
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: found.now_s))
    return found


def asked_of(folder: Path, budget_s: float, **about: Any) -> GateRequest:
    suite = load_suite(write_suite(folder, SUITE))
    arms = Arm("base", "."), Arm("head", ".", settings={"threads": 1})
    return GateRequest(suite, suite.cases, *arms, folder / "out", ENVIRONMENT, budget_s, **about)


@pytest.mark.parametrize(("budget_s", "blocks"), [(110.0, 4), (31.0, 3), (30.0, 2), (20.0, 1), (10.0, 0)])
def test_all_cases_get_their_pairs_in_blocks_while_the_budget_lasts(
    clocked: Clocked, home: Path, budget_s: float, blocks: int
) -> None:
    arms: list[ArmName] = ["base", "head"]
    found, skipped = measure_all(asked_of(home, budget_s), clocked, arms, 4, random.Random(0))
    assert skipped == {"x": "no-device"}
    assert len(clocked.asked) == 2 * blocks == sum(map(len, found.values()))
    assert list(found) == [each.name for each in comparisons(2)]
    assert [number for _, _, number in clocked.asked] == [0, 1, 0, 1, 2, 3, 2, 3][: 2 * blocks]
    orders = [(batch, order) for batch, order, _ in clocked.asked]
    assert all(first == (batch, order[::-1]) for first, (batch, order) in zip(orders[::2], orders[1::2], strict=True))
    if budget_s == 110.0:  # of which 10 s were spent before the first pair
        assert clocked.told == [("0 of 4", 100.0), ("0 of 4", 60.0), ("2 of 4", 30.0), ("2 of 4", 40.0 / 6 * 2)]


def test_a_case_with_a_problem_gets_no_further_block(clocked: Clocked, home: Path) -> None:
    clocked.broken = comparisons(2)[0].name
    found, _ = measure_all(asked_of(home, 1e6), clocked, ["head"], 6, random.Random(0))
    assert [len(pairs) for pairs in found.values()] == [2, 6]


def test_the_three_worst_regressions_are_diagnosed_and_verdicts_are_written_with_their_figures(
    clocked: Clocked, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slower: list[tuple[Verdict, list[float]]] = [("slower", [log] * 2) for log in (0.1, 0.4, 0.2, 0.3)]
    cases = [
        CaseVerdict(comparison, verdict, "why", [Paired(("base", "head"), {"head": log}) for log in logs])
        for comparison, (verdict, logs) in zip(comparisons(6), [*slower, ("same", [0.0]), ("missing", [])], strict=True)
    ]
    budgets: list[float] = []

    def gated(chosen: Any, measurer: Any, observer: Any, rule: Rule, budget_s: float, seed: int) -> Result:
        budgets.append(budget_s)
        assert (measurer, observer, seed) == (clocked, clocked, 7)
        return Result(cases, rule, 12.0, ["a null arm"])

    monkeypatch.setattr(running, "run_gate", gated)
    monkeypatch.setattr(running, "explain", lambda comparison, pairs: comparison.base.batch)
    request = asked_of(home, 100.0, seed=7)
    request.folder.mkdir()
    report = measure_gate(request, clocked, Rule())
    assert budgets == [pytest.approx(95 - 10)]
    assert [str(each) for each in report.explanations.values()] == ["2", "4", "3"]
    assert clocked.told == [("diagnosing", 0.0)] * 3
    assert "found" not in json.loads((request.folder / "gate.json").read_text())
    write_verdicts(request, report)
    written = json.loads((request.folder / "gate.json").read_text())
    assert (written["suite"], written["seed"], written["rule"]["margin"]) == ("suite", 7, 0.02)
    assert (written["base"]["text"], written["head"]["threads"]) == (".", "1")
    found = written["found"]
    assert (found["skipped"], found["untrusted"], found["seconds"]) == ({"x": "no-device"}, ["a null arm"], 12.0)
    first, last = found["cases"][comparisons(1)[0].name], found["cases"][comparisons(6)[5].name]
    assert first["ratio"] == pytest.approx(1.105170918)
    assert (first["pairs"], first["reason"], first["suspect"]) == (2, "why", False)
    assert last == {
        "verdict": "missing", "reason": "why", "ratio": None, "interval": None, "pairs": 0, "suspect": False
    }  # fmt: skip
    assert measure_gate(asked_of(home, 100.0, seed=7, slowdown=0.1), clocked, Rule()).explanations == {}


def test_cases_that_the_arms_make_equal_are_one_and_keep_their_budget(home: Path) -> None:
    suite = load_suite(write_suite(home, SUITE.replace("[ort]", "[ort, eager]")))
    arms = Arm("base", "x", settings={"runtime": "ort"}), Arm("head", "y", settings={"runtime": "eager"})
    found = GateRequest(suite, suite.cases, *arms, home, ENVIRONMENT, 1.0).comparisons
    assert [(each.base.runtime, each.head.runtime, each.base.batch, each.launch_s) for each in found] == [
        ("ort", "eager", 1, 0.1),
        ("ort", "eager", 4, 0.1),
    ]


def test_a_gates_folder_is_its_own_and_read_again_by_its_pairs(home: Path, clocked: Clocked) -> None:
    request = asked_of(home, 1.0)
    request.folder.mkdir()
    with pytest.raises(RunFolderError, match="out: cannot be made: File exists; give"), open_pairs(request, clocked):
        pass
    with pytest.raises(RunFolderError, match=r"expected the folder of a gate, with pairs\.jsonl"):
        read_pairs(request.folder)
