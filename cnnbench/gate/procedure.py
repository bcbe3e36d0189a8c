"""The gate's procedure: verdicts on head against base, from pairs of launches.

    screen    every case gets pairs, in blocks of two: base head head base or head base base head, at random
    confirm   suspects get fresh pairs, as many as their noise requires; screened pairs are not used again
    null      in one case in three a second copy of base runs along; if a null arm differs, every verdict becomes
              inconclusive

There is no optional stopping: the number of pairs depends on noise and time only, never on significance.
"""

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from statistics import fmean, median
from typing import Literal, Protocol

from cnnbench.analysis.kernel import MUCH
from cnnbench.analysis.paired import PairedRatio, Rule, Verdict, confirmed, is_suspect, pairs_needed, unconfirmed
from cnnbench.suite.case import Case

ArmName = Literal["base", "head", "null"]
Stage = Literal["screen", "confirm"]

NULL_EVERY = 3
"""One case in this many has a null arm."""
SCREEN_SHARE = 0.55
"""Share of the budget for six pairs of every case; launches are shortened to fit."""
EXTENDED_SHARE = 0.7
"""Share of the budget until which cases with wide intervals are screened further."""
MIN_SCALE = 0.2
"""Launches keep at least this share of the suite's measuring time."""
MIN_CLEAN = 6
"""Pairs with interference are dropped if at least this many without it remain."""
MIN_SHIFT_CASES, MIN_SHIFT_SHARE = 6, 0.9
"""Of at least this many cases, a share that leans the same way and is noted as a shift of the whole suite."""
BIAS_P = 0.01
"""Significance level of a sign test on null arms."""

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

    @property
    def problem(self) -> str:
        """Why the pair says nothing of times; empty if it does."""
        return self.missing or self.wrong


class Measurer(Protocol):
    """Measures pairs."""

    def check(self, comparison: ArmComparison) -> Paired:
        """Without times: its `problem` tells why the comparison cannot be measured."""

    def measure(
        self, comparison: ArmComparison, stage: Stage, order: Sequence[ArmName], number: int, scale: float
    ) -> Paired:
        """One fresh launch of each arm, started in this order; `scale` shortens the measuring time."""


class Observer(Protocol):
    """Receives a gate's progress."""

    def doing(self, what: str, left_s: float) -> None:
        """A step begins; the gate will end in about `left_s` seconds."""


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
        """Take over the pair's problem, if it has one."""
        if pair.problem:
            self.verdict, self.reason = "missing" if pair.missing else "wrong", pair.problem

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


def run_gate(
    comparisons: Sequence[ArmComparison],
    measurer: Measurer,
    observer: Observer,
    rule: Rule,
    budget_s: float,
    seed: int,
    clock_s: Callable[[], float] = time.monotonic,
) -> Result:
    """Screen every case, confirm the suspects, and decide."""
    cases = [CaseVerdict(comparison) for comparison in comparisons]
    gate = _Gate(measurer, observer, rule, budget_s, random.Random(seed), clock_s, cases)
    gate.screen()
    gate.confirm()
    return gate.result()


