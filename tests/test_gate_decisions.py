"""What a gate makes of whatever its workers do, with workers that follow a script; test_gate_live.py has real ones."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cnnbench.gate.pairs import Pairs
from cnnbench.gate.run import read_pairs
from cnnbench.records import messages
from cnnbench.records.record import Parity
from tests import scripted
from tests.conftest import Cli, FillDisk, write_suite
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
