"""The gate: base against head, judged from pairs of launches, with an exit code that can be believed.

    screen    every case gets pairs, in blocks of two, launched base head head base or head base base head at random
    confirm   suspects get fresh pairs, as many as their noise asks for; what the screen saw is not used again
    null      in one case in three a second copy of base runs along; a gate whose null arms differ takes back its word

Nothing is decided by looking until it is significant: how many pairs there are depends on noise and time alone.
"""

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from statistics import fmean, median
from typing import Literal, Protocol

from cnnbench.analysis.paired import PairedRatio, Rule, Verdict, confirmed, is_suspect, pairs_needed, unconfirmed
from cnnbench.suite.case import Case

ArmName = Literal["base", "head", "null"]
Stage = Literal["screen", "confirm"]

NULL_EVERY = 3
"""One case in so many carries a null arm."""
SCREEN_SHARE = 0.55
"""Of the budget, for six pairs of every case; launches are shortened to fit."""
EXTENDED_SHARE = 0.7
"""Of the budget, up to which the widest cases may be screened further."""
MIN_SCALE = 0.2
"""Launches are not shortened below this share of what the suite says."""
MIN_CLEAN = 6
"""So many undisturbed pairs are enough for disturbed ones to be left out."""
SHIFT_CASES, SHIFT_SHARE = 6, 0.9
"""Of at least so many cases, so large a share that leans the same way is a shift of the whole suite."""
BIAS_P = 0.01

EXIT_OK, EXIT_SLOWER, EXIT_NOT_MEASURED, EXIT_INCONCLUSIVE = 0, 1, 3, 4


@dataclass(frozen=True)
class ArmComparison:
    """One case in both arms."""

    base: Case
    head: Case
    launch_s: float
    """Seconds of measuring, for each launch."""

    @property
    def name(self) -> str:
        """The case's id; both, where the arms run it differently."""
        return self.base.id if self.base.id == self.head.id else f"{self.base.id} → {self.head.id}"


@dataclass(frozen=True)
class Paired:
    """What a pair of launches gave."""

    order: tuple[ArmName, ...]
    """In which the launches were started."""
    logs: Mapping[ArmName, float]
    """By arm other than base: the logarithm of its time over base's."""
    call_s: Mapping[ArmName, float] = field(default_factory=dict)
    unsteady: bool = False
    """Whether head's time over base's drifted from turn to turn, or had two modes."""
    interference: bool = False
    """Whether the system's counters saw too much going on beside it."""
    missing: str = ""
    """Why an arm could not be run."""
    wrong: str = ""
    """What is wrong with an arm's outputs, or with what ran."""


class Measurer(Protocol):
    """Who measures pairs."""

    def measure(
        self, comparison: ArmComparison, stage: Stage, order: Sequence[ArmName], number: int, scale: float
    ) -> Paired:
        """One fresh launch of each arm, started in this order; `scale` shortens launches."""


class Observer(Protocol):
    """Somebody who watches a gate."""

    def doing(self, what: str, left_s: float) -> None:
        """Something begins, and all will be over in about so many seconds."""


@dataclass
class CaseVerdict:
    """What the gate knows of one case."""

    comparison: ArmComparison
    verdict: Verdict = "inconclusive"
    reason: str = ""
    screened: list[Paired] = field(default_factory=list)
    fresh: list[Paired] = field(default_factory=list)
    suspect: bool = False

    @property
    def ratio(self) -> PairedRatio:
        """That the verdict rests on: fresh pairs alone, of a suspect that has some."""
        return ratio_of(self.fresh if self.fresh else self.screened)

    @property
    def null(self) -> PairedRatio:
        """Of the null arm, if it carries one."""
        return ratio_of(self.screened, "null")

    def call_s(self, arm: ArmName) -> float | None:
        """Median over launches of a call's time."""
        times = [pair.call_s[arm] for pair in (*self.screened, *self.fresh) if arm in pair.call_s]
        return median(times) if times else None

    def pairs_to_tell(self, margin: float) -> int | None:
        """How many pairs it would take to say slower or same; None if too many, or if unknown."""
        ratio = self.ratio
        return None if ratio.sd is None else pairs_needed(ratio.sd, abs(log(1 + margin) - abs(log(ratio.ratio))))


