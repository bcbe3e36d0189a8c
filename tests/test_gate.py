"""The gate on simulated machines: rates of false alarms and detection with binomial bounds, order, and invariants."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from scipy.stats import binomtest

from cnnbench.analysis.paired import Rule, Verdict, pairs_needed
from cnnbench.gate.procedure import run_gate
from cnnbench.gate.verdict import ArmComparison, ArmName, CaseVerdict, Paired, Result, Stage
from tests.noise import BAD, QUIET, TYPICAL, Machine, Simulated, comparisons

GATES = 40
CASES = 12


def simulate(machine: Machine, seed: int, slowdown: float = 0.0, cases: int = CASES, budget_s: float = 1e9) -> Result:
    """A gate of so many cases, of which the fourth is slower by so much in head."""
    chosen = comparisons(cases)
    slowed = {chosen[3].name: math.log1p(slowdown)} if slowdown else {}
    simulated = Simulated(machine, seed, slowed)
    return run_gate(chosen, simulated, simulated, Rule(), budget_s, seed, clock_s=simulated.clock)


@pytest.mark.parametrize("machine", [QUIET, TYPICAL, BAD], ids=["quiet", "typical", "bad"])
def test_the_same_code_is_not_called_slower(machine: Machine) -> None:
    """At most 1 % of suites: of so many, none, or one by chance."""
    alarms = sum(simulate(machine, seed).exit_code() == 1 for seed in range(GATES))
    assert binomtest(alarms, GATES, 0.01, alternative="greater").pvalue > 0.05


@pytest.mark.parametrize(
    ("machine", "slowdown", "power"),
    [(QUIET, 0.03, 0.8), (QUIET, 0.05, 0.99), (TYPICAL, 0.05, 0.8), (TYPICAL, 0.10, 0.99), (BAD, 0.10, 0.8)],
)
def test_a_slowdown_beyond_the_margin_is_seen(machine: Machine, slowdown: float, power: float) -> None:
    results = [simulate(machine, seed, slowdown) for seed in range(GATES)]
    seen = sum(result.cases[3].verdict == "slower" for result in results)
    assert binomtest(seen, GATES, power, alternative="less").pvalue > 0.05
    others = sum(any(j.verdict == "slower" for j in result.cases if j is not result.cases[3]) for result in results)
    assert binomtest(others, GATES, 0.01, alternative="greater").pvalue > 0.05


def test_a_slowdown_within_the_margin_never_fails() -> None:
    assert {simulate(QUIET, seed, 0.015).exit_code() for seed in range(GATES)} == {0}


def test_an_improvement_is_seen_and_never_fails() -> None:
    results = [simulate(QUIET, seed, -0.08) for seed in range(10)]
    assert {result.cases[3].verdict for result in results} == {"faster"}
    assert {result.exit_code(strict=False) for result in results} == {0}


def test_noise_that_tells_nothing_is_inconclusive_and_fails_only_when_strict() -> None:
    result = simulate(BAD, 1, budget_s=4.0 * 6 * CASES * 1.3)
    assert result.count("inconclusive") > 0
    assert (result.exit_code(), result.exit_code(strict=True)) == (0, 4)
    judged = next(judged for judged in result.cases if judged.verdict == "inconclusive")
    visible = judged.ratio.smallest_visible(0.02)
    assert visible is not None
    assert visible > 0.02


def test_launches_are_ordered_base_head_head_base_or_the_other_way_round_at_random() -> None:
    simulated = Simulated(QUIET, 0)
    run_gate(comparisons(4), simulated, simulated, Rule(), 1e9, 5, clock_s=simulated.clock)
    blocks = list(zip(simulated.started[::2], simulated.started[1::2], strict=True))
    assert all(first[0] == second[0] for first, second in blocks)
    assert all(first[2] == second[2][::-1] for first, second in blocks)
    plain = {(*first[2], *second[2]) for first, second in blocks if len(first[2]) == 2}
    assert plain == {("base", "head", "head", "base"), ("head", "base", "base", "head")}
    rounds = [[first[0] for first, _ in blocks[start : start + 4]] for start in (0, 4, 8)]
    assert all(sorted(names) == sorted(rounds[0]) for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1


def test_the_pairs_of_a_case_are_numbered_in_the_order_in_which_they_are_measured() -> None:
    numbers: dict[str, list[int]] = {}

    class Numbered(Simulated):
        def measure(self, comparison: ArmComparison, stage, order, number, scale) -> Paired:  # type: ignore[no-untyped-def]
            numbers.setdefault(comparison.name, []).append(number)
            return super().measure(comparison, stage, order, number, scale)

    simulated = Numbered(QUIET, 0)
    run_gate(comparisons(4), simulated, simulated, Rule(), 1e9, 5, clock_s=simulated.clock)
    assert len(numbers) == 4
    assert all(measured == sorted(set(measured)) for measured in numbers.values())


def test_the_time_left_is_told_while_suspects_are_confirmed() -> None:
    told: list[tuple[float, float]] = []

    class Watched(Simulated):
        def doing(self, what: str, left_s: float) -> None:
            if what.endswith("confirm"):
                told.append((self.seconds, left_s))

    chosen = comparisons(4)
    simulated = Watched(QUIET, 0, {chosen[1].name: 0.05, chosen[2].name: 0.05})
    result = run_gate(chosen, simulated, simulated, Rule(), 1e9, 5, clock_s=simulated.clock)
    assert [case.verdict for case in result.cases].count("slower") == 2
    assert len(told) > 4
    for now_s, left_s in told[2:]:  # before, the last pairs were those of the screen, some with three arms
        assert left_s == pytest.approx(simulated.seconds - now_s, rel=0.01)


def test_the_order_comes_from_the_seed() -> None:
    started = []
    for seed in (1, 1, 2):
        simulated = Simulated(QUIET, 0)
        run_gate(comparisons(4), simulated, simulated, Rule(), 1e9, seed, clock_s=simulated.clock)
        started.append(simulated.started)
    assert started[0] == started[1] != started[2]


def test_one_case_in_three_carries_a_null_arm_in_the_screen_and_which_differs_from_gate_to_gate() -> None:
    carriers = set()
    for seed in range(12):
        simulated = Simulated(QUIET, seed)
        run_gate(comparisons(6), simulated, simulated, Rule(), 1e9, seed, clock_s=simulated.clock)
        with_null = {name for name, stage, order in simulated.started if "null" in order}
        assert len(with_null) == 2
        assert not any("null" in order for _, stage, order in simulated.started if stage == "confirm")
        carriers |= with_null
    assert len(carriers) == 6


def test_null_arms_that_differ_take_the_verdicts_back() -> None:
    simulated = Simulated(QUIET, 1, {comparisons(6)[3].name: 0.1}, null_bias=0.05)
    result = run_gate(comparisons(6), simulated, simulated, Rule(), 1e9, 1, clock_s=simulated.clock)
    assert result.untrusted
    assert {judged.verdict for judged in result.cases} == {"inconclusive"}
    assert (result.exit_code(), result.exit_code(strict=True)) == (0, 4)


def test_a_place_that_is_favoured_is_told_and_cancels() -> None:
    machine = replace(QUIET, favours_first=0.03)
    simulated = Simulated(machine, 1)
    result = run_gate(comparisons(6), simulated, simulated, Rule(), 1e9, 1, clock_s=simulated.clock)
    assert result.position == pytest.approx(0.03, abs=0.005)
    assert result.count("slower") + result.count("faster") == 0


def test_all_cases_leaning_one_way_within_the_margin_is_noted_and_fails_nothing() -> None:
    chosen = comparisons(8)
    simulated = Simulated(QUIET, 1, {comparison.name: 0.01 for comparison in chosen})
    result = run_gate(chosen, simulated, simulated, Rule(), 1e9, 1, clock_s=simulated.clock)
    assert result.notes == ["a shift of the whole suite: 8 of 8 cases lean slower"]
    assert result.exit_code() == 0


def test_fresh_pairs_alone_decide_about_a_suspect() -> None:
    """It is slow in the screen and never again: what looked like a slowdown is not confirmed."""

    class Once(Simulated):
        def measure(self, comparison: ArmComparison, stage, order, number, scale) -> Paired:  # type: ignore[no-untyped-def]
            self.slowdowns = {comparison.name: 0.2 if stage == "screen" else 0.0}
            return super().measure(comparison, stage, order, number, scale)

    simulated = Once(QUIET, 3)
    result = run_gate(comparisons(1), simulated, simulated, Rule(), 1e9, 1, clock_s=simulated.clock)
    assert result.cases[0].suspect
    assert result.cases[0].verdict == "same"


def test_a_large_slowdown_gets_fewer_fresh_pairs_than_one_near_the_margin() -> None:
    fresh = {}
    for slowdown in (0.03, 0.1):
        simulated = Simulated(TYPICAL, 3, {comparisons(1)[0].name: slowdown})
        result = run_gate(comparisons(1), simulated, simulated, Rule(), 1e9, 1, clock_s=simulated.clock)
        fresh[slowdown] = len(result.cases[0].fresh)
        assert result.cases[0].verdict == "slower"
    assert fresh[0.1] == Rule().confirm_pairs < fresh[0.03]


def test_the_budget_is_kept_and_what_it_cut_off_is_inconclusive() -> None:
    for budget_s in (30.0, 200.0, 400.0):
        simulated = Simulated(TYPICAL, 2, {comparisons(CASES)[3].name: 0.1})
        result = run_gate(comparisons(CASES), simulated, simulated, Rule(), budget_s, 1, clock_s=simulated.clock)
        assert simulated.seconds <= budget_s
        assert result.exit_code() in (0, 1)
        if budget_s == 30.0:
            assert {judged.verdict for judged in result.cases} == {"inconclusive"}
            assert all("budget was spent" in judged.reason for judged in result.cases)


def test_a_budget_too_small_for_one_pair_as_it_is_gets_shorter_ones() -> None:
    (comparison,) = comparisons(1)
    simulated = Simulated(TYPICAL, 2)
    result = run_gate([comparison], simulated, simulated, Rule(), 3 * comparison.launch_s, 1, clock_s=simulated.clock)
    assert len(result.cases[0].screened) >= 2
    assert result.exit_code() == 0


def test_a_budget_that_building_has_spent_still_gives_a_pair() -> None:
    simulated = Simulated(TYPICAL, 2)
    result = run_gate(comparisons(3), simulated, simulated, Rule(), -10.0, 1, clock_s=simulated.clock)
    assert sorted(len(case.screened) for case in result.cases) == [0, 0, 2]
    assert result.exit_code() == 0


def broken(**how: object) -> Callable[..., Paired]:
    def measure(
        self: Simulated, comparison: ArmComparison, stage: str, order: object, number: int, scale: float
    ) -> Paired:
        return Paired(("base", "head"), {}, **how)  # type: ignore[arg-type]

    return measure


@pytest.mark.parametrize(
    ("how", "verdict", "codes"),
    [
        ({"missing": "head: crashed"}, "missing", (3, 0)),
        ({"wrong": "head: parity"}, "wrong", (3, 3)),
    ],
)
def test_what_could_not_be_measured_is_no_pass_and_no_regression(
    monkeypatch: pytest.MonkeyPatch, how: dict[str, str], verdict: Verdict, codes: tuple[int, int]
) -> None:
    monkeypatch.setattr(Simulated, "measure", broken(**how))
    simulated = Simulated(QUIET, 1)
    result = run_gate(comparisons(2), simulated, simulated, Rule(), 100.0, 1, clock_s=simulated.clock)
    assert {judged.verdict for judged in result.cases} == {verdict}
    assert (result.exit_code(), result.exit_code(allow_missing=True)) == codes


def test_nothing_measured_is_no_pass() -> None:
    assert Result([], Rule()).exit_code() == 3


def test_what_cannot_be_measured_is_told_even_if_building_has_spent_the_budget() -> None:
    class NoBase(Simulated):
        def check(self, comparison: ArmComparison) -> Paired:
            return Paired((), {}, missing="base: it raises" if comparison is chosen[0] else "")

    chosen = comparisons(2)
    simulated = NoBase(QUIET, 1)
    result = run_gate(chosen, simulated, simulated, Rule(), -10.0, 1, clock_s=simulated.clock)
    assert [(case.verdict, case.reason) for case in result.cases] == [
        ("missing", "base: it raises"),
        ("inconclusive", "2 of 6 pairs: the budget was spent"),
    ]
    assert (result.exit_code(), result.exit_code(allow_missing=True)) == (3, 0)


def test_launches_that_drift_too_often_make_a_case_unsteady() -> None:
    class Drifting(Simulated):
        def measure(self, comparison: ArmComparison, stage, order, number, scale) -> Paired:  # type: ignore[no-untyped-def]
            pair = super().measure(comparison, stage, order, number, scale)
            return replace(pair, unsteady=number % 2 == 0)

    simulated = Drifting(QUIET, 1, {comparisons(1)[0].name: 0.2})
    result = run_gate(comparisons(1), simulated, simulated, Rule(), 1e9, 1, clock_s=simulated.clock)
    assert result.cases[0].verdict == "unsteady"
    assert result.exit_code() == 0


def test_disturbed_pairs_are_measured_again_and_left_out_where_enough_others_are_there() -> None:
    class Disturbed(Simulated):
        """The first two pairs are disturbed, and far off."""

        def measure(self, comparison: ArmComparison, stage, order, number, scale) -> Paired:  # type: ignore[no-untyped-def]
            pair = super().measure(comparison, stage, order, number, scale)
            return replace(pair, logs={"head": 1.0}, interference=True) if len(self.started) <= 2 else pair

    simulated = Disturbed(QUIET, 2)
    judged = run_gate(comparisons(1), simulated, simulated, Rule(), 1e9, 1, clock_s=simulated.clock).cases[0]
    assert (len(judged.screened), judged.ratio.pairs, judged.verdict) == (8, 6, "same")
    assert judged.reason == "interference in 2 of 8 pairs"


@pytest.mark.parametrize(("lost", "verdict", "pairs"), [({2, 4}, "same", 8), ({1, 2}, "missing", 2)])
def test_a_pair_without_a_ratio_is_measured_again_and_a_block_of_them_is_a_case_that_cannot_be_measured(
    lost: set[int], verdict: Verdict, pairs: int
) -> None:
    """As of a service, whose highest rate one stall can hide."""

    class Stalled(Simulated):
        def measure(self, comparison: ArmComparison, stage, order, number, scale) -> Paired:  # type: ignore[no-untyped-def]
            pair = super().measure(comparison, stage, order, number, scale)
            return Paired(pair.order, {}, lost="head: a stall") if len(self.started) in lost else pair

    simulated = Stalled(QUIET, 2)
    judged = run_gate(comparisons(1), simulated, simulated, Rule(), 1e9, 1, clock_s=simulated.clock).cases[0]
    assert (judged.verdict, len(judged.screened)) == (verdict, pairs)
    assert judged.reason == ("head: a stall" if verdict == "missing" else "2 of 8 pairs have no ratio: head: a stall")


def test_where_everything_is_disturbed_the_spread_of_the_pairs_speaks() -> None:
    class Busy(Simulated):
        def measure(self, comparison: ArmComparison, stage, order, number, scale) -> Paired:  # type: ignore[no-untyped-def]
            return replace(super().measure(comparison, stage, order, number, scale), interference=True)

    simulated = Busy(BAD, 1)
    judged = run_gate(comparisons(1), simulated, simulated, Rule(), 30.0, 1, clock_s=simulated.clock).cases[0]
    assert judged.verdict == "inconclusive"


def test_exit_1_is_a_confirmed_regression_even_beside_something_missing() -> None:
    comparison = comparisons(1)[0]
    cases = [CaseVerdict(comparison, verdict) for verdict in ("slower", "missing", "inconclusive")]
    assert Result(cases, Rule()).exit_code() == 1


# --- pairs made by hand, on a clock of their own ---


@dataclass
class ByHand:
    """Pairs that take 4 s, or as much less as launches are shortened; head's logarithms by case, stage and place."""

    logs: Callable[[int, Stage, int], float | Paired]
    is_scaled: bool = False
    seconds: float = 100.0
    measured: list[tuple[int, Stage, int, float]] = field(default_factory=list)
    """Batch of the case, stage, number and scale."""
    orders: list[tuple[ArmName, ...]] = field(default_factory=list)
    told: list[float] = field(default_factory=list)

    def check(self, comparison: ArmComparison) -> Paired:
        return Paired((), {})

    def measure(
        self, comparison: ArmComparison, stage: Stage, order: Sequence[ArmName], number: int, scale: float
    ) -> Paired:
        batch = comparison.base.batch
        place = sum((batch, stage) == each[:2] for each in self.measured)
        self.seconds += 4.0 * (scale if self.is_scaled else 1.0)
        self.measured.append((batch, stage, number, scale))
        self.orders.append(tuple(order))
        found = self.logs(batch, stage, place)
        logs: dict[ArmName, float] = {"null": 0.0} if "null" in order else {}
        return found if isinstance(found, Paired) else Paired(tuple(order), {**logs, "head": found})

    def clock(self) -> float:
        return self.seconds

    def doing(self, what: str, left_s: float) -> None:
        self.told.append(left_s)

    def run(self, cases: int, budget_s: float = 1e6, rule: Rule | None = None, seed: int = 1) -> list[CaseVerdict]:
        """The verdicts of a gate of so many cases."""
        return run_gate(comparisons(cases), self, self, rule or Rule(), budget_s, seed, clock_s=self.clock).cases

    def scales(self) -> list[float]:
        return [scale for _, _, _, scale in self.measured]


