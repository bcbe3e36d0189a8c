"""A run from its beginning to its end: cases chosen from a suite, measured into a folder, whatever stops it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cnnbench.records.run_folder import Store
from cnnbench.runner.machine import environment, usable_threads
from cnnbench.runner.run import Observer, run_suite
from cnnbench.suite.case import Case
from cnnbench.suite.load import Suite

Watch = Callable[[int, int], AbstractContextManager[Observer]]
"""Begins to watch a run of so many cases, so many of them finished before."""


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    left: list[str]
    """Ids of the cases that were asked for and have no finished record."""
    in_time: bool
    """Whether all cases were reached before the budget was spent."""
    interrupted: bool
    empty: bool
    """Whether there is no record at all."""


def select(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases whose ids fit one of the shell patterns; all if there are none. Raises ValueError if none fits."""
    chosen = [case for case in cases if not patterns or any(case.matches(pattern) for pattern in patterns)]
    if not chosen:
        raise ValueError(
            f"expected a pattern that fits a case such as {cases[0].id!r}; {list(patterns)} fits none of {len(cases)}"
        )
    return chosen


def measure(suite: Suite, cases: Sequence[Case], folder: Path, *, budget_s: float, resume: bool, watch: Watch) -> Ended:
    """Measure cases of a suite into a folder, with `resume` only those that have no finished record there.

    An interrupt by the keyboard ends it like a spent budget: what is finished is on disk. Raises RunFolderError,
    ModelError.
    """
    about = environment([case.threads or usable_threads() for case in cases], suite.path.resolve().parent)
    interrupted = in_time = False
    with Store(folder, suite, about, resume=resume) as store:
        finished = store.finished()
        try:
            with watch(len(cases), sum(case.id in finished for case in cases)) as observer:
                in_time = run_suite(suite, cases, store, about, observer, budget_s)
        except KeyboardInterrupt:
            interrupted = True
        finished = store.finished()
    left = [case.id for case in cases if case.id not in finished]
    return Ended(left=left, in_time=in_time, interrupted=interrupted, empty=not finished)
