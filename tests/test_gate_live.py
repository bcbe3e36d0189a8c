"""The gate with real workers: slowdowns are seen, revisions and interpreters are arms, Ctrl-C keeps pairs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cnnbench.analysis.paired import Rule
from cnnbench.errors import InputError
from cnnbench.gate.arms import open_arms
from cnnbench.gate.calibration import read_calibration
from cnnbench.gate.diagnose import explain
from cnnbench.gate.run import GateReport, GateRequest, measure_gate, open_pairs, read_pairs
from cnnbench.runner import machine
from cnnbench.suite.load import load_suite
from tests.conftest import ROOT
from tests.records import ENVIRONMENT

QUICK = Rule(screen_pairs=6, max_screen_pairs=6, confirm_pairs=6, max_confirm_pairs=6)


class Watch:
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def doing(self, what: str, left_s: float) -> None:
        self.said.append(what)


def suite_of(folder: Path, model: str = "lenet5", more: str = "") -> Path:
    path = folder / "tiny.yaml"
    path.write_text(
        "defaults: {workloads: [inference], runtimes: [ort], batches: [1], case_budget: 0.1s}\n"
        f"models:\n  - {{model: '{model}'{more}}}\n"
    )
    return path


def gate_report(
    folder: Path, suite: Path, base: str, head: str, slowdown: float = 0.0, rule: Rule = QUICK, out: str = "gate"
) -> GateReport:
    loaded = load_suite(str(suite))
    with open_arms(base, head) as (one, other):
        about = machine.environment([1], folder)
        asked = GateRequest(loaded, loaded.cases, one, other, folder / out, about, 900.0, 1, slowdown)
        return measure_gate(asked, Watch(), rule)


@pytest.mark.slow
@pytest.mark.alone
def test_a_slowdown_that_is_made_is_seen_and_every_pair_is_kept(tmp_path: Path) -> None:
    rule = replace(QUICK, margin=0.15, max_unsteady=0.5)  # far below the slowdown, and beyond a busy machine's noise
    found = gate_report(tmp_path, suite_of(tmp_path), ".", ".", slowdown=0.6, rule=rule)
    (judged,) = found.result.cases
    assert judged.verdict == "slower"
    assert 1.3 < judged.ratio.ratio < 2.2
    assert found.result.exit_code() == 1
    pairs = read_pairs(found.folder)
    stages = [pair.stage for pair in pairs]
    screened = stages.count("screen")  # more than six where there was interference
    assert stages == ["screen"] * screened + ["confirm"] * (len(stages) - screened)
    assert min(screened, len(stages) - screened) >= 6
    assert all(set(pair.launches) == set(pair.order) for pair in pairs)
    assert all("null" in pair.launches for pair in pairs[:screened])  # the only case carries it
    orders = [pair.order for pair in pairs]
    assert all(first == second[::-1] for first, second in zip(orders[::2], orders[1::2], strict=True))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One with a model of three revisions: `first`; `doubled`, whose outputs differ; and `gone`, without it."""
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)

    source = (
        "import torch\n\n\nclass Net(torch.nn.Module):\n"
        "    def __init__(self, classes):\n        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(1, 4, 3)\n        self.fc = torch.nn.Linear(4, classes)\n\n"
        "    def forward(self, x):\n        return SCALE * self.fc(self.conv(x).relu().mean((2, 3)))\n\n\n"
        "def build(classes=10):\n    return Net(classes)\n"
    )
    git("init", "-q")
    file = folder / "gate_nets.py"
    for tag, scale in (("first", "1.0"), ("doubled", "2.0")):
        file.write_text(source.replace("SCALE", scale))
        git("add", "-A")
        git("commit", "-qm", tag)
        git("tag", tag)
    file.unlink()
    (folder / "other.py").write_text("")
    git("add", "-A")
    git("commit", "-qm", "gone")
    git("tag", "gone")
    yield folder
    listed = subprocess.run(["git", "worktree", "list"], check=True, capture_output=True, text=True).stdout
    assert len(listed.splitlines()) == 1  # those of the gate are gone


@pytest.mark.parametrize(
    ("head", "verdict", "reason"),
    [
        ("doubled", "wrong", "head's outputs differ from base's by"),
        ("gone", "missing", "head: model: model 'gate_nets:build'"),
    ],
)
@pytest.mark.slow
def test_revisions_with_other_outputs_or_without_the_model_are_told_and_not_timed(
    tmp_path: Path, repository: Path, head: str, verdict: str, reason: str
) -> None:
    suite = suite_of(tmp_path, "gate_nets:build", ", image_size: 16")
    found = gate_report(tmp_path, suite, "first", head)
    (judged,) = found.result.cases
    assert judged.verdict == verdict
    assert judged.reason.startswith(reason)
    assert found.result.exit_code() == 3
    assert all(not pair.launches for pair in read_pairs(found.folder))


