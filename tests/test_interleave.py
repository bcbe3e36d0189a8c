"""Blocks in random order each round, until intervals are narrow or time is spent; a failure stays with its case."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cnnbench.errors import WorkerCrashed, WorkerError
from cnnbench.records.messages import (
    Closed,
    Failure,
    Load,
    Loaded,
    Open,
    Opened,
    Request,
    Sample,
    Sampled,
    Warm,
    Warmed,
)
from cnnbench.records.reason import Interference, Reason
from cnnbench.records.record import Block, Memory, Parity
from cnnbench.runner import interleave
from cnnbench.runner.interference import SystemCounters
from cnnbench.runner.interleave import (
    MIN_ROUNDS,
    PLANNED_ROUNDS,
    Allowance,
    Blocks,
    GroupMember,
    Outcome,
    Participant,
    WorkerParticipant,
    measure_group,
    measure_interleaved,
)
from cnnbench.runner.plan import group_cases
from cnnbench.runner.worker_process import Worker
from tests.in_process import RAN, Answer, ScriptedWorker
from tests.records import case


class Fake:
    """A participant on a shared clock that writes down what is done to it."""

    log: list[str]

    def __init__(
        self, name: str, log: list[str], clock: list[float], noise: random.Random | None, dies_in: int = 10**9
    ) -> None:
        self.name, self.log, self.clock, self.noise, self.dies_in = name, log, clock, noise, dies_in
        self.blocks = 0

    def resume(self) -> None:
        self.log.append(f"resume {self.name}")

    def suspend(self) -> None:
        self.log.append(f"suspend {self.name}")

    def sample(self, seconds: float) -> Sampled:
        if self.blocks == self.dies_in:
            raise WorkerCrashed("killed")
        self.blocks += 1
        self.clock[0] += seconds
        self.log.append(f"sample {self.name}")
        seconds = 0.01 * (self.noise.lognormvariate(0, 0.2) if self.noise else 1.0)
        return Sampled(seconds={"forward": [seconds]})


def pair(noisy: bool, **options: int) -> tuple[list[Fake], list[str], list[float]]:
    log: list[str] = []
    clock = [0.0]
    noise = random.Random(1) if noisy else None
    return [Fake("a", log, clock, noise, **options), Fake("b", log, clock, noise)], log, clock


def test_each_block_runs_alone_while_the_other_is_suspended() -> None:
    participants, log, clock = pair(noisy=False)
    measure_interleaved(participants, 1.0, random.Random(0), clock_s=lambda: clock[0])
    for index in range(0, len(log), 3):
        name = log[index][-1]
        assert log[index : index + 3] == [f"resume {name}", f"sample {name}", f"suspend {name}"]


def test_the_order_within_a_round_is_random_and_comes_from_the_seed() -> None:
    orders = []
    for _ in range(2):
        participants, log, clock = pair(noisy=True)
        measure_interleaved(participants, 10.0, random.Random(7), clock_s=lambda clock=clock: clock[0])  # type: ignore[misc]
        orders.append([line[-1] for line in log if line.startswith("sample")])
    assert orders[0] == orders[1]
    rounds = {"".join(orders[0][i : i + 2]) for i in range(0, len(orders[0]), 2)}
    assert rounds == {"ab", "ba"}


def test_narrow_intervals_end_a_launch_early() -> None:
    participants, _, clock = pair(noisy=False)
    results = measure_interleaved(participants, 100.0, random.Random(0), clock_s=lambda: clock[0])
    assert [len(result.blocks) for result in results] == [6] * 2 == [MIN_ROUNDS] * 2
    assert {result.stopped for result in results} == {"all intervals within 1%"}


def test_blocks_with_interference_are_told_and_do_not_count_for_narrow_intervals() -> None:
    """The host takes a tenth of the CPU in the first two rounds of the first participant."""
    (a, b), _, clock = pair(noisy=False)
    seen: list[str] = []

    def read(place: int) -> SystemCounters:
        stolen = 0.02 * min(a.blocks, 2) if place == 0 else 0.0
        return SystemCounters(0.1 * (a, b)[place].blocks, steal_s=stolen, energy_j=((5.0 * a.blocks, 1e9),))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interleave, "affinity_cores", lambda: 2)
        one, other = measure_interleaved(
            [a, b], 2.0, random.Random(0), seen.append, clock_s=lambda: clock[0], counters=read
        )
    disturbed = [Interference(kind="steal", amount=0.1)]
    assert [block.interference for block in one.blocks] == [disturbed] * 2 + [[]] * 6
    assert [block.interference for block in other.blocks] == [[]] * 8
    assert {block.joules for block in one.blocks} == {5.0}
    assert seen == [f"round {number}" for number in range(1, 9)]


def test_wide_intervals_use_the_whole_budget_of_both() -> None:
    participants, _, clock = pair(noisy=True)
    results = measure_interleaved(participants, 2.0, random.Random(0), clock_s=lambda: clock[0])
    assert {result.stopped for result in results} == {"budget spent"}
    assert [len(result.blocks) for result in results] == [20] * 2 == [PLANNED_ROUNDS] * 2
    assert clock[0] == pytest.approx(4.0), "2 s of each"
    assert [block.round for block in results[1].blocks] == list(range(20))


def test_a_budget_too_small_still_gives_enough_rounds_for_an_interval() -> None:
    participants, _, clock = pair(noisy=True)
    results = measure_interleaved(participants, 1e-9, random.Random(0), clock_s=lambda: clock[0] * 1e9)
    assert [len(result.blocks) for result in results] == [MIN_ROUNDS] * 2


def test_a_group_that_is_late_ends_after_the_round_that_it_is_in() -> None:
    participants, _, clock = pair(noisy=True)
    results = measure_interleaved(participants, 2.0, random.Random(0), clock_s=lambda: clock[0], ends_s=0.25)
    assert {result.stopped for result in results} == {"the time for the group was spent"}
    assert [len(result.blocks) for result in results] == [2] * 2
    late = measure_interleaved(participants, 2.0, random.Random(0), clock_s=lambda: clock[0], ends_s=0.0)
    assert [len(result.blocks) for result in late] == [1] * 2
    clock[0] = 0.0
    sharp = measure_interleaved(participants, 2.0, random.Random(0), clock_s=lambda: clock[0], ends_s=0.2)
    assert [len(result.blocks) for result in sharp] == [1] * 2, "two blocks of 0.1 s end with it"


def test_as_many_rounds_are_measured_as_are_asked_for_however_narrow_the_intervals() -> None:
    participants, _, clock = pair(noisy=False)
    results = measure_interleaved(participants, 2.0, random.Random(0), clock_s=lambda: clock[0], rounds=9)
    assert [(len(result.blocks), result.stopped) for result in results] == [(9, "9 rounds asked for")] * 2


def test_measuring_ends_with_the_round_in_which_the_last_has_died() -> None:
    said: list[str] = []
    alone = Fake("a", [], [0.0], None, dies_in=1)
    (found,) = measure_interleaved([alone], 100.0, random.Random(0), said.append)
    assert (len(found.blocks), found.stopped, said) == (1, "", ["round 1", "round 2"])


def test_a_participant_that_dies_leaves_the_others_to_go_on() -> None:
    participants, _, clock = pair(noisy=True, dies_in=3)
    a, b = measure_interleaved(participants, 2.0, random.Random(0), clock_s=lambda: clock[0])
    assert (str(a.error), len(a.blocks)) == ("crashed: killed", 3)
    assert b.error is None
    assert len(b.blocks) > MIN_ROUNDS


def test_cases_that_differ_in_their_runtime_alone_are_one_group() -> None:
    mixed = [case("eager", batch=1), case("eager", batch=8), case("ort", batch=1), case("ort", batch=8)]
    groups = [[c.backend + f"/b{c.batch}" for c in group] for group in group_cases(mixed)]
    assert groups == [["eager/cpu/b1", "ort/cpu/b1"], ["eager/cpu/b8", "ort/cpu/b8"]]


def measured(script: dict[str, Answer], log: list[str] | None = None) -> tuple[Outcome, Outcome]:
    """A group of two scripted workers: the first as asked, the second without a fault."""
    log = [] if log is None else log

    def member(runtime: str, script: dict[str, Answer]) -> GroupMember:
        def start(file: Path) -> Worker:
            return ScriptedWorker(script, log, runtime)

        return GroupMember(case(runtime), Path("artifact"), 1, start, Path("log"))

    first, second = measure_group([member("eager", script), member("ort", {})], Allowance(0.001), seed=0)
    return first, second


def test_all_import_at_once_and_open_one_after_the_other_while_the_rest_is_suspended() -> None:
    log: list[str] = []
    measured({}, log)
    assert log[:4] == ["load eager", "load ort", "suspend eager", "suspend ort"]
    steps = ("resume", "open", "warm", "suspend")
    assert log[4:12] == [f"{step} {name}" for name in ("eager", "ort") for step in steps]
    assert log[-4:] == ["resume eager", "close eager", "resume ort", "close ort"]


@pytest.mark.parametrize("step", ["load", "open", "warm", "sample", "close"])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (-11, "killed by SIGSEGV"),
        (3, "exited with code 3"),
        (Failure(failure="out of memory", is_user_error=False), "out of memory"),
        ("[]\n", "from the worker; got '[]"),
        ('{"seconds": {"forward": []}}\n', "from the worker; got"),
    ],
)
def test_a_worker_that_fails_at_any_step_is_a_failed_case_and_the_others_go_on(
    step: str, answer: Answer, reason: str
) -> None:
    failed, other = measured({step: answer})
    assert failed.launch is None
    assert reason in str(failed.error)
    assert other.error is None
    assert other.launch is not None
    assert len(other.launch.blocks) >= MIN_ROUNDS


def test_samples_that_no_clock_gives_are_a_failed_case() -> None:
    for seconds in ("[]", "[0.0]", "[-1.0]"):
        failed, _ = measured({"sample": f'{{"seconds": {{"forward": {seconds}}}}}\n'})
        assert "expected Sampled from the worker" in str(failed.error)


def test_a_worker_that_cannot_be_started_is_a_failed_case(tmp_path: Path) -> None:
    def start(file: Path) -> Worker:
        raise WorkerError("a worker could not be started: Resource temporarily unavailable")

    member = GroupMember(case(), tmp_path, 1, start, tmp_path / "log")
    (outcome,) = measure_group([member], Allowance(0.1), seed=0)
    assert outcome.error == Reason(
        code="error", detail="a worker could not be started: Resource temporarily unavailable"
    )


def test_a_case_whose_outputs_are_wrong_is_not_timed() -> None:
    log: list[str] = []
    wrong = Parity(what="eager b1", error=0.5, limit=1e-5)
    outcome, _ = measured({"open": Opened(load_s=0.1, first_call_s=0.1, parity=[wrong])}, log)
    assert (outcome.launch, outcome.error, outcome.parity) == (None, None, (wrong,))
    assert "warm eager" not in log
    assert "sample eager" not in log
    script: dict[str, Answer] = {"open": Opened(load_s=0.1, first_call_s=0.1, parity=[wrong])}
    member = GroupMember(case(), Path("artifact"), 1, lambda _: ScriptedWorker(script, log), Path("log"))
    (alone,) = measure_group([member], Allowance(0.001), seed=0)
    assert (alone.launch, alone.error, alone.parity) == (None, None, (wrong,))


def test_who_has_warmed_up_less_makes_as_many_calls_more() -> None:
    log: list[str] = []
    few = '{"calls": 4, "seconds": 0.1, "converged": true, "calls_per_sample": 1, "call_s": 0.01}\n'
    outcome, other = measured({"warm": few}, log)
    assert (log.count("warm eager"), log.count("warm ort")) == (2, 1)
    again = log.index("warm eager", log.index("warm ort"))
    assert log[again - 1 : again + 2] == ["resume eager", "warm eager", "suspend eager"]
    assert outcome.launch is not None
    assert other.launch is not None
    assert (outcome.launch.warmup_calls, outcome.launch.warmup_s, other.launch.warmup_calls) == (8, 0.2, 10)


def test_calls_that_equalise_warm_ups_end_with_their_time_however_few_they_are() -> None:
    """On a machine with busy neighbours a call may take a hundred times as long in one runtime as in the other."""
    asked: list[Warm] = []

    class Listening(ScriptedWorker):
        def send(self, request: Request) -> None:
            if isinstance(request, Warm):
                asked.append(request)
            super().send(request)

    made = [Warmed(calls=calls, seconds=1.0, converged=True, calls_per_sample=1, call_s=0.1) for calls in (4, 40)]
    members = [
        GroupMember(of, Path("artifact"), 1, lambda _, each=each: Listening({"warm": each}, []), Path("log"))  # type: ignore[misc]
        for of, each in zip((case(), case("ort")), made, strict=True)
    ]
    measure_group(members, Allowance(1.0, warmup_s=3.0), seed=0)
    assert [each.min_calls for each in asked] == [0, 0, 36]
    assert (asked[-1].limit_s, asked[-1].hard_limit_s) == (1.0, 1.0)
    asked.clear()
    measure_group(members, Allowance(1.0, warmup_s=3.0, whole_s=0.0), seed=0)
    assert [each.min_calls for each in asked] == [0, 0], "no time is left to equalise them"


@pytest.mark.parametrize(
    ("whole_s", "limits_s", "ends_s"),
    [(None, [1.0], math.inf), (2.0, [1.0], 104.0), (1.0, [0.75], 104.0), (0.25, [], 104.0), (5.0, [1.0], 105.0)],
)
def test_warm_ups_are_equalised_in_the_time_that_is_left_and_counted_together(
    monkeypatch: pytest.MonkeyPatch, whole_s: float | None, limits_s: list[float], ends_s: float
) -> None:
    """It is a quarter of a second later when the first could warm up again, three seconds when samples begin."""
    asked: list[Warm] = []

    class Growing(ScriptedWorker):
        def ask(self, request: Request, answer: Any) -> Any:
            if not isinstance(request, Warm) or not request.min_calls:
                return super().ask(request, answer)
            asked.append(request)
            return Warmed(calls=36, seconds=9.0, converged=True, calls_per_sample=3, call_s=0.1)

    few = Warmed(calls=4, seconds=1.0, converged=False, calls_per_sample=2, call_s=0.1)
    many = few.model_copy(update={"calls": 40, "converged": True})
    members = [
        GroupMember(of, Path("artifact"), 1, lambda _, each=each: Growing({"warm": each}, []), Path("log"))  # type: ignore[misc]
        for of, each in ((case(), few), (case("ort"), many))
    ]
    now_s = iter([100.0, 100.25, 100.5, 103.0])
    monkeypatch.setattr(interleave, "time", SimpleNamespace(perf_counter=lambda: next(now_s)))
    ends: list[float] = []

    def measure(participants: Sequence[Participant], *_: Any, **about: Any) -> list[Blocks]:
        ends.append(about["ends_s"])
        return [Blocks() for _ in participants]

    monkeypatch.setattr(interleave, "measure_interleaved", measure)
    first, second = measure_group(members, Allowance(1.0, warmup_s=3.0, whole_s=whole_s), seed=0)
    assert [(each.limit_s, each.hard_limit_s, each.min_calls) for each in asked] == [(s, s, 36) for s in limits_s]
    assert ends == [ends_s]
    assert first.launch is not None
    assert second.launch is not None
    made = (first.launch.warmup_calls, first.launch.warmup_s, first.launch.calls_per_sample)
    assert made == ((40, 10.0, 3) if limits_s else (4, 1.0, 2))
    assert (first.launch.converged, second.launch.converged, second.launch.warmup_calls) == (False, True, 40)


def test_one_that_fails_when_it_warms_up_again_is_not_measured() -> None:
    log: list[str] = []

    class Failing(ScriptedWorker):
        def ask(self, request: Request, answer: Any) -> Any:
            if isinstance(request, Warm) and request.min_calls:
                raise WorkerCrashed("killed")
            return super().ask(request, answer)

        def kill(self) -> None:
            log.append("kill few")
            super().kill()

    few = Warmed(calls=4, seconds=1.0, converged=True, calls_per_sample=1, call_s=0.1)
    members = [
        GroupMember(case(), Path("artifact"), 1, lambda _: Failing({"warm": few}, log, "few"), Path("log")),
        GroupMember(case("ort"), Path("artifact"), 1, lambda _: ScriptedWorker({}, log, "many"), Path("log")),
    ]
    failed, other = measure_group(members, Allowance(0.001), seed=0)
    assert (str(failed.error), failed.launch, other.error) == ("crashed: killed", None, None)
    assert "sample few" not in log
    assert log.index("kill few") < log.index("sample many"), "it holds nothing while others are measured"
    assert failed.group == other.group


def test_a_worker_is_told_what_it_runs_and_its_group_what_it_does() -> None:
    """Warm-ups take half a second to three, where nothing else is said."""
    asked: list[Request] = []
    said: list[str] = []

    class Listening(ScriptedWorker):
        def send(self, request: Request) -> None:
            asked.append(request)
            super().send(request)

    member = GroupMember(case("ort"), Path("artifact"), 3, lambda _: Listening({}, []), Path("log"), slowdown=0.25)
    measure_group([member], Allowance(0.001), seed=0, on_progress=said.append)
    assert asked[:3] == [
        Load(case=member.case, threads=3),
        Open(case=member.case, folder="artifact", slowdown=0.25),
        Warm(limit_s=3.0, least_s=0.5, hard_limit_s=None),
    ]
    assert said[:3] == ["starting", "opening ort", "round 1"]


def test_no_answer_is_asked_for_that_would_seem_to_hang() -> None:
    """Each block of a long budget, and each warm-up, ends well before a worker's limit."""
    asked: list[float] = []

    class Listening(ScriptedWorker):
        def send(self, request: Request) -> None:
            if isinstance(request, Warm):
                asked.append(request.limit_s)
            elif isinstance(request, Sample):
                asked.append(request.seconds)
            super().send(request)

    steady = {"sample": Sampled(seconds={"forward": [0.01] * 3})}
    member = GroupMember(case(), Path("artifact"), 1, lambda file: Listening(steady, [], limit_s=1.0), Path("log"))
    (outcome,) = measure_group([member], Allowance(100.0), seed=0)
    assert outcome.launch is not None
    assert asked == [0.5] * (1 + len(outcome.launch.blocks))


