"""A lock between the processes of one run of pytest, for tests that read the machine's counters or the time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks here: run these tests with -n 0
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def hold(folder: Path | None, *, alone: bool) -> Iterator[None]:
    """Share the machine with other tests, or have it alone, until the end of the block.

    Who waits to be alone stands in the door meanwhile, so that nobody else comes in before.
    """
    if fcntl is None or folder is None:
        yield
        return
    with (folder / "door.lock").open("w") as door, (folder / "machine.lock").open("w") as machine:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
