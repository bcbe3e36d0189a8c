"""The pytest plugin, in sessions of pytest of its own, whose workers follow a script; one session has real ones."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from cnnbench.errors import CnnbenchError
from cnnbench.records.run_folder import read_run
from cnnbench.suite.case import Case
from cnnbench.suite.load import load_suite
from tests import scripted
from tests.conftest import ROOT, write_suite
from tests.scripted import Dies, Says

PLUGIN = [] if entry_points(group="pytest11", name="cnnbench") else ["-p", "cnnbench.integrations.pytest_plugin"]
"""A plugin that is installed is there already."""

SUITE = """
name: mine
launches: 1
defaults: {workloads: [inference], batches: [1], devices: [cpu, cuda], case_budget: 0.2s}
models:
  - lenet5
  - {model: "own_models:Crashes", image_size: 16, batches: [7], runtimes: [eager], devices: [cpu]}
"""
EAGER, ORT = (f"lenet5/inference/{runtime}/cpu/fp32/b1" for runtime in ("eager", "ort"))


KILLED = Says("open", Dies("SIGKILL"), model="own_models:Crashes")


def follow(folder: Path, *script: Says) -> None:
    """Have the workers of sessions in the folder follow a script, in which one model crashes."""
    words = scripted.command(folder, KILLED, *script, *scripted.lenet())
    (folder / "conftest.py").write_text(
        "from cnnbench.runner.worker_process import Interpreter\n"
        f"Interpreter.command = {words!r}\n"
        f"import os; os.environ['CNNBENCH_CACHE'] = {str(folder / 'cache')!r}\n"
    )


def pytest_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A session of pytest in a folder, warnings being errors."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGIN, "--rootdir=.", "-W", "error", "-p", "no:cacheprovider", *words],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The session that most tests look at: a suite, with everything saved that can be."""
    folder = tmp_path_factory.mktemp("session")
    follow(folder)
    (folder / "own_models.py").write_text((ROOT / "tests" / "own_models.py").read_text())
    (folder / "test_other.py").write_text("def test_other(): pass\n")
    words = ("-v", "-rs", "--cnnbench", write_suite(folder, SUITE), "--cnnbench-out", "kept")
    saving = ("--benchmark-save=base", "--benchmark-json=out.json", "--benchmark-save-data")
    return folder, pytest_in(folder, *words, *saving)


def benchmarks(file: Path) -> dict[str, Any]:
    return {each["fullname"]: each for each in json.loads(file.read_text())["benchmarks"]}


