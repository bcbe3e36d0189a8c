"""The gate's procedure: verdicts on head against base, from pairs of launches.

    screen    every case gets pairs, in blocks of two: base head head base or head base base head, at random
    confirm   suspects get fresh pairs, as many as their noise and the screened change require; screened pairs are not
              used again
    null      in every third case a second copy of base is measured too; if a null arm differs, every verdict becomes
              inconclusive

There is no optional stopping: the number of fresh pairs is fixed before the first of them.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log, sqrt
from statistics import fmean
from typing import Protocol

from cnnbench.analysis.paired import Rule, confirmed, is_suspect, pairs_needed, unconfirmed
from cnnbench.gate import checks
from cnnbench.gate.verdict import ArmComparison, ArmName, CaseVerdict, Paired, Result, Stage, ratio_of

NULL_EVERY = 3
"""One case in this many has a null arm."""
SCREEN_SHARE = 0.55
"""Share of the budget for six pairs of every case; launches are shortened to fit."""
EXTENDED_SHARE = 0.7
"""Share of the budget until which cases with wide intervals are screened further."""
MIN_SCALE = 0.2
"""Launches keep at least this share of the suite's measuring time."""


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
        if sum(2 * self._expected_s(case) for case in self._open()) > self.budget_s:
            self.scale = MIN_SCALE  # not even the first pairs fit as they are
        minimum = self.rule.screen_pairs
        for pairs_left in reversed(range(0, minimum, 2)):
            self._block(self._open(), "screen", until_s=self.budget_s, then=pairs_left)
            self._fit(pairs_left)
        short = [case for case in self._open() if sum(map(_is_clean, case.screened)) < minimum]
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
        differ = checks.untrusted(self.cases, self.rule)
        for case in self._open():
            self._decide(case)
            if differ:
                case.verdict, case.reason = "inconclusive", f"{case.verdict}, but the null arms differ"
        notes, position = checks.shift(self.cases, self.rule) + checks.kernel(self.cases), checks.position(self.cases)
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
        lost = [pair.lost for pair in case.pairs if pair.lost]
        if not case.reason and lost:
            case.reason = f"{len(lost)} of {len(case.pairs)} pairs have no ratio: {lost[0]}"
        if not case.reason and interference:
            case.reason = f"interference in {interference} of {len(case.pairs)} pairs"

    def _block(
        self, cases: Sequence[CaseVerdict], stage: Stage, *, until_s: float, then: int = 0, rest_s: float | None = None
    ) -> bool:
        """Two pairs of each case, in random order; False if time ran out. `then`: pairs that each will still get.

        The first case's are measured even if building has spent the whole budget.
        """
        cases = list(cases)
        self.rng.shuffle(cases)
        self.number += 2
        for place, case in enumerate(cases):
            if self.pair_s and self.elapsed_s + 2 * self._expected_s(case) > until_s:
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
        """Fresh pairs, even in number: to detect the screened change less its standard error, beyond the margin."""
        ratio, rule = ratio_of(case.screened), self.rule
        sd = ratio.sd or 0.0
        change = max(abs(log(ratio.ratio)) - sd / sqrt(ratio.pairs), log(1 + rule.margin + rule.visible_beyond))
        wanted = pairs_needed(sd, change - log(1 + rule.margin))
        maximum = rule.max_confirm_pairs
        return min(max(wanted or maximum, rule.confirm_pairs), maximum) // 2 * 2

    def _expected_s(self, case: CaseVerdict) -> float:
        """Expected time of a pair: that of the case's last one, else the mean of all, else its two launches'."""
        known = self.pair_s.get(case.comparison.name)
        return known or (fmean(self.pair_s.values()) if self.pair_s else 2 * self.scale * case.comparison.launch_s)


def _is_clean(pair: Paired) -> bool:
    """Whether it has a ratio that no interference disturbed."""
    return "head" in pair.logs and not pair.interference
