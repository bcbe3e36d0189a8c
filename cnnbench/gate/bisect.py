"""The search for the commit that changed a case's time: base against one commit after another, in the gate's own pairs.

bisect.json             what is searched: suite, case, good, bad and the commits between
NNN-COMMIT/pairs.jsonl  all pairs of one commit against the good one, as a gate keeps them
NNN-COMMIT/skipped      why it cannot be measured, if so
found/                  the pairs of the commit that was found against its parent
found.json              what is believed at the end

All that is believed is computed from the pairs, so a search goes on where it ended.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from pydantic import BaseModel

from cnnbench.analysis import bisection
from cnnbench.analysis.bisection import Floats
from cnnbench.analysis.paired import PairedRatio
from cnnbench.errors import CnnbenchError, InputError, RunFolderError
from cnnbench.gate.arms import open_arms
from cnnbench.gate.diagnose import Explanation, explain
from cnnbench.gate.pairs import Pairs
from cnnbench.gate.procedure import Observer
from cnnbench.gate.run import PAIRS, GateRequest, open_pairs, read_pairs
from cnnbench.gate.verdict import ArmComparison, ArmName, Paired, ratio_of
from cnnbench.records import artifact, files
from cnnbench.records.environment import Environment
from cnnbench.records.json_object import read_model
from cnnbench.runner.git import Commit
from cnnbench.runner.tasks.export import describe_graph
from cnnbench.suite.case import Case
from cnnbench.suite.load import Suite

ABOUT, FOUND, FOUND_FILE, SKIPPED = "bisect.json", "found", "found.json", "skipped"
SEARCH_SHARE = 0.85
"""Share of the budget for the search; the rest is for the explanation."""
FOUND_PAIRS = 6


class About(BaseModel):
    """`bisect.json`."""

    suite: str
    digest: str
    case: str
    good: str
    commits: list[str]


@dataclass(frozen=True)
class BisectRequest:
    """What to search, and the folder to write."""

    suite: Suite
    case: Case
    good: Commit
    commits: Sequence[Commit]
    """After the good one, the oldest first; the last is the bad one."""
    folder: Path
    environment: Environment
    budget_s: float
    seed: int = 0

    @property
    def about(self) -> About:
        """What must be the same to go on."""
        hashes = [commit.hash for commit in self.commits]
        return About(
            suite=self.suite.name, digest=self.suite.digest, case=self.case.id, good=self.good.hash, commits=hashes
        )


@dataclass
class Search:
    """What was measured so far, by the number of the commit, from 1; all else follows from it."""

    commits: int
    logs: dict[int, list[float]] = field(default_factory=dict)
    unmeasurable: dict[int, str] = field(default_factory=dict)
    """Why a commit could not be measured."""
    pairs: int = 0
    visits: int = 0

    @property
    def believed(self) -> Floats:
        """Probability of each commit."""
        return bisection.beliefs(self.commits, self.logs)

    @property
    def bad(self) -> PairedRatio:
        """Of bad over good."""
        return PairedRatio(tuple(self.logs.get(self.commits, ())))

    def take(self, commit: int, pair: Paired) -> None:
        """One pair's result; one whose base failed says nothing of the commit."""
        self.pairs += bool(pair.logs)
        if pair.problem and not _is_of_base(pair):
            self.unmeasurable[commit] = pair.problem
            self.logs.pop(commit, None)
        elif "head" in pair.logs and commit not in self.unmeasurable:
            self.logs.setdefault(commit, []).append(pair.logs["head"])

    def next(self) -> int | None:
        """The commit to measure; None if the search has ended."""
        if self.commits in self.unmeasurable:
            return None
        first = self.logs.get(self.commits, [])
        if not bisection.has_changed(first):
            return self.commits if len(first) < bisection.MAX_FIRST_PAIRS else None
        asked = bisection.next_commit(self.believed, self.unmeasurable)
        if asked is not None and len(self.logs.get(asked, [])) > max(len(first), bisection.MAX_FIRST_PAIRS):
            return self.commits  # so much cannot be undecided unless bad seemed to differ by chance
        return asked

    def wants_more(self, commit: int, measured: int) -> bool:
        """Whether a commit, of which so many pairs were measured in this visit, is measured further."""
        if commit in self.unmeasurable:
            return False
        if commit == self.commits:
            own = self.logs.get(commit, [])
            undecided = not bisection.has_changed(own) and len(own) < bisection.MAX_FIRST_PAIRS
            return undecided or measured < bisection.VISIT_PAIRS
        if measured < 2:
            return True
        return measured < bisection.VISIT_PAIRS and not bisection.is_decided(self.believed, commit)