@dataclass
class _Gate:
    measurer: Measurer
    observer: Observer
    rule: Rule
    budget_s: float
    rng: random.Random
    clock_s: Callable[[], float]
    cases: list[CaseVerdict]
    scale: float = 1.0
    number: int = 0
    pair_s: dict[str, float] = field(default_factory=dict)
    """Of each case's last pair."""

    def __post_init__(self) -> None:
        self.began = self.clock_s()
        self.null_place = self.rng.randrange(NULL_EVERY)

    @property
    def elapsed_s(self) -> float:
        return self.clock_s() - self.began

    def screen(self) -> None:
        """Six pairs for every case that can be measured, then more for wide intervals, whichever way they point."""
        for case in self.cases:
            case.fail(self.measurer.check(case.comparison))
        minimum = self.rule.screen_pairs
        for pairs_left in reversed(range(0, minimum, 2)):
            self._block(self._open(), "screen", until_s=self.budget_s, then=pairs_left)
            self._fit(pairs_left)
        short = [case for case in self._open() if sum(not pair.interference for pair in case.screened) < minimum]
        self._block(short, "screen", until_s=self.budget_s * EXTENDED_SHARE)
        while wide := [case for case in self._open() if self._is_wide(case)]:
            if not self._block(wide, "screen", until_s=self.budget_s * EXTENDED_SHARE):
                return

    def confirm(self) -> None:
        """Fresh pairs for the suspects: a number fixed before the first, by their noise and the time left."""
        screened = [(case, ratio_of(case.screened)) for case in self._open() if self._has_enough(case)]
        # Slowdowns first, the largest first: they are what a gate is for.
        screened.sort(key=lambda each: -each[1].ratio)
        suspects = [case for case, ratio in screened if is_suspect(ratio, self.rule)]
        left_s = self.budget_s - self.elapsed_s
        planned: list[tuple[CaseVerdict, int]] = []
        for place, case in enumerate(suspects):
            case.suspect = True
            fitting = int(left_s / (len(suspects) - place) / self._expected_s(case)) // 2 * 2
            pairs = min(self._wanted(case), fitting)
            if pairs >= self.rule.screen_pairs:
                planned.append((case, pairs))
                left_s -= pairs * self._expected_s(case)
        for done in range(0, max((pairs for _, pairs in planned), default=0), 2):
            open_ = [case for case, pairs in planned if pairs > done and case in self._open()]
            rest = sum(max(0, pairs - done - 2) * self._expected_s(case) for case, pairs in planned)
            self._block(open_, "confirm", until_s=self.budget_s, rest_s=rest)

    def result(self) -> Result:
        """Every case's verdict; all inconclusive if the null arms differ."""
        suspects = [case for case in self._open() if case.fresh]
        screened = [ratio_of(case.screened) for case in suspects]
        found = confirmed(screened, [ratio_of(case.fresh) for case in suspects], self.rule)
        for case, verdict in zip(suspects, found, strict=True):
            case.verdict = verdict or unconfirmed(case.ratio, self.rule.margin)
        differ = untrusted(self.cases, self.rule)
        for case in self._open():
            self._decide(case)
            if differ:
                case.verdict, case.reason = "inconclusive", f"{case.verdict}, but the null arms differ"
        notes, position = _shift(self.cases, self.rule) + _kernel(self.cases), _position(self.cases)
        return Result(self.cases, self.rule, self.elapsed_s, differ, notes, position)

    def _decide(self, case: CaseVerdict) -> None:
        if not self._has_enough(case):
            case.verdict = "inconclusive"
            case.reason = f"{case.ratio.pairs} of {self.rule.screen_pairs} pairs: the budget was spent"
        elif case.suspect and not case.fresh:
            case.verdict, case.reason = "inconclusive", "a suspect, and the budget was spent before it was confirmed"
        elif not case.fresh:
            case.verdict = unconfirmed(case.ratio, self.rule.margin)
        unsteady = sum(pair.unsteady for pair in case.pairs)
        if unsteady > self.rule.max_unsteady * len(case.pairs):
            case.verdict = "unsteady"
            case.reason = f"in {unsteady} of {len(case.pairs)} pairs the ratio drifted, or had two modes"
        interference = sum(pair.interference for pair in case.pairs)
        if not case.reason and interference:
            case.reason = f"interference in {interference} of {len(case.pairs)} pairs"

    def _block(
        self, cases: Sequence[CaseVerdict], stage: Stage, *, until_s: float, then: int = 0, rest_s: float | None = None
    ) -> bool:
        """Two pairs of each case, in random order; False if time ran out. `then`: pairs that each will still get."""
        cases = list(cases)
        self.rng.shuffle(cases)
        self.number += 2
        for place, case in enumerate(cases):
            if self.elapsed_s + 2 * self._expected_s(case) > until_s:
                return False
            later = sum(2 * self._expected_s(other) for other in cases[place:])
            rest = sum(then * self._expected_s(other) for other in cases) if rest_s is None else rest_s
            self.observer.doing(f"{case.comparison.name}: {stage}", later + rest)
            arms: list[ArmName] = ["base", "head"]
            if stage == "screen" and self.cases.index(case) % NULL_EVERY == self.null_place % len(self.cases):
                arms.append("null")
            self.rng.shuffle(arms)
            for number, order in enumerate((arms, arms[::-1])):
                began = self.clock_s()
                pair = self.measurer.measure(case.comparison, stage, order, self.number + number, self.scale)
                self.pair_s[case.comparison.name] = self.clock_s() - began
                (case.screened if stage == "screen" else case.fresh).append(pair)
                case.fail(pair)
                if pair.problem:
                    break
        return True

    def _fit(self, pairs_left: int) -> None:
        """Shorten launches so that the pairs that every case must get fit into the screen's share of the budget."""
        needed_s = sum(pairs_left * self._expected_s(case) for case in self._open())
        left_s = max(SCREEN_SHARE * self.budget_s - self.elapsed_s, 0.0)
        if needed_s > left_s:
            self.scale = max(MIN_SCALE, self.scale * left_s / needed_s)

    def _open(self) -> list[CaseVerdict]:
        return [case for case in self.cases if case.verdict not in ("missing", "wrong")]

    def _has_enough(self, case: CaseVerdict) -> bool:
        return ratio_of(case.screened).pairs >= self.rule.screen_pairs

    def _is_wide(self, case: CaseVerdict) -> bool:
        ratio = ratio_of(case.screened)
        return len(case.screened) < self.rule.max_screen_pairs and ratio.half_width > log(1 + self.rule.margin)

    def _wanted(self, case: CaseVerdict) -> int:
        """Fresh pairs, even in number."""
        sd = ratio_of(case.screened).sd or 0.0
        wanted = pairs_needed(sd, log((1 + self.rule.margin + self.rule.visible_beyond) / (1 + self.rule.margin)))
        maximum = self.rule.max_confirm_pairs
        return min(max(wanted or maximum, self.rule.confirm_pairs), maximum) // 2 * 2

    def _expected_s(self, case: CaseVerdict) -> float:
        """Expected time of a pair: that of the case's last one, else the mean of all, else twice its launches."""
        known = self.pair_s.get(case.comparison.name)
        return known or (fmean(self.pair_s.values()) if self.pair_s else 2 * case.comparison.launch_s)


