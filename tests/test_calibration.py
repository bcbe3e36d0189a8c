"""What calibrations and stored baselines may say, from numbers made by hand."""

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from cnnbench.analysis.paired import Rule
from cnnbench.errors import InputError, RunFolderError
from cnnbench.gate.baseline import BaselineError, compare_with_baseline, read_baseline
from cnnbench.gate.calibration import (
    Calibration,
    Session,
    check_margin,
    detection_power_of,
    noise_of,
    read_calibration,
    write_calibration,
)
from cnnbench.gate.verdict import Paired, exit_code_of
from cnnbench.records.record import Measurement
from cnnbench.records.run_folder import Run
from tests.noise import comparisons
from tests.records import ENVIRONMENT, case, record

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
