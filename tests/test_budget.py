"""How a run's time is foreseen and shared out, on a clock of our own."""

from datetime import datetime

import pytest

from cnnbench.records import artifact
from cnnbench.records.record import Launch
from cnnbench.runner import machine
from cnnbench.runner.budget import FIRST_GUESS_LAYER_S, PROOF_CALLS, WARMUP_CALLS, Budget
from cnnbench.runner.interleave import MIN_ROUNDS, NARROW_HALF_WIDTH, WARMUP_LIMIT_S, Allowance, Outcome
from cnnbench.runner.plan import Group, build_order, compiled_ahead, group_cases, models_of, title, unfinished
from cnnbench.suite.case import Case, ModelSpec
from tests.records import ENVIRONMENT, measurement, record

SAMPLING_S = 4.0


def case(model: str, batch: int = 1) -> Case:
    spec = ModelSpec(model=model, image_size=(28, 28) if model == "lenet5" else (224, 224))
    return Case(spec=spec, workload="inference", runtime="eager", batch=batch)


SMALL: list[Group] = [(case("lenet5", batch),) for batch in range(1, 11)]
BIG: Group = (case("resnet50", 8),)


class Run:
    """A budget on a clock that goes on as launches take time."""

    def __init__(self, budget_s: float, groups: list[Group], launches: int = 1) -> None:
        self.now_s = 0.0
        spans = {each.id: SAMPLING_S for group in groups for each in group}
        self.budget = Budget(budget_s, spans, launches, clock_s=lambda: self.now_s)
        self.budget.first = list(groups)

    def launch(
        self, group: Group, start_s: float, warmup_s: float = 1.0, half_width: float | None = 0.1, call_s: float = 0.01
    ) -> Allowance:
        """One that takes its sampling time, and so long before it."""
        allowance = self.budget.allowance(group)
        warmup_s *= allowance.warmup_s / WARMUP_LIMIT_S
        launches = [launched(allowance.sampling_s, warmup_s, call_s) for _ in group]
        self.now_s += len(group) * (start_s + PROOF_CALLS * call_s + warmup_s + allowance.sampling_s)
        outcomes = [Outcome(c, "g", datetime.now(), launch) for c, launch in zip(group, launches, strict=True)]
        self.budget.measured(group, outcomes, half_width)
        return allowance


def launched(sampling_s: float, warmup_s: float, call_s: float) -> Launch:
    samples = max(1, round(sampling_s / call_s))
    (launch,) = measurement([sampling_s / samples], samples=samples).launches
    return launch.model_copy(update={"warmup_s": warmup_s})


def test_with_time_enough_every_group_has_all_that_it_should() -> None:
    run = Run(1000, SMALL)
    allowance = run.budget.allowance(SMALL[0])
    assert (allowance.sampling_s, allowance.warmup_s) == (SAMPLING_S, WARMUP_LIMIT_S)
    assert allowance.whole_s == pytest.approx(1000 - 9 * 7.0, rel=1e-3), "what the others do not need"


def test_with_less_time_warm_ups_and_samples_of_all_groups_are_cut_alike_and_the_budget_is_kept() -> None:
    run = Run(50, SMALL)  # of 70 s
    allowances = [run.launch(group, start_s=2.0) for group in SMALL]
    for allowance in allowances:
        assert allowance.sampling_s == pytest.approx(SAMPLING_S * 3 / 5, rel=0.05)
        assert allowance.warmup_s == pytest.approx(WARMUP_LIMIT_S * 3 / 5, rel=0.05)
    assert run.now_s == pytest.approx(50, rel=0.01)


def test_starts_that_take_longer_than_foreseen_cost_the_later_groups_their_samples_and_not_their_turn() -> None:
    run = Run(50, SMALL)
    for group in SMALL:
        assert not run.budget.is_over
        run.launch(group, start_s=4.5)
    assert run.now_s == pytest.approx(50, rel=0.1)


