"""A run's folder: records appended as they are made, locked while written, read back whatever happened.

suite.yaml         the suite as it was run
run.json           the suite's name, digest and cases, when the run began
environment.json   the machine and its software at the start
records.jsonl      one record per case and line; of two records of one case the later counts
ceilings.json      what the machine reached at its best, by device and number of threads, where it was measured
profiles.jsonl     where the time of a model's call goes, one model a line, where it was profiled
logs/              what the workers' libraries printed
"""

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout
from pydantic import ValidationError

from cnnbench.errors import RunFolderError
from cnnbench.records.environment import Environment
from cnnbench.records.layer_profile import PROFILES, ModelProfile, read_profiles
from cnnbench.records.peaks import Peaks, read_peaks
from cnnbench.records.record import SCHEMA_VERSION, Record
from cnnbench.suite.load import Suite

RECORDS, RUN, SUITE, ENVIRONMENT, LOGS, LOCK = (
    "records.jsonl",
    "run.json",
    "suite.yaml",
    "environment.json",
    "logs",
    ".lock",
)


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
    def software(self) -> Mapping[str, str | None]:
        """Versions by library as the run began; none where they are not known."""
        return self.environment.software if self.environment else {}


def new_folder(suite: Suite, base: Path = Path("runs")) -> Path:
    """A folder name that tells the suite and the time."""
    return base / f"{suite.name}-{datetime.now():%Y%m%d-%H%M%S}"


def read_run(folder: Path, *, strict: bool = True) -> Run:
    """Read a run back. Raises RunFolderError if there is none or, with `strict`, if no line of it can be read."""
    about = _read_json(folder / RUN)
    if about is None:
        raise RunFolderError(f"{folder}: expected a run's folder with {RUN}; there is none; `cnnbench run` makes one")
    records: dict[str, Record] = {}
    faults: dict[str, list[int]] = {}
    file = folder / RECORDS
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = Record.model_validate_json(line)
        except ValidationError as error:
            faults.setdefault(_why(line, error), []).append(number)
            continue
        records.pop(record.id, None)
        records[record.id] = record
    unreadable = [_which(file, faults)] if faults else []
    if strict and unreadable and not records:
        raise RunFolderError(f"no record could be read; {unreadable[0]}")
    peaks: list[Peaks] = []
    try:
        peaks = read_peaks(folder)
    except RunFolderError as error:
        unreadable.append(str(error))
    profiles, faults_of_profiles = read_profiles(folder)
    if faults_of_profiles:
        unreadable.append(_which(folder / PROFILES, faults_of_profiles))
    environment, fault = _read_environment(folder / ENVIRONMENT)
    if fault:
        unreadable.append(f"{folder / ENVIRONMENT}: not read: {fault}")
    listed = about.get("cases")
    cases = [str(id_) for id_ in listed] if isinstance(listed, list) else []
    order = {id_: place for place, id_ in enumerate(cases)}
    records = dict(sorted(records.items(), key=lambda item: order.get(item[0], len(order))))
    return Run(
        folder=folder,
        suite=str(about.get("suite", "?")),
        started=str(about.get("started", "?")),
        environment=environment,
        records=records,
        cases=cases,
        unreadable=unreadable,
        peaks=peaks,
        profiles=profiles,
    )


class Store:
    """A run's folder, held for writing."""

    def __init__(self, folder: Path, suite: Suite, environment: Environment, *, resume: bool) -> None:
        """Make the folder, or go on in it. Raises RunFolderError if it is not empty, or another suite's, or busy."""
        self.folder = folder
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
        """Write a record down, at once; a line that a crash cut short is ended first."""
        file = self.folder / RECORDS
        with file.open("ab+") as stream:
            if stream.tell() > 0:
                stream.seek(-1, 2)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")
            stream.write(record.model_dump_json().encode() + b"\n")
            stream.flush()

    def write_environment(self, environment: Environment) -> None:
        """Write down what is known of the machine."""
        (self.folder / ENVIRONMENT).write_text(environment.model_dump_json(indent=1))

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
            for name in (RUN, SUITE, ENVIRONMENT):
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / LOGS, ignore_errors=True)
        self._lock.release()
        if self._is_ours and not (self.folder / RECORDS).exists():
            (self.folder / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody has put something there meanwhile
                self.folder.rmdir()

    def _begin(self, suite: Suite, environment: Environment, resume: bool) -> None:
        about = _read_json(self.folder / RUN)
        others = [path.name for path in self.folder.iterdir() if path.name != LOCK]
        if about is None and others:
            raise RunFolderError(
                f"{self.folder}: expected a new folder or a run's; got one with {sorted(others)[0]!r} in it; "
                "give another --out"
            )
        if about is not None:
            theirs = about.get("suite")
            if theirs != suite.name:
                raise RunFolderError(
                    f"{self.folder}: belongs to suite {theirs!r}, not {suite.name!r}; give another --out"
                )
            if about.get("digest") != suite.digest:
                raise RunFolderError(
                    f"{self.folder}: was run from another version of suite {suite.name!r} (see its {SUITE}); "
                    "give another --out"
                )
            if not resume:
                raise RunFolderError(
                    f"{self.folder}: already holds a run of {suite.name!r}; "
                    "add --resume to go on, or give another --out"
                )
            return
        about = {
            "suite": suite.name,
            "digest": suite.digest,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "schema_version": SCHEMA_VERSION,
            "cases": [case.id for case in suite.cases],
        }
        (self.folder / SUITE).write_text(suite.text, encoding="utf-8")
        self.write_environment(environment)
        (self.folder / RUN).write_text(json.dumps(about, indent=1))


def _read_environment(file: Path) -> tuple[Environment | None, str | None]:
    """What is known of the machine, or nothing and why."""
    if not file.exists():
        return None, None
    content = _read_json(file)
    if content is None:
        return None, "it is cut short or is not JSON"
    try:
        return Environment.model_validate(content), None
    except ValidationError as error:
        first = error.errors()[0]
        return None, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _which(file: Path, faults: dict[str, list[int]]) -> str:
    """All lines of a file that are no records, in one line: `records.jsonl: not read: lines 3, 7-9: ...`."""
    kinds = []
    for why, numbers in faults.items():
        runs = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
        ends = [(found[0][1], found[-1][1]) for found in (list(run) for _, run in runs)]
        which = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)
        kinds.append(f"line{'s' * (len(numbers) > 1)} {which}: {why}")
    return f"{file}: not read: {'; '.join(kinds)}"


def _why(line: str, error: ValidationError) -> str:
    try:
        content = json.loads(line)
    except ValueError:
        return "it is cut short or is not JSON"
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return f"schema {version} is newer than this cnnbench's {SCHEMA_VERSION}; upgrade cnnbench"
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
