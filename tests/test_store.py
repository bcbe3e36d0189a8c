"""A run's folder keeps what was finished, whatever happens, and belongs to one suite and one writer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnnbench.errors import RunFolderError
from cnnbench.records import files, json_object
from cnnbench.records.layer_profile import PROFILES, read_profiles
from cnnbench.records.reason import Reason
from cnnbench.records.record import SCHEMA_VERSION, Record
from cnnbench.records.run_folder import RECORDS, Run, Store, read_run
from cnnbench.suite.load import Suite, load_suite
from tests.conftest import write_suite
from tests.records import ENVIRONMENT, case, facts, record


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return load_suite(write_suite(tmp_path, "name: tiny\nmodels: [lenet5]"))


def store(folder: Path, suite: Suite, resume: bool = False) -> Store:
    return Store(folder, suite, ENVIRONMENT, resume=resume)


def written(folder: Path, suite: Suite) -> Run:
    with store(folder, suite) as open_store:
        open_store.append(record(case("ort", batch=1), [0.001] * 6))
        open_store.append(
            record(case("eager", batch=1), status="failed", reasons=[Reason(code="crashed", detail="killed")])
        )
    return read_run(folder)


def test_records_come_back_as_they_were_in_the_suites_order(tmp_path: Path, suite: Suite) -> None:
    run = written(tmp_path / "run", suite)
    assert list(run.records) == ["lenet5/inference/eager/cpu/fp32/b1", "lenet5/inference/ort/cpu/fp32/b1"]
    assert run.records["lenet5/inference/ort/cpu/fp32/b1"] == record(case("ort", batch=1), [0.001] * 6)
    assert run.environment == ENVIRONMENT
    assert (tmp_path / "run" / "suite.yaml").read_text() == suite.text


def test_a_run_that_is_added_to_while_it_is_read_is_read_whole(
    tmp_path: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_each, added = json_object.read_each, list[Record]()
    with store(tmp_path / "run", suite) as open_store:
        open_store.append(record(case("eager"), [0.01] * 8))

        def reads(file: Path, take: Callable[[dict[str, Any]], None]) -> list[str]:
            found = read_each(file, take)
            if file.name == "shared.jsonl" and not added:
                other = facts().model_copy(update={"key": "other"})
                added.append(record(case("ort"), [0.02] * 8).model_copy(update={"artifact": other}))
                open_store.append(added[0])
            return found

        monkeypatch.setattr("cnnbench.records.run_folder.read_each", reads)
        found = read_run(tmp_path / "run")
    assert found.unreadable == []
    assert [each.id for each in found.records.values()] == [case("eager").id, added[0].id]


def test_all_but_failed_cases_are_finished(tmp_path: Path, suite: Suite) -> None:
    written(tmp_path / "run", suite)
    with store(tmp_path / "run", suite, resume=True) as again:
        assert list(again.finished()) == ["lenet5/inference/ort/cpu/fp32/b1"]


def test_the_later_record_of_a_case_counts(tmp_path: Path, suite: Suite) -> None:
    written(tmp_path / "run", suite)
    with store(tmp_path / "run", suite, resume=True) as again:
        again.append(record(case("eager", batch=1), [0.002] * 6))
    assert read_run(tmp_path / "run").records["lenet5/inference/eager/cpu/fp32/b1"].status == "ok"


def test_a_line_cut_short_is_told_and_the_rest_is_read_and_written_on(tmp_path: Path, suite: Suite) -> None:
    written(tmp_path / "run", suite)
    file = tmp_path / "run" / RECORDS
    file.write_bytes(file.read_bytes()[:-40])
    run = read_run(tmp_path / "run")
    assert len(run.records) == 1
    assert run.unreadable == [f"{file}: not read: line 2: it is cut short or is not JSON"]
    with store(tmp_path / "run", suite, resume=True) as again:
        again.append(record(case("eager", batch=8), [0.002] * 6))
    assert len(read_run(tmp_path / "run").records) == 2


def test_a_newer_schema_says_to_upgrade(tmp_path: Path, suite: Suite) -> None:
    written(tmp_path / "run", suite)
    file = tmp_path / "run" / RECORDS
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["schema_version"] = 99
    lines[1]["status"] = "fine"
    file.write_text("\n".join(map(json.dumps, [*lines, json.loads(file.read_text().splitlines()[0])])))
    assert read_run(tmp_path / "run").unreadable == [
        f"{file}: not read: line 1: schema 99 is newer than this cnnbench's {SCHEMA_VERSION}; upgrade cnnbench; "
        "line 2: status: Input should be 'ok', 'noisy', 'invalid', 'failed' or 'unavailable'"
    ]


def test_one_line_says_which_lines_could_not_be_read(tmp_path: Path, suite: Suite) -> None:
    written(tmp_path / "run", suite)
    file = tmp_path / "run" / RECORDS
    file.write_text("junk\n" * 3 + file.read_text() + "junk\n")
    run = read_run(tmp_path / "run")
    assert run.unreadable == [f"{file}: not read: lines 1-3, 6: it is cut short or is not JSON"]
    assert len(run.records) == 2


@pytest.mark.parametrize(("bound", "limit"), [("MAX_LINES", 2), ("MAX_BAD_LINES", 2), ("MAX_LINES_BYTES", 15)])
def test_one_line_says_that_the_rest_of_an_endless_file_is_not_read(
    tmp_path: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch, bound: str, limit: int
) -> None:
    written(tmp_path / "run", suite)
    file = tmp_path / "run" / PROFILES
    file.write_text("junk\n" * 1000)
    monkeypatch.setattr(files if bound == "MAX_LINES_BYTES" else json_object, bound, limit)
    (line,) = read_profiles(tmp_path / "run")[1]
    read = 3 if bound == "MAX_LINES_BYTES" else 2
    told = f"not read: lines 1-{read}: it is cut short or is not JSON; what follows line {read}: "
    assert line.startswith(f"{file}: {told}")


def test_times_of_another_cases_phases_are_refused_in_later_lines_too(tmp_path: Path, suite: Suite) -> None:
    written(tmp_path / "run", suite)
    file = tmp_path / "run" / RECORDS
    line = json.loads(file.read_text().splitlines()[0])
    line["case"]["workload"] = "training"
    file.write_text(file.read_text() + json.dumps({**line, "earlier": 1, "launches": []}) + "\n")
    (told,) = read_run(tmp_path / "run").unreadable
    assert told.endswith("line 3: blocks: expected times of step")


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ([], "expected as many samples of each phase"),
        ([0.0, 0.1], "expected times above zero"),
        ([float("inf")], "not JSON"),
    ],
)
def test_times_that_no_clock_gives_are_told_and_left_out(
    tmp_path: Path, suite: Suite, times: list[float], why: str
) -> None:
    written(tmp_path / "run", suite)
    file = tmp_path / "run" / RECORDS
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["launches"][0]["blocks"][0]["seconds"] = {"forward": times}
    file.write_text("\n".join(map(json.dumps, lines)))
    run = read_run(tmp_path / "run")
    assert why in run.unreadable[0]
    assert len(run.records) == 1


@pytest.mark.parametrize("content", ["[]", '{"machine": 1}', '{"machine": {"cpu": ["x"]}}'])
def test_a_damaged_environment_is_told_and_left_out(tmp_path: Path, suite: Suite, content: str) -> None:
    written(tmp_path / "run", suite)
    (tmp_path / "run" / "environment.json").write_text(content)
    run = read_run(tmp_path / "run")
    assert run.environment is None
    assert len(run.records) == 2
    (line,) = run.unreadable
    assert "environment.json: not read: " in line


def test_a_folder_without_a_readable_record_or_without_a_run_is_an_error(tmp_path: Path, suite: Suite) -> None:
    written(tmp_path / "run", suite)
    (tmp_path / "run" / RECORDS).write_text("junk\n")
    with pytest.raises(RunFolderError, match=r"no record could be read; .*records.jsonl: not read: line 1: "):
        read_run(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"expected a run's folder with run.json"):
        read_run(tmp_path)


def test_what_cannot_be_read_of_what_a_run_says_of_itself_is_told_and_takes_no_record(
    tmp_path: Path, suite: Suite
) -> None:
    written(tmp_path / "run", suite)
    file = tmp_path / "run" / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "started": 5, "cases": {"a": 1}}))
    run = read_run(tmp_path / "run")
    assert (run.suite, run.cases, len(run.records)) == ("tiny", [], 2)
    assert run.unreadable == [f"{file}: not read: cases: Input should be a valid list"]
    file.write_bytes(b'{"suite": "\xff"}')
    with pytest.raises(RunFolderError, match=r"run\.json: not read: it is cut short or is not JSON; give another"):
        read_run(tmp_path / "run")


def test_what_is_no_character_is_shown_as_unknown(tmp_path: Path, suite: Suite) -> None:
    written(tmp_path / "run", suite)
    file = tmp_path / "run" / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "suite": "a\ufffe\uffffb"}))
    assert read_run(tmp_path / "run").suite == "a\ufffd\ufffdb"


def test_a_first_record_cut_short_does_not_block_going_on(tmp_path: Path, suite: Suite) -> None:
    written(tmp_path / "run", suite)
    (tmp_path / "run" / RECORDS).write_text('{"schema_ver')
    with store(tmp_path / "run", suite, resume=True) as again:
        assert again.finished() == {}
        again.append(record(case("eager", batch=1), [0.002] * 6))
    assert len(read_run(tmp_path / "run").records) == 1


def test_a_run_that_nothing_came_of_leaves_no_claim_on_its_folder(tmp_path: Path, suite: Suite) -> None:
    with store(tmp_path / "new", suite):
        pass
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    for _ in range(2):
        with store(tmp_path / "old", suite):
            pass
    assert (tmp_path / "old").exists()


def test_a_run_is_gone_on_with_only_when_asked(tmp_path: Path, suite: Suite) -> None:
    written(tmp_path / "run", suite)
    with pytest.raises(RunFolderError, match="already holds a run of 'tiny'; add --resume"):
        store(tmp_path / "run", suite)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: other\nmodels: [lenet5]", "belongs to suite 'tiny', not 'other'; give another --out"),
        ("name: tiny\nmodels: [alexnet]", "was run from another version of suite 'tiny'"),
    ],
)
def test_a_folder_of_another_suite_is_left_alone(tmp_path: Path, suite: Suite, text: str, message: str) -> None:
    written(tmp_path / "run", suite)
    before = (tmp_path / "run" / RECORDS).read_bytes()
    with pytest.raises(RunFolderError, match=message):
        store(tmp_path / "run", load_suite(write_suite(tmp_path, text)), resume=True)
    assert (tmp_path / "run" / RECORDS).read_bytes() == before


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path, suite: Suite) -> None:
    with pytest.raises(RunFolderError, match=r"got one with 'suite.yaml' in it; give another --out"):
        store(tmp_path, suite)


def test_two_runs_cannot_write_into_one_folder(tmp_path: Path, suite: Suite) -> None:
    with store(tmp_path / "run", suite), pytest.raises(RunFolderError, match="another run is writing here"):
        store(tmp_path / "run", suite, resume=True)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, suite: Suite) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be made"):
        store(tmp_path / "file" / "run", suite)


@pytest.mark.parametrize("name", ["logs", RECORDS, "shared.jsonl"])
def test_a_link_in_a_runs_folder_is_not_added_to_by_resuming(tmp_path: Path, suite: Suite, name: str) -> None:
    written(tmp_path / "run", suite)
    place, theirs = tmp_path / "run" / name, tmp_path / "theirs"
    theirs.mkdir() if name == "logs" else theirs.touch()
    place.unlink(missing_ok=True)
    place.symlink_to(theirs)
    with pytest.raises(RunFolderError, match=rf"{name}: expected a .*; got a link .*; give another --out"):
        store(tmp_path / "run", suite, resume=True)
