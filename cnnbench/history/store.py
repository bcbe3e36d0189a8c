"""A history's folder: one file of JSON lines for each machine, to which entries are added and never changed.

<fingerprint>.jsonl   the entries of one machine; any.jsonl those that are equal on all machines
.gitattributes        has git merge the files of two branches by keeping the lines of both
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from cnnbench.errors import HistoryError, first_fault
from cnnbench.history.entry import IS_MACHINE, Entry
from cnnbench.records import files
from cnnbench.records.json_object import MAX_LINES, parse_object

ENDING, LOCK = ".jsonl", ".lock"
SETTINGS = {".gitattributes": "*.jsonl merge=union text eol=lf\n", ".gitignore": f"{LOCK}\n"}
WAIT_S = 60.0
"""For another process that writes."""
MAX_FAULTS = 10
"""That are told of one file."""
_LINES = TypeAdapter(list[Entry])


@dataclass(frozen=True)
class Fault:
    """A line that cannot be read, or that is not what it says."""

    file: Path
    line: int
    kind: str
    """damaged, altered, doubled, another machine's, out of order, unknown commit"""
    detail: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.kind}: {self.detail}"


@dataclass
class History:
    """What a folder holds: entries in the order of their commits' dates, each once."""

    folder: Path
    entries: list[Entry]
    unreadable: list[str] = field(default_factory=list)
    """One line for each file in which lines are damaged."""


def read_history(folder: Path) -> History:
    """All entries. Raises HistoryError if there is no such folder; lines that cannot be read are told in it."""
    with _no_collection():
        return _read_history(folder)


def _read_history(folder: Path) -> History:
    found: dict[str, Entry] = {}
    unreadable = []
    for file in files_of(folder):
        entries, faults = _read(file)
        found |= {entry.stated_id: entry for entry in entries if entry.machine == file.stem}
        faults += [
            Fault(file, 0, "another machine's", f"measured on {e.machine_name or e.machine}")
            for e in entries
            if e.machine != file.stem
        ]
        if faults:
            where = ", ".join(str(fault.line) for fault in faults[:MAX_FAULTS] if fault.line)
            unreadable.append(
                f"{file}: {len(faults)} lines are left out ({faults[0].kind}: {faults[0].detail}"
                f"{where and f'; lines {where}'}); `cnnbench history check {folder}` tells all"
            )
    return History(folder, sorted(found.values(), key=lambda entry: entry.order), unreadable)


def files_of(folder: Path) -> list[Path]:
    """The files of entries. Raises HistoryError if there is no such folder."""
    if not folder.is_dir():
        raise HistoryError(f"{folder}: expected a history's folder; there is none; `cnnbench history add` makes one")
    return sorted(file for file in folder.glob(f"*{ENDING}") if IS_MACHINE.fullmatch(file.stem))


def add(folder: Path, entries: Iterable[Entry]) -> list[Entry]:
    """Add entries that are not there yet, and give these. On disk afterwards, or nothing is. Raises HistoryError."""
    by_machine = sorted(entries, key=lambda entry: entry.machine)
    added: list[Entry] = []
    with locked(folder):
        for name, text in SETTINGS.items():
            if not (folder / name).exists():
                files.write(folder / name, text)
        for machine, group in groupby(by_machine, key=lambda entry: entry.machine):
            file = folder / f"{machine}{ENDING}"
            known = {entry.stated_id for entry in _read(file)[0]}
            new = {entry.id: entry for entry in group if entry.id not in known}
            if new:
                files.append(file, "\n".join(entry.line for entry in new.values()))
                added += new.values()
    return added


