"""What launches are worth: each reason for a status, and none where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cnnbench.analysis.status import rechecked, status_of
from cnnbench.records.reason import Interference, Reason
from cnnbench.records.record import Block, Launch, Parity, Ran, Record
from cnnbench.records.run_folder import Run
from tests.records import case, facts, measurement, record
from tests.test_serving import load_test, serving_launch

TF32, KILLED = Reason(code="tf32", detail="for matrix products"), Reason(code="crashed", detail="by SIGKILL")
QUIET = [0.010, 0.0101, 0.0102, 0.0098, 0.0099, 0.010, 0.010, 0.0101, 0.0099, 0.010]


def launch(call_s: list[float], interference: int = 0) -> Launch:
    """A launch with a turn per value, of which the first so many were disturbed."""
    (launch,) = measurement(call_s).launches
    blocks = [
        block.model_copy(update={"interference": [Interference(kind="other-processes", amount=0.43)]})
        if number < interference
        else block
        for number, block in enumerate(launch.blocks)
    ]
    return launch.model_copy(update={"blocks": blocks})


def test_quiet_launches_are_ok() -> None:
    assert status_of([launch(QUIET)], facts=facts()) == ("ok", [])


def test_disturbed_turns_are_left_out_whatever_their_times() -> None:
    wild = [0.05, 0.001, 0.03, *QUIET]
    assert status_of([launch(wild, interference=3)]) == ("ok", [])
    assert status_of([launch(wild)])[0] == "ok"  # the median stands three wild turns of thirteen
    assert launch(wild, interference=3).call_blocks() == launch(QUIET).call_blocks()


def test_too_few_blocks_without_interference_are_reported_and_all_are_used() -> None:
    status, reasons = status_of([launch(QUIET, interference=7)])
    assert status == "noisy"
    assert reasons == [
        Reason(
            code="interference",
            detail="3 of 10, and 6 are needed; in the first that was not: other-processes 43 %",
        )
    ]
    assert len(launch(QUIET, interference=7).call_blocks()) == 10


@pytest.mark.parametrize(
    ("call_s", "reason"),
    [
        ([0.01, 0.02] * 5, "wide-interval"),
        ([0.010 * 1.02**n for n in range(12)], "drift: +24 %"),
        ([0.010 * 0.98**n for n in range(12)], "drift: -20 %"),
        ([0.010, 0.0101, 0.013, 0.0131, 0.0099, 0.010, 0.0129, 0.010, 0.0132, 0.0101], "two-modes: "),
    ],
)
def test_what_the_times_say_of_themselves(call_s: list[float], reason: str) -> None:
    status, reasons = status_of([launch(call_s)])
    assert status == "noisy"
    assert any(reason in str(each) for each in reasons), reasons


EVEN = [0.0, -1.0, 0.6, -0.3, 1.0, 0.3, -1.0, 0.0, 1.0, -0.6]
"""Its median is 0, and the interval of that is from -1 to 1."""


@pytest.mark.parametrize(
    ("half", "codes"), [(0.03, []), (0.049, []), (0.051, ["wide-interval"]), (0.09, ["wide-interval"])]
)
def test_an_interval_of_more_than_five_percent_to_one_side_is_wide(half: float, codes: list[str]) -> None:
    _, reasons = status_of([launch([0.01 * (1 + half * each) for each in EVEN])])
    assert [reason.code for reason in reasons] == codes


@pytest.mark.parametrize(
    ("percents", "details"),
    [
        ([3.0], []),
        ([4.9], []),
        ([5.1], ["+5 %"]),
        ([-5.1], ["-5 %"]),
        ([9.0], ["+9 %"]),
        ([7.0, -9.0], ["-9 %"]),  # they cancel in all, and each has its own
        ([0.0, 7.0], ["+7 %"]),
    ],
)
def test_a_drift_is_the_largest_change_from_the_first_block_to_the_last(
    percents: list[float], details: list[str]
) -> None:
    launches = [launch([0.01 * (1 + percent / 100) ** (n / 11) for n in range(12)]) for percent in percents]
    assert [reason.detail for reason in status_of(launches)[1] if reason.code == "drift"] == details


def test_modes_and_what_was_not_measured_are_told() -> None:
    (reason,) = status_of([launch([0.01, 0.0107] * 5)])[1]
    assert str(reason) == "two-modes: 7 % apart"
    assert reason in status_of([launch(QUIET), launch([0.01, 0.0107] * 5)])[1]
    assert status_of([launch([])]) == ("noisy", [Reason(code="not-measured")])
    assert status_of([]) == ("invalid", [])
    (beside,) = status_of([launch(QUIET), launch(QUIET, interference=5)])[1]
    assert beside.detail.startswith("5 of 10, and 6 are needed")


def test_a_service_is_judged_by_its_own_checks() -> None:
    (plain,) = measurement([]).launches

    def status(**about: float) -> tuple[str, list[str]]:
        served = serving_launch(load_test(rate=60.0), load_test(rate=62.0, valid=False))
        tests = [test.model_copy(update=about) if test.scenario == "single" else test for test in served.tests]
        served = served.model_copy(update={"tests": tests})
        status, reasons = status_of([plain.model_copy(update={"serving": served})])
        return status, [reason.code for reason in reasons]

    assert status() == ("ok", [])
    assert status(own_p50_s=0.02) == ("invalid", ["timers"])
    assert status(p50_s=0.02, own_p50_s=0.02) == ("noisy", ["low-load"])


def test_short_launches_that_all_slow_down_have_a_trend() -> None:
    slowing = [0.010 * 1.05**n for n in range(6)]
    _, reasons = status_of([launch(slowing), launch(slowing), launch(slowing)])
    assert Reason(code="drift", detail="+28 %") in reasons
    assert not any(each.code == "drift" for each in status_of([launch(slowing)])[1])


def test_wrong_outputs_faults_and_denormals_are_invalid() -> None:
    wrong = Parity(what="ort b3", error=0.5, limit=1e-5)
    assert status_of([launch(QUIET)], parity=[wrong, wrong]) == (
        "invalid",
        [Reason(code="parity", detail="ort b3, error 5.0e-01, limit 1.0e-05 (relative)")],
    )
    assert status_of([launch(QUIET)], [wrong], facts=facts()) == status_of([launch(QUIET)], [wrong])
    unknown = Parity(what="ort b3", error=None, limit=1e-5)
    assert "not finite or misshapen" in status_of([launch(QUIET)], parity=[unknown])[1][0].detail
    assert status_of([launch(QUIET)], faults=[TF32]) == ("invalid", [TF32])
    slow = facts().model_copy(update={"denormal_share": 0.25})
    assert status_of([launch(QUIET)], facts=slow) == (
        "invalid",
        [Reason(code="denormals", detail="25.0%")],
    )
    shares = (0.0009, 0.001, 0.0011, 0.0019)
    few = [facts().model_copy(update={"denormal_share": share}) for share in shares]
    assert [status_of([launch(QUIET)], facts=each)[0] for each in few] == ["ok", "ok", "invalid", "invalid"]
    assert status_of([launch(QUIET)], [wrong], [TF32, TF32], facts=slow)[1][1:] == [
        TF32,
        Reason(code="denormals", detail="25.0%"),
    ]


def test_a_launch_that_fails_alone_is_failed_and_beside_others_takes_nothing_from_them() -> None:
    assert status_of([], errors=[KILLED]) == ("failed", [KILLED])
    assert status_of([launch(QUIET)], errors=[KILLED]) == (
        "noisy",
        [Reason(code="crashed", detail="in another launch: by SIGKILL")],
    )


def test_a_median_over_launches_is_wider_than_within_one() -> None:
    slower = launch([time * 1.2 for time in QUIET])
    assert status_of([launch(QUIET), slower])[0] == "noisy"
    assert status_of([launch(QUIET), launch(QUIET)])[0] == "ok"


def test_a_turn_of_the_first_schema_can_still_be_read() -> None:
    assert Block.model_validate({"round": 0, "seconds": {"forward": [0.1]}}).interference == []


def _elsewhere(of: Record) -> Record:
    """The same record, whose launches ran on another device than its case asks for."""
    ran = Ran(device="cuda", device_name="GPU", threads=1, precision="fp32")
    launches = [each.model_copy(update={"ran": ran}) for each in of.launches]
    assert of.measurement
    return of.model_copy(update={"measurement": of.measurement.model_copy(update={"launches": launches})})


def _disagreeing(of: Record) -> Record:
    assert of.counts
    return of.model_copy(update={"counts": of.counts.model_copy(update={"disagreements": ["conv1: 1 and 2"]})})


DAMAGES: dict[str, Callable[[Record], Record]] = {
    "parity": lambda of: of.model_copy(update={"parity": [Parity(what="ort b3", error=0.5, limit=1e-5)]}),
    "device": _elsewhere,
    "counts": _disagreeing,
    "denormals": lambda of: of.model_copy(update={"artifact": facts().model_copy(update={"denormal_share": 0.5})}),
}


def _rechecked(of: Record) -> Record:
    (found,) = rechecked(Run(Path("a"), "tiny", "2026", None, {of.id: of})).records.values()
    return found


@pytest.mark.parametrize("status", ["ok", "noisy"])
@pytest.mark.parametrize("code", DAMAGES)
def test_a_record_that_its_own_data_contradict_is_invalid_whatever_it_claims(code: str, status: str) -> None:
    sound = record(case(), QUIET).model_copy(update={"status": status})
    assert _rechecked(sound) == sound
    found = _rechecked(DAMAGES[code](sound))
    assert (found.status, [each.code for each in found.reasons]) == ("invalid", ["claimed", code])
    assert found.reasons[0].detail == status


def test_one_disagreement_is_told_of_many_and_none_where_no_formula_disagrees() -> None:
    sound = record(case(), QUIET)
    assert sound.counts
    many = sound.counts.model_copy(update={"disagreements": ["conv1: 1 and 2", "conv2: 3 and 4"]})
    found = _rechecked(sound.model_copy(update={"counts": many}))
    assert [str(each) for each in found.reasons] == ["claimed: ok", "counts: conv1: 1 and 2"]
    without = sound.model_copy(update={"counts": many.model_copy(update={"closed_form": False})})
    assert _rechecked(without) == without
    noisy = _rechecked(record(case(), [0.01, 0.02] * 5))
    assert [each.code for each in noisy.reasons][:2] == ["claimed", "wide-interval"]


def test_a_claim_without_a_measurement_is_invalid_and_a_worse_status_stays() -> None:
    assert _rechecked(record(case(), status="ok")).status == "invalid"
    assert _rechecked(record(case(), [0.01, 0.02] * 5)).status == "noisy"
    for status in ("failed", "unavailable", "invalid"):
        worse = DAMAGES["parity"](record(case(), QUIET).model_copy(update={"status": status}))
        assert _rechecked(worse) == worse
