"""A history in ten lines: a case's index and when it changed, or what changed in many; new changes in Markdown."""

from collections.abc import Iterator, Sequence
from itertools import chain

from cnnbench.analysis.chain import Step
from cnnbench.history.changes import ACKNOWLEDGED, Change
from cnnbench.history.figures import FigureChange, ModelHistory
from cnnbench.history.index import CaseIndex, RunSeries, Track, relative
from cnnbench.history.overview import Overview
from cnnbench.records.printable import printable
from cnnbench.report import escape

MAX_LINES = 10
MAX_CHANGES = MAX_LINES - 2
"""That are told of one case, the latest."""


def lines_of(found: Overview) -> list[str]:
    """At most ten lines."""
    tracks: list[Track] = [*found.indices, *found.series]
    if not tracks:
        return [_figures(found.models)] if found.models else [f"no gates of two commits in {found.folder}"]
    if len(tracks) == 1:
        return list(_lines_of_one(found, tracks[0]))
    days = sorted(date for track in tracks for _, date in track.commits)
    changes = found.changes
    counts = (
        f"{len(changes.open)} changes are open, {len(changes.acknowledged)} acknowledged, "
        f"{len(changes.of_versions)} came with other versions"
    )
    lines = [
        f"{len(found.indices)} indices of {sum(each.gates for each in found.indices)} gates, {days[0]:%Y-%m-%d} to "
        f"{days[-1]:%Y-%m-%d}: {counts}"
    ]
    last = [_figures(found.models)] if found.models else []
    told = sorted(changes.changes, key=lambda change: not change.is_open)
    room = MAX_LINES - len(lines) - len(last)
    shown = told if len(told) <= room else told[: room - 1]
    lines += [f"- {printable(change.track.case)} {text_of(change)}" for change in shown]
    if len(shown) < len(told):
        lines.append(f"- and {len(told) - len(shown)} more; --case, --page or --json shows them")
    return lines + last


def _lines_of_one(found: Overview, track: Track) -> Iterator[str]:
    last = len(track.commits) - 1
    if isinstance(track, CaseIndex):
        ratio = _ratio(float(track.index.logs[last]), float(track.index.errors[last]))
        first, by = track.first, f"{track.gates} gates"
        by += f", whose errors are {track.conflict**0.5:.1f} times as large, since they disagree" * (track.conflict > 1)
    else:
        assert isinstance(track, RunSeries)
        ratio, first = f"{relative(track.logs[last], 0)[0]:.3f}", 0
        by = f"separate runs{f' of {track.tool}' if track.tool else ''}, which wander with the machine's state"
    yield (
        f"{printable(track.case)} on {track.machine}: {ratio} of the time at {_commit(track, first)}, "
        f"{last - first} commits before {_commit(track, last)}, by {by}"
    )
    changes = found.changes.changes
    yield from (f"- {text_of(change)}" for change in changes[:MAX_CHANGES])
    if len(changes) > MAX_CHANGES:
        yield f"- {len(changes) - MAX_CHANGES} earlier changes"
    if not changes:
        yield "- no change"


def _figures(models: Sequence[ModelHistory]) -> str:
    changes = sorted(chain.from_iterable(each.changes for each in models), key=lambda change: change.committed)
    said = f"exact figures of {len(models)} models: {len(changes)} changes"
    return f"{said}; the latest: {figure_text(changes[-1])}" if changes else said


def figure_text(change: FigureChange) -> str:
    """In a few words."""
    before, after = ("none" if value is None else f"{value:,}" for value in (change.before, change.after))
    said = f"{printable(change.figure)} {before} to {after} with {change.commit[:12]} of {change.committed:%Y-%m-%d}"
    return said + (f", with other versions: {printable(change.versions)}" if change.versions else "")


def rows_of(found: Overview) -> list[dict[str, object]]:
    """The indices and series as data."""
    changes = found.changes.changes
    return [
        {
            "case": case.case,
            "machine": case.machine,
            "gates": case.gates,
            "conflict": case.conflict,
            "index": [
                {
                    "commit": commit,
                    "committed": date.isoformat(),
                    "log": float(log),
                    "error": float(error),
                    "part": int(part),
                }
                for (commit, date), log, error, part in zip(
                    case.commits, case.index.logs, case.index.errors, case.index.parts, strict=True
                )
            ],
            "changes": [_change_row(change) for change in changes if change.track is case],
        }
        for case in found.indices
    ] + [
        {
            "case": each.case,
            "machine": each.machine,
            "tool": each.tool,
            "runs": [
                {"commit": commit, "committed": date.isoformat(), "log": log}
                for (commit, date), log in zip(each.commits, each.logs, strict=True)
            ],
            "changes": [_change_row(change) for change in changes if change.track is each],
        }
        for each in found.series
    ]


def _change_row(change: Change) -> dict[str, object]:
    commits, step = change.track.commits, change.step
    return {
        "first": commits[step.first][0],
        "last": commits[step.last][0],
        "likeliest": commits[step.at][0],
        "log": step.log,
        "error": step.error,
        "probability": step.probability,
        "other_versions": change.versions,
        "acknowledged": change.why,
        "open": change.is_open,
    }


def markdown_of(changes: Sequence[Change]) -> str:
    """Changes as a comment, with what acknowledges them."""
    lines = ["Changes of time that are new in the history:", ""]
    for change in changes:
        where = f"{escape.code(change.track.case)} on {escape.markdown(change.track.machine)}"
        lines.append(f"- {where}: {escape.markdown(text_of(change))}")
    lines += ["", f"What is meant to be so is acknowledged in `{ACKNOWLEDGED}`:", "", "```yaml"]
    for change in changes:
        place = change.place.model_dump(exclude_none=True)
        lines += [
            f"{'-' if not number else ' '} {key}: {_yaml(value)}" for number, (key, value) in enumerate(place.items())
        ]
        lines += ["  why: "]
    return "\n".join([*lines, "```"])


def _yaml(value: str) -> str:
    return "'" + printable(value).replace("'", "''") + "'"


def probability_text(share: float) -> str:
    """In percent, never as certain."""
    return f"{share:.1%}" if share < 0.999 else "over 99.9 %"


def text_of(change: Change) -> str:
    """Direction, size, commits, probability, and what is known of it."""
    track, step = change.track, change.step
    where = f"{_commit(track, step.at)} or another" if step.last > step.first else _commit(track, step.at)
    where += f" after {track.commits[step.first - 1][0][:12]}"
    if step.last > step.at:
        where += f" up to {_commit(track, step.last)}"
    return (
        f"{change.direction}, {step_ratio(step)} of the time before, with {where}: {probability_text(step.probability)}"
        + (f"; with other versions, no change of the code: {printable(change.versions)}" if change.versions else "")
        + (f"; acknowledged: {printable(change.why)}" if change.why else "")
    )


def step_ratio(step: Step) -> str:
    """The time after over that before, with its interval."""
    return _ratio(step.log, step.error)


def _commit(track: Track, place: int) -> str:
    commit, date = track.commits[place]
    return f"{commit[:12]} of {date:%Y-%m-%d}"


def _ratio(log: float, error: float) -> str:
    ratio, low, high = relative(log, error)
    return f"{ratio:.3f} [{low:.3f}, {high:.3f}]"
