"""All that a history says: the index of each case, times of separate runs, exact figures, and what changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

from cnnbench.history.changes import Changes, changes_of
from cnnbench.history.figures import ModelHistory, model_histories
from cnnbench.history.index import CaseIndex, RunSeries, VersionsGate, indices, run_series, version_gates
from cnnbench.history.store import read_history


@dataclass(frozen=True)
class Overview:
    """Of the cases, and models, that were asked for."""

    folder: Path
    indices: Sequence[CaseIndex]
    series: Sequence[RunSeries]
    models: Sequence[ModelHistory]
    changes: Changes
    version_gates: Sequence[VersionsGate]
    warnings: Sequence[str]


def overview(folder: Path, case: str = "*", *, joined: bool = False) -> Overview:
    """Of the cases, and models of exact figures, that match; `joined` is of `indices`. Raises HistoryError."""
    history = read_history(folder)
    entries = [entry for entry in history.entries if case in ("*", entry.case) or fnmatchcase(entry.case, case)]
    found, series = list(indices(entries, joined=joined)), list(run_series(entries, joined=joined))
    changes = changes_of(folder, chain(found, series))
    return Overview(
        folder=folder,
        indices=found,
        series=series,
        models=list(model_histories(entries)),
        changes=changes,
        version_gates=version_gates(entries),
        warnings=[*history.unreadable, *(changes.idle if case == "*" else ())],
    )
