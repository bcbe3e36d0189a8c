"""The history of a case's time: the chained index of its gates, or the times of separate runs, and the changes."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from statistics import median

from cnnbench.analysis.chain import (
    Edge,
    Index,
    Step,
    chained_index,
    consistent_steps,
    find_steps_in_series,
    moderated,
)
from cnnbench.analysis.stats import student_quantile
from cnnbench.history.entry import Entry

LEAST_VARIANCE = 1e-10
"""Of a gate's logarithm: 0.001 %."""
MAX_RUNS = 2000
"""Commits of a series of separate runs, the latest; what is computed grows with their cube."""


@dataclass(frozen=True)
class Track:
    """Of one case on one machine; commits in the order of their dates."""

    machine: str
    """Its fingerprint; of several machines, how many."""
    case: str
    commits: Sequence[tuple[str, datetime]]
    steps: Sequence[Step]
    other_versions: Mapping[int, str]
    """By the number of a commit: what differs in the versions that its time and the one before were measured with."""
    marks: Mapping[int, str]
    """By the number of a commit: which other versions, or which other machine, measured from there on."""

    def versions_of(self, step: Step) -> str:
        """What else changed with the commits of a step, if versions did; empty if not."""
        return "; ".join(said for place, said in self.other_versions.items() if step.first <= place <= step.last)


@dataclass(frozen=True)
class CaseIndex(Track):
    """The chained index of a case's gates."""

    index: Index
    gates: int
    conflict: float
    """What the variances of its gates are multiplied by, since they contradict each other; 1 if they do not."""
    runs: Sequence[tuple[float, float]] = field(default=())
    """Times of separate runs: number of the commit, between two if it is in no gate, and logarithm, relative to the
    index: their median difference from it is 0."""

    @property
    def first(self) -> int:
        """The commit that the last one's index is relative to: the first that a chain of gates connects with it."""
        return int((self.index.parts == self.index.parts[-1]).argmax())


@dataclass(frozen=True)
class RunSeries(Track):
    """Times of separate runs, which no gate connects: they wander with the machine's state."""

    tool: str
    """That measured them; empty for this one."""
    logs: Sequence[float]
    """Of the median at each commit over the first one's."""


@dataclass(frozen=True)
class VersionsGate:
    """A gate of one commit in two environments: what other versions alone do to its time."""

    machine: str
    case: str
    commit: str
    committed: datetime
    versions: str
    log: float
    interval: float
    """Half of the 95 % interval of the logarithm."""


def indices(entries: Iterable[Entry], *, joined: bool = False) -> Iterator[CaseIndex]:
    """Of the gates of two commits, by machine and case. Gates of one commit in two environments say nothing of it.

    With `joined`, of all machines together, by case: each gate is of one machine, so that another machine's speed is in
    no ratio, and its chain goes on where the other one ended.
    """
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    runs: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        if _is_of_two_commits(entry):
            groups[_key(entry, joined)].append(entry)
        elif entry.kind == "run" and entry.seconds is not None:
            runs[_key(entry, joined)].append(entry)
    for (machine, case), gates in sorted(groups.items()):
        machines = sorted({gate.machine for gate in gates})
        label = machine or (machines[0] if len(machines) == 1 else f"{len(machines)} machines")
        yield _index(label, case, gates, runs[machine, case])


