"""Runs of every older schema are read, reported, compared and converted, with the numbers that they had."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import cnnbench
from cnnbench.integrations.convert import convert
from cnnbench.records import files, upgrade
from cnnbench.records.json_object import parse_object
from cnnbench.records.lines import parse_record, record_line, shared_values
from cnnbench.records.reason import Interference, Reason
from cnnbench.records.record import Record
from cnnbench.records.run_folder import RECORDS, SHARED, Run, read_run
from cnnbench.records.upgrade import OLDER
from tests.conftest import ROOT

RUNS = ROOT / "tests" / "runs"
EAGER, ORT = "lenet5/inference/eager/cpu/fp32/b8", "lenet5/inference/ort/cpu/fp32/b8"
FIGURES = ("ms", "ms_low", "ms_high")
PUBLISHED = [
    ROOT / "reports" / "classic-epyc-2cores-20261125",
    *(ROOT / "reports" / "threads-epyc-20261122").glob("*-*"),
]


@pytest.fixture(params=OLDER)
def old(request: pytest.FixtureRequest) -> Path:
    """A small run, as the version that wrote this schema made it."""
    return RUNS / f"schema-{request.param}"


def launches_once(run: Path, out: Path) -> Run:
    """A run written as it would be today, line by line as it was."""
    shutil.copy(run / "run.json", out)
    known: dict[str, Record] = {}
    shared: set[str] = set()
    for line in files.read_lines(run / RECORDS):
        record = parse_record(parse_object(line), {}, {})
        values = shared_values(record)
        for digest in values.keys() - shared:
            files.append(out / SHARED, values[digest].model_dump_json(exclude_unset=True))
        shared |= values.keys()
        before, now = (
            each.measurement.launches if each and each.measurement else [] for each in (known.get(record.id), record)
        )
        files.append(out / RECORDS, record_line(record, len(before) if now[: len(before)] == before else 0))
        known[record.id] = record
    return read_run(out)


def test_an_older_run_is_read_whole(old: Path) -> None:
    run = read_run(old)
    assert run.unreadable == []
    assert list(run.records) == run.cases
    assert run.environment is not None
    assert run.environment.threads.used == (2,)
    assert {record.group for record in run.records.values() if record.measurement} == {"race"}


def test_its_numbers_are_what_they_were(old: Path) -> None:
    frame = cnnbench.load(old).frame.set_index("id")
    assert [frame.loc[EAGER, name] for name in FIGURES] == pytest.approx([10.0, 9.8, 10.3])
    disturbed = old.name != "schema-1"  # which had no counters of the system
    assert [frame.loc[ORT, name] for name in FIGURES] == pytest.approx(
        [5.025, 4.9, 5.15] if disturbed else [5.0, 4.9, 5.15]
    )
    assert frame.loc[ORT, "speedup"] == pytest.approx(2.0, rel=0.01)
    assert frame.loc[ORT, "blocks_with_interference"] == (2 if disturbed else 0)
    assert frame.loc[EAGER, "parity_error"] == 2e-6


def test_its_reasons_have_codes(old: Path) -> None:
    records = read_run(old).records
    codes = {id_.removeprefix("lenet5/"): [reason.code for reason in each.reasons] for id_, each in records.items()}
    assert codes["inference/ort/cpu/fp32/b2"] == ["parity"]
    assert codes["inference/eager/cpu/fp32/b3"] == ["crashed"]
    assert codes["inference/eager/cuda/fp32/b8"] == ["no-device"]
    assert codes["inference/eager/cpu/fp32/b1"][0] == "wide-interval"
    if old.name != "schema-1":
        assert records["lenet5/inference/eager/cpu/fp32/b1"].reasons[1] == Reason(code="drift", detail="+35 %")
        assert codes["inference/compile/cpu/fp32/b4"] == ["no-runtime"]


def test_a_records_own_word_of_what_ran_is_the_last_launchs() -> None:
    lines = files.read_lines(RUNS / "schema-4" / RECORDS)
    record = next(content for content in map(parse_object, lines) if content.get("ran"))
    record["ran"]["device"] = "cuda"
    ran = parse_record(record, {}, {}).launches[-1].ran
    assert ran is not None
    assert ran.device == "cuda"


def test_what_ran_beside_it_has_kinds_and_amounts() -> None:
    measured = read_run(RUNS / "schema-4").records[ORT].measurement
    assert measured is not None
    (launch,) = measured.launches
    assert launch.blocks[1].interference == [
        Interference(kind="other-processes", amount=0.48),
        Interference(kind="steal", amount=0.04),
    ]
    assert launch.blocks[3].interference == [
        Interference(kind="throttled", amount=0.1),
        Interference(kind="thermal", amount=3),
        Interference(kind="swap", amount=1),
    ]
    assert launch.ran is not None
    assert (launch.ran.torch_in_process, launch.ran.nodes) == (False, {"CPUExecutionProvider": 7})
    assert launch.ran.facts == {"onnxruntime": "1.31.1", "execution_mode": "ORT_SEQUENTIAL"}


def test_it_is_reported_compared_and_converted(old: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(old, tmp_path / "run"))
    assert cnnbench.load(copied).write().is_file()
    other = Path(shutil.copytree(old, tmp_path / "other"))
    assert len(cnnbench.compare(copied, other).frame) >= 4
    for format_name in ("csv", "junit", "pytest-benchmark"):
        written, _ = convert(copied, format_name, tmp_path / format_name)
        assert all(file.stat().st_size for file in written)


def test_a_sentence_of_nobody_is_kept_as_it_is_and_a_strange_interference_is_told(tmp_path: Path) -> None:
    run = Path(shutil.copytree(RUNS / "schema-4", tmp_path / "run"))
    lines = [json.loads(line) for line in (run / RECORDS).read_text().splitlines()]
    lines[0]["reasons"] = ["the moon was full"]
    lines[1]["measurement"]["launches"][0]["turns"][1]["disturbed"] = ["an owl"]
    (run / RECORDS).write_text("\n".join(map(json.dumps, lines)))
    read = read_run(run)
    assert read.records[EAGER].reasons == [Reason(code="other", detail="the moon was full")]
    assert read.unreadable == [f"{run / RECORDS}: not read: line 2: not a known interference: 'an owl'"]


@pytest.mark.parametrize("run", PUBLISHED, ids=lambda run: run.name)
def test_published_runs_are_read_and_written_anew_without_a_change(run: Path, tmp_path: Path) -> None:
    read = read_run(run)
    assert read.unreadable == []
    again = launches_once(run, tmp_path)
    assert again.unreadable == []
    assert again.records == read.records


def test_a_run_takes_less_than_half_of_what_it_took(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    run = PUBLISHED[0]
    launches_once(run, tmp_path)
    share = sum((tmp_path / name).stat().st_size for name in (RECORDS, SHARED)) / (run / RECORDS).stat().st_size
    record_property("share of the bytes of schema 4", round(share, 3))
    assert share < 0.4


def test_a_reason_that_no_version_wrote_is_kept_at_once_however_long_it_is() -> None:
    said = ": no " * 1_000_000
    assert upgrade._reason(said) == {"code": "other", "detail": said}
