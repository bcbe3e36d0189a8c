"""Entries of a history from what cnnbench measured: the folder of a gate or a run, or a comparison of exact figures."""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AwareDatetime, BaseModel, Field

from cnnbench.analysis.paired import CONFIDENCE, Verdict
from cnnbench.analysis.stats import student_quantile
from cnnbench.analysis.status import rechecked
from cnnbench.analysis.times import comparable_time
from cnnbench.errors import HistoryError
from cnnbench.gate.exact import Expectation
from cnnbench.gate.run import GATE, GateRequest
from cnnbench.history.entry import ANY_MACHINE, Entry
from cnnbench.records.environment import Environment
from cnnbench.records.json_object import read_model
from cnnbench.records.run_folder import RUN, read_run
from cnnbench.records.toolchain import LIBRARIES
from cnnbench.runner import git

DIRTY = "-dirty"
_REVISION = re.compile(r"[0-9a-f]{40,64}")
_NOT_TIMED = ("wrong", "missing", "unsteady")
"""Verdicts whose ratio, if there is one, says nothing of times."""


class Collected(NamedTuple):
    """Entries, and why the rest of what was measured is none."""

    entries: list[Entry]
    left_out: list[str]


class _Case(BaseModel):
    verdict: Verdict
    ratio: Annotated[float, Field(gt=0)] | None = None
    interval: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    pairs: int = 0


class _Found(BaseModel):
    cases: dict[str, _Case] = {}
    untrusted: list[str] = []


class _Gate(BaseModel):
    """What is read of `gate.json`."""

    base: dict[str, str]
    head: dict[str, str]
    slowdown: float = 0.0
    environment: Environment
    found: _Found | None = None


def entries_of(folder: Path, repository: Path) -> Collected:
    """Of the folder of a gate or of a run, whose commits the repository around `repository` has.

    Raises HistoryError, RunFolderError, and GitError for a commit that is not there.
    """
    if (folder / GATE).exists():
        return _of_gate(folder, repository)
    if (folder / RUN).exists():
        return _of_run(folder, repository)
    raise HistoryError(f"{folder}: expected the folder of a gate or of a run, with {GATE} or {RUN}; there is neither")


def entries_of_exact(found: Expectation, repository: Path) -> Collected:
    """The figures of each model, at the present commit. Raises HistoryError, GitError."""
    commit = present_commit(repository)
    entries = [
        Entry(
            kind="exact",
            machine=ANY_MACHINE,
            case=name,
            measured=datetime.now().astimezone().replace(microsecond=0),
            commit=commit.hash,
            committed=commit.committed,
            versions=dict(found.versions),
            figures=dict(_figures(figures.model_dump())),
        )
        for name, figures in found.models.items()
    ]
    return Collected(entries, [])


def check_commits(request: GateRequest, repository: Path) -> None:
    """Raises HistoryError, before anything is measured, if the gate's arms are not at commits of the repository."""
    for arm in (request.base, request.head):
        _commit_of_arm(arm.about(), request.environment, repository, f"--{arm.name}")


def present_commit(repository: Path) -> git.Commit:
    """That of the working tree. Raises HistoryError where files differ from it."""
    return committed(git.commit_of(repository), repository, "--history")


def committed(commit: str | None, repository: Path, where: str) -> git.Commit:
    """A commit that is in the repository and whose files did not differ. Raises HistoryError."""
    if commit is None:
        raise HistoryError(f"{where}: expected to be in a git repository, whose commits a history is of; got none")
    if commit.endswith(DIRTY):
        raise HistoryError(
            f"{where}: expected a commit; got {commit[:12]} with changes that are in no commit; commit or stash them"
        )
    try:
        return git.commit(repository, commit)
    except git.GitError:
        raise HistoryError(
            f"{where}: the repository has no commit {commit[:12]}: its history was rewritten, or this clone is "
            "shallow; `git fetch --unshallow` gets the rest"
        ) from None