def test_each_case_is_a_test_that_ends_as_its_status_says(
    session: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = session
    ids = [case.id for case in load_suite(str(folder / "suite.yaml")).cases]
    assert len(ids) == 5
    assert all(f"suite.yaml::{id_}" in done.stdout for id_ in ids)
    assert "test_other" not in done.stdout  # no path was given, so nothing but the suite was asked for
    assert f"suite.yaml::{EAGER} PASSED" in done.stdout
    assert "own_models:Crashes@16x16/inference/eager/cpu/fp32/b7 FAILED" in done.stdout
    assert "killed by SIGKILL" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 1


def test_what_this_machine_cannot_run_is_skipped_with_the_reason(
    session: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = session
    if "lenet5/inference/eager/cuda/fp32/b1 PASSED" in done.stdout:
        pytest.skip("there is a CUDA device here")
    assert "suite.yaml::lenet5/inference/eager/cuda/fp32/b1 SKIPPED" in done.stdout
    assert "unavailable: there is no such device: eager on cuda: there is none" in done.stdout


def test_pytest_benchmark_saves_the_very_samples_of_the_records(
    session: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = session
    written = benchmarks(folder / "out.json")
    records = read_run(folder / "kept" / "mine").records
    assert {id_ for id_ in written if "/cpu/" in id_} == {EAGER, ORT}
    for id_ in (EAGER, ORT):
        measured = records[id_].measurement
        assert measured is not None
        (launch,) = measured.launches
        clean = [block for block in launch.blocks if not block.interference]
        blocks = clean if len(clean) >= 6 else launch.blocks
        calls = launch.calls_per_sample
        assert written[id_]["stats"]["data"] == [s / calls for block in blocks for s in block.seconds["forward"]]
        assert written[id_]["extra_info"]["status"] == records[id_].status
    assert records[EAGER].group == records[ORT].group  # measured in turn, not one after the other
    assert len(list((folder / ".benchmarks").glob("*/0001_base.json"))) == 1
    assert "Saved benchmark data in" in done.stdout + done.stderr


def test_a_later_session_is_compared_with_a_saved_one(
    session: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = session
    again = pytest_in(folder, "--cnnbench", "suite.yaml", "-k", "lenet5 and ort and cpu", "--benchmark-compare=0001")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{ORT} (0001_base)" in again.stdout
    assert f"{ORT} (NOW)" in again.stdout
    assert EAGER not in again.stdout.partition("benchmark")[0]
    assert "1 passed, 4 deselected" in again.stdout


def test_one_case_alone_beside_the_users_own_tests(
    session: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = session
    done = pytest_in(
        folder, "test_other.py", "--cnnbench", "suite.yaml", "--benchmark-skip", "--co", "-q", "--cnnbench-budget=1m"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_other.py::test_other" in done.stdout
    assert f"suite.yaml::{EAGER}" in done.stdout


def test_a_case_is_selected_alone_by_its_node_id(session: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = session
    done = pytest_in(folder, "--cnnbench", "suite.yaml", f"suite.yaml::{EAGER}", "--co", "-q")
    assert [line for line in done.stdout.splitlines() if "::" in line] == [f"suite.yaml::{EAGER}"]


@pytest.mark.parametrize(
    ("option", "outcome"), [("--benchmark-skip", "5 skipped"), ("--benchmark-disable", "5 passed")]
)
def test_benchmarks_that_are_switched_off_are_not_measured(
    session: tuple[Path, subprocess.CompletedProcess[str]], option: str, outcome: str
) -> None:
    folder, _ = session
    done = pytest_in(folder, "--cnnbench", "suite.yaml", option, "--cnnbench-out", "never")
    assert outcome in done.stdout
    assert not (folder / "never").exists()


def test_a_later_session_keeps_its_run_beside_the_one_before(
    session: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = session
    again = pytest_in(folder, "--cnnbench", "suite.yaml", f"suite.yaml::{EAGER}", "--cnnbench-out", "kept")
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(read_run(folder / "kept" / "mine").records) == 5
    assert list(read_run(folder / "kept" / "mine-2").records) == [EAGER]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cnnbench", "nowhere.yaml"), "--cnnbench: nowhere.yaml: no such suite file"),
        (("--cnnbench", "smoke", "--cnnbench-budget", "soon"), "--cnnbench-budget: expected a duration"),
        (("--cnnbench", "smoke", "-p", "no:benchmark"), "pip install 'cnnbench[pytest]'"),
    ],
)
def test_a_mistake_is_one_message(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = pytest_in(tmp_path, *words)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


USERS_TESTS = """
import pytest

def test_onnx_runtime_has_a_time(cnnbench_measure):
    eager, ort = cnnbench_measure(
        "lenet5/inference/eager/cpu/fp32/b1", "lenet5/inference/ort/cpu/fp32/b1", budget="0.2s"
    )
    assert eager.group == ort.group
    assert ort.measurement.times()

def test_wrong(cnnbench_measure):
    cnnbench_measure("own_models:Crashes@16x16/inference/eager/cpu/fp32/b7", budget="0.2s")

def test_unknown(cnnbench_measure):
    cnnbench_measure("lenet6/inference/ort/cpu/fp32/b1")
"""


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_fixture_measures_in_a_race_and_fails_with_the_reason(home: Path, real: bool) -> None:
    if not real:
        follow(home)
    (home / "test_users.py").write_text(USERS_TESTS)
    done = pytest_in(home, "test_users.py")
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert "2 failed" in done.stdout
    assert "killed by SIGKILL" in done.stdout
    assert "did you mean 'lenet5'?" in done.stdout


def test_a_plugin_that_is_not_used_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_modules.py").write_text(
        "import sys\n"
        "def test_modules():\n"
        "    heavy = {'torch', 'onnx', 'onnxruntime', 'pandas', 'pydantic', 'rich', 'numpy', 'scipy', 'yaml'}\n"
        "    assert heavy & set(sys.modules) == set()\n"
        "    ours = {name for name in sys.modules if name.split('.')[0] == 'cnnbench'}\n"
        "    assert ours == {'cnnbench', 'cnnbench.integrations', 'cnnbench.integrations.pytest_plugin'}\n"
    )
    done = pytest_in(tmp_path, "test_modules.py")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("suite", ["smoke", "classic", "runtimes", "batch-sweep", "allocators"])
def test_every_id_names_its_case(suite: str) -> None:
    for case in load_suite(suite).cases:
        assert Case.from_id(case.id) == case


@pytest.mark.parametrize(
    "id_",
    [
        "resnet18@96x64/k7/training/ort/cpu/fp32/b8/t2/s3",
        "torchvision/densenet121/inference/ort:basic/cuda/amp-bf16/channels_last/b1",
        "mypackage.nets:build@32x32/inference/eager/cpu/fp32/b1",
    ],
)
def test_an_id_with_all_that_is_unusual_names_its_case(id_: str) -> None:
    assert Case.from_id(id_).id == id_


@pytest.mark.parametrize(
    ("id_", "message"),
    [
        ("resnet18", "expected a case's id such as"),
        ("resnet81/inference/ort/cpu/fp32/b1", "did you mean 'resnet18'?"),
        ("resnet18/inference/onnxrt/cpu/fp32/b1", "did you mean 'ort'?"),
        ("resnet18/inference/ort/tpu/fp32/b1", "device"),
        ("lenet5@8x8/inference/ort/cpu/fp32/b1", "too small"),
    ],
)
def test_an_id_that_names_no_case_is_explained(id_: str, message: str) -> None:
    with pytest.raises(CnnbenchError, match=message.replace("?", r"\?")):
        Case.from_id(id_)