@dataclass
class Result:
    """What a gate found."""

    cases: list[CaseVerdict]
    rule: Rule
    seconds: float = 0.0
    untrusted: list[str] = field(default_factory=list)
    """Why its verdicts are taken back."""
    notes: list[str] = field(default_factory=list)
    position: float | None = None
    """Mean log of the time of the arm that was started second over the first's."""

    def count(self, verdict: Verdict) -> int:
        """How many cases have it."""
        return sum(judged.verdict == verdict for judged in self.cases)

    def exit_code(self, *, strict: bool = False, allow_missing: bool = False) -> int:
        """1 for a confirmed regression and nothing else; an improvement never fails, nor does not knowing."""
        verdicts = [judged.verdict for judged in self.cases]
        code = exit_code_of(verdicts, strict=strict, allow_missing=allow_missing)
        return EXIT_INCONCLUSIVE if code == EXIT_OK and strict and self.untrusted else code


def exit_code_of(verdicts: Collection[Verdict], *, strict: bool, allow_missing: bool) -> int:
    """What verdicts come to, however they were reached."""
    if "slower" in verdicts:
        return EXIT_SLOWER
    if not verdicts or "wrong" in verdicts or ("missing" in verdicts and not allow_missing):
        return EXIT_NOT_MEASURED
    return EXIT_INCONCLUSIVE if strict and ("inconclusive" in verdicts or "unsteady" in verdicts) else EXIT_OK


