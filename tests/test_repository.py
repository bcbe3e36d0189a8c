"""What the repository says of itself: the README's commands, and what its CI runs in which order."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

TOOLS = ["python3", "pip", "pytest", "ruff", "mypy"]
CLEAN = ["ruff check .", "ruff format --check .", "mypy "]
INSTALL = ["python3 -m venv .venv", "pip install --quiet -e .[test]"]
FOREIGN = "pip download --quiet --no-deps --dest .venv/foreign rapidocr-onnxruntime silero-vad basic-pitch"
ORDER = [*INSTALL, *INSTALL, "pytest ", *CLEAN, FOREIGN, "pytest -m slow"]
ENDS = [place for place, command in enumerate(ORDER, start=1) if command != FOREIGN]


def test_the_ci_runs_the_readmes_own_test_line() -> None:
    (line,) = (line for line in (ROOT / "README.md").read_text().splitlines() if line.endswith(".venv/bin/pytest"))
    assert line.startswith("python3 -m venv")
    assert line in map(str.strip, (ROOT / ".ci" / "run").read_text().splitlines())


@pytest.mark.parametrize("broken", [None, *ENDS])
def test_the_ci_ends_with_the_first_thing_that_fails(tmp_path: Path, broken: int | None) -> None:
    """In a folder where every tool only notes that it was called."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text())
    bin_folder, log = tmp_path / ".venv" / "bin", tmp_path / "log"
    bin_folder.mkdir(parents=True)
    note = f'#!/bin/sh\necho "$(basename "$0") $*" >> {log}\ntest "$(wc -l < {log})" -ne {broken or 0}\n'
    for name in (*TOOLS, "chromium"):
        (bin_folder / name).write_text(note)
        (bin_folder / name).chmod(0o755)
    path = os.pathsep.join([str(bin_folder), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", str(tmp_path / ".ci" / "run")], env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert (done.returncode == 0) == (broken is None), done.stderr
    assert log.read_text().splitlines() == ORDER[:broken]
    assert ("== second tier: " in done.stdout) == (broken is None)


def test_nothing_that_is_checked_beside_the_tests_is_forgotten_before_a_commit() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    for words in CLEAN:
        assert words.strip() in hooks