def test_a_budget_that_cannot_be_kept_may_be_overdrawn_by_a_tenth_for_first_launches() -> None:
    run = Run(10, SMALL)
    run.now_s = 9.0
    allowance = run.budget.allowance(SMALL[0])
    assert allowance.sampling_s == 0.0
    assert 0 < allowance.warmup_s < 0.2
    run.now_s = 10.9
    assert not run.budget.is_over
    run.now_s = 11.1
    assert run.budget.is_over


def test_a_group_that_would_overdraw_it_further_is_left_out_and_a_shorter_one_is_not() -> None:
    run = Run(100, [*SMALL, BIG])
    assert run.budget.fits(BIG), "nothing was measured that says otherwise"
    run.launch(SMALL[0], start_s=30, call_s=1e-5)
    run.now_s += 40
    assert run.budget.fits(SMALL[1])
    assert not run.budget.fits(BIG), "its calls take as many times as long as it has MACs"
    run.now_s += 10
    assert not run.budget.fits(SMALL[1]), "starts took 30 s"
    other: Group = (BIG[0].model_copy(update={"runtime": "ort"}),)
    assert run.budget.fits(other)


def test_there_is_time_for_groups_while_their_shortest_launches_and_what_is_to_be_built_fit() -> None:
    run = Run(100, SMALL)
    assert run.budget.has_time_for(SMALL)
    run.budget.built(SMALL[0][0].spec, 60.0)
    run.budget.builds = [BIG[0].spec]  # for as long as its many layers say
    assert not run.budget.has_time_for(SMALL)
    assert run.budget.has_time_for(SMALL, alone=True)
    run.now_s = 99.0
    assert not run.budget.has_time_for(SMALL, alone=True)


def test_another_launch_ends_within_the_budget() -> None:
    run = Run(100, [SMALL[0]], launches=3)
    run.launch(SMALL[0], start_s=2.0)
    run.now_s = 90.0
    assert run.budget.allowance(SMALL[0]).whole_s == pytest.approx(10.0)


def test_the_widest_group_that_fits_is_launched_again_until_it_is_narrow_or_has_its_launches() -> None:
    narrow, wide, failed, slow = SMALL[:4]
    run = Run(66, [narrow, wide, failed, slow], launches=3)
    for group, half_width, start_s in ((narrow, 0.001, 1.0), (wide, 0.2, 1.0), (failed, None, 1.0), (slow, 0.5, 20.0)):
        run.launch(group, start_s, half_width=half_width)
    order: list[Group] = []
    while (again := run.budget.to_repeat()) is not None:
        order.append(again)
        run.launch(again, 1.0, half_width=0.001 if again is narrow else 0.2)
    assert order == [wide, wide, narrow]


def test_what_remains_is_foreseen_within_a_fifth_once_some_groups_are_measured() -> None:
    run = Run(120, SMALL, launches=2)
    told: list[tuple[float, float]] = []
    for group in SMALL[:4]:
        run.launch(group, start_s=3.0, warmup_s=2.5, half_width=0.001)
    for group in SMALL[4:]:
        told.append((run.now_s, run.budget.remaining_s()))
        run.launch(group, start_s=3.0, warmup_s=2.5, half_width=0.001)
    while (again := run.budget.to_repeat()) is not None:
        told.append((run.now_s, run.budget.remaining_s()))
        run.launch(again, start_s=3.0, warmup_s=2.5, half_width=0.001)
    early = [(now_s, left_s) for now_s, left_s in told if run.now_s - now_s > 15]
    assert all(abs(now_s + left_s - run.now_s) < 0.2 * (run.now_s - now_s) for now_s, left_s in early)


def test_what_cases_need_is_foreseen_from_how_fast_their_artifacts_were_built() -> None:
    run = Run(1000, [BIG])
    before = run.budget.remaining_s()
    run.budget.learn_references({BIG[0].spec: 1.0})
    faster = run.budget.remaining_s()
    assert faster < before
    slow, slower = Run(1000, [BIG]), Run(1000, [BIG])
    slow.budget.learn_references({BIG[0].spec: 1e3})
    slower.budget.learn_references({BIG[0].spec: 1e4})
    assert slow.budget.remaining_s() == slower.budget.remaining_s(), (
        "a machine that swaps while it builds is not so slow"
    )