def around(centre: float, spread: float) -> Callable[[int, Stage, int], float]:
    """Now above, now below."""
    return lambda batch, stage, place: centre + spread * (-1) ** place


def test_screening_is_six_pairs_in_blocks_numbered_one_after_the_other_and_each_tells_what_it_will_take() -> None:
    """Foreseen at two launches of a second each; as soon as a pair is known, at 4 s."""
    gate = ByHand(around(0.0, 0.001))
    cases = gate.run(2)
    assert [len(case.screened) for case in cases] == [6, 6]
    assert {case.verdict for case in cases} == {"same"}
    numbers = [[number for batch, _, number, _ in gate.measured if batch == each] for each in (1, 2)]
    assert numbers == [[2, 3, 4, 5, 6, 7]] * 2
    assert gate.told == [8 + 16, 8 + 32, 16 + 16, 8 + 16, 16, 8]
    for seed in range(4):
        gate = ByHand(around(0.0, 0.001))
        gate.run(1, seed=seed)
        assert all("null" in order for order in gate.orders), "the only case carries the null arm"


@pytest.mark.parametrize(
    ("budget_s", "scales"),
    [
        (3.9, [0.2] * 4),  # two pairs of two launches of a second each do not fit
        (4.0, [1.0] * 2),
        (100.0, [1.0] * 6),
        (43.7, [1.0] * 6),  # 55 % of it are the 24 s that six pairs take
        (40.0, [1.0, 1.0, *[0.875] * 4]),  # 14 s of them are left for four pairs that would take 16
        (30.0, [1.0, 1.0, *[8.5 / 16] * 4]),
        (20.0, [1.0, 1.0, *[0.2] * 4]),
    ],
)
def test_launches_are_shortened_so_that_six_pairs_fit_into_the_screens_share(
    budget_s: float, scales: list[float]
) -> None:
    gate = ByHand(around(0.0, 0.001), is_scaled=True)
    gate.run(1, budget_s)
    assert gate.scales() == pytest.approx(scales)
    both = ByHand(around(0.0, 0.001), is_scaled=True)
    both.run(2, 2 * budget_s)
    assert both.scales()[0] == scales[0]


