"""A run's folder: records appended as they are made, locked while written, read back whatever happened.

suite.yaml         the suite as it was run
run.json           the suite's name, digest and cases, when the run began
environment.json   the machine and its software at the start
records.jsonl      one record per case and line; of two records of one case the later counts
shared.jsonl       what records share: counts, artifacts, training steps and environments, by digest
ceilings.json      what the machine reached at its best, by device and number of threads, where it was measured
input.json         how fast stored images become batches, where the suite asks for it
profiles.jsonl     where the time of a model's call goes, one model a line, where it was profiled
logs/              what the workers' libraries printed
"""

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self

from filelock import FileLock, Timeout
from pydantic import BaseModel, Field

from cnnbench.errors import RunFolderError
from cnnbench.records import files
from cnnbench.records.bounds import Moment
from cnnbench.records.environment import Environment
from cnnbench.records.input_times import INPUT, InputTimes, read_input
from cnnbench.records.json_object import read_each, read_known, read_model
from cnnbench.records.layer_profile import ModelProfile, read_profiles
from cnnbench.records.lines import Shared, parse_record, record_line, shared_values
from cnnbench.records.peaks import Peaks, read_peaks
from cnnbench.records.record import SCHEMA_VERSION, Launch, Record
from cnnbench.records.upgrade import WITH_AMP, id_with_amp
from cnnbench.suite.load import Suite

RECORDS, SHARED, RUN = "records.jsonl", "shared.jsonl", "run.json"
SUITE, ENVIRONMENT, LOGS, LOCK = "suite.yaml", "environment.json", "logs", ".lock"
ANOTHER = "give another folder"


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
    input: InputTimes | None = None
    """None where the suite does not ask for it."""

    @property
    def software(self) -> Mapping[str, str | None]:
        """Versions by library as the run began; none where they are not known."""
        return self.environment.software if self.environment else {}


def new_folder(suite: Suite, kind: str = "") -> Path:
    """A folder name that tells the suite and the time, after the kind of run, such as `gate-`."""
    return Path("runs") / f"{kind}{suite.name}-{datetime.now():%Y%m%d-%H%M%S}"


def read_run(folder: Path, *, strict: bool = True) -> Run:
    """Read a run back. Raises RunFolderError if there is none or, with `strict`, if no line of it can be read."""
    found = read_known(folder / RUN, About, ANOTHER)
    if found is None:
        raise RunFolderError(f"{folder}: expected a run's folder with {RUN}; there is none; `cnnbench run` makes one")
    about, faults = found
    shared: dict[str, Shared] = {}
    records: dict[str, Record] = {}

    def share(content: dict[str, Any]) -> None:
        each = Shared.model_validate(content)
        shared[each.digest] = each

    def add(content: dict[str, Any]) -> None:
        record = parse_record(content, shared, records)
        records.pop(record.id, None)
        records[record.id] = record

    of_shared, of_records = read_each(folder / SHARED, share), read_each(folder / RECORDS, add)
    if of_records:  # a run that is going on may have added to both files since the first one was read
        known = len(shared)
        of_shared = read_each(folder / SHARED, share)
        if len(shared) > known:
            records.clear()
            of_records = read_each(folder / RECORDS, add)
    unreadable = [*faults, *of_shared, *of_records]
    if strict and unreadable and not records:
        raise RunFolderError(f"no record could be read; {unreadable[-1]}")
    peaks: list[Peaks] = []
    environment = input_times = None
    try:
        peaks = read_peaks(folder)
    except RunFolderError as error:
        unreadable.append(str(error))
    try:
        environment = read_model(folder / ENVIRONMENT, Environment)
    except RunFolderError as error:
        unreadable.append(str(error))
    try:
        input_times = read_input(folder)
    except RunFolderError as error:
        unreadable.append(str(error))
    profiles, unreadable_profiles = read_profiles(folder)
    cases = list(map(id_with_amp, about.cases)) if about.schema_version < WITH_AMP else about.cases
    order = {id_: place for place, id_ in enumerate(cases)}
    return Run(
        folder=folder,
        suite=about.suite,
        started=about.started or "?",
        environment=environment,
        records=dict(sorted(records.items(), key=lambda item: order.get(item[0], len(order)))),
        cases=cases,
        unreadable=[*unreadable, *unreadable_profiles],
        peaks=peaks,
        profiles=profiles,
        input=input_times,
    )