def test_what_is_not_built_is_foreseen_from_what_is() -> None:
    other = case("mobilenet_v2", 64)
    run = Run(1000, [(other,)])
    before = run.budget.remaining_s()
    run.budget.learn_references({BIG[0].spec: 1.0})
    assert run.budget.remaining_s() < 0.8 * before


def test_what_remains_is_told_without_building_a_network_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(1000, [*SMALL, BIG])
    run.budget.learn_references({BIG[0].spec: 1.0})
    told = run.budget.remaining_s()

    def build_again(spec: ModelSpec) -> None:
        raise AssertionError(f"{spec.label} is built while cases are measured, at each line of progress")

    monkeypatch.setattr(ModelSpec, "closed_form", property(build_again))
    assert run.budget.remaining_s() == told


def test_large_networks_tell_how_long_calls_take_and_small_ones_hardly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_threads", lambda: 2)
    other = case("mobilenet_v2", 64)
    run = Run(1000, [SMALL[0], BIG, (other,)])
    run.budget.learn_references({SMALL[0][0].spec: 1e-3, BIG[0].spec: 1.0, other.spec: 0.25})
    guess_s = 64 * 0.25 / 18 / machine.usable_threads()
    run.launch(SMALL[0], start_s=2.0, call_s=0.01)  # a hundred times its reference
    run.budget.first = [(other,)]
    assert run.budget.remaining_s() == pytest.approx(2.0 + 4 * guess_s + max(5.0, 13 * guess_s), rel=0.15)
    run.budget.first = [BIG, (other,)]
    run.launch(BIG, start_s=2.0, call_s=5 * 8 / 18 / machine.usable_threads())
    call_s = 5 * guess_s
    assert run.budget.remaining_s() == pytest.approx(2.0 + 17 * call_s, rel=0.4), (
        "five times the speed of its reference"
    )


def test_what_was_learnt_of_one_runtime_is_not_held_against_another() -> None:
    deep = case("resnet50", 1)
    others: Group = (deep.model_copy(update={"runtime": "ort"}),)
    run = Run(1000, [(deep,), others])
    run.launch((deep,), start_s=2.0, call_s=3.0)
    slow_s = run.budget.remaining_s()
    run.launch(others, start_s=2.0, call_s=0.01)
    run.budget.first = [others]
    assert slow_s == pytest.approx(7.0, rel=0.2)
    assert run.budget.remaining_s() == pytest.approx(7.0, rel=0.1)


def test_time_goes_on_within_a_launch() -> None:
    run = Run(1000, SMALL)
    run.launch(SMALL[0], start_s=2.0)
    run.budget.allowance(SMALL[1])
    before = run.budget.remaining_s()
    run.now_s += 3.0
    assert run.budget.remaining_s() == pytest.approx(before - 3.0)


def test_further_launches_are_foreseen_only_for_groups_that_may_need_them() -> None:
    run = Run(1000, SMALL[:2], launches=3)
    assert run.budget.remaining_s() == pytest.approx(2 * 3 * 7.0, rel=1e-3)
    for _ in range(2):
        run.launch(SMALL[0], start_s=2.0, half_width=NARROW_HALF_WIDTH / 2)
    assert run.budget.remaining_s() == pytest.approx(2 * 7.0, rel=0.01), (
        "the other one, twice: as the first it will be narrow"
    )


def test_builds_are_foreseen_by_layers_and_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_threads", lambda: 2)
    budget = Run(1000, []).budget
    small, big = SMALL[0][0].spec, BIG[0].spec

    def left_s(*builds: ModelSpec) -> float:
        budget.builds = list(builds)
        return budget.remaining_s()

    assert FIRST_GUESS_LAYER_S * 12 < left_s(small) < left_s(big)
    assert left_s(small, small) == pytest.approx(left_s(small)), "two cores build two at once"
    budget.built(small, 3.0)
    assert left_s(small) == pytest.approx(3.0)
    foreseen = left_s(big)  # 175 layers against 12
    assert 10.0 < foreseen < 3.0 * 175 / 12
    budget.built(big, 2 * foreseen)
    assert foreseen < left_s(big) < 2 * foreseen