@pytest.mark.parametrize(
    ("whole_s", "hard_limit_s", "ends_s"),
    [(None, None, math.inf), (8.0, 2.0, 108.0), (40.0, 5.0, 140.0), (0.6, 0.15, 101.0), (0.0, 0.0, 101.0)],
)
def test_a_groups_time_bounds_warm_ups_and_leaves_half_a_second_of_samples_to_each(
    monkeypatch: pytest.MonkeyPatch, whole_s: float | None, hard_limit_s: float | None, ends_s: float
) -> None:
    """Both warm-ups of a group may take half of its time, and each half of what a worker may take to answer."""
    asked: list[Warm] = []
    given: list[tuple[int, float, float]] = []

    class Listening(ScriptedWorker):
        def send(self, request: Request) -> None:
            if isinstance(request, Warm):
                asked.append(request)
            super().send(request)

    def measure(participants: Sequence[Participant], budget_s: float, rng: random.Random, *_: Any, **about: Any) -> Any:
        given.append((len(participants), budget_s, about["ends_s"]))
        assert rng.random() == random.Random(3).random()
        return [Blocks() for _ in participants]

    monkeypatch.setattr(interleave, "measure_interleaved", measure)
    monkeypatch.setattr(interleave, "time", SimpleNamespace(perf_counter=lambda: 100.0))
    members = [
        GroupMember(of, Path("artifact"), 1, lambda _: Listening({}, []), Path("log")) for of in (case(), case("ort"))
    ]
    allowance = Allowance(7.0, warmup_s=3.0, least_warmup_s=0.25, whole_s=whole_s)
    assert all(outcome.launch for outcome in measure_group(members, allowance, seed=3))
    assert [(each.limit_s, each.least_s, each.hard_limit_s) for each in asked] == [(3.0, 0.25, hard_limit_s)] * 2
    assert given == [(2, 7.0, ends_s)]


