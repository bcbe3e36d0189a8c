"""What calibrations and stored baselines may say, from numbers made by hand."""

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2, t

from cnnbench.analysis.paired import Rule
from cnnbench.errors import InputError, RunFolderError
from cnnbench.gate import calibration as calibrating
from cnnbench.gate.baseline import BaselineError, compare_with_baseline, read_baseline
from cnnbench.gate.calibration import (
    Calibration,
    Replayed,
    Session,
    check_margin,
    detection_power_of,
    empty,
    file_of,
    noise_of,
    read_calibration,
    session_of,
    write_calibration,
)
from cnnbench.gate.verdict import Paired, exit_code_of
from cnnbench.records.record import Measurement, Record
from cnnbench.records.run_folder import Run
from tests.noise import comparisons
from tests.records import ENVIRONMENT, case, record
from tests.test_serving import load_test, serving_launch

DUEL = comparisons(1)[0]


def session(sd: float, centre_s: float = 0.01, pairs: int = 20, seed: int = 0) -> Session:
    rng = np.random.default_rng(seed)
    launches = centre_s * np.exp(rng.normal(0, sd, 2 * pairs))
    return Session(started="", logs=list(rng.normal(0, sd, pairs)), launches_s=list(launches))


def calibration(*sessions: Session, name: str = DUEL.name) -> Calibration:
    return Calibration(fingerprint="f", machine="Testing CPU", cases={name: list(sessions)})


def test_the_spread_of_pairs_is_told_with_its_upper_limit() -> None:
    logs = [0.01, -0.01] * 10
    noise = noise_of([Session(started="", logs=logs, launches_s=[1.0, 1.1])])
    assert noise is not None
    assert noise.pair_sd == pytest.approx(0.01)
    assert noise.pair_sd_upper == pytest.approx(0.01 * math.sqrt(20 / chi2.ppf(0.05, 20)))
    assert noise.session_sd is None
    assert noise_of([Session(started="", logs=[0.1] * 5, launches_s=[1.0])]) is None


def test_the_noise_between_times_needs_three_sessions() -> None:
    sessions = [session(0.01, centre_s, seed=seed) for seed, centre_s in enumerate((0.010, 0.011, 0.012))]
    noise = noise_of(sessions)
    assert noise is not None
    assert noise.session_sd == pytest.approx(np.std(np.log([0.010, 0.011, 0.012]), ddof=1), rel=0.2)


def test_a_margin_below_the_noise_is_refused_with_the_pairs_that_it_would_take() -> None:
    known = calibration(session(0.02))
    check_margin(known, [DUEL], Rule(margin=0.02))
    with pytest.raises(InputError, match=rf"{DUEL.name}: 40 pairs detect [\d.]+%; 0\.50% would need \d+ pairs"):
        check_margin(known, [DUEL], Rule(margin=0.005))
    with pytest.raises(InputError, match="more than 1000 pairs"):
        check_margin(calibration(session(0.2)), [DUEL], Rule(margin=0.002))
    check_margin(calibration(session(0.02), name="another case"), [DUEL], Rule(margin=0.002))


def test_what_a_gate_sees_is_found_with_its_own_rule() -> None:
    quiet = detection_power_of(calibration(session(0.005)), [DUEL], Rule())
    noisy = detection_power_of(calibration(session(0.08)), [DUEL], Rule())
    assert quiet.false_alarms == noisy.false_alarms == 0.0
    assert quiet.seen[DUEL.name][0.05] == 1.0
    assert noisy.seen[DUEL.name][0.03] < 0.3 < quiet.seen[DUEL.name][0.03]
    assert detection_power_of(calibration(name="another case"), [DUEL], Rule()).seen == {}


def test_sessions_are_added_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "c.json"
    assert read_calibration(file) is None
    write_calibration(file, calibration(session(0.01)).with_sessions({DUEL.name: session(0.02), "b": session(0.01)}))
    back = read_calibration(file)
    assert back is not None
    assert {name: len(sessions) for name, sessions in back.cases.items()} == {DUEL.name: 2, "b": 1}
    file.write_text("{}")
    with pytest.raises(RunFolderError, match="expected a calibration"):
        read_calibration(file)


CASE = case("ort")