def test_models_that_may_be_wrong_are_built_first_and_then_the_largest() -> None:
    own = ModelSpec(model="mine:build")
    step = case("lenet5").model_copy(update={"workload": "training", "runtime": "ort"})
    models = models_of([*SMALL, BIG, (step,)])
    assert models == {SMALL[0][0].spec: ("all",), BIG[0].spec: ()}
    assert build_order([*models, own]) == [own, BIG[0].spec, SMALL[0][0].spec]


def test_a_large_model_is_foreseen_to_take_longer_than_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_threads", lambda: 2)
    run = Run(1000, [BIG])
    run.launch(BIG, start_s=1.0, call_s=3.3)  # 32.7 G MACs in 3.3 s
    run.budget.first = [BIG]
    assert run.budget.remaining_s() == pytest.approx((PROOF_CALLS + WARMUP_CALLS + MIN_ROUNDS) * 4.0, rel=0.05)


def test_tiny_networks_do_not_make_large_ones_look_slow() -> None:
    run = Run(1000, [SMALL[0], BIG])
    before = run.budget.remaining_s() - 7.0
    run.launch(SMALL[0], start_s=2.0)
    assert run.budget.remaining_s() == pytest.approx(before, rel=0.1)


def test_groups_that_are_foreseen_to_take_no_time_begin_when_none_is_left() -> None:
    """Nothing is known of a file that nobody has counted; its first launch took no longer than its calls seem to."""
    files: list[Group] = [(case("net.onnx", batch).model_copy(update={"runtime": "ort"}),) for batch in (1, 2)]
    run = Run(20, files)
    run.launch(files[0], start_s=-1.0)
    run.now_s = 20.5
    assert not run.budget.is_over
    assert run.budget.allowance(files[1]).whole_s == 0.0


RESNET50_MACS = 4_089_184_256
DEEP, TWO_CORES = BIG[0], 2


def foreseen(
    *cases: Case, references_s: dict[ModelSpec, float] | None = None, budget_s: float = 1000.0, launches: int = 1
) -> float:
    """How long a run of these cases takes, on two cores, a group each."""
    run = Run(budget_s, [(each,) for each in cases], launches)
    run.budget.learn_references(references_s or {})
    return run.budget.remaining_s()