def untrusted(cases: Sequence[CaseVerdict], rule: Rule) -> list[str]:
    """How null arms, which are copies of base, differ from base; empty if they do not."""
    from scipy.stats import binomtest

    nulls = [case for case in cases if case.null.pairs >= rule.screen_pairs]
    ratios = [case.null for case in nulls]
    verdicts = confirmed(ratios, ratios, rule)  # tested in the direction of their own ratio: two-sided
    found = [
        f"{case.comparison.name}: a second copy of base seems {verdict}, {case.null.ratio:.3f} times base"
        for case, verdict in zip(nulls, verdicts, strict=True)
        if verdict
    ]
    above = sum(ratio.ratio > 1 for ratio in ratios)
    if nulls and binomtest(above, len(nulls)).pvalue < BIAS_P:
        found.append(f"{above} of {len(nulls)} null arms are slower than base: one position is favoured")
    return found


def _shift(cases: Sequence[CaseVerdict], rule: Rule) -> list[str]:
    """A note if nearly all cases lean the same way, none by more than the margin."""
    ratios = [case.ratio.ratio for case in cases if case.ratio.pairs >= rule.screen_pairs]
    if len(ratios) < MIN_SHIFT_CASES or any(abs(log(ratio)) > log(1 + rule.margin) for ratio in ratios):
        return []
    slower = sum(ratio > 1 for ratio in ratios)
    count, way = max((slower, "slower"), (len(ratios) - slower, "faster"))
    is_shift = count > MIN_SHIFT_SHARE * len(ratios)
    return [f"a shift of the whole suite: {count} of {len(ratios)} cases lean {way}"] if is_shift else []


def _kernel(cases: Sequence[CaseVerdict]) -> list[str]:
    """A note on the cases that compare two runtimes, one of which spends much of its time in the kernel."""
    found = [
        case.comparison.name
        for case in cases
        if case.comparison.base.runtime != case.comparison.head.runtime and any(pair.in_kernel for pair in case.pairs)
    ]
    return [
        f"{name}: one of the two runtimes spends more than {MUCH:.0%} of its CPU time in the kernel, mostly for memory "
        "that was handed back a moment before: the ratio depends on the allocator, see allocator=keep"
        for name in found
    ]


def _position(cases: Sequence[CaseVerdict]) -> float | None:
    """Mean log of the later started arm's time over the earlier's, over all pairs."""
    pairs = [pair for case in cases for pair in case.pairs if "head" in pair.logs]
    signs = [1 if pair.order.index("base") < pair.order.index("head") else -1 for pair in pairs]
    return fmean(sign * pair.logs["head"] for sign, pair in zip(signs, pairs, strict=True)) if pairs else None
