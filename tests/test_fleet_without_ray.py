"""What docs/fleet.md says of fleets without Ray: the matrix of GitHub Actions and the line for Slurm."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

TEXT = (Path(__file__).parent.parent / "docs" / "fleet.md").read_text()
(WORKFLOW,) = re.findall(r"```yaml\n(jobs:.*?)```", TEXT, re.DOTALL)
(SLURM,) = re.findall(r"```\n(srun .*?)```", TEXT, re.DOTALL)
CHECKER = shutil.which("check-jsonschema") or str(Path(sys.executable).parent / "check-jsonschema")
COMMAND = '#!/bin/sh\necho "$@" >> called\n[ "$1" = run ] && mkdir -p "$4"\nexit ${CODE:-0}\n'
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
for node in n1 n2; do SLURMD_NODENAME=$node "$@" || exit; done
"""
"""Stands for Slurm's: the command on two nodes, one after the other."""

Shell = Callable[..., int]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """`shell(lines, code)` runs lines with a cnnbench that notes its words, makes its folder and ends with the code."""
    for name, text in (("cnnbench", COMMAND), ("srun", SRUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(lines: str, code: int = 0) -> int:
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "CODE": str(code)}
        return subprocess.run(["bash", "-e", "-c", lines], cwd=tmp_path, env=environment).returncode

    return run


def called(folder: Path) -> list[str]:
    return (folder / "called").read_text().splitlines()


@pytest.mark.skipif(not Path(CHECKER).exists(), reason="no check-jsonschema here")
def test_the_matrix_is_what_github_takes(tmp_path: Path) -> None:
    (tmp_path / "w.yml").write_text("on: push\n" + WORKFLOW)
    words = [CHECKER, "--builtin-schema", "vendor.github-workflows", "w.yml"]
    assert subprocess.run(words, cwd=tmp_path).returncode == 0


def test_the_lines_of_the_matrix_measure_each_runner_and_compare_all(tmp_path: Path, shell: Shell) -> None:
    """A case that was not measured fails no job; any other fault does."""
    jobs = yaml.safe_load(WORKFLOW)["jobs"]
    lines = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    runners = jobs["measure"]["strategy"]["matrix"]["runner"]
    for runner in runners:
        line = lines["measure"][-1].replace("${{ matrix.runner }}", runner)
        assert [shell(line, code) for code in (0, 3, 2)] == [0, 0, 1]
    assert shell(lines["compare"][-1]) == 0
    folders = sorted(f"runs/{runner}" for runner in runners)
    assert called(tmp_path)[::3][: len(runners)] == [f"run smoke --out runs/{runner}" for runner in runners]
    assert called(tmp_path)[-1] == f"compare {' '.join(folders)} --out compared"


def test_the_line_for_slurm_gives_each_node_a_folder_of_its_name(tmp_path: Path, shell: Shell) -> None:
    assert shell(SLURM) == 0
    assert called(tmp_path) == [
        "run classic --out runs/n1 --resume",
        "run classic --out runs/n2 --resume",
        "compare runs/n1 runs/n2 --out compared",
    ]
