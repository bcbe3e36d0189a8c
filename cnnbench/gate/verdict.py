"""What a gate compares, measures and finds: comparisons, pairs of launches, verdicts, and the exit code they make."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from statistics import median
from typing import Literal

from cnnbench.analysis.paired import PairedRatio, Rule, Verdict, pairs_needed
from cnnbench.suite.case import Case

ArmName = Literal["base", "head", "null"]
Stage = Literal["screen", "confirm"]

BLOCK = 2
"""Pairs that are measured one after the other, in opposite orders."""
MIN_CLEAN = 6
"""Pairs with interference are dropped if at least this many without it remain."""
EXIT_OK, EXIT_SLOWER, EXIT_NOT_MEASURED, EXIT_INCONCLUSIVE = 0, 1, 3, 4


@dataclass(frozen=True)
class ArmComparison:
    """One case in both arms."""

    base: Case
    head: Case
    launch_s: float
    """Measuring time of each launch."""

    @property
    def name(self) -> str:
        """The case's id; both ids if the arms run it differently."""
        return self.base.id if self.base.id == self.head.id else f"{self.base.id} → {self.head.id}"

    def case(self, arm: ArmName) -> Case:
        """As an arm runs it; the null arm is a copy of base."""
        return self.head if arm == "head" else self.base


@dataclass(frozen=True)
class Paired:
    """The result of a pair of launches."""

    order: tuple[ArmName, ...]
    """In which the launches were started."""
    logs: Mapping[ArmName, float]
    """Logarithm of each arm's time over base's."""
    call_s: Mapping[ArmName, float] = field(default_factory=dict)
    unsteady: bool = False
    """Whether the ratio of head to base drifted between rounds, or had two modes."""
    interference: bool = False
    """Whether the system's counters show too much interference."""
    in_kernel: bool = False
    """Whether an arm spends much of its time in the kernel."""
    missing: str = ""
    """Why an arm could not be run."""
    wrong: str = ""
    """Why an arm's outputs, or what ran, are wrong."""
    lost: str = ""
    """Why it has no ratio though both arms ran: a stall hid a service's highest rate, say. Others may have one."""

    @property
    def problem(self) -> str:
        """Why the pair says nothing of times; empty if it does."""
        return self.missing or self.wrong


@dataclass
class CaseVerdict:
    """One case's pairs and its verdict."""

    comparison: ArmComparison
    verdict: Verdict = "inconclusive"
    reason: str = ""
    screened: list[Paired] = field(default_factory=list)
    fresh: list[Paired] = field(default_factory=list)
    suspect: bool = False

    @property
    def ratio(self) -> PairedRatio:
        """The ratio that the verdict rests on: of a confirmed suspect, fresh pairs only."""
        return ratio_of(self.fresh if self.fresh else self.screened)

    @property
    def pairs(self) -> list[Paired]:
        """All, screened and fresh."""
        return [*self.screened, *self.fresh]

    @property
    def null(self) -> PairedRatio:
        """Of the null arm, if it has one."""
        return ratio_of(self.screened, "null")

    def fail(self, pair: Paired) -> None:
        """Take over the pair's problem, if it has one; or why all pairs so far, a block at least, have been lost."""
        if pair.problem:
            self.verdict, self.reason = "missing" if pair.missing else "wrong", pair.problem
        elif len(self.pairs) >= BLOCK and all(each.lost for each in self.pairs):
            self.verdict, self.reason = "missing", pair.lost

    def call_s(self, arm: ArmName) -> float | None:
        """Median over launches of a call's time."""
        times = [pair.call_s[arm] for pair in self.pairs if arm in pair.call_s]
        return median(times) if times else None

    def pairs_to_tell(self, margin: float) -> int | None:
        """Pairs needed for a verdict of slower or same; None if too many, or unknown."""
        ratio = self.ratio
        return None if ratio.sd is None else pairs_needed(ratio.sd, abs(log(1 + margin) - abs(log(ratio.ratio))))


@dataclass
class Result:
    """The verdicts of a gate."""

    cases: list[CaseVerdict]
    rule: Rule
    seconds: float = 0.0
    untrusted: list[str] = field(default_factory=list)
    """Why all verdicts became inconclusive; empty if they did not."""
    notes: list[str] = field(default_factory=list)
    position: float | None = None
    """Mean log of the time of the arm that was started second over the first's."""

    def count(self, verdict: Verdict) -> int:
        """Number of cases with this verdict."""
        return sum(case.verdict == verdict for case in self.cases)

    def exit_code(self, *, strict: bool = False, allow_missing: bool = False) -> int:
        """1 for a confirmed regression only; `faster` never fails, `inconclusive` only if `strict`.

        A gate that ended before the first pair of any case has not measured anything.
        """
        verdicts = [case.verdict for case in self.cases]
        none_decided = {"inconclusive"} <= set(verdicts) <= {"inconclusive", "missing"}
        if none_decided and not any(case.pairs for case in self.cases):
            return EXIT_NOT_MEASURED
        code = exit_code_of(verdicts, strict=strict, allow_missing=allow_missing)
        return EXIT_INCONCLUSIVE if code == EXIT_OK and strict and self.untrusted else code


def exit_code_of(verdicts: Collection[Verdict], *, strict: bool, allow_missing: bool) -> int:
    """The exit code of a set of verdicts."""
    if "slower" in verdicts:
        return EXIT_SLOWER
    if not verdicts or "wrong" in verdicts or ("missing" in verdicts and not allow_missing):
        return EXIT_NOT_MEASURED
    return EXIT_INCONCLUSIVE if strict and ("inconclusive" in verdicts or "unsteady" in verdicts) else EXIT_OK


def ratio_of(pairs: Sequence[Paired], arm: ArmName = "head") -> PairedRatio:
    """Over pairs without interference, or over all if those are too few. Pairs are never dropped for their values."""
    known = [pair for pair in pairs if arm in pair.logs]
    clean = [pair for pair in known if not pair.interference]
    return PairedRatio(tuple(pair.logs[arm] for pair in (clean if len(clean) >= MIN_CLEAN else known)))
