"""Histories of other tools: each in its own format, with times at their commits; what is none is left out."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cnnbench.errors import HistoryError
from cnnbench.history.imports import import_from
from cnnbench.history.store import add, read_history
from tests.conftest import Cli
from tests.test_git import call, repository

__all__ = ["repository"]

HASH = "3a6e19655d125498a75b8903282474f009c1052e"


def asv(folder: Path, **changes: Any) -> Path:
    """A folder as asv's own documentation of its format says, schema 2."""
    content = {
        "commit_hash": HASH,
        "env_name": "virtualenv-py3.11-numpy",
        "date": 1_767_225_600_000,
        "python": "3.11",
        "requirements": {"numpy": "2.4"},
        "result_columns": ["result", "params", "version", "started_at"],
        "results": {
            "suite.time_range": [[1.5e-3], [], "v1", 1_767_225_700_000],
            "suite.Suite.time_sorted": [[2e-3, None, 4e-3, 5e-3], [["10", "20"], ["'a'", "'b'"]], "v1"],
            "suite.mem_list": [[1024], [], "v1"],
        },
        "durations": {},
        "version": 2,
    }
    (folder / "laptop").mkdir(parents=True)
    (folder / "laptop" / "machine.json").write_text('{"machine": "laptop", "version": 1}')
    (folder / "laptop" / "3a6e1965-virtualenv-py3.11-numpy.json").write_text(json.dumps(content | changes))
    units = {"suite.time_range": {"unit": "seconds"}, "suite.mem_list": {"unit": "bytes"}, "version": 2}
    (folder / "benchmarks.json").write_text(json.dumps(units))
    return folder


def test_results_of_asv_have_a_case_for_each_combination_of_parameters(tmp_path: Path) -> None:
    entries, left_out = import_from("asv", asv(tmp_path / "results"), tmp_path)
    assert {each.case: each.seconds for each in entries} == {
        "suite.time_range": 1.5e-3,
        "suite.Suite.time_sorted(10, 'a')": 2e-3,
        "suite.Suite.time_sorted(20, 'a')": 4e-3,
        "suite.Suite.time_sorted(20, 'b')": 5e-3,
    }
    assert left_out == ["suite.mem_list: its unit is bytes, no time"]
    assert {each.commit for each in entries} == {HASH}
    assert {each.committed for each in entries} == {datetime(2026, 1, 1, tzinfo=UTC)}
    assert entries[0].versions == {"python": "3.11", "numpy": "2.4"}
    assert (entries[0].kind, entries[0].tool) == ("import", "asv")
    assert entries[0].machine_name == "laptop, virtualenv-py3.11-numpy"


def test_results_of_asvs_first_schema_are_read(tmp_path: Path) -> None:
    old = {
        "suite.time_range": 1e-3,
        "suite.time_two": {"result": [1.0, 2.0], "params": [["1", "2"]]},
        "time_none": None,
    }
    entries, _ = import_from("asv", asv(tmp_path / "results", version=1, result_columns=[], results=old), tmp_path)
    found = {each.case: each.seconds for each in entries}
    assert found == {"suite.time_range": 1e-3, "suite.time_two(1)": 1.0, "suite.time_two(2)": 2.0}


def data_js(file: Path, benches: list[dict[str, Any]], **commit: Any) -> Path:
    about = {"author": {}, "id": HASH, "message": "a", "timestamp": "2026-01-01T02:00:00+02:00", "url": "u"} | commit
    run = {"commit": about, "date": 1_767_225_700_000, "tool": "customSmallerIsBetter", "benches": benches}
    content = {"lastUpdate": 1, "repoUrl": "u", "entries": {"Benchmark": [run]}}
    file.write_text(f"window.BENCHMARK_DATA = {json.dumps(content, indent=2)}")
    return file