def run_series(entries: Sequence[Entry], *, joined: bool = False) -> Iterator[RunSeries]:
    """Times of separate runs where there is no index, by machine, tool and case; at most the latest 2,000 commits."""
    known = {_key(entry, joined) for entry in entries if _is_of_two_commits(entry)}
    groups: dict[tuple[str, str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.seconds is not None and (entry.kind == "import" or _key(entry, joined) not in known):
            groups[entry.machine, entry.tool, entry.case].append(entry)
    for (machine, tool, case), found in sorted(groups.items()):
        by_commit: dict[tuple[datetime, str], list[Entry]] = defaultdict(list)
        for entry in found:
            by_commit[entry.order].append(entry)
        order = sorted(by_commit)[-MAX_RUNS:]
        times = [math.log(median(entry.seconds or math.nan for entry in by_commit[each])) for each in order]
        marks = _version_marks([by_commit[each][-1].versions for each in order])
        yield RunSeries(
            machine=machine,
            case=case,
            commits=[(commit, date) for date, commit in order],
            steps=find_steps_in_series(times),
            other_versions=marks,
            marks=marks,
            tool=tool,
            logs=[each - times[0] for each in times],
        )


def version_gates(entries: Iterable[Entry]) -> list[VersionsGate]:
    """Of one commit in two environments, the latest first."""
    return [
        VersionsGate(
            machine=entry.machine,
            case=entry.case,
            commit=entry.commit,
            committed=entry.committed,
            versions=changed_versions(entry.base_versions, entry.versions or {}),
            log=entry.log_ratio or 0.0,
            interval=(entry.pair_sd or 0.0) / math.sqrt(entry.pairs) * student_quantile(0.975, entry.pairs - 1),
        )
        for entry in sorted(entries, key=lambda each: each.order, reverse=True)
        if entry.is_usable_ratio and entry.base == entry.commit and entry.base_versions is not None
    ]


def _is_of_two_commits(entry: Entry) -> bool:
    return entry.is_usable_ratio and entry.base is not None and entry.base != entry.commit


def _key(entry: Entry, joined: bool) -> tuple[str, str]:
    return "" if joined else entry.machine, entry.case


def _index(machine: str, case: str, gates: Sequence[Entry], runs: Sequence[Entry]) -> CaseIndex:
    dates = {gate.commit: gate.committed for gate in gates}
    dates |= {
        gate.base: gate.base_committed or gate.committed for gate in gates if gate.base and gate.base not in dates
    }
    commits = sorted(dates.items(), key=lambda each: (each[1], each[0]))
    place = {commit: number for number, (commit, _) in enumerate(commits)}
    degrees = [gate.pairs - 1 for gate in gates]
    variances, prior = moderated([(gate.pair_sd or 0.0) ** 2 for gate in gates], degrees)
    edges, other_versions, latest = [], {}, {}
    for gate, variance in zip(gates, variances, strict=True):
        assert gate.base is not None
        assert gate.log_ratio is not None
        of_mean = max(variance / gate.pairs, LEAST_VARIANCE)
        edges.append(Edge(place[gate.base], place[gate.commit], gate.log_ratio, of_mean))
        latest[place[gate.commit]] = gate
        if gate.base_versions is not None:
            other_versions[place[gate.commit]] = changed_versions(gate.base_versions, gate.versions or {})
    steps, factor = consistent_steps(edges, len(commits), degrees=prior + median(degrees))
    index = chained_index(edges, len(commits))
    index = Index(index.logs, index.errors * math.sqrt(factor), index.parts)
    return CaseIndex(
        machine=machine,
        case=case,
        commits=commits,
        steps=steps,
        other_versions=other_versions,
        marks=_marks(latest),
        index=index,
        gates=len(gates),
        conflict=factor,
        runs=list(_relative_to(index, commits, runs)),
    )


def _relative_to(
    index: Index, commits: Sequence[tuple[str, datetime]], runs: Sequence[Entry]
) -> Iterator[tuple[float, float]]:
    """The times of separate runs of each machine, beside each part of the index."""
    place = {commit: number for number, (commit, _) in enumerate(commits)}
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = defaultdict(list)
    for run in runs:
        near = place.get(run.commit, sum(date <= run.committed for _, date in commits) - 1)
        if near >= 0:
            at = near + (0.0 if run.commit in place else 0.5)
            log = math.log(run.seconds or math.nan)
            found[run.machine, int(index.parts[near])].append((at, log, log - float(index.logs[near])))
    for own in found.values():
        offset = median(difference for _, _, difference in own)
        yield from ((at, log - offset) for at, log, _ in own)


def _marks(latest: Mapping[int, Entry]) -> dict[int, str]:
    """Where other versions than before, or another machine, measured both arms of a gate."""
    places = sorted(latest)
    marks = _version_marks([latest[each].versions for each in places])
    found = {places[number]: said for number, said in marks.items()}
    for before, after in pairwise(places):
        if latest[before].machine != latest[after].machine:
            machine = f"machine {latest[before].machine} to {latest[after].machine}"
            found[after] = "; ".join(filter(None, (machine, found.get(after))))
    return found


def _version_marks(versions: Sequence[Mapping[str, str] | None]) -> dict[int, str]:
    return {
        place + 1: changed_versions(before, after)
        for place, (before, after) in enumerate(pairwise(versions))
        if before and after and before != after
    }


def changed_versions(base: Mapping[str, str], head: Mapping[str, str]) -> str:
    """What differs, such as `torch 2.13.0 to 2.14.1`; empty if nothing does."""
    return ", ".join(
        f"{name} {base.get(name, 'none')} to {head.get(name, 'none')}"
        for name in sorted({*base, *head})
        if base.get(name) != head.get(name)
    )


def relative(log: float, error: float) -> tuple[float, float, float]:
    """A ratio and its 95 % interval, from the normal logarithm."""
    return math.exp(log), math.exp(log - 1.96 * error), math.exp(log + 1.96 * error)