def _of_gate(folder: Path, repository: Path) -> Collected:
    gate = read_model(folder / GATE, _Gate, "give a gate's folder")
    assert gate is not None
    if gate.found is None:
        raise HistoryError(f"{folder}: expected a gate that has ended; it has no verdicts")
    if gate.slowdown:
        raise HistoryError(f"{folder}: head was slowed down on purpose, so its ratios are none of its commit's")
    if gate.found.untrusted:
        return Collected([], [f"{folder}: its null arms differ, so its ratios are not trusted: nothing was added"])
    base, head = (
        _commit_of_arm(arm, gate.environment, repository, f"{folder}: {name}")
        for name, arm in (("base", gate.base), ("head", gate.head))
    )
    versions, base_versions = _versions(gate.head), _versions(gate.base)
    if head.hash == base.hash and versions == base_versions:
        raise HistoryError(f"{folder}: base and head are both commit {head.hash[:12]}: a history has nothing to learn")
    entries, left_out = [], []
    for name, case in gate.found.cases.items():
        if " → " in name:
            left_out.append(f"{name}: the arms have other settings: they are two cases, and no history of one")
        elif case.verdict in _NOT_TIMED or case.ratio is None or case.interval is None:
            left_out.append(f"{name}: {case.verdict}, so it has no ratio")
        else:
            entries.append(
                Entry(
                    kind="gate",
                    machine=gate.environment.fingerprint,
                    machine_name=gate.environment.label,
                    case=name,
                    measured=_moment(gate.environment, folder / GATE),
                    commit=head.hash,
                    committed=head.committed,
                    versions=versions,
                    base=base.hash,
                    base_committed=base.committed,
                    base_versions=base_versions if base_versions != versions else None,
                    log_ratio=math.log(case.ratio),
                    pair_sd=_pair_sd(case.interval, case.pairs),
                    pairs=case.pairs,
                    verdict=case.verdict,
                )
            )
    return Collected(entries, left_out)


def _commit_of_arm(arm: Mapping[str, str], environment: Environment, repository: Path, where: str) -> git.Commit:
    """The revision of an arm, or that of the suite's repository where the arm is another environment."""
    revision = arm.get("revision", "")
    own = environment.software.get("git_commit")
    return committed(revision if _REVISION.fullmatch(revision) else own, repository, where)


def _pair_sd(interval: tuple[float, float], pairs: int) -> float:
    """Of the logarithm of one pair's ratio, from the interval of the ratio of all."""
    half = math.log(interval[1] / interval[0]) / 2
    return half * math.sqrt(pairs) / student_quantile((1 + CONFIDENCE) / 2, pairs - 1)


def _of_run(folder: Path, repository: Path) -> Collected:
    run = rechecked(read_run(folder))
    environment = run.environment
    if environment is None:
        raise HistoryError(f"{folder}: it does not say which machine it was measured on")
    commit = committed(environment.software.get("git_commit"), repository, str(folder))
    entries, left_out = [], []
    for name, record in run.records.items():
        time = comparable_time(record)
        if time is None:
            left_out.append(f"{name}: {record.status}, so it has no time")
            continue
        entries.append(
            Entry(
                kind="run",
                machine=environment.fingerprint,
                machine_name=environment.label,
                case=name,
                measured=_moment(environment, folder / RUN),
                commit=commit.hash,
                committed=commit.committed,
                versions=_versions(environment.software),
                seconds=time.value,
            )
        )
    return Collected(entries, left_out)


def _moment(environment: Environment, file: Path) -> AwareDatetime:
    """When it was measured; when the file was written, where that is not known."""
    time = environment.state.time
    if time and (moment := datetime.fromisoformat(time)).tzinfo is not None:
        return moment
    return datetime.fromtimestamp(int(file.stat().st_mtime)).astimezone()


def _versions(about: Mapping[str, str | None]) -> dict[str, str]:
    return {name: version for name in ("python", *LIBRARIES) if (version := about.get(name))}


def _figures(content: Mapping[str, object], place: str = "") -> Iterator[tuple[str, int]]:
    """Numbers by their path, such as `inference.operators.Conv`; and the nodes of each graph."""
    for key, value in content.items():
        path = f"{place}{key}"
        if isinstance(value, int):
            yield path, value
        elif isinstance(value, dict):
            if key == "operators":
                yield f"{place}nodes", sum(value.values())
            yield from _figures({str(name): inner for name, inner in value.items()}, f"{path}.")
