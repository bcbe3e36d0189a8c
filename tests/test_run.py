"""Whole runs as a user starts them: real models, exports and child processes, small budgets."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnnbench.records.artifact import ordered_file, seal
from cnnbench.records.lines import digest_of
from cnnbench.records.record import Launch, Record
from cnnbench.records.run_folder import read_run
from cnnbench.worker.runtimes.ordered import ordered
from tests.conftest import Cli, write_suite

TINY = """
name: tiny
launches: 1
defaults: {batches: {inference: [1, 4], training: [4]}, devices: [cpu, cuda], case_budget: 0.2s}
models: [lenet5, simple_cnn]
"""

FATAL = """
name: fatal
launches: 1
limit: 60s
defaults: {workloads: [inference], runtimes: [eager], batches: [1], image_size: 16, case_budget: 0.2s}
models:
  - {model: "own_models:Crashes", batches: [7, 1]}
  - {model: "own_models:Hangs", batches: [7]}
  - {model: "own_models:Hungry", batches: [7]}
  - lenet5_placeholder
"""


def records(folder: Path) -> dict[str, Record]:
    return read_run(folder).records


def launches_of(record: Record) -> list[Launch]:
    return record.measurement.launches if record.measurement else []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The run that most tests look at."""
    folder = tmp_path_factory.mktemp("tiny")
    words = ("run", write_suite(folder, TINY), "--out", "out", "--tables")
    done = subprocess.run(
        [sys.executable, "-m", "cnnbench", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return folder / "out", done


def test_a_run_ends_well_and_leaves_a_record_for_every_case(
    tiny: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = tiny
    assert done.returncode == 0, done.stderr
    found = records(folder)
    assert len(found) == 20
    for id_, record in found.items():
        assert record.status in (("unavailable", "ok", "noisy") if "/cuda/" in id_ else ("ok", "noisy")), record.reasons
        assert record.environment is not None
        assert record.environment.software["torch"]
        if record.status == "unavailable":
            assert record.reasons[0].code == "no-device"


def test_a_measured_record_holds_counts_parity_raw_samples_and_what_ran(
    tiny: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    found = records(tiny[0])
    ort = found["lenet5/inference/ort/cpu/fp32/b4"]
    assert ort.counts is not None
    assert (ort.counts.params, ort.counts.macs) == (44_426, 281_640)
    assert ort.counts.disagreements == []
    assert [parity.what for parity in ort.parity] == ["ort b1", "ort b2", "ort b3", "timed b4"]
    assert all(0 < (parity.error or 0) < parity.limit for parity in ort.parity)
    launch = launches_of(ort)[0]
    assert len(launch.blocks) >= 6
    assert all(seconds > 0 for block in launch.blocks for seconds in block.seconds["forward"])
    assert min(launch.load_s, launch.first_call_s, launch.memory.peak_bytes) > 0
    assert launch.ran is not None
    assert launch.ran.torch_in_process is False
    assert ort.environment is not None
    assert launch.environment == digest_of(ort.environment)
    (threads,) = ort.environment.threads.used
    ran = [launches_of(found[id_])[0].ran for id_ in found if "/cpu/" in id_]
    assert {each.threads for each in ran if each} == {threads}
    training = launches_of(found["simple_cnn/training/eager/cpu/fp32/b4"])[0].blocks[0].seconds
    assert list(training) == ["forward", "backward", "optimizer"]


def test_the_folder_holds_tables_environment_and_the_suite_as_run(
    tiny: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = tiny
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "records.jsonl",
        "report.html",
        "report.md",
        "environment.json",
    }
    tables = {path.name for path in (folder / "tables").iterdir()}
    assert tables >= {f"{table}.{kind}" for table in ("models", "inference") for kind in ("csv", "parquet", "tex")}
    assert {"runtimes-inference.svg", "training-step.png"} <= {path.name for path in (folder / "charts").iterdir()}
    assert (folder / "suite.yaml").read_text() == TINY
    assert {"cpu", "memory_bytes", "affinity_cores"} <= set(
        json.loads((folder / "environment.json").read_text())["machine"]
    )
    for title in ("Models", "Inference", "Training", "images/s", "vs eager", "44,426", "Page"):
        assert title in done.stdout
    assert "left" in done.stdout  # the time that it still took, while it ran


def test_tables_come_again_from_records_and_runs_side_by_side(
    tiny: tuple[Path, subprocess.CompletedProcess[str]], cli: Cli
) -> None:
    folder, done = tiny
    again = cli("report", str(folder), "--tables")
    assert again.returncode == 0
    row = next(line for line in again.stdout.splitlines() if "ort/cpu" in line)
    assert row in done.stdout
    numbers = json.loads(cli("report", str(folder), "--json").stdout)
    assert {row["model"] for row in numbers["models"]} == {"lenet5", "simple_cnn"}
    same = cli("compare", str(folder))
    assert same.returncode == 0
    assert "Times side by side" in same.stdout
    both = cli("compare", str(folder), str(folder))
    assert both.returncode == 2
    assert "expected runs in folders of different names" in both.stderr


@pytest.mark.slow
@pytest.mark.alone
def test_cases_that_crash_hang_or_run_out_of_memory_are_told_and_the_run_goes_on(home: Path, cli: Cli) -> None:
    suite = write_suite(home, FATAL.replace("  - lenet5_placeholder", '  - {model: "own_models:works", batches: [1]}'))
    done = cli("run", suite, "--out", "out")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    found = records(home / "out")
    reasons = {id_.split(":")[1]: " ".join(map(str, record.reasons)) for id_, record in found.items()}
    assert "crashed: the worker was killed by SIGKILL" in reasons["Crashes@16x16/inference/eager/cpu/fp32/b7"]
    assert "hung: no answer within 60 s" in reasons["Hangs@16x16/inference/eager/cpu/fp32/b7"]
    assert "out-of-memory: " in reasons["Hungry@16x16/inference/eager/cpu/fp32/b7"]
    assert found["own_models:Crashes@16x16/inference/eager/cpu/fp32/b1"].status in ("ok", "noisy")
    assert found["own_models:works@16x16/inference/eager/cpu/fp32/b1"].status in ("ok", "noisy")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("own_models:raises", "raises when it is built: RuntimeError: no such <weights>"),
        ("own_models:gives_a_number", "expected a torch.nn.Module; got int"),
        ("torchvision/resnet81", "did you mean 'resnet18'"),
    ],
)
@pytest.mark.slow
def test_a_model_that_cannot_be_built_is_told_before_anything_is_measured(
    home: Path, cli: Cli, model: str, message: str
) -> None:
    done = cli("run", write_suite(home, f'models: [lenet5, "{model}"]'), "--out", "out")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (home / "out").exists()


@pytest.mark.slow
def test_an_artifact_of_a_users_own_model_is_not_kept(home: Path, cli: Cli, cache: Path) -> None:
    suite = write_suite(
        home,
        "launches: 1\nmodels: ['own_models:works']\n"
        "defaults: {workloads: [inference], batches: [1], image_size: 16, case_budget: 0.5s}",
    )
    assert cli("run", suite, "--out", "out").returncode == 0
    assert not list((cache / "artifacts").glob("own_models*"))
    assert not list((cache / "artifacts").glob(".building*"))


@pytest.mark.slow
@pytest.mark.alone
def test_ctrl_c_keeps_what_was_finished_and_resume_measures_only_the_rest(home: Path, cli: Cli) -> None:
    suite = write_suite(home, TINY.replace(", cuda", ""))
    process = subprocess.Popen(
        [sys.executable, "-m", "cnnbench", "run", suite, "--out", "out"],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    file = home / "out" / "records.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (file.exists() and file.read_text().count("\n") >= 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    before = records(home / "out")
    assert 2 <= len(before) < 10
    done = cli("run", suite, "--out", "out", "--resume")
    assert done.returncode == 0, done.stderr
    after = records(home / "out")
    assert len(after) == 10
    assert len(file.read_text().splitlines()) == 10
    assert {id_: after[id_] for id_ in before} == before
    assert cli("run", suite, "--out", "out").returncode == 2


@pytest.mark.slow
@pytest.mark.alone
def test_a_spent_budget_leaves_cases_for_later_and_says_so(home: Path, cli: Cli) -> None:
    done = cli("run", write_suite(home, TINY.replace(", cuda", "")), "--out", "out", "--budget", "1s")
    assert done.returncode == 3
    assert "the budget was spent with" in done.stderr
    assert 0 < len(records(home / "out")) < 10


def test_training_in_onnx_runtime_races_against_eager_and_is_proved(home: Path, cli: Cli) -> None:
    suite = write_suite(
        home,
        "models: [lenet5]\nlaunches: 1\n"
        "defaults: {workloads: [training], runtimes: [eager, ort], batches: [8, 2], case_budget: 0.2s}",
    )
    done = cli("run", suite, "--out", "out")
    assert done.returncode == 0, done.stderr
    found = records(home / "out")
    for batch in (8, 2):  # proved before being timed, and after
        record = found[f"lenet5/training/ort/cpu/fp32/b{batch}"]
        assert record.status in ("ok", "noisy"), record.reasons
        assert record.group == found[f"lenet5/training/eager/cpu/fp32/b{batch}"].group
        (launch,) = launches_of(record)
        assert list(launch.blocks[0].seconds) == ["step"]
        assert [parity.what.split(",")[0] for parity in record.parity][:2] == ["ort losses", "ort"]
        assert all(parity.passed for parity in record.parity)
        assert record.step is not None
        assert (record.step.nodes or 0) > 50
        assert launch.ran is not None
        assert launch.ran.torch_in_process is False
        assert set(launch.ran.nodes) == {"CPUExecutionProvider"}
    assert "×" in (home / "out" / "report.md").read_text().split("## Training")[1]


@pytest.mark.slow
def test_a_step_that_cannot_be_exported_is_unavailable_and_names_the_operator(home: Path, cli: Cli) -> None:
    suite = write_suite(
        home,
        "models: [{model: own_models:without_rule, image_size: 8}]\nlaunches: 1\n"
        "defaults: {workloads: [training], runtimes: [eager, ort], batches: [2], case_budget: 0.1s}",
    )
    cli("run", suite, "--out", "out")
    found = {record.case.runtime: record for record in records(home / "out").values()}
    assert found["eager"].status in ("ok", "noisy")
    assert found["ort"].status == "unavailable"
    assert found["ort"].reasons[0].code == "not-exportable"
    assert "no gradient rule for aten.erfinv.default" in found["ort"].reasons[0].detail


@pytest.mark.slow
def test_a_wrong_step_is_invalid_and_not_timed(home: Path, cli: Cli, cache: Path) -> None:
    """The graph of another learning rule in the place of the right one."""
    suite = write_suite(
        home,
        "models: [{model: lenet5, seed: 11}]\nlaunches: 1\n"
        "defaults: {workloads: [training], runtimes: [ort], batches: [4], case_budget: 0.1s}",
    )
    cli("run", suite, "--out", "first")
    assert next(iter(records(home / "first").values())).status in ("ok", "noisy")
    other = home / "other.onnx"
    words = ["--workload", "training", "--momentum", "0.5", "--weight-decay", "0.5", "--seed", "11"]
    assert cli("export", "lenet5", *words, "--out", str(other)).returncode == 0
    graphs = [file for file in cache.rglob("step.onnx") if "lenet5" in file.parent.name]
    newest = max(graphs, key=lambda file: file.stat().st_mtime)
    newest.write_bytes(other.read_bytes())
    ordered_file(newest).write_bytes(ordered(other))
    seal(newest.parent, newest.parent.name.split("-")[-1])  # as somebody would who may write the cache
    try:
        done = cli("run", suite, "--out", "second")
        (record,) = records(home / "second").values()
    finally:
        shutil.rmtree(newest.parent)
    assert done.returncode == 3
    assert record.status == "invalid"
    assert record.reasons[0].code == "parity"
    assert "ort losses" in record.reasons[0].detail
    assert record.measurement is None


@pytest.mark.slow
@pytest.mark.alone
def test_what_is_left_of_the_budget_goes_to_further_launches_of_the_same_group(cli: Cli, home: Path) -> None:
    suite = write_suite(
        home,
        "name: again\nlaunches: 2\nmodels: [lenet5]\n"
        "defaults: {workloads: [inference], batches: [1], case_budget: 0.2s}",
    )
    done = cli("run", suite, "--out", "out")
    assert done.returncode == 0, done.stderr
    found = records(home / "out")
    launches = [launches_of(record) for record in found.values()]
    assert [len(each) for each in launches] == [2, 2]
    groups = [[launch.group for launch in each] for each in launches]
    assert groups[0] == groups[1]  # eager and ort, in turn, each time
    assert len(set(groups[0])) == 2
    assert len((home / "out" / "records.jsonl").read_text().splitlines()) == 4  # written after each launch


@pytest.mark.slow
def test_a_finished_case_is_measured_again_when_what_it_depends_on_has_changed(cli: Cli, home: Path) -> None:
    model = home / "own_models.py"
    suite = write_suite(
        home,
        "name: mine\nlaunches: 1\nmodels: ['own_models:works', lenet5]\n"
        "defaults: {workloads: [inference], runtimes: [eager], batches: [1], image_size: 32, case_budget: 0.1s}",
    )
    assert cli("run", suite, "--out", "out").returncode == 0
    assert "2 cases" in cli("run", suite, "--out", "out", "--resume").stdout
    lines = (home / "out" / "records.jsonl").read_text().splitlines()
    assert len(lines) == 2
    model.write_text(model.read_text().replace("nn.Conv2d(3, 8, 3, bias=False)", "nn.Conv2d(3, 8, 5, bias=False)"))
    assert cli("run", suite, "--out", "out", "--resume").returncode == 0
    again = (home / "out" / "records.jsonl").read_text().splitlines()
    assert again[:2] == lines
    assert [json.loads(line)["case"]["spec"]["model"] for line in again[2:]] == ["own_models:works"]