@pytest.mark.parametrize(
    ("budget_s", "pairs"),
    [
        (23.9, 4),
        (24.0, 6),  # 16 s are over, and another block ends with the budget
        (45.5, 6),  # 70 % of it end before the 32 s that eight pairs take
        (46.0, 8),
        (1e6, 12),
    ],
)
def test_cases_with_wide_intervals_are_screened_further_up_to_a_share_of_the_budget(
    budget_s: float, pairs: int
) -> None:
    (case,) = ByHand(around(0.0, 0.1)).run(1, budget_s)
    assert (len(case.screened), case.verdict) == (pairs, "inconclusive")
    assert case.reason == ("" if pairs >= 6 else "4 of 6 pairs: the budget was spent")

    def disturbed(batch: int, stage: Stage, place: int) -> Paired:
        return Paired(("base", "head"), {"head": 0.001 * (-1) ** place}, interference=place < 2)

    (case,) = ByHand(disturbed).run(1, budget_s)
    assert len(case.screened) == min(pairs, 8), "two more for the two that were disturbed"


def test_suspects_get_as_many_fresh_pairs_as_their_screened_change_less_its_error_needs() -> None:
    rule = Rule(max_screen_pairs=6)
    sd = 0.03 * math.sqrt(6 / 5)  # of three values above and three below
    needed = pairs_needed(sd, 0.05 - sd / math.sqrt(6) - math.log(1.02))
    least = pairs_needed(sd, math.log(1.03) - math.log(1.02))
    assert needed is not None
    assert least is not None
    assert rule.confirm_pairs < needed < rule.max_confirm_pairs < least
    for centre, spread, pairs in (
        (0.05, 0.03, needed // 2 * 2),
        (-0.05, 0.03, needed // 2 * 2),
        (0.2, 0.03, 10),
        (0.03, 0.03, 40),
        (0.085, 0.125, 40),  # no number of pairs would do
    ):
        (case,) = ByHand(around(centre, spread)).run(1, rule=rule)
        assert (case.suspect, len(case.screened), len(case.fresh)) == (True, 6, pairs)


@pytest.mark.parametrize(
    ("left_s", "fresh", "verdicts"),
    [
        (80.0, [10, 10], ["slower", "slower"]),
        (79.0, [8, 10], ["slower", "slower"]),  # half of what is left holds 9 pairs of 4 s
        (48.0, [6, 6], ["slower", "slower"]),
        (47.0, [0, 10], ["inconclusive", "slower"]),
        (23.0, [0, 0], ["inconclusive", "inconclusive"]),
    ],
)
def test_what_is_left_is_shared_among_suspects_the_slowest_first_and_too_few_fresh_pairs_are_none(
    left_s: float, fresh: list[int], verdicts: list[Verdict]
) -> None:
    """Three cases, of which the first is the same, and the third is slower than the second, are screened in 72 s."""
    changes = {1: 0.0, 2: 0.06, 3: 0.10}
    gate = ByHand(lambda batch, stage, place: changes[batch] + 0.002 * (-1) ** place)
    same, slow, slowest = gate.run(3, 72.0 + left_s, Rule(max_screen_pairs=6))
    assert (same.verdict, same.suspect, same.fresh) == ("same", False, [])
    assert [len(each.fresh) for each in (slowest, slow)] == fresh
    assert [each.verdict for each in (slowest, slow)] == verdicts
    unmeasured = "a suspect, and the budget was spent before it was confirmed"
    assert [each.reason for each in (slowest, slow)] == ["" if count else unmeasured for count in fresh]


@pytest.mark.parametrize(("unsteady", "verdict"), [(2, "same"), (3, "unsteady")])
def test_a_quarter_of_the_pairs_may_be_unsteady(unsteady: int, verdict: Verdict) -> None:
    def measured(batch: int, stage: Stage, place: int) -> Paired:
        logs: dict[ArmName, float] = {"head": 0.001 * (-1) ** place}
        return Paired(("base", "head"), logs, unsteady=place < unsteady)

    (case,) = ByHand(measured).run(1, rule=Rule(screen_pairs=8, max_screen_pairs=8))
    assert case.verdict == verdict
    assert case.reason == ("" if unsteady == 2 else "in 3 of 8 pairs the ratio drifted, or had two modes")


def test_a_case_whose_pair_has_a_problem_is_measured_no_further() -> None:
    gate = ByHand(lambda batch, stage, place: Paired(("base", "head"), {}, missing="gone") if batch == 1 else 0.0)
    gone, other = gate.run(2)
    assert (gone.verdict, len(gone.screened), other.verdict, len(other.screened)) == ("missing", 1, "same", 6)
