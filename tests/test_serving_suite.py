"""Services in suites, records, reports and exports, and what is said where they cannot be."""

import json
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from cnnbench.analysis.answer import answer
from cnnbench.analysis.status import status_of
from cnnbench.analysis.tuning import Knobs, Worth
from cnnbench.cli.common import select_timed
from cnnbench.errors import InputError, WorkerOutOfMemory
from cnnbench.integrations.exporters import bencher, frames, github_action, junit
from cnnbench.records.lines import parse_record, record_line
from cnnbench.records.messages import Open
from cnnbench.records.record import Measurement, Record
from cnnbench.records.run_folder import Run, read_run
from cnnbench.records.serving_messages import Drive
from cnnbench.report import tuned
from cnnbench.report.answer import lines, question
from cnnbench.report.sections import run_page
from cnnbench.report.tables import run_tables
from cnnbench.report.tuned import suite_of_tuned
from cnnbench.runner.budget import Budget
from cnnbench.runner.tasks import probe
from cnnbench.runner.tasks.tune_serving import Finalist, Tuned, TuneRequest
from cnnbench.suite.case import Case
from cnnbench.suite.load import load_suite
from cnnbench.suite.runtimes import cannot
from tests.conftest import Cli, write_suite
from tests.records import ENVIRONMENT, facts, measurement, record
from tests.test_serving import load_test, serving_launch

SUITE = """
launches: 1
defaults: {workloads: [serving], runtimes: [ort], sessions: [1, 2], queue_delays: [0, 2ms], p99: 20ms}
models: [{model: lenet5, batches: {serving: [4]}, threads: 1}]
"""
IDS = [
    "lenet5/serving/ort/cpu/fp32/p99:20ms/b4/t1",
    "lenet5/serving/ort/cpu/fp32/p99:20ms/d2ms/b4/t1",
    "lenet5/serving/ort/cpu/fp32/p99:20ms/n2/b4/t1",
    "lenet5/serving/ort/cpu/fp32/p99:20ms/n2/d2ms/b4/t1",
]


def test_a_suite_expands_to_services_whose_ids_name_how_they_are_served(tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path, SUITE))
    assert [case.id for case in suite.cases] == IDS
    assert [Case.from_id(id_) for id_ in IDS] == list(suite.cases)
    assert set(suite.case_budgets_s.values()) == {60.0}
    plain = load_suite(write_suite(tmp_path, "{defaults: {workloads: [serving]}, models: [lenet5]}"))
    assert [case.id for case in plain.cases] == ["lenet5/serving/eager/cpu/fp32/b1", "lenet5/serving/ort/cpu/fp32/b1"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("p99: 0ms", "a duration above zero"),
        ("sessions: [0]", "a whole number of at least 1; got 0"),
        ("queue_delays: [soon]", "a duration such as"),
    ],
)
def test_a_bad_setting_of_a_service_is_told_with_its_place(tmp_path: Path, line: str, error: str) -> None:
    with pytest.raises(InputError, match=error):
        load_suite(write_suite(tmp_path, f"defaults:\n  workloads: [serving]\n  {line}\nmodels: [lenet5]"))


def test_what_is_not_served_has_no_settings_of_a_service() -> None:
    with pytest.raises(InputError, match="inference serves nothing; expected no p99, sessions or delay"):
        Case.from_id("lenet5/inference/ort/cpu/fp32/n2/b4")
    assert cannot("folded", "serving", "cpu", "fp32", "nchw") is None  # what runs is inference


def test_without_loadgen_a_service_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [Case.from_id(IDS[0]), Case.from_id("lenet5/inference/ort/cpu/fp32/b1")]
    assert probe.find_unavailable(cases, tmp_path)[0] == {}
    monkeypatch.setattr(probe, "LOADGEN", "no_such_module")
    reasons, _ = probe.find_unavailable(cases, tmp_path)
    assert {id_: str(reason) for id_, reason in reasons.items()} == {
        IDS[0]: "no-loadgen: pip install 'cnnbench[serving]'"
    }


