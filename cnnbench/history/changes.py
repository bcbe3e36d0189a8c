"""Changes of a history: those that are open, those that people acknowledged, those that were told already.

    - case: resnet18/*/ort/*        # acknowledged.yaml; a pattern of cases
      commit: 3a6e19655d12          # with which it came, or the first of its range
      until: 5e4f00d1a2b3           # the last of its range, if it has one
      change: slower
      why: inference now checks its input

What acknowledges a change names where it lies and its direction, not what was measured, so that it stays acknowledged
as the history grows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from cnnbench.analysis.chain import Step
from cnnbench.errors import HistoryError, SuiteError
from cnnbench.history.index import Track
from cnnbench.history.store import locked
from cnnbench.records import files
from cnnbench.records.json_object import read_each
from cnnbench.suite.case import Frozen
from cnnbench.suite.yaml_lines import read_yaml

ACKNOWLEDGED, TOLD = "acknowledged.yaml", "told.jsonl"
ShortCommit = Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")]
Direction = Literal["slower", "faster"]


class Place(Frozen):
    """Where a change is, and in which direction."""

    case: Annotated[str, Field(min_length=1, max_length=1000)]
    """A pattern of cases."""
    commit: ShortCommit
    until: ShortCommit | None = None
    change: Direction
    machine: Annotated[str, Field(max_length=100)] | None = None
    """On all, if not given."""

    def is_of(self, track: Track, step: Step) -> bool:
        """Whether a change of a case lies in the range, in the same direction."""
        if track.case != self.case and not fnmatchcase(track.case, self.case):
            return False
        if self.machine not in (None, track.machine) or (step.log > 0) != (self.change == "slower"):
            return False
        first, last = (_number(track, commit) for commit in (self.commit, self.until or self.commit))
        return first is not None and last is not None and step.first <= last and first <= step.last


class Acknowledgement(Place):
    """A change that people know and accept."""

    why: Annotated[str, Field(min_length=1, max_length=1000)]


@dataclass(frozen=True)
class Change:
    """A change of a case's time."""

    track: Track
    step: Step
    why: str = ""
    """With which it was acknowledged."""

    @property
    def direction(self) -> Direction:
        """Of its time."""
        return "slower" if self.step.log > 0 else "faster"

    @property
    def versions(self) -> str:
        """The versions that changed with it, if any did: then it is no change of the code."""
        return self.track.versions_of(self.step)

    @property
    def is_open(self) -> bool:
        """Whether it is of the code, and nobody has acknowledged it."""
        return not self.why and not self.versions

    @property
    def place(self) -> Place:
        """Where it is, on whichever machine."""
        first, last = (self.track.commits[each][0] for each in (self.step.first, self.step.last))
        return Place(case=self.track.case, commit=first, until=last if last != first else None, change=self.direction)


@dataclass(frozen=True)
class Changes:
    """Of all cases, the latest first."""

    changes: Sequence[Change]
    idle: Sequence[str]
    """Acknowledgements that are of no change, a sentence each."""

    @property
    def open(self) -> list[Change]:
        """Of the code, and not acknowledged."""
        return [change for change in self.changes if change.is_open]

    @property
    def acknowledged(self) -> list[Change]:
        """By the file that people review."""
        return [change for change in self.changes if change.why]

    @property
    def of_versions(self) -> list[Change]:
        """That came with other versions, and are not acknowledged."""
        return [change for change in self.changes if change.versions and not change.why]


def changes_of(folder: Path, tracks: Iterable[Track]) -> Changes:
    """What changed, with what `acknowledged.yaml` says of it. Raises HistoryError for a file that cannot be used."""
    known = read_acknowledged(folder)
    used: set[int] = set()
    found = []
    for track in tracks:
        for step in track.steps:
            place = next((number for number, each in enumerate(known) if each.is_of(track, step)), None)
            used |= {place} if place is not None else set()
            found.append(Change(track, step, known[place].why if place is not None else ""))
    found.sort(key=lambda change: change.track.commits[change.step.at][1], reverse=True)
    idle = [
        f"{folder / ACKNOWLEDGED}: no {each.change} change of {each.case} is at {each.commit}; drop its entry"
        for number, each in enumerate(known)
        if number not in used
    ]
    return Changes(found, idle)


def read_acknowledged(folder: Path) -> list[Acknowledgement]:
    """What people acknowledged; nothing if there is no file. Raises HistoryError."""
    file = folder / ACKNOWLEDGED
    if not file.exists():
        return []
    try:
        source = read_yaml(file)
    except SuiteError as error:
        raise HistoryError(str(error)) from None
    try:
        return TypeAdapter(list[Acknowledgement]).validate_python(source.data or [])
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        remedy = "expected a list of `case`, `commit`, `change` (slower or faster) and `why`, commits in quotes"
        got = "" if first["type"] == "missing" else f"; got {str(first['input'])[:60]!r}"
        raise HistoryError(f"{source.place(first['loc'])}: {first['msg'].lower()}{got}; {remedy}") from None


def not_told(folder: Path, changes: Sequence[Change]) -> list[Change]:
    """Those of which `told.jsonl` says nothing."""
    told: list[Place] = []
    read_each(folder / TOLD, lambda line: told.append(Place.model_validate(line)))
    return [change for change in changes if not any(each.is_of(change.track, change.step) for each in told)]


def remember(folder: Path, changes: Sequence[Change]) -> None:
    """That these were told. Raises HistoryError."""
    with locked(folder):
        for change in changes:
            files.append(folder / TOLD, change.place.model_dump_json(exclude_none=True))


def _number(track: Track, commit: str) -> int | None:
    return next((number for number, (each, _) in enumerate(track.commits) if each.startswith(commit)), None)