def ratio_of(pairs: Sequence[Paired], arm: ArmName = "head") -> PairedRatio:
    """Of the pairs that nothing disturbed, or of all where those are too few: as counters say, never as values do."""
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
    """Screen every case, confirm the suspects, and judge."""
    gate = _Gate(
        measurer,
        observer,
        rule,
        budget_s,
        random.Random(seed),
        clock_s,
        [CaseVerdict(comparison) for comparison in comparisons],
    )
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

    def __post_init__(self) -> None:
        self.began = self.clock_s()
        self.null_place = self.rng.randrange(NULL_EVERY)
        self.pair_s: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        return self.clock_s() - self.began

    def screen(self) -> None:
        """Six pairs for every case, then more for the wide ones, whichever way they point."""
        least = self.rule.screen_pairs
        for done in range(0, least, 2):
            self._block(self._open(), "screen", until_s=self.budget_s, then=least - done - 2)
            self._fit(least - done - 2)
        short = [judged for judged in self._open() if sum(not pair.interference for pair in judged.screened) < least]
        self._block(short, "screen", until_s=self.budget_s * EXTENDED_SHARE)
        while wide := [judged for judged in self._open() if self._is_wide(judged)]:
            if not self._block(wide, "screen", until_s=self.budget_s * EXTENDED_SHARE):
                return

    def confirm(self) -> None:
        """Fresh pairs for the suspects: as many as their noise asks for and time allows, settled before the first."""
        suspects = [judged for judged in self._open() if self._has_enough(judged)]
        suspects = [judged for judged in suspects if is_suspect(ratio_of(judged.screened), self.rule)]
        # Slowdowns first, the largest first: they are what a gate is for.
        suspects.sort(key=lambda judged: -ratio_of(judged.screened).ratio)
        left_s = self.budget_s - self.elapsed_s
        planned: list[tuple[CaseVerdict, int]] = []
        for place, judged in enumerate(suspects):
            judged.suspect = True
            share_s = left_s / (len(suspects) - place)
            fitting = int(share_s / self._expected_s(judged)) // 2 * 2
            pairs = min(self._wanted(judged), fitting)
            if pairs >= self.rule.screen_pairs:
                planned.append((judged, pairs))
                left_s -= pairs * self._expected_s(judged)
        for done in range(0, max((pairs for _, pairs in planned), default=0), 2):
            open_ = [judged for judged, pairs in planned if pairs > done and judged in self._open()]
            rest = sum(max(0, pairs - done - 2) * self._expected_s(judged) for judged, pairs in planned)
            self._block(open_, "confirm", until_s=self.budget_s, rest_s=rest)

    def result(self) -> Result:
        """Every case's verdict, and whether the gate itself can be believed."""
        suspects = [judged for judged in self._open() if judged.fresh]
        screened = [ratio_of(judged.screened) for judged in suspects]
        found = confirmed(screened, [ratio_of(judged.fresh) for judged in suspects], self.rule)
        for judged, verdict in zip(suspects, found, strict=True):
            judged.verdict = verdict or unconfirmed(judged.ratio, self.rule.margin)
        for judged in self._open():
            self._judge(judged)
        result = Result(self.cases, self.rule, self.elapsed_s, position=_position(self.cases))
        result.untrusted = untrusted(self.cases, self.rule)
        result.notes = _shift(self.cases, self.rule)
        if result.untrusted:
            for judged in self._open():
                judged.verdict, judged.reason = "inconclusive", f"{judged.verdict}, but the null arms differ"
        return result

    def _judge(self, judged: CaseVerdict) -> None:
        rule = self.rule
        if not judged.fresh:
            judged.verdict = unconfirmed(judged.ratio, rule.margin) if self._has_enough(judged) else "inconclusive"
        if not self._has_enough(judged):
            judged.reason = f"{judged.ratio.pairs} of {rule.screen_pairs} pairs: the budget was spent"
        elif judged.suspect and not judged.fresh:
            judged.verdict, judged.reason = (
                "inconclusive",
                "a suspect, and the budget was spent before it was confirmed",
            )
        pairs = [*judged.screened, *judged.fresh]
        unsteady = sum(pair.unsteady for pair in pairs)
        if unsteady > rule.max_unsteady * len(pairs):
            judged.verdict = "unsteady"
            judged.reason = f"in {unsteady} of {len(pairs)} pairs the ratio drifted, or had two modes"
        interference = sum(pair.interference for pair in pairs)
        if not judged.reason and interference:
            judged.reason = f"others disturbed {interference} of {len(pairs)} pairs"

    def _block(
        self, cases: Sequence[CaseVerdict], stage: Stage, *, until_s: float, then: int = 0, rest_s: float | None = None
    ) -> bool:
        """Two pairs of each case, in random order; False if time ran out. `then`: pairs that each will still get."""
        cases = list(cases)
        self.rng.shuffle(cases)
        self.number += 2
        for place, judged in enumerate(cases):
            if self.elapsed_s + 2 * self._expected_s(judged) > until_s:
                return False
            later = sum(2 * self._expected_s(other) for other in cases[place:])
            rest = sum(then * self._expected_s(other) for other in cases) if rest_s is None else rest_s
            self.observer.doing(f"{judged.comparison.name}: {stage}", later + rest)
            arms: list[ArmName] = ["base", "head"]
            if stage == "screen" and self.cases.index(judged) % NULL_EVERY == self.null_place % len(self.cases):
                arms.append("null")
            self.rng.shuffle(arms)
            for number, order in enumerate((arms, arms[::-1])):
                began = self.clock_s()
                pair = self.measurer.measure(judged.comparison, stage, order, self.number + number, self.scale)
                self.pair_s[judged.comparison.name] = self.clock_s() - began
                (judged.screened if stage == "screen" else judged.fresh).append(pair)
                if pair.missing or pair.wrong:
                    judged.verdict = "missing" if pair.missing else "wrong"
                    judged.reason = pair.missing or pair.wrong
                    break
        return True

    def _fit(self, pairs_left: int) -> None:
        """Shorten launches so that the pairs that every case must get fit into the screen's share of the budget."""
        needed_s = sum(pairs_left * self._expected_s(judged) for judged in self._open())
        left_s = SCREEN_SHARE * self.budget_s - self.elapsed_s
        if needed_s > max(left_s, 0.0):
            self.scale = max(MIN_SCALE, self.scale * max(left_s, 0.0) / needed_s)

    def _open(self) -> list[CaseVerdict]:
        return [judged for judged in self.cases if judged.verdict not in ("missing", "wrong")]

    def _has_enough(self, judged: CaseVerdict) -> bool:
        return len(ratio_of(judged.screened).logs) >= self.rule.screen_pairs

    def _is_wide(self, judged: CaseVerdict) -> bool:
        ratio = ratio_of(judged.screened)
        return len(judged.screened) < self.rule.max_screen_pairs and ratio.half_width > log(1 + self.rule.margin)

    def _wanted(self, judged: CaseVerdict) -> int:
        """Fresh pairs, even in number."""
        sd = ratio_of(judged.screened).sd or 0.0
        wanted = pairs_needed(sd, log((1 + self.rule.margin + self.rule.visible_beyond) / (1 + self.rule.margin)))
        most = self.rule.max_confirm_pairs
        return min(max(wanted or most, self.rule.confirm_pairs), most) // 2 * 2

    def _expected_s(self, judged: CaseVerdict) -> float:
        """How long a pair will take: as long as its last one; before there is one, as any, or twice its launches."""
        known = self.pair_s.get(judged.comparison.name)
        return known or (fmean(self.pair_s.values()) if self.pair_s else 2 * judged.comparison.launch_s)


