"""A run in other tools' formats: read by the tools themselves, or held against their schema."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

import jsonschema
import pandas as pd
import pytest

from cnnbench.integrations.convert import COMPARED, FORMATS, convert
from cnnbench.integrations.exporters.pyperf import grouped
from cnnbench.records.reason import Reason
from cnnbench.records.record import Measurement, Record
from tests.conftest import Cli
from tests.records import ENVIRONMENT, case, measurement, record, write_records

GITHUB_SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "unit", "value"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string"},
            "unit": {"type": "string"},
            "value": {"type": "number"},
            "range": {"type": "string", "pattern": r"^± \d+(\.\d+)?$"},
            "extra": {"type": "string"},
        },
    },
}
"""github-action-benchmark's custom format (`extract.ts`)."""

BENCHER_SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "required": ["value"],
            "additionalProperties": False,
            "properties": {key: {"type": "number"} for key in ("value", "lower_value", "upper_value")},
        },
    },
}
"""Bencher Metric Format, version 0 (`bmf.json`)."""

JUNIT_CHILDREN = {
    "testsuites": ["testsuite"],
    "testsuite": ["properties", "testcase", "system-out", "system-err"],
    "properties": ["property"],
    "property": [],
    "testcase": ["skipped", "error", "failure", "system-out", "system-err"],
    "skipped": [],
    "error": [],
    "failure": [],
    "system-out": [],
}
JUNIT_REQUIRED = {
    "testsuite": {"name", "tests", "failures", "errors"},
    "testcase": {"name"},
    "property": {"name", "value"},
}
JUNIT_ALLOWED = {
    "testsuites": {"name", "time", "tests", "failures", "disabled", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "time", "disabled", "skipped", "timestamp", "hostname", "id"},
    "testcase": {"name", "assertions", "time", "classname", "status"},
    "skipped": {"type", "message"},
    "error": {"type", "message"},
    "failure": {"type", "message"},
    "property": {"name", "value"},
    "properties": set(),
    "system-out": set(),
}
"""Jenkins' `junit-10.xsd`: the elements in each element, their order in a suite, and their attributes."""

TIMES_S = [0.010, 0.011, 0.012, 0.013, 0.014, 0.015, 0.016]
EAGER, ORT = case("eager").id, case("ort").id
FAILED, INVALID, UNAVAILABLE = (case("eager", batch=batch).id for batch in (1, 2, 3))
UNRECORDED = case("eager", batch=4).id


def two_launches(of: Record) -> Record:
    """The same with a second launch, a tenth slower."""
    first = measurement(TIMES_S).launches[0]
    second = measurement([seconds * 1.1 for seconds in TIMES_S]).launches[0]
    return of.model_copy(update={"measurement": Measurement(launches=[first, second])})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with two measured cases, one that failed, is invalid, is unavailable, and has no record."""
    folder = tmp_path / "run"
    folder.mkdir()
    records = [
        two_launches(record(case("eager"), TIMES_S)),
        two_launches(record(case("ort"), TIMES_S, status="noisy", reasons=[Reason(code="wide-interval")])),
        record(
            case("eager", batch=1),
            status="failed",
            reasons=[Reason(code="crashed", detail="killed by SIGKILL\x1b[0m\ufffe <&>")],
        ),
        record(
            case("eager", batch=2), TIMES_S, status="invalid", reasons=[Reason(code="parity", detail="ort b1, error 2")]
        ),
        record(case("eager", batch=3), status="unavailable", reasons=[Reason(code="no-device", detail="no driver")]),
    ]
    about = {"suite": "mine", "started": "2026-01-01T10:00:00+02:00", "cases": [r.id for r in records] + [UNRECORDED]}
    (folder / "run.json").write_text(json.dumps(about))
    machine = ENVIRONMENT.machine.model_copy(update={"logical_cores": 2, "architecture": "x86_64"})
    environment = ENVIRONMENT.model_copy(update={"machine": machine})
    (folder / "environment.json").write_text(environment.model_dump_json())
    write_records(folder, records)
    return folder


def tool(*words: str | Path, cwd: Path) -> str:
    """What a tool prints; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_pytest_benchmark_compares_what_it_is_given(run: Path, tmp_path: Path) -> None:
    for name in ("before.json", "after.json"):
        convert(run, "pytest-benchmark", tmp_path / name)
    said = tool("pytest_benchmark", "compare", "before.json", "after.json", "--columns=median,rounds", cwd=tmp_path)
    assert said.count(EAGER) == 2
    assert said.count(ORT) == 2
    assert "WARNING" not in said.upper()
    listed = tool(
        "pytest_benchmark", "compare", "before.json", "--group-by=param:runtime", "--csv=out.csv", cwd=tmp_path
    )
    assert "runtime=ort" in listed
    rows = {row["name"]: row for row in csv.DictReader((tmp_path / "out.csv").read_text().splitlines())}
    assert set(rows) == {EAGER, ORT}
    pool = [seconds * factor for factor in (1.0, 1.1) for seconds in TIMES_S for _ in range(2)]
    assert float(rows[EAGER]["median"]) == pytest.approx(median(pool))
    assert int(rows[EAGER]["rounds"]) == 28


