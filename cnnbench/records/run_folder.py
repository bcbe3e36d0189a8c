"""A run's folder: records appended as they are made, locked while written, read back whatever happened.

suite.yaml         the suite as it was run
run.json           the suite's name, digest and cases, when the run began
environment.json   the machine and its software at the start
records.jsonl      one record per case and line; of two records of one case the later counts
shared.jsonl       what records share: counts, artifacts, training steps and environments, by digest
ceilings.json      what the machine reached at its best, by device and number of threads, where it was measured
profiles.jsonl     where the time of a model's call goes, one model a line, where it was profiled
logs/              what the workers' libraries printed
"""

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, ValidationError

from cnnbench.errors import RunFolderError, first_fault
from cnnbench.records import files
from cnnbench.records.bounds import Moment
from cnnbench.records.environment import Environment
from cnnbench.records.json_object import parse_object
from cnnbench.records.layer_profile import PROFILES, ModelProfile, read_profiles
from cnnbench.records.lines import Shared, launches_of, parse_record, record_line, shared_values
from cnnbench.records.peaks import Peaks, read_peaks
from cnnbench.records.record import SCHEMA_VERSION, Launch, Record
from cnnbench.records.upgrade import upgraded_environment
from cnnbench.suite.load import Suite

RECORDS, SHARED, RUN = "records.jsonl", "shared.jsonl", "run.json"
SUITE, ENVIRONMENT, LOGS, LOCK = "suite.yaml", "environment.json", "logs", ".lock"
MAX_FAULTS, MAX_FAULT = 10, 200
"""Kinds of faults that are named of one file, and characters of each."""


class About(BaseModel):
    """`run.json`: what a run says of itself."""

    suite: Annotated[str, Field(max_length=300)] = "?"
    digest: str = ""
    """Of the suite's text."""
    started: Moment = ""
    schema_version: int = SCHEMA_VERSION
    cases: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=100_000)] = []


@dataclass(frozen=True)
class Run:
    """What a run's folder says: its name, its records by case id in the suite's order, and what could not be read."""

    folder: Path
    suite: str
    started: str
    environment: Environment | None
    """As the run began; None where it is not known."""
    records: dict[str, Record]
    cases: list[str] = field(default_factory=list)
    """Ids of all cases of the suite, recorded or not."""
    unreadable: list[str] = field(default_factory=list)
    """One line for each file that is damaged or too new: which lines of it could not be read, and why."""
    peaks: list[Peaks] = field(default_factory=list)
    """By device and number of threads; none where they were not measured."""
    profiles: list[ModelProfile] = field(default_factory=list)
    """By model, batch and number of threads; none where they were not made."""

    @property
    def environments(self) -> list[Environment]:
        """In which its cases were measured: several, where it was gone on with after an upgrade, or elsewhere."""
        found = [record.environment for record in self.records.values() if record.environment and record.measurement]
        return [each for place, each in enumerate(found) if each not in found[:place]]

    @property
    def software(self) -> Mapping[str, str | None]:
        """Versions by library as the run began; none where they are not known."""
        return self.environment.software if self.environment else {}


def new_folder(suite: Suite, base: Path = Path("runs")) -> Path:
    """A folder name that tells the suite and the time."""
    return base / f"{suite.name}-{datetime.now():%Y%m%d-%H%M%S}"


def read_run(folder: Path, *, strict: bool = True) -> Run:
    """Read a run back. Raises RunFolderError if there is none or, with `strict`, if no line of it can be read."""
    about = _read_about(folder)
    if about is None:
        raise RunFolderError(f"{folder}: expected a run's folder with {RUN}; there is none; `cnnbench run` makes one")
    shared: dict[str, Shared] = {}
    records: dict[str, Record] = {}

    def share(line: bytes) -> None:
        each = Shared.model_validate(parse_object(line))
        shared[each.digest] = each

    def add(line: bytes) -> None:
        record = parse_record(line, shared, records)
        records.pop(record.id, None)
        records[record.id] = record

    unreadable = [*_each_line(folder / SHARED, share), *_each_line(folder / RECORDS, add)]
    if strict and unreadable and not records:
        raise RunFolderError(f"no record could be read; {unreadable[-1]}")
    peaks: list[Peaks] = []
    try:
        peaks = read_peaks(folder)
    except RunFolderError as error:
        unreadable.append(str(error))
    profiles, faults_of_profiles = read_profiles(folder)
    if faults_of_profiles:
        unreadable.append(_which(folder / PROFILES, faults_of_profiles))
    environment = None
    try:
        environment = Environment.model_validate(upgraded_environment(parse_object(files.read(folder / ENVIRONMENT))))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        unreadable.append(f"{folder / ENVIRONMENT}: not read: {_why(error)}")
    order = {id_: place for place, id_ in enumerate(about.cases)}
    return Run(
        folder=folder,
        suite=about.suite,
        started=about.started or "?",
        environment=environment,
        records=dict(sorted(records.items(), key=lambda item: order.get(item[0], len(order)))),
        cases=about.cases,
        unreadable=unreadable,
        peaks=peaks,
        profiles=profiles,
    )