def test_a_first_launch_is_foreseen_from_starts_calls_warm_up_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds to start; 4 calls of a proof; then 1 s of warm-up and 4 s of samples, or 13 calls if those take more.

    At 10 G MACs per second and core; at the reference's speed, of 18 images, where there is one.
    """
    monkeypatch.setattr(machine, "usable_threads", lambda: TWO_CORES)
    own, first_s = ModelSpec(model="mine:build"), RESNET50_MACS / 10e9
    single = DEEP.model_copy(update={"batch": 1})
    assert foreseen(DEEP) == pytest.approx(2 + 17 * 8 * first_s / 2)
    assert foreseen(DEEP.model_copy(update={"threads": 1})) == pytest.approx(2 + 17 * 8 * first_s)
    assert foreseen(single) == pytest.approx(2 + 4 * first_s / 2 + 5)
    assert foreseen(DEEP, single) == pytest.approx(foreseen(DEEP) + foreseen(single))
    trained = DEEP.model_copy(update={"workload": "training"})
    assert foreseen(trained) == pytest.approx(2 + 17 * 8 * 3 * first_s / 2)
    assert foreseen(DEEP, references_s={DEEP.spec: 9.0}) == pytest.approx(2 + 17 * 8 * 0.5 / 2)
    assert foreseen(DEEP, references_s={DEEP.spec: 1e3}) == pytest.approx(2 + 17 * 8 * 10 * first_s / 2)
    assert foreseen(DEEP.model_copy(update={"spec": own}), references_s={own: 36.0}) == pytest.approx(2 + 17 * 8)
    assert foreseen(DEEP.model_copy(update={"spec": own})) == pytest.approx(2 + 5)
    other = case("mobilenet_v2", 64)  # of 300,774,272 MACs
    other_s = 64 * 300_774_272 / 10e9 / 2
    half_s, twice_s = (18 * factor * first_s for factor in (0.5, 2.0))
    assert foreseen(other, references_s={DEEP.spec: half_s}) == pytest.approx(2 + 17 * other_s / 2)
    assert foreseen(other, references_s={DEEP.spec: twice_s}) == pytest.approx(2 + 17 * other_s)
    assert foreseen(other, references_s={own: 36.0}) == pytest.approx(2 + 17 * other_s)
    both = {DEEP.spec: half_s, case("mobilenet_v2").spec.model_copy(update={"seed": 1}): 18 * 0.0300774272}
    share = (0.5 * first_s + 0.0300774272) / (first_s + 0.0300774272)
    assert foreseen(other, references_s=both) == pytest.approx(2 + 17 * other_s * share)
    assert Run(10.0, [BIG]).budget.allowance(BIG).sampling_s == SAMPLING_S, "less would save nothing"


def test_launches_tell_how_long_starts_warm_ups_and_calls_take_in_each_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 s, 5 + 4 s are warm-ups and samples, and 4 calls of each 0.25 and 0.5 s: so each start took 4 s."""
    monkeypatch.setattr(machine, "usable_threads", lambda: TWO_CORES)
    # A call of four images is guessed at 0.1 s, and takes (0.1 + 0.25) / (0.1 + 0.2) and (0.1 + 0.5) / 0.3 of that.
    eager_s, ort_s = 0.1 * 0.35 / 0.3, 0.1 * 0.6 / 0.3

    def learned(*launches: Launch | None, budget_s: float = 1000.0, workload: str = "inference") -> float:
        both = tuple(DEEP.model_copy(update={"runtime": name, "workload": workload}) for name in ("eager", "ort"))
        later = tuple(each.model_copy(update={"batch": 4}) for each in both)
        run = Run(budget_s, [both, later])
        run.budget.learn_references({DEEP.spec: 0.9})  # 0.05 s an image: 0.2 s a call of eight
        run.budget.allowance(both)
        run.now_s = 20.0
        outcomes = [Outcome(each, "g", datetime.now(), launch) for each, launch in zip(both, launches, strict=True)]
        run.budget.measured(both, outcomes, 0.1)
        run.budget.budget_s = 1000.0
        return run.budget.remaining_s()

    def made(call_s: float, calls: int, warmup_s: float) -> Launch:
        return launched(call_s * calls, warmup_s, call_s)

    (two_calls,) = measurement([0.5, 0.5], samples=4).launches
    two_calls = two_calls.model_copy(update={"calls_per_sample": 2, "warmup_s": 1.0})
    whole_s = 2 * 4 + 4 * (eager_s + ort_s) + 1 + 4 + 2 + 4
    assert learned(two_calls, made(0.5, 4, 2.0)) == pytest.approx(whole_s)
    # The same with half of what they should have: warmed up for as long, they would be for 2 and 4 s, of 3 at most.
    assert learned(two_calls, made(0.5, 4, 2.0), budget_s=24.3) == pytest.approx(whole_s + 1 + 1)
    least = learned(made(0.25, 16, 0.05), made(0.5, 4, 0.02), budget_s=1.0)  # a thirtieth of 3 s, however short
    assert least == pytest.approx(20 - 6 - 3 - 0.07 + 4 * (eager_s + ort_s) + 1.5 + 4 + 0.6 + 4)
    slow = made(0.5, 4, 30.0)  # nothing has started before it began
    assert learned(slow, slow) == pytest.approx(2 * (4 * ort_s + 3 + 4))
    unsampled = slow.model_copy(update={"blocks": [], "warmup_s": 2.0})  # a call of it took no time
    assert learned(unsampled, unsampled) == pytest.approx(2 * (8 + 4 * 0.1 / 3 + 2 + 4))
    unknown_s = 2 * (2 + 4 * 0.1 + 1 + 4)
    assert learned(two_calls, None) == pytest.approx(unknown_s), "one that hung tells nothing"
    assert learned(two_calls, two_calls, workload="serving") == pytest.approx(unknown_s)