def test_launches_interval_and_status_stand_in_pytest_benchmarks_extra_info(run: Path) -> None:
    (file,), _ = convert(run, "pytest-benchmark")
    benchmarks = {each["fullname"]: each["extra_info"] for each in json.loads(file.read_text())["benchmarks"]}
    info = benchmarks[ORT]
    assert (info["status"], info["reason_codes"]) == ("noisy", ["wide-interval"])
    assert [launch["median_s"] for launch in info["launches"]] == pytest.approx([0.013, 0.0143])
    assert info["low_s"] < info["median_s"] < info["high_s"]


def test_github_gets_one_file_for_each_direction(run: Path) -> None:
    files, _ = convert(run, "github-action", run / "plot.json")
    assert [file.name for file in files] == ["plot.latency.json", "plot.throughput.json"]
    latency, throughput = (json.loads(file.read_text()) for file in files)
    for entries in (latency, throughput):
        jsonschema.validate(entries, GITHUB_SCHEMA)
        assert [entry["name"] for entry in entries] == [EAGER, ORT]
    assert (latency[0]["unit"], throughput[0]["unit"]) == ("ms", "images/s")
    assert latency[0]["value"] * throughput[0]["value"] == pytest.approx(8 * 1e3)
    assert "status: noisy\nthe interval of the median is wider than 5 % to one side\nlaunches: 2" in latency[1]["extra"]


def test_bencher_gets_nanoseconds_with_bounds(run: Path) -> None:
    (file,), _ = convert(run, "bencher")
    metrics = json.loads(file.read_text())
    jsonschema.Draft7Validator(BENCHER_SCHEMA).validate(metrics)
    assert set(metrics) == {EAGER, ORT}
    latency, throughput = metrics[EAGER]["latency"], metrics[EAGER]["throughput"]
    assert latency["value"] == pytest.approx(13.65e6)
    assert latency["lower_value"] < latency["value"] < latency["upper_value"]
    assert throughput["lower_value"] == pytest.approx(8e9 / latency["upper_value"])


def test_a_schema_that_is_broken_would_be_seen() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{"name": "a", "unit": "ms", "value": "1"}], GITHUB_SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(BENCHER_SCHEMA).validate({"a": {"latency": {"lower_value": 1}}})
    assert junit_faults(ElementTree.fromstring("<testsuite name='a'><test/></testsuite>"))


def test_pyperf_reads_a_run_for_each_launch(run: Path) -> None:
    convert(run, "pyperf", run / "out.json")
    stats = tool("pyperf", "stats", "out.json", cwd=run)
    assert "Number of run with values: 2" in stats
    assert "Number of value per run: 6" in stats
    assert tool("pyperf", "hist", "out.json", "-b", EAGER, cwd=run).strip()
    dumped = tool("pyperf", "dump", "out.json", "-b", EAGER, cwd=run)
    assert "Run 2: 0 warmups, 6 values, 1 loop" in dumped
    metadata = tool("pyperf", "metadata", "out.json", cwd=run)
    assert "cpu_model_name: Testing CPU" in metadata
    assert "status: noisy" in metadata


def test_pyperf_finds_a_run_no_different_from_itself(run: Path) -> None:
    convert(run, "pyperf", run / "out.json")
    assert "not significant (2)" in tool("pyperf", "compare_to", "out.json", "out.json", cwd=run)


@pytest.mark.parametrize("blocks", [6, 7, 11, 12, 100])
def test_every_launch_gives_pyperf_as_many_values(blocks: int) -> None:
    values = [float(block) for block in range(blocks)]
    groups = grouped(values)
    assert len(groups) == 6
    assert groups == sorted(groups)
    assert (groups[0], groups[-1]) != (groups[1], groups[-2])
    assert grouped(values[:3]) == values[:3]


def junit_faults(element: ElementTree.Element) -> list[str]:
    """What the schema does not allow in an element and those inside it."""
    faults = [f"{element.tag}: lacks {name}" for name in JUNIT_REQUIRED.get(element.tag, set()) - set(element.attrib)]
    faults += [f"{element.tag}: has {name}" for name in set(element.attrib) - JUNIT_ALLOWED.get(element.tag, set())]
    allowed = JUNIT_CHILDREN.get(element.tag, [])
    faults += [f"{element.tag}: holds {child.tag}" for child in element if child.tag not in allowed]
    places = [allowed.index(child.tag) for child in element if child.tag in allowed]
    if element.tag == "testsuite" and places != sorted(places):
        faults.append("testsuite: out of order")
    return faults + [fault for child in element for fault in junit_faults(child)]