def untrusted(cases: Sequence[CaseVerdict], rule: Rule) -> list[str]:
    """Why the gate cannot be believed: its null arms, the same as base, differ from base."""
    from scipy.stats import binomtest

    nulls = [judged for judged in cases if judged.null.pairs >= rule.screen_pairs]
    ratios = [judged.null for judged in nulls]
    verdicts = confirmed(ratios, ratios, rule)  # asked the way that they lean, they are asked both ways
    found = [
        f"{judged.comparison.name}: a second copy of base seems {verdict}, {judged.null.ratio:.3f} times base"
        for judged, verdict in zip(nulls, verdicts, strict=True)
        if verdict
    ]
    above = sum(judged.null.ratio > 1 for judged in nulls)
    if nulls and binomtest(above, len(nulls)).pvalue < BIAS_P:
        found.append(f"{above} of {len(nulls)} null arms are slower than base: one place is favoured")
    return found


def _shift(cases: Sequence[CaseVerdict], rule: Rule) -> list[str]:
    """A note where nearly all cases lean the same way, and none by more than the margin."""
    ratios = [judged.ratio.ratio for judged in cases if judged.ratio.pairs >= rule.screen_pairs]
    if len(ratios) < SHIFT_CASES or any(abs(log(ratio)) > log(1 + rule.margin) for ratio in ratios):
        return []
    above = sum(ratio > 1 for ratio in ratios)
    if max(above, len(ratios) - above) <= SHIFT_SHARE * len(ratios):
        return []
    way = "slower" if above * 2 > len(ratios) else "faster"
    return [f"a shift of the whole suite: {max(above, len(ratios) - above)} of {len(ratios)} cases lean {way}"]


def _position(cases: Sequence[CaseVerdict]) -> float | None:
    """Log of the later started arm's time over the earlier's, over all pairs."""
    signed = [
        pair.logs["head"] if pair.order.index("base") < pair.order.index("head") else -pair.logs["head"]
        for judged in cases
        for pair in (*judged.screened, *judged.fresh)
        if "head" in pair.logs
    ]
    return fmean(signed) if signed else None