class Store:
    """A run's folder, held for writing."""

    def __init__(self, folder: Path, suite: Suite, environment: Environment, *, resume: bool) -> None:
        """Make the folder, or go on in it. Raises RunFolderError if it is not empty, or another suite's, or busy."""
        self.folder, self.logs = folder, folder / LOGS
        self._lines = files.Appender()
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

    def append(self, record: Record) -> None:
        """Write a record down, at once; what is on disk already is referred to.

        What cannot be written, as on a full disk, waits for the next record, or for `flush`.
        """
        for digest, each in shared_values(record).items():
            if digest not in self._shared:
                self._lines.append(self.folder / SHARED, each.model_dump_json(exclude_unset=True))
                self._shared.add(digest)
        known = self._launches.get(record.id, [])
        earlier = len(known) if record.launches[: len(known)] == known else 0
        self._lines.append(self.folder / RECORDS, record_line(record, earlier))
        self._launches[record.id] = record.launches

    def flush(self) -> str:
        """Write what waits; gives which file could not be written and why, if so: the records that wait are lost."""
        self._lines.flush()
        return self._lines.fault

    def write_environment(self, environment: Environment) -> None:
        """Write down what is known of the machine."""
        files.write(self.folder / ENVIRONMENT, environment.model_dump_json(indent=1))

    def finished(self) -> dict[str, Record]:
        """Records that need no repeating, by case id: all but failed ones."""
        records = read_run(self.folder, strict=False).records
        return {id_: record for id_, record in records.items() if record.status != "failed"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        is_empty = not (self.folder / RECORDS).exists()
        if is_empty:  # nothing came of it: leave no claim on the folder
            for name in (RUN, SUITE, ENVIRONMENT, SHARED, INPUT):
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.logs, ignore_errors=True)
        self._lock.release()
        if is_empty and self._is_ours:
            (self.folder / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody has put something there meanwhile
                self.folder.rmdir()

    def _begin(self, suite: Suite, environment: Environment, resume: bool) -> None:
        about = read_model(self.folder / RUN, About, ANOTHER)
        if about is not None:
            _check_places(self.folder)
            _check_goes_on(self.folder, about, suite, resume)
        else:
            names = sorted(path.name for path in self.folder.iterdir())
            theirs = [name for name in names if name != LOCK and not name.startswith(files.LEFT)]
            if theirs:
                raise RunFolderError(
                    f"{self.folder}: expected a new folder or a run's; got one with {theirs[0]!r} in it; "
                    "give another --out"
                )
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


def _check_places(folder: Path) -> None:
    """Raises RunFolderError if what is added to is a link, as in a stranger's folder it may be, or something else."""
    places = {LOGS: Path.is_dir, RECORDS: Path.is_file, SHARED: Path.is_file}
    for path, is_right in ((folder / name, is_right) for name, is_right in places.items()):
        if path.is_symlink() or (path.exists() and not is_right(path)):
            what = "a folder" if path.name == LOGS else "a file"
            raise RunFolderError(f"{path}: expected {what}; got a link or something else; give another --out")


def _check_goes_on(folder: Path, about: About, suite: Suite, resume: bool) -> None:
    if about.suite != suite.name:
        raise RunFolderError(f"{folder}: belongs to suite {about.suite!r}, not {suite.name!r}; give another --out")
    if about.digest != suite.digest:
        was = f"was run from another version of suite {suite.name!r} (see its {SUITE})"
        raise RunFolderError(f"{folder}: {was}; give another --out")
    if not resume:
        holds = f"already holds a run of {suite.name!r}; add --resume to go on, or give another --out"
        raise RunFolderError(f"{folder}: {holds}")