def test_junit_tells_every_case_with_its_reason(run: Path) -> None:
    (file,), _ = convert(run, "junit")
    root = ElementTree.parse(file).getroot()
    assert junit_faults(root) == []
    suite = root[0]
    assert {name: suite.get(name) for name in ("name", "tests", "failures", "errors", "skipped", "timestamp")} == {
        "name": "mine",
        "tests": "6",
        "failures": "1",
        "errors": "1",
        "skipped": "2",
        "timestamp": "2026-01-01T08:00:00",
    }
    outcomes = {test.get("name"): (test[0].tag, test[0].get("message")) for test in suite.iter("testcase")}
    assert outcomes[EAGER] == ("system-out", None)
    assert outcomes[FAILED] == (
        "error",
        "the process crashed: killed by SIGKILL\N{REPLACEMENT CHARACTER}[0m\N{REPLACEMENT CHARACTER} <&>",
    )
    assert outcomes[INVALID] == ("failure", "the outputs differ from the float64 reference: ort b1, error 2")
    assert outcomes[UNAVAILABLE] == ("skipped", "there is no such device: no driver")
    assert {each.get("type") for each in suite.iter("error")} == {"crashed"}
    assert outcomes[UNRECORDED][0] == "skipped"


@pytest.mark.parametrize("name", ["csv", "parquet"])
def test_frames_hold_every_case_and_every_sample_that_counts(run: Path, name: str) -> None:
    files, _ = convert(run, name, run / f"out.{name}")
    cases, samples = (pd.read_csv(file) if name == "csv" else pd.read_parquet(file) for file in files)
    assert list(cases["id"]) == [EAGER, ORT, FAILED, INVALID, UNAVAILABLE]
    assert {"ms_low", "p99_ms", "images_per_s", "speedup", "peak_mib", "launches"} <= set(cases.columns)
    figures = cases.set_index("id")["ms"]
    assert figures[EAGER] == pytest.approx(13.65)
    assert figures[[FAILED, INVALID, UNAVAILABLE]].isna().all()
    assert set(samples["id"]) == {EAGER, ORT}
    assert len(samples) == 2 * 2 * len(TIMES_S) * 2
    assert samples["call_s"].sum() == pytest.approx(2 * 2.1 * 2 * sum(TIMES_S))


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_no_format_takes_a_case_for_measured_that_is_not(run: Path, name: str) -> None:
    """In frames and JUnit it stands with its status; nowhere with a number, and what is missing is told."""
    files, lost = convert(run, name)
    for id_ in (FAILED, INVALID, UNAVAILABLE):
        if name not in ("junit", "csv", "parquet"):
            assert not any(id_ in file.read_text() for file in files)
            assert any(line.startswith(id_) for line in lost)
    if name != "junit":
        assert any(line.startswith(UNRECORDED) for line in lost)


def test_convert_says_what_is_lost_and_where_the_file_is(run: Path, cli: Cli) -> None:
    done = cli("convert", str(run), "--to", "bencher", "--out", "bmf.json")
    assert (done.returncode, done.stdout) == (0, "bmf.json\n")
    assert f"note: {FAILED}: failed: the process crashed: killed by SIGKILL" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--to", "bencer"), "did you mean 'bencher'?"),
        (("--to", "junit", "--out", "no/such/file.xml"), "cannot be written"),
    ],
)
def test_what_cannot_be_converted_is_one_message(run: Path, cli: Cli, words: tuple[str, ...], message: str) -> None:
    done = cli("convert", str(run), *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_without_records_is_told(run: Path, cli: Cli) -> None:
    (run / "records.jsonl").unlink()
    done = cli("convert", str(run), "--to", "csv")
    assert done.returncode == 2
    assert "expected a run with records" in done.stderr


@pytest.mark.parametrize("name", COMPARED)
def test_a_set_without_a_time_is_not_written_for_tools_that_compare(run: Path, cli: Cli, name: str) -> None:
    lines = (run / "records.jsonl").read_text().splitlines(keepends=True)
    (run / "records.jsonl").write_text("".join(line for line in lines if UNAVAILABLE in line))
    done = cli("convert", str(run), "--to", name, "--out", "made")
    assert done.returncode == 2
    assert "expected a case with a time; got none" in done.stderr
    assert not list(run.parent.glob("made*"))
