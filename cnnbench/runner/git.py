"""git, asked about a repository that may be a stranger's: nothing of it runs, and no variable leaks in or out.

A repository's own configuration can name programs that git starts even to tell the status: a file system monitor, the
filters of files, hooks; a folder with such a configuration may lie in a clone as a bare repository. A hook that starts
this program hands down variables that lead git to the commit being made.
"""

import os
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from cnnbench.errors import InputError

TIMEOUT_S = 120.0
_NOTHING_RUNS = (
    "--no-optional-locks",
    *("-c", "core.fsmonitor=false"),
    *("-c", f"core.hooksPath={os.devnull}"),
    *("-c", "safe.bareRepository=explicit"),
)
_KEPT = ("GIT_CONFIG_", "GIT_EXEC_PATH", "GIT_CEILING_DIRECTORIES")
"""Of git's variables: those that say how git works, not on what. `safe.directory` may come by them."""
_LOG = ("log", "--no-show-signature", "--format=%H%x00%cI%x00%s")  # to show a signature starts a program
_FILTERS = r"^filter\..*\.(clean|smudge|process|required)$"


class GitError(InputError):
    """What git said when it refused."""


def without_git(variables: Mapping[str, str]) -> dict[str, str]:
    """Environment variables without those that lead git to a repository, as a hook is given them."""
    kept = {name: value for name, value in variables.items() if not name.startswith("GIT_") or name.startswith(_KEPT)}
    kept.pop("GIT_CONFIG_PARAMETERS", None)  # of the command that runs the hook
    return kept


def ask(folder: Path, *words: str, may_fetch: bool = False) -> str:
    """What git answers in a folder; with `may_fetch` a partial clone gets what it lacks. Raises GitError."""
    return _git(folder, *_no_filters(folder), *words, may_fetch=may_fetch)


def commit_of(folder: Path) -> str | None:
    """The commit of the repository around a folder, with `-dirty` where files differ; None outside one."""
    try:
        commit = ask(folder, "rev-parse", "HEAD")
        changes = ask(folder, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
    except GitError:
        return None
    return commit + ("-dirty" if changes else "")


class Commit(NamedTuple):
    """A commit of a repository."""

    hash: str
    committed: datetime
    subject: str


def commit(folder: Path, revision: str) -> Commit:
    """What a revision is. Raises GitError."""
    return _commits(ask(folder, *_LOG, "-1", "--end-of-options", revision, "--"))[0]


def known_commits(folder: Path) -> set[str]:
    """All commits that branches, tags and HEAD lead to. Raises GitError."""
    return set(ask(folder, "rev-list", "--all", "HEAD").split())


def commits_between(folder: Path, good: str, bad: str) -> list[Commit]:
    """The first parents of `bad` after `good`, oldest first. Raises GitError if `good` is not one of them."""
    found = _commits(ask(folder, *_LOG, "--first-parent", "--reverse", f"{good}..{bad}", "--"))
    if not found or ask(folder, "rev-parse", f"{found[0].hash}^1") != good:
        shallow = ask(folder, "rev-parse", "--is-shallow-repository") == "true"
        hint = "; this clone is shallow: `git fetch --unshallow` gets its history" if shallow else ""
        raise GitError(f"{good[:12]} is no first parent of {bad[:12]} or of one before it{hint}")
    return found


def _commits(said: str) -> list[Commit]:
    fields = [line.split("\0", 2) for line in said.split("\n") if line]
    return [Commit(hash_, datetime.fromisoformat(committed), subject) for hash_, committed, subject in fields]


def _no_filters(folder: Path) -> list[str]:
    """Switches off the filters that the repository itself names; the user's own, such as git-lfs, stay."""
    try:
        said = _git(folder, "config", "--null", "--show-scope", "--name-only", "--get-regexp", _FILTERS)
    except GitError as error:
        if str(error):
            raise
        return []  # there are none
    fields = said.split("\0")
    keys = {key for scope, key in zip(fields[::2], fields[1::2], strict=False) if scope in ("local", "worktree")}
    if any("=" in key for key in keys):
        raise GitError("the repository's configuration names a filter with `=` in it, which cannot be switched off")
    return [word for key in sorted(keys) for word in ("-c", f"{key}={'false' if key.endswith('.required') else ''}")]


def _git(folder: Path, *words: str, may_fetch: bool = False) -> str:
    variables = {**without_git(os.environ), "GIT_TERMINAL_PROMPT": "0"}
    if not may_fetch:
        variables["GIT_ALLOW_PROTOCOL"] = "none"  # how a stranger's remote is reached may be a program too
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *_NOTHING_RUNS, *words],
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise GitError("git is not installed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitError(f"git could not be run: {error}") from None
    if done.returncode != 0:
        raise GitError(" ".join(done.stderr.split())[:500])
    return done.stdout.strip()