@dataclass
class BisectReport:
    """What a search found."""

    request: BisectRequest
    search: Search
    seconds: float
    in_time: bool
    """Whether it ended before its budget."""
    ratio: PairedRatio | None = None
    """Of the commit that was found over its parent."""
    explanation: Explanation | None = None
    graph: list[str] = field(default_factory=list)
    """How the exported graph of the commit that was found differs from its parent's."""
    unexplained: str = ""
    """Why there is no explanation, if a commit was found."""

    @property
    def has_changed(self) -> bool:
        """Whether bad differs from good at all."""
        return bisection.has_changed(self.search.logs.get(self.search.commits, []))

    @property
    def suspects(self) -> list[tuple[Commit, float]]:
        """The fewest commits that are believed with 99 % together; none if nothing has changed."""
        if not self.has_changed:
            return []
        return [(self.request.commits[each - 1], share) for each, share in bisection.suspects(self.search.believed)]

    @property
    def found(self) -> int | None:
        """The number of the one commit that is believed with 99 %."""
        if not self.has_changed or self.search.believed.max() < bisection.SURE:
            return None
        return int(self.search.believed.argmax()) + 1


def bisect(request: BisectRequest, observer: Observer, *, resume: bool = False) -> BisectReport:
    """Search until one commit is believed with 99 %, nothing more can be told, or the budget is spent.

    Raises RunFolderError for a folder that is another search's, and InputError if the good commit cannot be measured.
    """
    began, ends = time.monotonic(), time.monotonic() + SEARCH_SHARE * request.budget_s
    search, rng = _begin(request, resume), Random(request.seed)
    in_time = True
    while in_time and (commit := search.next()) is not None:
        in_time = _visit(request, search, commit, observer, rng, ends)
    report = BisectReport(request, search, 0.0, in_time)
    if report.found is not None:
        _explain(report, observer, rng)
    report.seconds = time.monotonic() - began
    return report


def _begin(request: BisectRequest, resume: bool) -> Search:
    """The search so far."""
    file, about = request.folder / ABOUT, request.about
    search = Search(len(request.commits))
    if not request.folder.exists():
        request.folder.mkdir(parents=True)
        files.write(file, about.model_dump_json(indent=1))
        return search
    known = read_model(file, About, "give another --out")
    if known is None:
        raise RunFolderError(f"{request.folder}: expected a new folder or a search's; got another; give another --out")
    if known != about:
        raise RunFolderError(f"{request.folder}: it is the search of another suite, case or range; give another --out")
    if not resume:
        raise RunFolderError(f"{request.folder}: it holds this search already; add --resume, or give another --out")
    for number, commit, folder in _visits(request):
        search.visits = max(search.visits, number)
        if (folder / PAIRS).exists():
            for pair in read_pairs(folder):
                search.take(commit, pair.paired())
        if (folder / SKIPPED).exists():
            search.unmeasurable[commit] = files.read(folder / SKIPPED).decode(errors="replace").strip()
    return search


def _visits(request: BisectRequest) -> Iterator[tuple[int, int, Path]]:
    """Number, commit and folder of each."""
    places = {commit.hash[:12]: place for place, commit in enumerate(request.commits, start=1)}
    for folder in sorted(request.folder.glob("[0-9]*-*")):
        number, _, name = folder.name.partition("-")
        if name in places and number.isdigit():
            yield int(number), places[name], folder


def _visit(request: BisectRequest, search: Search, commit: int, observer: Observer, rng: Random, ends: float) -> bool:
    """Measure a commit against the good one; False if the time is spent."""
    told = request.commits[commit - 1]
    search.visits += 1
    folder = request.folder / f"{search.visits:03d}-{told.hash[:12]}"
    left_s = ends - time.monotonic()
    if left_s <= 0:
        return False
    label = f"{told.hash[:12]} ({len(search.logs)} of {search.commits} commits measured)"
    observer.doing(f"{label}: building", left_s)
    try:
        with _open(request, request.good.hash, told.hash, folder, observer, left_s) as (pairs, comparison):
            measured = 0
            checked = pairs.check(comparison)
            _raise_if_of_base(request, checked)
            if checked.problem:
                search.take(commit, checked)
                files.write(folder / SKIPPED, checked.problem)
            while search.wants_more(commit, measured):
                began = time.monotonic()
                observer.doing(f"{label}: pair {measured + 1}", ends - began)
                for pair in _block(search, commit, pairs, comparison, rng, measured):
                    _raise_if_of_base(request, pair)
                measured += 2
                if time.monotonic() + (time.monotonic() - began) > ends:
                    return False
    except InputError as error:
        if not str(error).startswith("--head"):
            raise InputError(str(error).replace("--base", "--good", 1)) from None
        search.unmeasurable[commit] = str(error)
        folder.mkdir(parents=True, exist_ok=True)
        files.write(folder / SKIPPED, str(error))
    if search.commits in search.unmeasurable:
        raise InputError(f"--bad: {told.hash[:12]} cannot be measured: {search.unmeasurable[search.commits]}")
    return True