def test_shares_are_what_is_left_beyond_the_least_that_all_first_launches_take() -> None:
    """Ten groups of 2 s to start and 5 s to warm up and sample; lenet5's calls take next to nothing."""
    for budget_s, spent_s, share, whole_s in (
        (1000.0, 0.0, 1.0, 1000 - 9 * 7.0),
        (75.0, 0.0, 1.0, 75 - 9 * 7.0),
        (45.0, 0.0, 0.5, 4.5),
        (50.0, 5.0, 0.5, 4.5),
        (10.0, 0.0, 0.0, 1.0),  # a tenth of what there is
        (10.0, 10.5, 0.0, 0.0),
    ):
        run = Run(budget_s, SMALL)
        run.now_s = spent_s
        allowance = run.budget.allowance(SMALL[0])
        assert allowance.sampling_s == pytest.approx(4 * share, abs=1e-2)
        assert allowance.warmup_s == pytest.approx(max(0.1, 3 * share), abs=1e-2)
        assert allowance.whole_s == pytest.approx(whole_s, abs=2e-2)
        run.budget.first = SMALL[1:]
        again = run.budget.allowance(SMALL[0])
        assert (again.sampling_s, again.warmup_s, again.whole_s) == (4.0, 3.0, max(0.0, budget_s - spent_s))


def ended(run: Run, group: Group, seconds: float, half_width: float | None) -> None:
    run.budget.allowance(group)
    run.now_s += seconds
    run.budget.measured(group, [], half_width)


@pytest.mark.parametrize(
    ("budget_s", "remaining_s"),
    [
        (1000.0, 7 + 2 * 20 + 2 * 25 + 2 * 7),
        (200.0, 7 + 100.5),  # of the 110 that are left 7 are needed, and in the last 2.5 no launch fits
        (100.0, 7.5),
        (92.0, 2.0),
        (80.0, 0.0),
    ],
)
def test_further_launches_are_those_of_wide_groups_and_of_the_share_of_others_that_will_be(
    budget_s: float, remaining_s: float
) -> None:
    """Of two groups that were launched twice, one is wide: so others get a second launch, and half of two more."""
    narrow, wide, once, failed, waits = SMALL[:5]
    run = Run(budget_s, [narrow, wide, once, failed, waits], launches=4)
    for group, seconds, half_width in (
        (narrow, 10.0, NARROW_HALF_WIDTH),
        (narrow, 10.0, NARROW_HALF_WIDTH),
        (wide, 20.0, 0.2),
        (wide, 20.0, 0.2),
        (once, 25.0, 0.3),
        (failed, 5.0, None),
    ):
        ended(run, group, seconds, half_width)
    assert run.budget.remaining_s() == pytest.approx(remaining_s, abs=0.02)


def test_what_is_still_to_be_built_takes_its_time_from_the_groups_share() -> None:
    run = Run(45.0, SMALL[:4])  # whose 28 s are 8 s at least
    assert run.budget.remaining_s() == pytest.approx(28.0, abs=0.02)
    run.budget.built(SMALL[0][0].spec, 25.0)
    run.budget.builds = [SMALL[0][0].spec]
    assert run.budget.remaining_s() == pytest.approx(25 + 20, abs=0.02)
    twice = Run(1000.0, SMALL[:1], launches=2)
    assert twice.budget.remaining_s() == pytest.approx(2 * 7.0, abs=0.02)


