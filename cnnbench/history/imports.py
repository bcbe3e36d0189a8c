"""Histories that other tools kept: times of separate runs, which wander with the state of their machine.

asv               its folder of results: results/<machine>/<commit>-<environment>.json, beside benchmarks.json
github-action     data.js (or its JSON) of github-action-benchmark
pytest-benchmark  its storage: .benchmarks/<machine>/<number>_<commit>_<date>.json

They become entries of kind `import`, each with its commit, machine and tool; nothing else of this package has written
them, so whatever in them is not a time of a commit is left out with the reason.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from cnnbench.errors import HistoryError, first_fault, unknown
from cnnbench.history.collect import Collected
from cnnbench.history.entry import Entry
from cnnbench.records import files
from cnnbench.records.json_object import parse_object
from cnnbench.runner import git

MAX_FILES = 100_000
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0}
_RATES = ("ops/sec", "iter/sec", "ops/s")
_DATA_JS = b"window.BENCHMARK_DATA"
_UNKNOWN_DATE = datetime.fromtimestamp(0, UTC)


class _Importer:
    """Makes entries of one import, and remembers what is left out."""

    def __init__(self, tool: str, repository: Path) -> None:
        self.tool, self.repository = tool, repository
        self.entries: list[Entry] = []
        self.left_out: list[str] = []
        self._dates: dict[str, git.Commit | None] = {}

    def add(
        self,
        machine: str,
        case: str,
        commit: str,
        seconds: object,
        measured: datetime,
        committed: datetime | None,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """One time. A commit that is abbreviated, or has no date, is looked for in the repository."""
        found = self._commit(commit) if committed is None or len(commit) < 40 else None
        date = found.committed if found else committed
        if date is None:
            self.left_out.append(f"{case}: commit {commit[:40]!r} has no date, and the repository has it not")
            return
        if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds <= 0:
            self.left_out.append(f"{case} at {commit[:12]}: expected seconds; got {str(seconds)[:40]!r}")
            return
        try:
            self.entries.append(
                Entry(
                    kind="import",
                    tool=self.tool,
                    machine=sha256(f"{self.tool}:{machine}".encode()).hexdigest()[:16],
                    machine_name=machine[:300],
                    case=case,
                    measured=measured,
                    commit=found.hash if found else commit,
                    committed=date,
                    versions=dict(versions) if versions else None,
                    seconds=float(seconds),
                )
            )
        except ValidationError as error:
            self.left_out.append(f"{case[:100]} at {commit[:12]}: {first_fault(error)[:200]}")

    def _commit(self, name: str) -> git.Commit | None:
        if name not in self._dates:
            try:
                self._dates[name] = git.commit(self.repository, name)
            except git.GitError:
                self._dates[name] = None
        return self._dates[name]


def import_from(tool: str, source: Path, repository: Path) -> Collected:
    """The entries of another tool's file or folder. Raises HistoryError for one that is none of its."""
    readers: dict[str, Callable[[Path, _Importer], None]] = {
        "asv": _asv,
        "github-action": _github_action,
        "pytest-benchmark": _pytest_benchmark,
    }
    if tool not in readers:
        raise HistoryError(f"--from: {unknown('tool', tool, readers)}")
    if not source.exists():
        raise HistoryError(f"{source}: expected what {tool} has kept; there is no such file or folder")
    importer = _Importer(tool, repository)
    readers[tool](source, importer)
    if not importer.entries:
        why = importer.left_out[0] if importer.left_out else "there is no time in it"
        raise HistoryError(f"{source}: expected times that {tool} has kept; {why}")
    return Collected(importer.entries, importer.left_out)


class _AsvResult(BaseModel):
    commit_hash: str
    env_name: str = ""
    date: float | None = None
    """Of the commit, in milliseconds since 1970."""
    python: str = ""
    requirements: dict[str, str | None] = {}
    result_columns: list[str] = []
    results: dict[str, Any]
    version: int


def _asv(folder: Path, importer: _Importer) -> None:
    units = {}
    if (folder / "benchmarks.json").is_file():
        about = _object(folder / "benchmarks.json")
        units = {name: each.get("unit") for name, each in about.items() if isinstance(each, dict)}
    found = [file for file in _files(folder, "*/*.json") if file.name not in ("machine.json", "benchmarks.json")]
    if not found:
        raise HistoryError(f"{folder}: expected asv's folder of results, with <machine>/<commit>-<environment>.json")
    for file in found:
        result = _model(file, _AsvResult, "a result of asv, schema 1 or 2")
        if result.version not in (1, 2):
            raise HistoryError(f"{file}: expected schema 1 or 2 of asv; got {result.version}")
        date = _moment_ms(result.date)
        versions = {"python": result.python} | {name: version or "" for name, version in result.requirements.items()}
        for name, value in result.results.items():
            unit = units.get(name, "seconds" if name.rpartition(".")[2].startswith("time_") else None)
            if unit != "seconds":
                importer.left_out.append(f"{name}: its unit is {unit or 'not known'}, no time")
                continue
            for case, seconds in _asv_values(name, value, result.result_columns):
                machine = f"{file.parent.name}, {result.env_name}" if result.env_name else file.parent.name
                measured = date or datetime.fromtimestamp(file.stat().st_mtime, UTC)
                importer.add(machine, case, result.commit_hash, seconds, measured, date, versions)


