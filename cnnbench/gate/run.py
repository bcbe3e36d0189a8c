"""A gate, run: a suite's cases in two arms, measured, judged, explained, and written down.

gate.json     what was asked: arms, rule, seed, machine; and at the end what was found
pairs.jsonl   every pair of launches, raw, as soon as it was measured
summary.md    the verdicts, to read
logs/         what the workers' libraries printed
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
from cnnbench.gate.procedure import ArmComparison, ArmName, Observer, Paired, Result, run_gate
from cnnbench.records import run_folder as store
from cnnbench.runner.tasks import probe as availability
from cnnbench.suite.case import Case
from cnnbench.suite.load import Suite

GATE, PAIRS, SUMMARY, LOGS = "gate.json", "pairs.jsonl", "summary.md", "logs"
JUDGED_SHARE = 0.95
"""Of the budget, for measuring; the rest is for explaining."""
EXPLAINED = 3
"""At most so many confirmed regressions are explained; the others are likely to have the same cause."""


@dataclass
class GateReport:
    """What a gate found, with what it was asked."""

    folder: Path
    base: Arm
    head: Arm
    result: Result
    skipped: dict[str, str]
    """Why cases cannot run on this machine at all, by name."""
    explanations: dict[str, Explanation] = field(default_factory=dict)
    """Of confirmed regressions, by name."""


def new_folder(suite: Suite, kind: str = "gate") -> Path:
    """As that of a run, and what was done."""
    folder = store.new_folder(suite)
    return folder.with_name(f"{kind}-{folder.name}")


@dataclass(frozen=True)
class GateRequest:
    """What is to be measured, and where it is written down."""

    suite: Suite
    cases: Sequence[Case]
    base: Arm
    head: Arm
    folder: Path
    environment: Mapping[str, Any]
    budget_s: float
    seed: int = 0
    slowdown: float = 0.0
    """By how much head is slowed down on purpose."""

    @property
    def comparisons(self) -> list[ArmComparison]:
        """Each case in both arms; cases that an arm's settings make alike stand once."""
        budgets = self.suite.case_budgets_s
        comparisons = [
            ArmComparison(self.base.case(case), self.head.case(case), budgets[case.id]) for case in self.cases
        ]
        return list({comparison.name: comparison for comparison in comparisons}.values())

    def about(self) -> dict[str, Any]:
        """All of it, to be stored."""
        return {
            "suite": self.suite.name,
            "base": {"text": self.base.text, **self.base.about()},
            "head": {"text": self.head.text, **self.head.about()},
            "budget_s": self.budget_s,
            "seed": self.seed,
            "slowdown": self.slowdown,
            "environment": dict(self.environment),
        }


@contextmanager
def open_pairs(request: GateRequest, observer: Observer) -> Iterator[tuple[Pairs, list[ArmComparison], dict[str, str]]]:
    """A measurer that keeps every pair, the cases that can run here, and why others cannot."""
    file = _begin(request.folder)
    logs = request.folder / LOGS

    def keep(pair: Pair) -> None:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(pair.model_dump_json() + "\n")

    observer.doing("trying what can run here", request.budget_s)
    comparisons = request.comparisons
    reasons, _ = availability.find_unavailable([comparison.base for comparison in comparisons], logs)
    skipped = {
        comparison.name: reasons[comparison.base.id] for comparison in comparisons if comparison.base.id in reasons
    }
    rng = Random(request.seed)
    possible = [comparison for comparison in comparisons if comparison.name not in skipped]
    with Pairs(request.base, request.head, logs, request.suite.limit_s, rng, keep, request.slowdown) as pairs:
        pairs.build(possible, lambda what: observer.doing(what, request.budget_s))
        yield pairs, possible, skipped


def measure_gate(request: GateRequest, observer: Observer, rule: Rule) -> GateReport:
    """Measure and judge all cases that can run here; every pair is on disk as soon as it is there."""
    ends = time.monotonic() + JUDGED_SHARE * request.budget_s
    with open_pairs(request, observer) as (pairs, comparisons, skipped):
        about = {**request.about(), "rule": asdict(rule)}
        (request.folder / GATE).write_text(json.dumps(about, indent=1))
        result = run_gate(comparisons, pairs, observer, rule, ends - time.monotonic(), request.seed)
        gate_report = GateReport(request.folder, request.base, request.head, result, skipped)
        slower = [judged for judged in result.cases if judged.verdict == "slower"]
        for judged in sorted(slower, key=lambda each: -each.ratio.ratio)[:EXPLAINED] if not request.slowdown else []:
            observer.doing(f"{judged.comparison.name}: explaining", 0.0)
            gate_report.explanations[judged.comparison.name] = explain(judged.comparison, pairs)
    (request.folder / GATE).write_text(json.dumps({**about, "found": _found(gate_report)}, indent=1))
    return gate_report


def measure_all(
    request: GateRequest, observer: Observer, arms: Sequence[ArmName], pairs: int, rng: Random
) -> tuple[dict[str, list[Paired]], dict[str, str]]:
    """So many pairs (or launches, of one arm) of every case, in blocks of two, while the budget lasts.

    By case, what was measured; and why cases cannot run here.
    """
    ends = time.monotonic() + request.budget_s
    with open_pairs(request, observer) as (measurer, comparisons, skipped):
        found: dict[str, list[Paired]] = {comparison.name: [] for comparison in comparisons}
        for block in range(0, pairs, 2):
            for comparison in rng.sample(comparisons, len(comparisons)):
                left_s = ends - time.monotonic()
                done = sum(map(len, found.values()))
                rest_s = (
                    (request.budget_s - left_s) / done * (pairs * len(comparisons) - done) if done else request.budget_s
                )
                if left_s <= 0 or any(pair.missing or pair.wrong for pair in found[comparison.name]):
                    continue
                observer.doing(f"{comparison.name}: {block} of {pairs}", min(left_s, rest_s))
                order = rng.sample(arms, len(arms))
                for number, each in enumerate((order, order[::-1])):
                    found[comparison.name].append(measurer.measure(comparison, "screen", each, block + number, 1.0))
    return found, skipped


def _found(gate_report: GateReport) -> dict[str, Any]:
    cases = {
        judged.comparison.name: {
            "verdict": judged.verdict,
            "reason": judged.reason,
            "ratio": judged.ratio.ratio if judged.ratio.pairs else None,
            "interval": judged.ratio.interval(),
            "pairs": judged.ratio.pairs,
            "suspect": judged.suspect,
        }
        for judged in gate_report.result.cases
    }
    result = gate_report.result
    return {"cases": cases, "skipped": gate_report.skipped, "untrusted": result.untrusted, "seconds": result.seconds}


def _begin(folder: Path) -> Path:
    """Make the folder; gives the file of its pairs. Raises RunFolderError."""
    try:
        folder.mkdir(parents=True)
        (folder / LOGS).mkdir()
        (folder / PAIRS).touch()
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be made: {error.strerror}; give another --out") from None
    return folder / PAIRS


def read_pairs(folder: Path) -> list[Pair]:
    """The pairs of a gate's folder. Raises RunFolderError if there are none."""
    try:
        lines = (folder / PAIRS).read_text(encoding="utf-8").splitlines()
    except OSError:
        raise RunFolderError(f"{folder}: expected the folder of a gate, with {PAIRS}; there is none") from None
    return [Pair.model_validate_json(line) for line in lines if line]