def test_times_and_rates_of_github_action_benchmark_are_seconds(tmp_path: Path) -> None:
    units = {"a": "ns/iter", "b": "ms", "c": "iter/sec", "d": "ns/op", "e": "MB/s", "f": "s", "g": "points"}
    benches = [{"name": name, "value": 4.0, "unit": unit, "range": "± 1"} for name, unit in units.items()]
    entries, left_out = import_from("github-action", data_js(tmp_path / "data.js", benches), tmp_path)
    found = {each.case: each.seconds for each in entries}
    assert found == pytest.approx({"a": 4e-9, "b": 4e-3, "c": 0.25, "d": 4e-9, "f": 4.0})
    assert left_out == ["e: its unit is 'MB/s', no time", "g: its unit is 'points', no time"]
    assert entries[0].committed == datetime(2026, 1, 1, tzinfo=UTC)


def test_what_pytest_benchmark_saved_is_read(tmp_path: Path, repository: Path) -> None:
    """Written by pytest-benchmark itself, in a repository."""
    (repository / "test_a.py").write_text("def test_fast(benchmark):\n    benchmark(sum, [1, 2])\n")
    call(repository, "add", ".")
    call(repository, "commit", "-qm", "test")
    words = ["-q", "-p", "no:cacheprovider", "--benchmark-save=x", "--benchmark-max-time=0.01", "test_a.py"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", *words], cwd=repository, capture_output=True, text=True, env=alone
    )
    assert done.returncode == 0, done.stdout
    entries, left_out = import_from("pytest-benchmark", repository / ".benchmarks", repository)
    (kept,) = entries
    assert (kept.case, kept.commit) == ("test_a.py::test_fast", call(repository, "rev-parse", "HEAD"))
    assert kept.committed.isoformat() == call(repository, "show", "-s", "--format=%cI").replace("Z", "+00:00")
    assert kept.seconds is not None
    assert 1e-9 < kept.seconds < 1e-3
    assert left_out == []


def test_a_short_commit_without_a_date_is_looked_for_in_the_repository(tmp_path: Path, repository: Path) -> None:
    commit = call(repository, "rev-parse", "HEAD")
    results = asv(tmp_path / "results", commit_hash=commit[:8], date=None)
    entries, _ = import_from("asv", results, repository)
    assert {each.commit for each in entries} == {commit}
    with pytest.raises(HistoryError, match="has no date, and the repository has it not"):
        import_from("asv", results, tmp_path)


def test_an_import_is_kept_once_on_a_machine_of_its_own(tmp_path: Path) -> None:
    entries, _ = import_from("asv", asv(tmp_path / "results"), tmp_path)
    assert len(add(tmp_path / "history", entries)) == 4
    assert add(tmp_path / "history", import_from("asv", tmp_path / "results", tmp_path).entries) == []
    assert len({each.machine for each in read_history(tmp_path / "history").entries}) == 1


@pytest.mark.parametrize(
    ("tool", "name", "content", "message"),
    [
        ("github-action", "data.js", "window.BENCHMARK_DATA = {}", "entries: Field required"),
        ("github-action", "data.js", "alert(1)", "is not JSON"),
        ("pytest-benchmark", "0001_x.json", '{"version": 1}', "machine_info: Field required"),
        ("asv", "laptop/a.json", '{"commit_hash": "abc", "results": {}, "version": 9}', "schema 1 or 2 of asv; got 9"),
        ("asv", "laptop/a.json", '{"commit_hash": "abc", "results": {}, "version": 2}', "there is no time in it"),
        ("github-action", "other", "", "expected data.js of github-action-benchmark"),
    ],
)
def test_another_schema_is_told_in_one_line_and_nothing_is_added(
    tmp_path: Path, cli: Cli, tool: str, name: str, content: str, message: str
) -> None:
    file = tmp_path / "source" / name
    file.parent.mkdir(parents=True)
    file.write_text(content)
    source = file.parent.parent if tool == "asv" else file
    done = cli("history", "import", "history", str(source), "--from", tool)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not Path("history").exists()


def test_no_tool_and_no_file_are_told(cli: Cli) -> None:
    assert "did you mean 'asv'" in cli("history", "import", "history", ".", "--from", "avs").stderr
    assert "there is no such file" in cli("history", "import", "history", "gone", "--from", "asv").stderr