def stored(call_s: float = 0.010) -> Run:
    return Run(Path("stored"), "s", "", ENVIRONMENT, {CASE.id: record(CASE, [call_s] * 10)})


def head(call_s: float, launches: int = 6) -> dict[str, list[Paired]]:
    jitter = random.Random(0)
    return {CASE.id: [Paired(("head",), {}, {"head": call_s * jitter.uniform(0.999, 1.001)}) for _ in range(launches)]}


def test_without_three_calibrations_a_stored_baseline_never_fails() -> None:
    for known in (None, calibration(session(0.01), name=CASE.id), calibration(*[session(0.01)] * 2, name=CASE.id)):
        (found,) = compare_with_baseline(stored(), head(0.05), known, Rule())
        assert found.verdict == "inconclusive"
        assert "so noise between sessions is unknown" in found.reason
        assert exit_code_of([found.verdict], strict=False, allow_missing=False) == 0
        assert exit_code_of([found.verdict], strict=True, allow_missing=False) == 4


@pytest.mark.parametrize(
    ("spread", "call_s", "verdict"),
    [
        (0.002, 0.0110, "slower"),
        (0.05, 0.0110, "inconclusive"),
        (0.0001, 0.0100, "same"),
        (0.002, 0.0090, "inconclusive"),
    ],
)
def test_the_noise_between_times_decides_what_a_stored_baseline_may_say(
    spread: float, call_s: float, verdict: str
) -> None:
    centres = [0.010 * (1 + spread * step) for step in (-1, -0.5, 0, 0.5, 1)]
    sessions = [session(0.0005, centre_s, seed=seed) for seed, centre_s in enumerate(centres)]
    (found,) = compare_with_baseline(stored(), head(call_s), calibration(*sessions, name=CASE.id), Rule())
    assert found.verdict == verdict
    assert exit_code_of([found.verdict], strict=False, allow_missing=False) == (1 if verdict == "slower" else 0)


def test_more_launches_on_one_side_never_make_it_sure() -> None:
    sessions = [session(0.02, centre_s) for centre_s in (0.0098, 0.0100, 0.0102)]
    known = calibration(*sessions, name=CASE.id)
    verdicts = {
        compare_with_baseline(stored(), head(0.0104, launches), known, Rule())[0].verdict for launches in (2, 6, 600)
    }
    assert verdicts == {"inconclusive"}


def test_head_without_any_time_is_no_pass() -> None:
    lost = {CASE.id: [Paired(("head",), {}, lost="head: no highest rate was found")] * 2}
    (found,) = compare_with_baseline(stored(), lost, None, Rule())
    assert (found.verdict, found.reason) == ("missing", "head: no highest rate was found")


def test_a_missing_baseline_is_no_pass(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="expected a run's folder") as caught:
        read_baseline(tmp_path, ENVIRONMENT)
    assert caught.value.exit_code == 3
    run = replace(stored(), records={})
    (found,) = compare_with_baseline(run, head(0.01), None, Rule())
    assert (found.verdict, found.reason) == ("missing", "no baseline: it has no record there")
    assert exit_code_of([found.verdict], strict=False, allow_missing=False) == 3
    assert exit_code_of([], strict=False, allow_missing=True) == 3
    (measured,) = stored().records.values()
    (launch,) = measured.launches[:1]
    empty = Measurement(launches=[launch.model_copy(update={"blocks": []})])
    run = replace(run, records={measured.id: measured.model_copy(update={"measurement": empty})})
    (found,) = compare_with_baseline(run, head(0.01), None, Rule())
    assert (found.verdict, found.reason) == ("missing", "no baseline: its record there has no samples")


def test_a_baseline_of_another_machine_is_refused_with_what_differs(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"suite": "s", "started": "", "cases": []}')
    (tmp_path / "environment.json").write_text(ENVIRONMENT.model_dump_json())
    read_baseline(tmp_path, ENVIRONMENT)
    machine = ENVIRONMENT.machine.model_copy(update={"cpu": "Another CPU"})
    other = ENVIRONMENT.model_copy(update={"machine": machine})
    with pytest.raises(BaselineError, match="cpu: Testing CPU then, Another CPU now") as caught:
        read_baseline(tmp_path, other)
    assert caught.value.exit_code == 3


# --- figures by hand ---

