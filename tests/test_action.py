"""The GitHub action, and the jobs of docs/ci.md: their YAML, and that each command in them parses."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.test_help import parse

ACTION = ROOT / "action.yml"
CHECKER = Path(sys.executable).parent / "check-jsonschema"


def action() -> dict[str, Any]:
    found = yaml.safe_load(ACTION.read_text())
    assert isinstance(found, dict)
    return found


def test_the_actions_inputs_are_used_and_none_is_a_part_of_a_script() -> None:
    """An input that is pasted into a script can run anything in it."""
    steps = action()["runs"]["steps"]
    assert all("${{" not in step.get("run", "") for step in steps)
    for name in action()["inputs"]:
        assert f"inputs.{name}" in ACTION.read_text(), name
    (gate,) = (step for step in steps if "cnnbench gate" in step.get("run", ""))
    assert set(re.findall(r"\$([A-Z]+)\b", gate["run"])) <= set(gate["env"])


def test_the_actions_gate_parses() -> None:
    (gate,) = (step for step in action()["runs"]["steps"] if "cnnbench gate" in step.get("run", ""))
    line = next(line for line in gate["run"].splitlines() if line.startswith("cnnbench gate"))
    parse([word for word in shlex.split(line)[1:] if word != "$OPTIONS"])


@pytest.mark.skipif(not (CHECKER.exists() or shutil.which("check-jsonschema")), reason="no check-jsonschema here")
@pytest.mark.parametrize("schema", ["github-actions", "github-workflows", "gitlab-ci"])
def test_the_action_and_the_jobs_are_what_github_and_gitlab_take(tmp_path: Path, schema: str) -> None:
    texts = {"github-actions": ACTION.read_text(), "github-workflows": blocks()[0], "gitlab-ci": blocks()[-1]}
    file = tmp_path / "checked.yaml"
    file.write_text(texts[schema])
    checker = str(CHECKER) if CHECKER.exists() else "check-jsonschema"
    done = subprocess.run([checker, "--builtin-schema", f"vendor.{schema}", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def blocks() -> list[str]:
    """The YAML of docs/ci.md."""
    return re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)


def test_the_jobs_of_the_docs_are_yaml_whose_commands_parse() -> None:
    texts = blocks()
    assert len(texts) == 5
    for text in texts:
        assert yaml.safe_load(text)
    commands = re.findall(r"cnnbench gate .+", (ROOT / "docs" / "ci.md").read_text().replace("`,", "\n"))
    assert len(commands) >= 4
    for command in commands:
        parse(shlex.split(re.split(r"`| \|\| | && | \|\|$", command)[0])[1:])
