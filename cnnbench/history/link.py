"""When a chain of gates is tied to an older commit, so that its error does not grow with the root of its length."""

from pathlib import Path

from cnnbench.errors import HistoryError
from cnnbench.history.store import History
from cnnbench.runner import git

EVERY = 20
"""Commits that are measured between two links."""


def link_of(revision: str, repository: Path) -> str:
    """The commit that a chain is to be tied to. Raises HistoryError for a revision that is not there."""
    try:
        return git.commit(repository, revision).hash
    except git.GitError as error:
        raise HistoryError(f"--link: expected a revision; got {revision!r}: {error}") from None


def link_due(history: History, machine: str, link: str | None) -> str | None:
    """The commit that the latest head is to be measured against too; None if the last link is recent.

    `link` is a commit; the chain's first one if None.
    """
    gates = [entry for entry in history.entries if entry.machine == machine and entry.base is not None]
    if not gates:
        return None
    target = link or gates[0].base
    linked = [entry.committed for entry in gates if entry.base == target]
    since = {entry.commit for entry in gates if not linked or entry.committed > max(linked)}
    return target if len(since) >= EVERY else None
