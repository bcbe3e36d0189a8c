"""git is asked about strangers' repositories without running anything of theirs, and about the right one."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cnnbench.runner import git

USER = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")


def call(folder: Path, *words: str) -> str:
    clean = git.without_git(os.environ)
    done = subprocess.run(["git", *USER, *words], cwd=folder, check=True, capture_output=True, text=True, env=clean)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    call(folder, "init", "-q", ".")
    (folder / "suite.yaml").write_text("models: [lenet5]\n")
    call(folder, "add", ".")
    call(folder, "commit", "-qm", "first")
    return folder


@pytest.fixture
def program(tmp_path: Path) -> tuple[str, Path]:
    """A program, and the file that it makes when it is run."""
    proof, script = tmp_path / "EXECUTED", tmp_path / "program.sh"
    script.write_text(f"#!/bin/sh\necho x > '{proof}'\ncat\n")
    script.chmod(0o755)
    return str(script), proof


def test_the_commit_is_told_and_whether_files_differ(repository: Path, tmp_path: Path) -> None:
    commit = call(repository, "rev-parse", "HEAD")
    assert git.commit_of(repository) == commit
    (repository / "suite.yaml").write_text("models: [vgg16]\n")
    assert git.commit_of(repository) == f"{commit}-dirty"
    assert git.commit_of(tmp_path) is None


def monitor(folder: Path, program: str) -> Path:
    call(folder, "config", "core.fsmonitor", program)
    return folder


def clean_filter(name: str) -> Callable[[Path, str], Path]:
    def make(folder: Path, program: str) -> Path:
        call(folder, "config", f"filter.{name}.clean", program)
        call(folder, "config", f"filter.{name}.required", "true")
        (folder / ".git" / "info" / "attributes").write_text(f"*.yaml filter={name}\n")
        os.utime(folder / "suite.yaml", (0, 0))
        return folder

    return make


def bare_repository(folder: Path, program: str) -> Path:
    bare = folder / "suites"
    call(folder, "init", "-q", "--bare", str(bare))
    for key, value in (("core.bare", "false"), ("core.worktree", str(bare)), ("core.fsmonitor", program)):
        call(bare, "config", key, value)
    return bare


@pytest.mark.parametrize(
    "booby_trap",
    [monitor, clean_filter("x"), clean_filter("a=b"), bare_repository],
    ids=["monitor", "filter", "filter-with-equals", "bare-repository"],
)
def test_nothing_that_a_repository_names_is_run(
    repository: Path, program: tuple[str, Path], booby_trap: Callable[[Path, str], Path]
) -> None:
    folder = booby_trap(repository, program[0])
    git.commit_of(folder)
    assert not program[1].exists()
    subprocess.run(["git", "status"], cwd=folder, capture_output=True, check=False)
    assert program[1].exists(), "the trap does not work, so that this test shows nothing"


def test_a_worktree_is_made_without_hooks_and_without_filters(
    repository: Path, program: tuple[str, Path], tmp_path: Path
) -> None:
    clean_filter("x")(repository, program[0])
    call(repository, "config", "filter.x.smudge", program[0])
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(Path(program[0]).read_text())
    hook.chmod(0o755)
    git.ask(repository, "worktree", "add", "--detach", "--quiet", str(tmp_path / "other"), "HEAD")
    assert (tmp_path / "other" / "suite.yaml").exists()
    assert not program[1].exists()


def test_variables_of_a_hook_lead_nowhere_else(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "0")
    assert git.commit_of(repository) is not None
    kept = {name for name in git.without_git(os.environ) if name.startswith("GIT_")}
    assert kept <= {"GIT_CONFIG_COUNT", "GIT_EXEC_PATH", "GIT_CEILING_DIRECTORIES"} | {
        name for name in os.environ if name.startswith("GIT_CONFIG_")
    }
    assert not (tmp_path / "index").exists()


def test_what_git_says_is_told(tmp_path: Path) -> None:
    with pytest.raises(git.GitError, match="not a git repository"):
        git.ask(tmp_path, "rev-parse", "HEAD")


def test_a_machine_without_git_has_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git.commit_of(repository) is None
    with pytest.raises(git.GitError, match="not installed"):
        git.ask(repository, "status")
