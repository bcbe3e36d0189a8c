"""One run of a gate: a suite's cases measured in two arms, given verdicts, diagnosed, and written to a folder.

gate.json     the request: arms, rule, seed, machine; at the end the verdicts
pairs.jsonl   every pair of launches, raw, appended when measured
summary.md    the verdicts in Markdown
logs/         output of the workers' libraries
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from cnnbench.analysis.paired import Rule
from cnnbench.errors import RunFolderError
from cnnbench.gate.arms import Arm
from cnnbench.gate.diagnose import Explanation, explain
from cnnbench.gate.pairs import Pair, Pairs
from cnnbench.gate.procedure import Observer, run_gate
from cnnbench.gate.verdict import ArmComparison, ArmName, Paired, Result
from cnnbench.records import files
from cnnbench.records.environment import Environment
from cnnbench.records.json_object import read_each
from cnnbench.runner.tasks.probe import find_unavailable
from cnnbench.suite.case import Case
from cnnbench.suite.load import Suite

GATE, PAIRS, SUMMARY, LOGS = "gate.json", "pairs.jsonl", "summary.md", "logs"
MEASURED_SHARE = 0.95
"""Share of the budget for measuring; the rest is for diagnosis."""
MAX_DIAGNOSED = 3
"""Confirmed regressions that are diagnosed; others are likely to have the same cause."""


@dataclass
class GateReport:
    """A gate's result, with its arms."""

    folder: Path
    base: Arm
    head: Arm
    result: Result
    skipped: dict[str, str]
    """Why cases cannot run on this machine, by name."""
    explanations: dict[str, Explanation] = field(default_factory=dict)
    """Of confirmed regressions, by name."""


@dataclass(frozen=True)
class GateRequest:
    """What to measure, and the folder to write."""

    suite: Suite
    cases: Sequence[Case]
    base: Arm
    head: Arm
    folder: Path
    environment: Environment
    budget_s: float
    seed: int = 0
    slowdown: float = 0.0
    """Relative slowdown injected into head."""
    kept: files.Appender = field(default_factory=files.Appender)
    """Writes the pairs down."""

    @property
    def comparisons(self) -> list[ArmComparison]:
        """Each case in both arms; cases that an arm's settings make equal appear once."""
        budgets = self.suite.case_budgets_s
        found = (ArmComparison(self.base.case(case), self.head.case(case), budgets[case.id]) for case in self.cases)
        return list({comparison.name: comparison for comparison in found}.values())

    def about(self) -> dict[str, Any]:
        """The request as JSON."""
        return {
            "suite": self.suite.name,
            "base": {"text": self.base.text, **self.base.about()},
            "head": {"text": self.head.text, **self.head.about()},
            "budget_s": self.budget_s,
            "seed": self.seed,
            "slowdown": self.slowdown,
            "environment": self.environment.model_dump(mode="json"),
        }


@contextmanager
def open_pairs(request: GateRequest, observer: Observer) -> Iterator[tuple[Pairs, list[ArmComparison], dict[str, str]]]:
    """A measurer that writes every pair, the comparisons that can run here, and why others cannot."""
    logs = request.folder / LOGS
    try:
        request.folder.mkdir(parents=True)
        logs.mkdir()
        (request.folder / PAIRS).touch()
    except OSError as error:
        raise RunFolderError(f"{request.folder}: cannot be made: {error.strerror}; give another --out") from None

    def keep(pair: Pair) -> None:
        request.kept.append(request.folder / PAIRS, pair.model_dump_json())

    observer.doing("probing what can run here", request.budget_s)
    reasons, _ = find_unavailable([each.base for each in request.comparisons], logs)
    skipped = {each.name: str(reasons[each.base.id]) for each in request.comparisons if each.base.id in reasons}
    rng = Random(request.seed)
    possible = [each for each in request.comparisons if each.name not in skipped]
    with Pairs(request.base, request.head, logs, request.suite.limit_s, rng, keep, request.slowdown) as pairs:
        pairs.build(possible, lambda what: observer.doing(what, request.budget_s))
        yield pairs, possible, skipped


def measure_gate(request: GateRequest, observer: Observer, rule: Rule) -> GateReport:
    """Measure all cases that can run here and decide their verdicts. Each pair is written down once it is measured."""
    ends_s = time.monotonic() + MEASURED_SHARE * request.budget_s
    with open_pairs(request, observer) as (pairs, comparisons, skipped):
        _write(request, rule)
        result = run_gate(comparisons, pairs, observer, rule, ends_s - time.monotonic(), request.seed)
        gate_report = GateReport(request.folder, request.base, request.head, result, skipped)
        slower = [case for case in result.cases if case.verdict == "slower" and not request.slowdown]
        for case in sorted(slower, key=lambda case: -case.ratio.ratio)[:MAX_DIAGNOSED]:
            observer.doing(f"{case.comparison.name}: diagnosing", 0.0)
            gate_report.explanations[case.comparison.name] = explain(case.comparison, pairs)
    return gate_report


def write_verdicts(request: GateRequest, gate_report: GateReport) -> None:
    """Add the verdicts to the request on disk. Raises OSError."""
    _write(request, gate_report.result.rule, {"found": _found(gate_report)})


def _write(request: GateRequest, rule: Rule, more: Mapping[str, Any] | None = None) -> None:
    content = {**request.about(), "rule": asdict(rule), **(more or {})}
    files.write(request.folder / GATE, json.dumps(content, indent=1))


def measure_all(
    request: GateRequest, observer: Observer, arms: Sequence[ArmName], pairs: int, rng: Random
) -> tuple[dict[str, list[Paired]], dict[str, str]]:
    """Pairs (or launches of one arm) of every case, in blocks of two, as the budget allows; and what is skipped."""
    ends = time.monotonic() + request.budget_s
    with open_pairs(request, observer) as (measurer, comparisons, skipped):
        found: dict[str, list[Paired]] = {comparison.name: [] for comparison in comparisons}
        for block in range(0, pairs, 2):
            for comparison in rng.sample(comparisons, len(comparisons)):
                measured, left_s = found[comparison.name], ends - time.monotonic()
                if left_s <= 0 or any(pair.problem for pair in measured):
                    continue
                done = sum(map(len, found.values()))
                each_s = (request.budget_s - left_s) / done if done else request.budget_s
                rest_s = each_s * (pairs * len(comparisons) - done)
                observer.doing(f"{comparison.name}: {block} of {pairs}", min(left_s, rest_s))
                order = rng.sample(arms, len(arms))
                for number, each in enumerate((order, order[::-1])):
                    measured.append(measurer.measure(comparison, "screen", each, block + number, 1.0))
    return found, skipped


def _found(gate_report: GateReport) -> dict[str, Any]:
    cases = {
        case.comparison.name: {
            "verdict": case.verdict,
            "reason": case.reason,
            "ratio": case.ratio.ratio if case.ratio.pairs else None,
            "interval": case.ratio.interval(),
            "pairs": case.ratio.pairs,
            "suspect": case.suspect,
        }
        for case in gate_report.result.cases
    }
    result = gate_report.result
    return {"cases": cases, "skipped": gate_report.skipped, "untrusted": result.untrusted, "seconds": result.seconds}


def read_pairs(folder: Path) -> list[Pair]:
    """The pairs of a gate's folder, without lines that are cut short. Raises RunFolderError if there are none."""
    if not (folder / PAIRS).is_file():
        raise RunFolderError(f"{folder}: expected the folder of a gate, with {PAIRS}; there is none")
    found: list[Pair] = []
    read_each(folder / PAIRS, lambda content: found.append(Pair.model_validate(content)))
    return found