def _is_of_base(pair: Paired) -> bool:
    return pair.problem.startswith("base:")


def _raise_if_of_base(request: BisectRequest, pair: Paired) -> None:
    if _is_of_base(pair):
        raise InputError(f"--good: {request.good.hash[:12]} cannot be measured: {pair.problem}")


def _block(
    search: Search, commit: int, pairs: Pairs, comparison: ArmComparison, rng: Random, number: int
) -> list[Paired]:
    """Two pairs, the second in the other order."""
    arms: list[ArmName] = ["base", "head"]
    rng.shuffle(arms)
    found = []
    for place, order in enumerate((arms, arms[::-1])):
        found.append(pairs.measure(comparison, "screen", order, number + place, 1.0))
        search.take(commit, found[-1])
        if found[-1].problem:
            break
    return found


@contextmanager
def _open(
    request: BisectRequest, base: str, head: str, folder: Path, observer: Observer, left_s: float
) -> Iterator[tuple[Pairs, ArmComparison]]:
    """A measurer of one commit against another. Raises InputError, which begins with the arm that cannot be run."""
    with open_arms(base, head) as arms:
        asked = GateRequest(request.suite, [request.case], *arms, folder, request.environment, left_s, request.seed)
        with open_pairs(asked, observer) as (pairs, comparisons, skipped):
            if not comparisons:
                raise InputError(f"{request.case.id}: cannot be run here: {skipped[request.case.id]}")
            yield pairs, comparisons[0]


def _explain(report: BisectReport, observer: Observer, rng: Random) -> None:
    """Measure the commit that was found against its parent, and tell in what the two differ."""
    request = report.request
    assert report.found is not None
    commit = request.commits[report.found - 1]
    parent = request.commits[report.found - 2] if report.found > 1 else request.good
    left_s = request.budget_s * (1 - SEARCH_SHARE)
    observer.doing(f"{commit.hash[:12]}: explaining", left_s)
    folder, number = request.folder / FOUND, 1
    while folder.exists():
        number += 1
        folder = request.folder / f"{FOUND}-{number}"
    try:
        with _open(request, parent.hash, commit.hash, folder, observer, left_s) as (pairs, comparison):
            measured: list[Paired] = []
            aside = Search(report.search.commits)
            while len(measured) < FOUND_PAIRS and not any(pair.problem for pair in measured):
                measured += _block(aside, report.found, pairs, comparison, rng, len(measured))
            report.ratio = ratio_of(measured)
            report.explanation = explain(comparison, pairs)
            report.graph = _graph_differences(comparison, pairs)
    except CnnbenchError as error:
        report.unexplained = str(error)


def _graph_differences(comparison: ArmComparison, pairs: Pairs) -> list[str]:
    """Operators of which one arm's exported graph has more nodes."""
    operators: list[Mapping[str, int]] = []
    for arm in ("base", "head"):
        graph = pairs.folder(arm, comparison.case(arm).spec) / artifact.GRAPH
        if not graph.exists():
            return []
        operators.append(describe_graph(graph, pairs.logs / f"graph-{arm}.log").operators)
    base, head = operators
    return [
        f"{name}: {base.get(name, 0)} nodes before, {head.get(name, 0)} with it"
        for name in sorted({*base, *head})
        if base.get(name, 0) != head.get(name, 0)
    ]


def about_json(report: BisectReport) -> str:
    """What was found, as JSON."""
    return json.dumps(
        {
            "found": report.request.commits[report.found - 1].hash if report.found else None,
            "suspects": {commit.hash: share for commit, share in report.suspects},
            "unmeasurable": {
                report.request.commits[each - 1].hash: why for each, why in report.search.unmeasurable.items()
            },
            "pairs": report.search.pairs,
            "seconds": report.seconds,
        },
        indent=1,
    )