def rewrite(folder: Path, keep: Callable[[Entry], bool]) -> tuple[int, int]:
    """Leave out entries that are not kept, and lines that stand twice; gives how many of each.

    Lines that cannot be read stay. Raises HistoryError.
    """
    dropped = doubled = 0
    with locked(folder):
        for file in files_of(folder):
            lines, seen = [], set()
            for line in files.read_lines(file):
                entry = _entry(line)
                if entry is not None and entry.stated_id in seen:
                    doubled += 1
                elif entry is not None and not keep(entry):
                    dropped += 1
                else:
                    lines.append(line)
                seen |= {entry.stated_id} if entry else set()
            files.write(file, b"".join(line + b"\n" for line in lines))
    return dropped, doubled


def check(folder: Path, known: Callable[[str], bool] | None = None) -> list[Fault]:
    """All that is wrong with the lines; `known` says whether the repository has a commit. Raises HistoryError."""
    found: list[Fault] = []
    for file in files_of(folder):
        found += _read(file)[1]
        seen: Counter[str] = Counter()
        for number, line in enumerate(files.read_lines(file), start=1):
            entry = _entry(line)
            if entry is not None:
                seen[entry.stated_id] += 1
                found += [Fault(file, number, *fault) for fault in _faults(entry, file, seen[entry.stated_id], known)]
    return found


def _faults(entry: Entry, file: Path, times: int, known: Callable[[str], bool] | None) -> Iterator[tuple[str, str]]:
    what = f"{entry.kind} of {entry.case} at {entry.commit[:12]}"
    if entry.stated_id != entry.id:
        yield "altered", f"{what}: its id is not the digest of its content"
    if times > 1:
        yield "doubled", f"{what} stands above"
    if entry.machine != file.stem:
        yield "another machine's", f"{what} was measured on {entry.machine_name or entry.machine}"
    if entry.base_committed is not None and entry.base_committed > entry.committed:
        yield "out of order", f"{what}: its base {entry.base or ''} is newer than its head"
    for commit in (entry.commit, entry.base):
        if known is not None and commit is not None and not known(commit):
            yield "unknown commit", f"{what}: the repository has no {commit[:12]}: its history is shallow or rewritten"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, made if it is not there, held for writing. Raises HistoryError if another process has it for long."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=WAIT_S)
    except Timeout:
        raise HistoryError(
            f"{folder}: another job has been writing here for {WAIT_S:.0f} s; nothing was added; add it again later "
            "with `cnnbench history add`"
        ) from None
    except OSError as error:
        raise HistoryError(f"{folder}: cannot be written: {error.strerror}; give another folder") from None
    try:
        yield
    finally:
        lock.release()


def _read(file: Path) -> tuple[list[Entry], list[Fault]]:
    """The entries of a file's lines, and the lines that cannot be read."""
    lines = list(files.read_lines(file))
    if len(lines) > MAX_LINES:
        raise HistoryError(f"{file}: expected at most {MAX_LINES:,} lines; got {len(lines):,}; prune it")
    try:
        safe = [line for line in lines if _is_plain(line)]
        entries = _LINES.validate_json(b"[" + b",".join(safe) + b"]")
        if len(entries) == len(lines):
            return entries, []
    except ValidationError:
        pass
    return _read_each(file, lines)


def _read_each(file: Path, lines: Sequence[bytes]) -> tuple[list[Entry], list[Fault]]:
    entries, faults = [], []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                entries.append(_parsed(line))
        except ValidationError as error:
            faults.append(Fault(file, number, "damaged", first_fault(error)[:200]))
        except ValueError as error:
            faults.append(Fault(file, number, "damaged", str(error)[:200]))
    return entries, faults


def _entry(line: bytes) -> Entry | None:
    try:
        return _parsed(line) if line.strip() else None
    except ValueError:  # pydantic's too
        return None


def _parsed(line: bytes) -> Entry:
    return Entry.model_validate(parse_object(line, errors="replace"))


def _is_plain(line: bytes) -> bool:
    """Whether it can be read at once with others: an object without characters that a terminal obeys."""
    return line[:1] == b"{" and line[-1:] == b"}" and line.isascii() and b"\\" not in line


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage is not looked for while many objects are made, of which none is garbage."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