@pytest.mark.parametrize(
    ("spread", "rounds", "spent_s", "stopped"),
    [
        (0.009, 6, 0.0, "all intervals within 1%"),
        (0.009, 5, 9.0, None),
        (0.01, 6, 0.0, "all intervals within 1%"),
        (0.011, 6, 0.9, None),
        (0.011, 6, 1.0, "budget spent"),
        (0.011, 5, 9.0, None),
    ],
)
def test_sampling_ends_with_narrow_intervals_of_all_or_the_budget_and_not_before_six_rounds(
    spread: float, rounds: int, spent_s: float, stopped: str | None
) -> None:
    """The interval of six medians is from the lowest to the highest."""

    def sampled(spread: float) -> Blocks:
        times = [100 * (1 - spread), 100.0, 100.0, 100.0, 100.0, 100 * (1 + spread)]
        return Blocks([Block(round=n, seconds={"forward": [call_s]}) for n, call_s in enumerate(times)])

    both = [sampled(0.001), sampled(spread)]
    assert interleave._stop_reason(both, rounds, spent_s, 1.0) == stopped


def test_a_launch_is_put_together_of_what_each_step_said() -> None:
    parity = [Parity(what=what, error=0.0, limit=1.0) for what in ("opened", "closed")]
    memory, fault = Memory(imported_bytes=1, loaded_bytes=2, peak_bytes=3), Reason(code="layout")
    script: dict[str, Answer] = {
        "load": Loaded(import_s=1.0),
        "open": Opened(load_s=2.0, first_call_s=3.0, parity=parity[:1]),
        "warm": Warmed(calls=40, seconds=5.0, converged=False, calls_per_sample=6, call_s=7.0),
        "close": Closed(parity=parity[1:], memory=memory, ran=RAN, faults=[fault]),
    }
    found, _ = measured(script)
    launch = found.launch
    assert launch is not None
    assert (launch.import_s, launch.load_s, launch.first_call_s, launch.warmup_s) == (1.0, 2.0, 3.0, 5.0)
    assert (launch.warmup_calls, launch.converged, launch.calls_per_sample) == (40, False, 6)
    assert (launch.memory, launch.ran, launch.stopped, launch.group) == (memory, RAN, "budget spent", found.group)
    assert (list(found.parity), list(found.faults), found.error) == (parity, [fault], None)


def test_a_participant_that_has_failed_does_nothing_more_and_its_worker_is_ended() -> None:
    log: list[str] = []

    class Ending(ScriptedWorker):
        def kill(self) -> None:
            log.append("kill")
            super().kill()

    member = GroupMember(case(), Path("artifact"), 1, lambda _: Ending({"open": 3}, log), Path("log"))
    outcome = measure_group([member], Allowance(0.1), seed=0)[0]
    assert str(outcome.error).startswith("crashed")
    assert log[: log.index("kill")][-2:] == ["resume worker", "open worker"]
    assert not any(line.startswith(("warm", "sample", "close")) for line in log)
    log.clear()
    alive = {"sample": Failure(failure="out of memory", is_user_error=False)}
    dying = GroupMember(case(), Path("artifact"), 1, lambda _: Ending(alive, log), Path("log"))
    other = GroupMember(case("ort"), Path("artifact"), 1, lambda _: ScriptedWorker({}, log, "other"), Path("log"))
    measure_group([dying, other], Allowance(0.001), seed=0)
    assert log[log.index("sample worker") + 1] == "kill", "it holds nothing while others are measured"
    participant = WorkerParticipant(member)
    participant.error = Reason(code="hung")
    participant.attempt(lambda: log.clear())
    assert log
