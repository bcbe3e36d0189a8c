"""Folders for temporary files: each goes with its process, or a later one deletes what a killed one left.

A folder's name tells the id of the process that made it, which holds a lock in it: containers may share a folder for
temporary files and not their processes' ids.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

PREFIX = "cnnbench-"
LOCK = ".lock"


@contextlib.contextmanager
def scratch_folder(kind: str = "") -> Iterator[Path]:
    """A new folder, which is deleted afterwards; `kind` is a part of its name, such as `gate-`. Raises OSError."""
    prefix = f"{PREFIX}{kind}{os.getpid()}-"
    made = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    try:
        with made as folder, FileLock(Path(folder, LOCK)):
            yield Path(folder)
    finally:
        shutil.rmtree(made.name, ignore_errors=True)  # again: Ctrl-C may have come in the middle of it


def leftovers(kind: str = "") -> list[Path]:
    """The folders of that kind that are this user's, and whose processes are dead."""
    name = re.compile(rf"{PREFIX}{kind}(\d{{1,9}})-\w+", re.ASCII)
    user, found = os.geteuid() if hasattr(os, "geteuid") else None, []
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if (match := name.fullmatch(entry.name)) and not _is_running(int(match[1])):
                is_own = user is None or entry.stat(follow_symlinks=False).st_uid == user
                if is_own and entry.is_dir(follow_symlinks=False) and not _is_held(Path(entry.path)):
                    found.append(Path(entry.path))
    return found


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_held(folder: Path) -> bool:
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def sweep() -> None:
    """Delete what killed processes left, but for a gate's worktrees, which are registered with a repository."""
    for folder in leftovers():
        shutil.rmtree(folder, ignore_errors=True)