def test_what_a_launch_has_done_of_what_was_foreseen_of_it_is_over() -> None:
    for again, passed_s, over_s in ((False, 3.0, 3.0), (False, 30.0, 7.0), (True, 3.0, 3.0), (True, 30.0, 7.0)):
        run = Run(1000.0, SMALL[:2], launches=3)
        if again:
            ended(run, SMALL[0], 10.0, 0.2)
        before_s = run.budget.remaining_s()
        run.budget.allowance(SMALL[0])
        run.now_s += passed_s
        assert before_s - run.budget.remaining_s() == pytest.approx(over_s, abs=0.02)


def test_a_group_of_which_one_case_is_unknown_is_not_left_out() -> None:
    both: Group = (DEEP, DEEP.model_copy(update={"runtime": "ort"}))
    run = Run(100.0, [(DEEP,), both])
    run.launch((DEEP,), start_s=50.0)
    run.now_s = 99.0
    assert not run.budget.fits((DEEP,))
    assert run.budget.fits(both)
    run.now_s = 110.0
    assert run.budget.is_over, "at a tenth more than the budget"


def test_what_is_built_is_foreseen_at_its_layers_and_twenty_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_threads", lambda: TWO_CORES)
    budget, lenet, own = Run(1000, []).budget, SMALL[0][0].spec, ModelSpec(model="mine:build")
    for builds, layers in (([lenet], 32), ([own], 120), ([lenet, own], 152 / 2), ([lenet, own, lenet], 184 / 2)):
        budget.builds = builds
        assert budget.remaining_s() == pytest.approx(0.11 * layers)
    budget.built(lenet, 6.0)
    budget.built(own, 1.6)  # 0.05 s a layer
    assert budget.remaining_s() == pytest.approx(0.05 * 92)


# --- what a run has to do ---


def test_a_case_is_finished_where_its_record_is_of_this_machine_and_of_what_it_depends_on_now() -> None:
    done, elsewhere, unknown, changed, same, absent = (case("lenet5", batch) for batch in range(1, 7))
    elsewhere_is = ENVIRONMENT.machine.model_copy(update={"cpu": "Another CPU"})
    records = {
        done.id: record(done),
        elsewhere.id: record(elsewhere).model_copy(
            update={"environment": ENVIRONMENT.model_copy(update={"machine": elsewhere_is})}
        ),
        unknown.id: record(unknown).model_copy(update={"environment": None}),
        changed.id: record(changed).model_copy(update={"depends": "another"}),
        same.id: record(same).model_copy(update={"depends": artifact.depends_on(same)}),
    }
    cases = [done, elsewhere, unknown, changed, same, absent]
    assert unfinished(cases, records, ENVIRONMENT) == [elsewhere, changed, absent]


def test_groups_are_in_the_suites_order_and_so_are_their_cases() -> None:
    one, two = case("lenet5", 1), case("lenet5", 8)
    ort_one, ort_two = (each.model_copy(update={"runtime": "ort"}) for each in (one, two))
    half = ort_two.model_copy(update={"precision": "fp16"})
    assert group_cases([ort_two, one, two, half, ort_one]) == [(ort_two, two, half), (one, ort_one)]
    assert title((ort_two, two, half)) == "lenet5/inference/ort+eager/cpu/fp32+fp16/b8"


def test_what_is_made_for_cases_of_a_model_is_made_once_for_each() -> None:
    quantised = [case("lenet5", batch).model_copy(update={"runtime": "ort", "precision": "int8"}) for batch in (1, 8)]
    other = case("resnet50").model_copy(update={"runtime": "ort", "precision": "int8"})
    finer = quantised[0].model_copy(update={"precision": "int8-7bit"})
    groups: list[Group] = [(case("lenet5"), quantised[0]), (quantised[1], other), (finer,)]
    assert compiled_ahead(groups, quantised[0].spec) == (quantised[1], finer)
    packages = [case("lenet5", batch).model_copy(update={"runtime": "aot", "threads": 2}) for batch in (1, 8)]
    assert compiled_ahead([packages], packages[0].spec) == tuple(packages)
