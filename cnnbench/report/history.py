"""A history in a few lines: the index of each case, and when it changed."""

from collections.abc import Iterator, Sequence

from cnnbench.analysis.chain import Step
from cnnbench.history.index import CaseIndex, relative
from cnnbench.records.printable import printable

MAX_STEPS = 8
"""That are told of one case, the latest."""


def lines_of(case: CaseIndex) -> Iterator[str]:
    """At most ten: the last commit's time over the first one's, and the latest changes."""
    last, first = len(case.commits) - 1, case.first
    error = float(case.index.errors[last])
    yield (
        f"{printable(case.case)} on {case.machine}: {_ratio(float(case.index.logs[last]), error)} of the time at "
        f"{_commit(case, first)}, {last - first} commits before {_commit(case, last)}, by {case.gates} gates"
    )
    if len(case.steps) > MAX_STEPS:
        yield f"- {len(case.steps) - MAX_STEPS} earlier changes"
    yield from (f"- {_step(case, step)}" for step in case.steps[-MAX_STEPS:])
    if not case.steps:
        yield "- no change"


def rows_of(cases: Sequence[CaseIndex]) -> list[dict[str, object]]:
    """The same as data."""
    return [
        {
            "case": case.case,
            "machine": case.machine,
            "gates": case.gates,
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
            "changes": [
                {
                    "first": case.commits[step.first][0],
                    "last": case.commits[step.last][0],
                    "likeliest": case.commits[step.at][0],
                    "log": step.log,
                    "error": step.error,
                    "probability": step.probability,
                    "other_versions": case.versions_of(step),
                }
                for step in case.steps
            ],
        }
        for case in cases
    ]


def probability_text(share: float) -> str:
    """In percent, never as certain."""
    return f"{share:.1%}" if share < 0.999 else "over 99.9 %"


def _step(case: CaseIndex, step: Step) -> str:
    where = _commit(case, step.at)
    if step.last > step.first:
        where += f", or another from {_commit(case, step.first)} to {_commit(case, step.last)}"
    versions = case.versions_of(step)
    return (
        f"{'slower' if step.log > 0 else 'faster'}, {_ratio(step.log, step.error)} of the time before, with {where}: "
        f"{probability_text(step.probability)}"
        + (f"; with other versions too: {printable(versions)}" if versions else "")
    )


def _commit(case: CaseIndex, place: int) -> str:
    commit, date = case.commits[place]
    return f"{commit[:12]} of {date:%Y-%m-%d}"


def _ratio(log: float, error: float) -> str:
    ratio, low, high = relative(log, error)
    return f"{ratio:.3f} [{low:.3f}, {high:.3f}]"