LAUNCH_SD = math.sqrt(6 * 0.01**2 / 8)
"""Of three sessions, each with a launch in the middle, and one 1 % to each side."""


def regular(step: float, sessions: int = 3, spread: float = 0.01, pairs: int = 2) -> list[Session]:
    """Sessions whose middles lie a step apart, on the logarithm's scale, around 10 ms."""
    centres = [0.010 * math.exp(step * (place - (sessions - 1) / 2)) for place in range(sessions)]
    return [
        Session(
            started="",
            logs=[0.001] * pairs,
            launches_s=[centre_s * math.exp(spread * side) for side in (-1, 0, 1)],
        )
        for centre_s in centres
    ]


def test_noise_is_between_pairs_launches_and_sessions() -> None:
    noise = noise_of(regular(0.02))
    assert noise is not None
    assert (noise.pairs, noise.sessions) == (6, 3)
    assert noise.pair_sd == pytest.approx(0.001)
    assert noise.launch_sd == pytest.approx(LAUNCH_SD)
    assert noise.session_sd == pytest.approx(0.02)
    effect = (t.ppf(0.95, 9) + t.ppf(0.8, 9)) * noise.pair_sd_upper / math.sqrt(10)
    assert noise.smallest_margin(10) == pytest.approx(math.expm1(effect))
    two = noise_of(regular(0.02, sessions=2, pairs=3))
    assert two is not None
    assert two.session_sd is None
    assert noise_of(regular(0.02, sessions=5, pairs=1)) is None, "six pairs are needed"


def test_a_session_has_heads_ratios_and_the_times_of_all_launches() -> None:
    pairs = [
        Paired(("base", "head"), {"head": 0.1, "null": 0.2}, {"base": 1.0, "head": 1.1}),
        Paired((), {}, {"base": 2}),
    ]
    found = session_of(pairs)
    assert (found.logs, found.launches_s) == ([0.1], [1.0, 1.1, 2.0])
    assert file_of(ENVIRONMENT).name == f"{ENVIRONMENT.fingerprint}.json"
    assert empty(ENVIRONMENT) == Calibration(fingerprint=ENVIRONMENT.fingerprint, machine=ENVIRONMENT.label, cases={})


def test_simulated_pairs_are_drawn_with_either_sign_and_slowed_down_where_they_are_asked_to_be() -> None:
    one, two = comparisons(2)
    replayed = Replayed({one.name: [0.01, 0.02], two.name: [0.5]}, random.Random(0), 0.1, one.name)
    drawn = [replayed.measure(one, "screen", ("null", "base", "head"), 0, 1.0) for _ in range(50)]
    assert {round(pair.logs["head"] - math.log(1.1), 6) for pair in drawn} == {0.01, -0.01, 0.02, -0.02}
    assert {round(pair.logs["null"], 6) for pair in drawn} == {0.01, -0.01, 0.02, -0.02}
    assert {(pair.order, *pair.logs) for pair in drawn} == {(("null", "base", "head"), "null", "head")}
    others = [replayed.measure(two, "confirm", ("base", "head"), 0, 1.0).logs for _ in range(20)]
    assert {logs["head"] for logs in others} == {0.5, -0.5}
    assert (replayed.clock(), replayed.check(one).problem) == (70.0, "")


def test_power_is_a_share_of_gates_of_each_case_of_which_enough_pairs_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibrating, "SIMULATED_GATES", 8)
    one, two, three = comparisons(3)
    known = {
        one.name: [session(0.001, pairs=6)],
        two.name: [session(0.001, pairs=3)] * 2,
        three.name: [session(0.1, pairs=5)],
    }
    power = detection_power_of(Calibration(fingerprint="f", machine="m", cases=known), [one, two, three], Rule())
    assert (power.gates, power.false_alarms) == (8, 0.0)
    assert power.seen == {each.name: {0.03: 1.0, 0.05: 1.0, 0.10: 1.0} for each in (one, two)}


def stored_as(*records: Record) -> Run:
    return replace(stored(), records={each.id: each for each in records})


def launched(call_s: float, launches: int = 6) -> list[Paired]:
    return [Paired(("head",), {}, {"head": call_s})] * launches


