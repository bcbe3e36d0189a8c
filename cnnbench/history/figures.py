"""The histories of exact figures, which are without noise: each difference between two commits is a change."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from cnnbench.history.entry import Entry
from cnnbench.history.index import changed_versions

MAIN = ("params", "macs", "inference.nodes", "training.nodes")
"""Of a model, beside the memory of a step."""
MEMORY = "step_peak_bytes."


class FigureChange(NamedTuple):
    """A figure that is another than at the commit before."""

    figure: str
    commit: str
    committed: datetime
    before: int | None
    after: int | None
    """None where there is no such figure."""
    versions: str
    """That changed with it; empty if none did."""


@dataclass(frozen=True)
class ModelHistory:
    """Of one model's figures; commits in the order of their dates."""

    model: str
    commits: Sequence[tuple[str, datetime]]
    figures: Sequence[dict[str, int]]
    """At each commit."""
    changes: Sequence[FigureChange]

    @property
    def main(self) -> list[str]:
        """Parameters, MACs, nodes of the graphs, and memory of a step by formula, of those that it has."""
        names = dict.fromkeys(name for figures in self.figures for name in figures)
        return [*(each for each in MAIN if each in names), *(name for name in names if name.startswith(MEMORY))]


def model_histories(entries: Iterable[Entry]) -> Iterator[ModelHistory]:
    """Of the exact figures of each model."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.figures is not None:
            groups[entry.case].append(entry)
    for model, found in sorted(groups.items()):
        found.sort(key=lambda entry: (entry.order, entry.measured))
        yield ModelHistory(
            model=model,
            commits=[(entry.commit, entry.committed) for entry in found],
            figures=[entry.figures or {} for entry in found],
            changes=[change for pair in pairwise(found) for change in _changes(*pair)],
        )


def _changes(before: Entry, after: Entry) -> Iterator[FigureChange]:
    old, new = before.figures or {}, after.figures or {}
    versions = changed_versions(before.versions or {}, after.versions or {})
    for figure in dict.fromkeys([*old, *new]):
        if old.get(figure) != new.get(figure):
            yield FigureChange(figure, after.commit, after.committed, old.get(figure), new.get(figure), versions)
