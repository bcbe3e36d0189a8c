"""What the README tells people to paste is what the CI runs, and the CI checks the code besides."""

import pytest

from tests.conftest import ROOT

CI = (ROOT / ".ci" / "run").read_text()


def test_ci_runs_the_readmes_own_test_command() -> None:
    (command,) = [
        line.strip() for line in CI.splitlines() if line.strip().startswith("python3 -m venv") and "pytest" in line
    ]
    assert command in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("words", ["ruff check .", "ruff format --check .", "mypy", "pytest -m slow"])
def test_ci_checks_the_code_and_runs_the_second_tier(words: str) -> None:
    assert any(line.startswith("step ") and line.endswith(f".venv/bin/{words}") for line in CI.splitlines())
