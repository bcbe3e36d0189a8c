"""The chained index of each case on each machine, and the changes in it."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from cnnbench.analysis.chain import Edge, Index, Step, chained_index, find_steps, moderated
from cnnbench.history.entry import Entry

LEAST_VARIANCE = 1e-10
"""Of a gate's logarithm: 0.001 %."""


@dataclass(frozen=True)
class CaseIndex:
    """Of one case on one machine; commits in the order of their dates."""

    machine: str
    case: str
    commits: Sequence[tuple[str, datetime]]
    index: Index
    steps: Sequence[Step]
    gates: int
    other_versions: Mapping[int, str]
    """By the number of a commit: what differs in the versions that its gate's two arms had."""

    @property
    def first(self) -> int:
        """The commit that the last one's index is relative to: the first that a chain of gates connects with it."""
        return int((self.index.parts == self.index.parts[-1]).argmax())

    def versions_of(self, step: Step) -> str:
        """What else changed with the commits of a step, if versions did; empty if not."""
        return "; ".join(said for place, said in self.other_versions.items() if step.first <= place <= step.last)


def indices(entries: Iterable[Entry]) -> Iterator[CaseIndex]:
    """Of the gates of two commits, by machine and case. Gates of one commit in two environments say nothing of it."""
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.is_usable_ratio and entry.base is not None and entry.base != entry.commit:
            groups[entry.machine, entry.case].append(entry)
    for (machine, case), gates in sorted(groups.items()):
        yield _index(machine, case, gates)


def _index(machine: str, case: str, gates: Sequence[Entry]) -> CaseIndex:
    dates = {gate.commit: gate.committed for gate in gates}
    dates |= {
        gate.base: gate.base_committed or gate.committed for gate in gates if gate.base and gate.base not in dates
    }
    commits = sorted(dates.items(), key=lambda each: (each[1], each[0]))
    place = {commit: number for number, (commit, _) in enumerate(commits)}
    degrees = [gate.pairs - 1 for gate in gates]
    variances, prior = moderated([(gate.pair_sd or 0.0) ** 2 for gate in gates], degrees)
    edges, other_versions = [], {}
    for gate, variance in zip(gates, variances, strict=True):
        assert gate.base is not None
        assert gate.log_ratio is not None
        of_mean = max(variance / gate.pairs, LEAST_VARIANCE)
        edges.append(Edge(place[gate.base], place[gate.commit], gate.log_ratio, of_mean))
        if gate.base_versions is not None:
            other_versions[place[gate.commit]] = _changed(gate.base_versions, gate.versions or {})
    index = chained_index(edges, len(commits))
    steps = find_steps(edges, len(commits), degrees=prior + median(degrees))
    return CaseIndex(machine, case, commits, index, steps, len(gates), other_versions)


def _changed(base: Mapping[str, str], head: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} {base.get(name, 'none')} to {head.get(name, 'none')}"
        for name in sorted({*base, *head})
        if base.get(name) != head.get(name)
    )


def relative(log: float, error: float) -> tuple[float, float, float]:
    """A ratio and its 95 % interval, from the normal logarithm."""
    return math.exp(log), math.exp(log - 1.96 * error), math.exp(log + 1.96 * error)