def served(**about: object) -> Record:
    """A record of a service, answered at 60 queries a second and no longer at 63."""
    offline = load_test("offline", "scenario", rate=120.0, per_s=100.0)
    tests = [
        offline,
        load_test("single", "scenario", early_s=0.011),
        load_test(rate=60.0),
        load_test(rate=63.0, valid=False),
    ]
    (plain,) = measurement([0.01]).launches
    launch = plain.model_copy(update={"blocks": [], "serving": serving_launch(*tests)})
    case = Case.from_id(IDS[0])
    status, reasons = status_of([launch], facts=facts())
    whole = record(case).model_copy(update={"status": status, "reasons": reasons, "artifact": facts()})
    return whole.model_copy(update={"measurement": Measurement(launches=[launch]), **about})


def run_of(folder: Path) -> Run:
    made = served()
    return Run(folder, "sample", "2026-01-01T00:00:00+00:00", ENVIRONMENT, {made.id: made}, [made.id])


def test_a_record_of_a_service_is_read_as_it_was_written() -> None:
    made = served()
    assert made.status == "ok", made.reasons
    line = json.loads(record_line(made.model_copy(update={"artifact": None, "environment": None})))
    assert parse_record(line, {}, {}).launches == made.launches


def test_a_report_tells_the_interval_the_scenarios_and_the_curve(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    tables = {table.name: table for table in run_tables(run)}
    rates = dict(zip(tables["serving"].headings, tables["serving"].texts[0], strict=True))
    assert (rates["queries/s"], rates["bound ms"], rates["efficiency"], rates["confirmed"]) == (
        "[60.0, 63.0)",
        "50.0",
        "60 %",
        "1",
    )
    assert "not MLPerf results" in tables["serving"].caption
    assert "1.00 s instead of 600 s" in tables["serving"].caption
    scenarios = dict(zip(tables["loadgen"].headings, tables["loadgen"].texts[0], strict=True))
    assert (scenarios["single p90 ms"], scenarios["multi p99 ms"], scenarios["LoadGen µs"]) == ("11.0", "–", "10.0")
    assert [row[-1] for row in tables["curve"].texts] == ["VALID", "INVALID"]
    (section,) = [each for each in run_page(run, list(tables.values())).sections if each.id == "serving"]
    assert len(section.parts) == 4
    assert "inference" not in tables


def test_the_answer_of_a_run_of_services_is_their_rates(tmp_path: Path) -> None:
    found = answer(run_of(tmp_path))
    title, said = question(found), {line.label: line.text for line in lines(found)}
    assert title == "lenet5, in ONNX Runtime: how many queries per second?"
    assert said["Serving"] == "lenet5: ONNX Runtime [60.0, 63.0) queries/s with p99 within 50.0 ms"
    assert said[""].endswith("lenet5, serving in ONNX Runtime; 1 case")
    assert said["Trust"].startswith("1 of 1 cases are ok")


def test_exports_have_the_rate(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    metric = {"value": 60.0, "lower_value": 60.0, "upper_value": 63.0}
    assert json.loads(str(bencher.convert(run).files[".json"])) == {IDS[0]: {"throughput": metric}}
    (entry,) = json.loads(str(github_action.convert(run).files[".throughput.json"]))
    assert (entry["unit"], entry["value"]) == ("queries/s", 60.0)
    assert "queries_per_s: 60" in str(junit.convert(run).files[".xml"])
    rows = str(frames.csv(run).files[".serving.csv"]).splitlines()
    assert len(rows) == 1 + 4 + 12
    assert not [line for line in bencher.convert(run).lost if IDS[0] in line]


def test_a_bisection_and_a_history_take_no_services(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=f"{IDS[0]}: expected cases whose calls are timed; .* leave it out with --only"
    ):
        select_timed(write_suite(tmp_path, SUITE), None)


def test_a_tuned_suite_serves_what_was_found(tmp_path: Path) -> None:
    import yaml

    case = Case.from_id("resnet18@96x96/k10/serving/ort/cpu/fp32/b1/s3")
    knobs = Knobs(sessions=2, threads=1, batch=4, delay_ms=2.5)
    found = Tuned(case, 0.02, [Finalist(knobs, None, None, None)], [], 1.0, 1, {}, 0.0)
    file = write_suite(tmp_path, yaml.safe_dump(suite_of_tuned([found], 300.0)))
    assert [case.id for case in load_suite(file).cases] == [
        "resnet18@96x96/k10/serving/ort/cpu/fp32/p99:20ms/n2/d2.5ms/b4/t1/s3"
    ]


def test_a_tuned_suite_has_the_data_that_a_model_is_calibrated_with(tmp_path: Path) -> None:
    import yaml

    case = Case.from_id("lenet5/serving/ort/cpu/int8/cal:shapes/b1")
    knobs = Knobs(sessions=1, threads=2, batch=1, delay_ms=0.0)
    found = Tuned(case, 0.02, [Finalist(knobs, None, None, None)], [], 1.0, 1, {}, 0.0)
    (served,) = load_suite(write_suite(tmp_path, yaml.safe_dump(suite_of_tuned([found], 300.0)))).cases
    assert served == found.tuned_case(knobs)


WINNER = Finalist(Knobs(sessions=2, threads=1, batch=4, delay_ms=2.5), 60.24, 63.26, 0.0191)
OTHER = Finalist(Knobs(sessions=1, threads=2, batch=1, delay_ms=0.0), 50.0, None, None)
NEITHER = Finalist(OTHER.knobs, None, 30.0, None)
WORTHS = [Worth("delay_ms", 2.5, 0.012, 0.0, 0.0155), Worth("sessions", 2, 0.012, None, None)]


def found_of(*finalists: Finalist) -> Tuned:
    served = Case.from_id("lenet5/serving/ort/cpu/fp32/b1")
    return Tuned(served, 0.02, list(finalists), WORTHS, 45.5, 12, {"hung": 2}, 0.0123)


def test_what_tuning_found_is_said_with_the_command_that_measures_it() -> None:
    assert list(tuned.lines([found_of(WINNER, OTHER)], "tuned.yaml", "cnnbench run")) == [
        "lenet5, ort/cpu, p99 within 20.0 ms: [60.2, 63.3) queries/s, p99 19.1 ms",
        "  configuration: 2 x 1 threads, batch 4, delay 2.5 ms",
        "  runner-up: 1 x 2 threads, batch 1, delay 0 ms: [50.0, ?) queries/s",
        "  each knob, by p90 at 45.5 queries/s with the same arrivals:",
        "    delay 2.5 ms: 12.0 ms; 15.5 ms at best with delay 0 ms",
        "    sessions 2: 12.0 ms; no other value was tested",
        "  12 configurations were tested under load",
        "  2 were not: hung",
        "These are LoadGen scenarios, not MLPerf results.",
        "measure what was found, with all checks: cnnbench run tuned.yaml",
    ]
    first, second, *_ = tuned.lines([found_of(NEITHER)], "tuned.yaml", "cnnbench run")
    assert first == "lenet5, ort/cpu, p99 within 20.0 ms: no VALID rate"
    assert second == (
        "  no tested rate keeps the bound, the lowest was 30.0 queries/s; the best p99 seen was 12.3 ms; "
        "try a longer --budget"
    )


@pytest.mark.parametrize(("finalist", "code"), [(WINNER, 0), (NEITHER, 3)])
def test_tuning_writes_a_suite_and_ends_with_3_where_nothing_keeps_the_bound(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch, finalist: Finalist, code: int
) -> None:
    asked: list[TuneRequest] = []

    def tune(request: TuneRequest, watch: Any) -> list[Tuned]:
        asked.append(request)
        return [found_of(finalist)]

    monkeypatch.setattr("cnnbench.runner.tasks.tune_serving.tune", tune)
    options = ("--p99", "20ms", "--memory", "2GiB", "--budget", "90s", "--out", "found")
    done = cli("tune-serving", write_suite(home, SUITE), *options, "--json")
    assert done.returncode == code
    (said,) = json.loads(done.stdout)
    assert (said["case"], said["bound_ms"], said["rate"]) == ("lenet5/serving/ort/cpu/fp32/b1", 20.0, 45.5)
    assert (said["finalists"][0]["knobs"], said["tested"]) == (finalist.knobs.model_dump(), 12)
    (request,) = asked
    assert [case.id for case in request.cases] == ["lenet5/serving/ort/cpu/fp32/b1"]
    assert (request.bound_s, request.memory_bytes, request.budget_s) == (0.02, 2 * 2**30, 90.0)
    (served,) = load_suite(str(home / "found" / "tuned.yaml")).cases
    assert served.id.startswith("lenet5/serving/ort/cpu/fp32/p99:20ms")


def test_a_budget_has_no_time_of_calls_from_services() -> None:
    case = Case.from_id(IDS[0])
    budget = Budget(600.0, {case.id: 60.0}, 3)
    budget.first = [(case,)]
    assert budget.remaining_s() > 60.0


@pytest.fixture
def ort_service(artifact_of: object, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A service of two sessions in this process, not yet open."""
    from cnnbench.worker.serving import service

    case = Case.from_id(IDS[2])
    folder = artifact_of(case.spec)  # type: ignore[operator]
    return SimpleNamespace(module=service, service=service.Service(Open(case=case, folder=str(folder)), 1, 0))


def test_two_sessions_serve_right_outputs(ort_service: SimpleNamespace, tmp_path: Path) -> None:
    service = ort_service.service
    assert all(parity.passed for parity in service.open().parity)
    service.phases["forward"]()
    test = service.drive(
        Drive(scenario="offline", folder=str(tmp_path), rate=5000.0, expected_s=1e-4, min_queries=1, min_s=0.05)
    )
    assert test.calls < test.images  # batches of up to four
    closed = service.close()
    assert [parity.what for parity in closed.parity if parity.what.startswith("served")]
    assert all(parity.passed for parity in closed.parity)


def test_wrong_outputs_under_load_are_seen(ort_service: SimpleNamespace, tmp_path: Path) -> None:
    service = ort_service.service
    service.open()
    service.phases["forward"]()
    first, second = service.runtimes
    right, other, has_served = first.serve, second.serve, Event()

    def waits(images: Any) -> Any:
        has_served.wait(10.0)
        return right(images)

    def wrong(images: Any) -> Any:
        has_served.set()
        return other(images) + 1.0

    first.serve, second.serve = waits, wrong
    request = Drive(scenario="offline", folder=str(tmp_path), rate=5000.0, expected_s=1e-4, min_queries=1, min_s=0.05)
    service.drive(request)
    assert not service.close().parity[-1].passed


def test_more_sessions_than_memory_is_one_sentence(
    ort_service: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(
        WorkerOutOfMemory, match=r"2 sessions need about .* GiB, and 0.0 GiB are available; use at most 1"
    ):
        ort_service.service.open()


@pytest.mark.slow
def test_a_run_serves_in_two_runtimes_and_confirms_the_interval(cli: Cli, home: Path) -> None:
    suite = write_suite(home, "{launches: 2, defaults: {workloads: [serving], case_budget: 8s}, models: [lenet5]}")
    done = cli("run", suite, "--out", "run", "--budget", "100s")
    records = read_run(home / "run").records
    assert len(records) == 2
    for found in records.values():
        assert found.status in ("ok", "noisy"), done.stdout
        assert found.launches[0].serving is not None
        for test in found.launches[0].serving.tests:
            assert (home / "run" / "loadgen" / test.logs / "mlperf_log_summary.txt").exists()
    assert "LoadGen scenarios" in (home / "run" / "report.md").read_text()