@pytest.mark.slow
def test_the_command_exits_with_3_and_tells_the_forge(tmp_path: Path, repository: Path) -> None:
    suite, summary = suite_of(tmp_path, "gate_nets:build", ", image_size: 16"), tmp_path / "summary.md"
    command = [sys.executable, "-m", "cnnbench", "gate", str(suite), "--base", "first", "--head", "doubled"]
    environment = os.environ | {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 3, done.stderr
    assert "::error title=cnnbench wrong::gate_nets:build" in done.stdout
    assert summary.read_text().startswith("# 1 wrong; ")
    (written,) = (repository / "runs").glob("gate-tiny-*/summary.md")
    assert written.read_text().rstrip() == summary.read_text().rstrip()


@pytest.mark.slow
@pytest.mark.alone
def test_why_a_case_is_slower_is_told_by_settings_and_layers(tmp_path: Path) -> None:
    loaded = load_suite(str(suite_of(tmp_path)))
    with open_arms("runtime=ort", "runtime=eager") as (base, head):
        asked = GateRequest(loaded, loaded.cases, base, head, tmp_path / "pair", ENVIRONMENT, 60.0)
        with open_pairs(asked, Watch()) as (pairs, comparisons, _):
            assert pairs.measure(comparisons[0], "screen", ["base", "head"], 0, 1.0).logs["head"] > 0
            found = explain(comparisons[0], pairs)
    assert found.differences[0] == "runtime: ort in base, eager in head"
    assert {layer.name for layer in found.layers} & {"conv1", "conv2", "fc1", "fc2", "fc3"}
    assert found.call_s is not None
    assert found.call_s[1] > found.call_s[0]


@pytest.mark.slow
@pytest.mark.alone
def test_a_calibration_is_kept_and_a_later_gate_heeds_it(tmp_path: Path) -> None:
    suite, kept = suite_of(tmp_path), tmp_path / "noise.json"

    def cnnbench(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cnnbench", *words, "--calibration", str(kept)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = cnnbench("calibrate", str(suite), "--pairs", "6", "--out", str(tmp_path / "calibrate"))
    assert done.returncode == 0, done.stderr
    assert f"kept in {kept}" in done.stdout
    assert "false alarms: in " in done.stdout
    known = read_calibration(kept)
    assert known is not None
    assert [len(session.logs) for session in known.cases["lenet5/inference/ort/cpu/fp32/b1"]] == [6]
    refused = cnnbench("gate", str(suite), "--base", ".", "--margin", "0.001%", "--out", str(tmp_path / "gate"))
    assert refused.returncode == 2
    assert "--margin: expected one above this machine's noise; got 0.00%" in refused.stderr
    assert "pairs" in refused.stderr
    absent = cnnbench("gate", str(suite), "--baseline", str(tmp_path / "no-run"), "--out", str(tmp_path / "gate"))
    assert absent.returncode == 3
    assert "expected a run's folder" in absent.stderr


@pytest.mark.slow
@pytest.mark.alone
def test_another_interpreter_runs_the_same_measuring_code_and_a_revision_its_own_model(
    tmp_path: Path, repository: Path
) -> None:
    suite = suite_of(tmp_path, "gate_nets:build", ", image_size: 16")
    loaded = load_suite(str(suite))
    with open_arms("first", "first~0") as (base, head):
        assert base.source == head.source  # both are the same commit
        assert len(str(base.interpreter.folder)) == len(str(head.interpreter.folder))
    subprocess.run(["git", "checkout", "-q", "first"], check=True)
    with open_arms(".", sys.executable) as (base, head):
        assert head.toolchain == base.toolchain
        about = machine.environment([1], tmp_path)
        asked = GateRequest(loaded, loaded.cases, base, head, tmp_path / "pair", about, 60.0)
        with open_pairs(asked, Watch()) as (pairs, comparisons, skipped):
            pair = pairs.measure(comparisons[0], "screen", ["head", "base"], 0, 1.0)
        assert (pair.missing, pair.wrong, skipped) == ("", "", {})
        assert set(pair.call_s) == {"base", "head"}


def test_settings_make_arms_of_one_environment(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    loaded = load_suite(str(suite))
    with open_arms("runtime=eager,threads=1", "threads=1") as (base, head):
        asked = GateRequest(loaded, loaded.cases, base, head, tmp_path / "pair", ENVIRONMENT, 60.0)
        (comparison,) = asked.comparisons
        assert comparison.name == "lenet5/inference/eager/cpu/fp32/b1/t1 → lenet5/inference/ort/cpu/fp32/b1/t1"


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("no-such-revision", "'no-such-revision' is no"),
        ("runtime=onnxrt", "--base: runtime: "),
        ("batch=3", r"expected a setting, one of allocator, device, layout, precision, runtime, threads; got 'batch'"),
        ("threads=none", "--base: threads: "),
        (str(ROOT), "got the folder"),
        ("/bin/false", "expected a Python"),
    ],
)
def test_an_arm_that_cannot_be_is_one_message(arm: str, message: str) -> None:
    with pytest.raises(InputError, match=message), open_arms(arm, "."):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
@pytest.mark.slow
@pytest.mark.alone
def test_an_interrupted_gate_keeps_its_pairs_and_exits_with_130(tmp_path: Path) -> None:
    suite, out = suite_of(tmp_path), tmp_path / "out"
    command = [sys.executable, "-m", "cnnbench", "gate", str(suite), "--base", ".", "--out", str(out)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pairs = out / "pairs.jsonl"
    ends = time.monotonic() + 300
    while not (pairs.exists() and pairs.stat().st_size):
        assert child.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 130
    assert said.startswith("interrupted")
    assert read_pairs(out)