@pytest.mark.parametrize(
    ("ratio", "step", "verdict"),
    [
        (1.05, 0.001, "slower"),  # p is 0.046
        (1.05, 0.003, "slower-small"),  # p is 0.053
        (1.02, 0.001, "inconclusive"),
        (0.95, 0.001, "inconclusive"),
    ],
)
def test_a_stored_baseline_is_tested_by_students_t_with_as_many_degrees_as_sessions_less_one(
    ratio: float, step: float, verdict: str
) -> None:
    """Two sessions are compared, a stored launch and six new ones; each adds its own noise."""
    known = calibration(*regular(step), name=CASE.id)
    (found,) = compare_with_baseline(stored(), {CASE.id: launched(0.010 * ratio)}, known, Rule())
    error = math.sqrt(2 * step**2 + LAUNCH_SD**2 * (1 + 1 / 6))
    half = t.ppf(0.95, 2) * error
    assert found.ratio == pytest.approx(ratio)
    assert found.low == pytest.approx(ratio * math.exp(-half))
    assert found.high == pytest.approx(ratio * math.exp(half))
    assert found.p == pytest.approx(t.sf((math.log(ratio) - math.log(1.02)) / error, 2))
    assert found.verdict == verdict
    assert found.reason == f"a stored baseline: it could detect +{1.02 * math.exp(half) - 1:.0%}"


def test_p_values_of_a_stored_baseline_are_adjusted_for_all_cases_and_without_noise_the_ratio_decides() -> None:
    other = case("ort", batch=2)
    known = Calibration(fingerprint="f", machine="m", cases=dict.fromkeys((CASE.id, other.id), regular(0.001)))
    run = stored_as(record(CASE, [0.010] * 10), record(other, [0.010] * 10))
    slow = {CASE.id: launched(0.0105), other.id: launched(0.0105)}
    assert [each.verdict for each in compare_with_baseline(run, slow, known, Rule())] == ["slower-small"] * 2
    slow[other.id] = launched(0.012)
    assert [each.verdict for each in compare_with_baseline(run, slow, known, Rule())] == ["slower", "slower"]
    exact = calibration(*regular(0.0, spread=0.0), name=CASE.id)
    for ratio, verdict in ((1.05, "slower"), (1.01, "same"), (0.99, "same"), (0.9, "inconclusive")):
        (found,) = compare_with_baseline(stored(), {CASE.id: launched(0.010 * ratio)}, exact, Rule())
        assert found.verdict == verdict


def test_what_a_stored_baseline_cannot_be_compared_with_is_missing_or_wrong_with_its_reason(tmp_path: Path) -> None:
    failed = stored_as(record(CASE, [0.01] * 10, status="failed"))
    missing, wrong = Paired((), {}, missing="head: gone"), Paired((), {}, wrong="head: parity")
    for run, pairs, verdict, reason in (
        (failed, launched(0.01), "missing", "no baseline: its record there is failed"),
        (stored_as(record(CASE)), launched(0.01), "missing", "no baseline: its record there is ok"),
        (stored(), [Paired(("head",), {})], "missing", "no launch was measured"),
        (stored(), [*launched(0.01), wrong], "wrong", "head: parity"),
        (stored(), [wrong, missing], "missing", "head: parity"),
    ):
        (found,) = compare_with_baseline(run, {CASE.id: pairs}, None, Rule())
        assert (found.verdict, found.reason) == (verdict, reason)
    (tmp_path / "run.json").write_text('{"suite": "s", "started": "", "cases": []}')
    with pytest.raises(BaselineError, match="does not say which machine"):
        read_baseline(tmp_path, ENVIRONMENT)


def test_a_stored_service_is_compared_by_the_time_between_queries_at_its_bound() -> None:
    served = case("ort", "serving")
    ends = load_test(rate=50.0, p99_s=0.04), load_test(rate=60.0, p99_s=0.0625, valid=False)
    (launch,) = record(CASE, [0.01] * 8).launches
    launches = [
        launch.model_copy(update={"blocks": [], "serving": each}) for each in (serving_launch(*ends), serving_launch())
    ]
    made = record(served).model_copy(update={"measurement": Measurement(launches=launches)})
    run = stored_as(made)
    (found,) = compare_with_baseline(run, {served.id: launched(0.02)}, None, Rule())
    assert found.ratio == pytest.approx(0.02 * math.sqrt(50 * 60))