def _asv_values(name: str, value: Any, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Each combination of parameters with its time; those that failed are null."""
    if isinstance(value, list) and columns:  # schema 2
        value = dict(zip(columns, value, strict=False))
    results, params = (value.get("result"), value.get("params")) if isinstance(value, dict) else (value, None)
    if not isinstance(results, list):
        results = [results]
    names = [f"({', '.join(map(str, each))})" for each in product(*params)] if params else [""] * len(results)
    for parameters, seconds in zip(names, results, strict=False):
        if seconds is not None:
            yield f"{name}{parameters}", seconds


class _ActionCommit(BaseModel):
    id: str
    timestamp: AwareDatetime


class _ActionBench(BaseModel):
    name: str
    value: float
    unit: str


class _ActionRun(BaseModel):
    commit: _ActionCommit
    date: float
    tool: str
    benches: list[_ActionBench]


class _ActionData(BaseModel):
    entries: Annotated[dict[str, list[_ActionRun]], Field(max_length=10_000)]


def _github_action(file: Path, importer: _Importer) -> None:
    content = _bytes(file).strip()
    if content.startswith(_DATA_JS):
        content = content.partition(b"=")[2].strip().rstrip(b";")
    data = _validated(file, content, _ActionData, "data.js of github-action-benchmark")
    for suite, runs in data.entries.items():
        for run in runs:
            measured = _moment_ms(run.date) or _UNKNOWN_DATE
            for bench in run.benches:
                seconds = _seconds(bench.value, bench.unit)
                if seconds is None:
                    importer.left_out.append(f"{bench.name}: its unit is {bench.unit[:40]!r}, no time")
                    continue
                importer.add(suite, bench.name, run.commit.id, seconds, measured, run.commit.timestamp)


def _seconds(value: float, unit: str) -> float | None:
    """Of one call, from a time or a rate; None for another unit."""
    if unit in _RATES:
        return 1 / value if value > 0 else None
    factor = _SECONDS.get(unit.partition("/")[0].strip())
    return None if factor is None or unit.partition("/")[2] == "s" else value * factor


class _PytestCommit(BaseModel):
    id: str | None = None
    time: str | None = None
    dirty: bool = False


class _PytestStats(BaseModel):
    median: float


class _PytestBench(BaseModel):
    fullname: str
    stats: _PytestStats


class _PytestFile(BaseModel):
    machine_info: dict[str, Any]
    commit_info: _PytestCommit
    benchmarks: list[_PytestBench]
    datetime: str


def _pytest_benchmark(source: Path, importer: _Importer) -> None:
    found = _files(source, "**/*.json") if source.is_dir() else [source]
    if not found:
        raise HistoryError(f"{source}: expected pytest-benchmark's storage, with <machine>/0001_*.json; there is none")
    for file in found:
        kept = _model(file, _PytestFile, "a file of pytest-benchmark's storage")
        if kept.commit_info.id is None or kept.commit_info.dirty:
            importer.left_out.append(f"{file}: its files were in no commit")
            continue
        info = kept.machine_info
        cpu = info.get("cpu") if isinstance(info.get("cpu"), dict) else {}
        machine = str(info.get("node") or "unknown") + (f", {cpu['brand_raw']}" if cpu and "brand_raw" in cpu else "")
        versions = {"python": str(info["python_version"])} if "python_version" in info else None
        committed, measured = _iso(kept.commit_info.time), _iso(kept.datetime) or _UNKNOWN_DATE
        for bench in kept.benchmarks:
            seconds = bench.stats.median
            importer.add(machine, bench.fullname, kept.commit_info.id, seconds, measured, committed, versions)


def _files(folder: Path, pattern: str) -> list[Path]:
    found = sorted(file for file in folder.glob(pattern) if file.is_file() and not file.is_symlink())
    if len(found) > MAX_FILES:
        raise HistoryError(f"{folder}: expected at most {MAX_FILES:,} files; got {len(found):,}")
    return found


def _bytes(file: Path) -> bytes:
    try:
        return files.read(file)
    except OSError as error:
        raise HistoryError(f"{file}: not read: {error.strerror}") from None


def _object(file: Path) -> dict[str, Any]:
    try:
        return parse_object(_bytes(file), errors="replace")
    except ValueError as error:
        raise HistoryError(f"{file}: not read: {error}") from None


def _model(file: Path, model: type[Any], expected: str) -> Any:
    return _validated(file, _bytes(file), model, expected)


def _validated(file: Path, content: bytes, model: type[Any], expected: str) -> Any:
    try:
        return model.model_validate(parse_object(content, errors="replace"))
    except ValidationError as error:
        raise HistoryError(f"{file}: expected {expected}; {first_fault(error)[:200]}") from None
    except ValueError as error:
        raise HistoryError(f"{file}: expected {expected}; {error}") from None


def _moment_ms(milliseconds: float | None) -> datetime | None:
    try:
        return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1e3, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _iso(text: str | None) -> datetime | None:
    """With its offset; UTC where there is none, as pytest-benchmark writes it."""
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