class Store:
    """A run's folder, held for writing."""

    def __init__(self, folder: Path, suite: Suite, environment: Environment, *, resume: bool) -> None:
        """Make the folder, or go on in it. Raises RunFolderError if it is not empty, or another suite's, or busy."""
        self.folder = folder
        self._shared: set[str] = set()
        self._launches: dict[str, list[Launch]] = {}
        """By case, those that are on disk."""
        self._is_ours = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{folder}: cannot be made: {error.strerror}") from None
        had_lock = (folder / LOCK).exists()
        self._lock = FileLock(folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunFolderError(f"{folder}: another run is writing here; wait for it or give another --out") from None
        except OSError as error:
            raise RunFolderError(f"{folder}: cannot be written: {error.strerror}; give another --out") from None
        try:
            self._begin(suite, environment, resume)
        except BaseException:
            if not had_lock:  # nothing is left in somebody else's folder
                (folder / LOCK).unlink(missing_ok=True)
            self._lock.release()
            raise

    @property
    def logs(self) -> Path:
        """Where workers' output goes."""
        return self.folder / LOGS

    def append(self, record: Record) -> None:
        """Write a record down, at once; what is on disk already is referred to."""
        for digest, each in shared_values(record).items():
            if digest not in self._shared:
                files.append(self.folder / SHARED, each.model_dump_json(exclude_unset=True))
                self._shared.add(digest)
        launches = list(launches_of(record))
        known = self._launches.get(record.id, [])
        earlier = len(known) if launches[: len(known)] == known else 0
        files.append(self.folder / RECORDS, record_line(record, earlier))
        self._launches[record.id] = launches

    def write_environment(self, environment: Environment) -> None:
        """Write down what is known of the machine."""
        files.write(self.folder / ENVIRONMENT, environment.model_dump_json(indent=1))

    def finished(self) -> dict[str, Record]:
        """Records that need no repeating, by case id: all but failed ones."""
        records = read_run(self.folder, strict=False).records
        return {id_: record for id_, record in records.items() if record.status != "failed"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not (self.folder / RECORDS).exists():  # nothing came of it: leave no claim on the folder
            for name in (RUN, SUITE, ENVIRONMENT, SHARED):
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / LOGS, ignore_errors=True)
        self._lock.release()
        if self._is_ours and not (self.folder / RECORDS).exists():
            (self.folder / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody has put something there meanwhile
                self.folder.rmdir()

    def _begin(self, suite: Suite, environment: Environment, resume: bool) -> None:
        about = _read_about(self.folder)
        theirs = [
            path.name for path in self.folder.iterdir() if path.name != LOCK and not path.name.startswith(files.LEFT)
        ]
        if about is None and theirs:
            raise RunFolderError(
                f"{self.folder}: expected a new folder or a run's; got one with {sorted(theirs)[0]!r} in it; "
                "give another --out"
            )
        if about is not None:
            self._check_goes_on(about, suite, resume)
        else:
            about = About(
                suite=suite.name,
                digest=suite.digest,
                started=datetime.now().astimezone().isoformat(timespec="seconds"),
                cases=[case.id for case in suite.cases],
            )
            files.write(self.folder / RUN, about.model_dump_json(indent=1))  # first: it says whose the folder is
        if not (self.folder / SUITE).exists():
            files.write(self.folder / SUITE, suite.text)
        if not (self.folder / ENVIRONMENT).exists():
            self.write_environment(environment)

    def _check_goes_on(self, about: About, suite: Suite, resume: bool) -> None:
        if about.suite != suite.name:
            raise RunFolderError(
                f"{self.folder}: belongs to suite {about.suite!r}, not {suite.name!r}; give another --out"
            )
        if about.digest != suite.digest:
            raise RunFolderError(
                f"{self.folder}: was run from another version of suite {suite.name!r} (see its {SUITE}); "
                "give another --out"
            )
        if not resume:
            raise RunFolderError(
                f"{self.folder}: already holds a run of {suite.name!r}; add --resume to go on, or give another --out"
            )


def _read_about(folder: Path) -> About | None:
    """What the run says of itself; None if there is no run. Raises RunFolderError if that cannot be read."""
    try:
        return About.model_validate(parse_object(files.read(folder / RUN)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder / RUN}: not read: {_why(error)}; give another folder") from None


def _each_line(file: Path, take: Callable[[bytes], None]) -> list[str]:
    """Hand over a file's lines; gives at most one line of text, about all that could not be taken."""
    faults: dict[str, list[int]] = {}
    try:
        for number, line in enumerate(files.read_lines(file), start=1):
            try:
                if line.strip():
                    take(line)
            except ValueError as error:
                faults.setdefault(_why(error), []).append(number)
    except OSError as error:
        return [f"{file}: not read: {_why(error)}"]
    return [_which(file, faults)] if faults else []


def _which(file: Path, faults: dict[str, list[int]]) -> str:
    """All lines of a file that are no records, in one line: `records.jsonl: not read: lines 3, 7-9: ...`."""
    kinds = []
    for why, numbers in list(faults.items())[:MAX_FAULTS]:
        runs = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
        ends = [(found[0][1], found[-1][1]) for found in (list(run) for _, run in runs)]
        which = [str(first) if first == last else f"{first}-{last}" for first, last in ends]
        shown = [*which[:MAX_FAULTS], *(["..."] if len(which) > MAX_FAULTS else [])]
        kinds.append(f"line{'s' * (len(numbers) > 1)} {', '.join(shown)}: {why}")
    more = [f"and {len(faults) - MAX_FAULTS} more kinds of fault"] if len(faults) > MAX_FAULTS else []
    return f"{file}: not read: {'; '.join([*kinds, *more])}"


def _why(error: Exception) -> str:
    """In a few words, whatever stands in the file."""
    if isinstance(error, ValidationError):
        return first_fault(error)[:MAX_FAULT]
    return str(error.strerror if isinstance(error, OSError) else error)[:MAX_FAULT]
