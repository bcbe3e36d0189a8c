"""Real child processes: what they import, what they survive, and what their parent learns when they do not."""

import json
import os
import pkgutil
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import psutil
import pytest

from cnnbench.errors import ModelError, WorkerCrashed, WorkerError, WorkerHung
from cnnbench.records import artifact
from cnnbench.records.cache import SEAL
from cnnbench.records.messages import (
    Build,
    Close,
    Closed,
    Load,
    Loaded,
    Open,
    Opened,
    Request,
    Sample,
    Sampled,
    Trace,
    Traced,
    Warm,
    Warmed,
)
from cnnbench.records.record import ArtifactFacts
from cnnbench.records.task_messages import Probe, Probed
from cnnbench.runner import scratch
from cnnbench.runner.worker_process import HERE, Interpreter, Worker
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.worker.loop import HANDLERS
from cnnbench.worker.runtimes import cuda_driver
from cnnbench.worker.runtimes.base import Runtime

LENET = ModelSpec(model="lenet5", image_size=(28, 28), classes=10)


def worker(folder: Path, limit_s: float = 120) -> Worker:
    return Worker(folder / "worker.log", 2, limit_s)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = artifact.folder_of(LENET, "worker-tests")
    with worker(tmp_path_factory.mktemp("logs")) as child:
        facts = child.ask(Build(spec=LENET, key="worker-tests", folder=str(folder)), ArtifactFacts)
    assert (facts.input_shape, facts.classes, facts.weight_bytes) == ((1, 28, 28), 10, 44_426 * 4)
    assert facts.onnx_error is None
    assert facts.onnx_bytes is not None
    assert facts.onnx_bytes > facts.weight_bytes
    assert artifact.read_facts(folder) == facts
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [artifact.WEIGHTS, artifact.GRAPH, artifact.GOLDEN, artifact.FACTS, SEAL]
    )
    return folder


@pytest.mark.parametrize(
    ("workload", "runtime", "phases"),
    [
        ("inference", "eager", ["forward"]),
        ("inference", "ort", ["forward"]),
        ("training", "eager", ["forward", "backward", "optimizer"]),
    ],
)
def test_a_case_goes_from_load_to_close(
    lenet: Path, tmp_path: Path, workload: str, runtime: str, phases: list[str]
) -> None:
    case = Case.model_validate({"spec": LENET, "workload": workload, "runtime": runtime, "batch": 4})
    with worker(tmp_path) as child:
        child.ask(Load(case=case, threads=2), Loaded)
        opened = child.ask(Open(case=case, folder=str(lenet)), Opened)
        assert all(parity.passed for parity in opened.parity)
        warmed = child.ask(Warm(limit_s=1), Warmed)
        assert warmed.calls >= 3
        sampled = child.ask(Sample(seconds=0.05), Sampled)
        assert list(sampled.seconds) == phases
        assert all(second > 0 for seconds in sampled.seconds.values() for second in seconds)
        closed = child.ask(Close(), Closed)
    assert closed.faults == []
    assert (closed.ran.device, closed.ran.precision, closed.ran.threads) == ("cpu", "fp32", 2)
    assert [parity.what for parity in closed.parity] == (["timed b4"] if workload == "inference" else [])
    assert closed.memory.imported_bytes < closed.memory.peak_bytes
    if runtime == "ort":
        assert closed.ran.torch_in_process is False
        assert set(closed.ran.nodes) == {"CPUExecutionProvider"}


def test_a_case_of_one_image_meets_larger_batches_only_after_it_was_timed(lenet: Path, tmp_path: Path) -> None:
    """glibc keeps the memory of the largest call so far, which makes later, smaller calls faster."""
    case = Case(spec=LENET, workload="inference", runtime="ort", batch=1)
    with worker(tmp_path) as child:
        child.ask(Load(case=case, threads=2), Loaded)
        opened = child.ask(Open(case=case, folder=str(lenet)), Opened)
        child.ask(Warm(limit_s=0.1), Warmed)
        child.ask(Sample(seconds=0.01), Sampled)
        closed = child.ask(Close(), Closed)
    assert [parity.what for parity in opened.parity] == ["ort b1"]
    assert [parity.what for parity in closed.parity] == ["timed b1", "ort b2", "ort b3"]
    assert all(parity.passed for parity in closed.parity)


def test_a_frozen_worker_uses_no_time_and_goes_on_when_thawed(tmp_path: Path) -> None:
    with worker(tmp_path) as child:
        process = psutil.Process(child._process.pid)
        child.ask(Probe(runtime="ort", device="cpu"), Probed)
        child.suspend()
        while process.status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        before = process.cpu_times()
        child.send(Probe(runtime="ort", device="cpu"))
        time.sleep(0.3)
        assert process.status() == psutil.STATUS_STOPPED
        assert process.cpu_times() == before
        child.resume()
        assert child.receive(Probed).works


def test_a_worker_dies_with_its_parent_even_while_it_is_stopped(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from cnnbench.runner.worker_process import Worker\n"
        "from cnnbench.records.task_messages import Probe, Probed\n"
        "w = Worker(Path(sys.argv[1]), 1, 60); w.ask(Probe(runtime='ort', device='cpu'), Probed)\n"
        "w.suspend(); print(w._process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("callable_", "kind", "message"),
    [
        (
            "raises",
            ModelError,
            r"raises when it is built: RuntimeError: no such <weights> \(.*own_models.py:\d+\)",
        ),
        ("gives_a_number", ModelError, r"expected a torch.nn.Module; got int"),
        ("not_there", ModelError, r"cannot be imported: AttributeError"),
        ("FATAL_BATCH", ModelError, r"expected a callable that gives a torch module; got int"),
    ],
)
def test_a_users_model_that_is_wrong_is_told_in_one_line(
    home: Path, callable_: str, kind: type[Exception], message: str
) -> None:
    with worker(home) as child, pytest.raises(kind, match=message) as caught:
        child.ask(Trace(spec=ModelSpec(model=f"own_models:{callable_}")), Traced)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            ModelSpec(model="torchvision/resnet81"),
            r"expected a torchvision classifier.*did you mean 'resnet18'",
        ),
        (
            ModelSpec(model="own_models:works", image_size=(2, 2)),
            r"cannot take one image of 3x2x2 in layer '0'.*set image_size",
        ),
        (
            ModelSpec(model="own_models:Crashes", classes=4),
            r"its callable has no parameter `num_classes` or `classes`",
        ),
        (ModelSpec(model="no.such.module:x"), r"cannot be imported: ModuleNotFoundError.*run cnnbench where"),
    ],
)
def test_a_model_that_cannot_be_used_says_why(home: Path, spec: ModelSpec, message: str) -> None:
    with worker(home) as child, pytest.raises(ModelError, match=message):
        child.ask(Trace(spec=spec), Traced)


def test_models_that_work_tell_their_images_and_classes(home: Path) -> None:
    with worker(home) as child:
        own = child.ask(Trace(spec=ModelSpec(model="own_models:works", image_size=(16, 24), classes=3)), Traced)
        inception = child.ask(Trace(spec=ModelSpec(model="torchvision/squeezenet1_1")), Traced)
    assert (own.inputs, own.steps[-1].shape[0]) == ([(3, 16, 24)], 3)
    assert (inception.inputs, inception.steps[-1].shape[0]) == ([(3, 224, 224)], 1000)


def test_a_request_that_fails_leaves_the_worker_alive(tmp_path: Path) -> None:
    with worker(tmp_path) as child:
        with pytest.raises(WorkerError, match="no case is open"):
            child.ask(Sample(seconds=1), Sampled)
        assert child.ask(Probe(runtime="ort", device="cpu"), Probed).works


def test_a_worker_that_is_killed_says_by_what(tmp_path: Path) -> None:
    with worker(tmp_path) as child:
        child.kill()
        with pytest.raises(WorkerCrashed, match="killed by SIGKILL, as the system does when memory runs out"):
            child.ask(Probe(runtime="ort", device="cpu"), Probed)


def test_last_words_are_of_this_process_and_not_of_one_before_it_in_the_same_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker.log").write_text("a warning of an earlier launch\n")
    script = "import sys; sys.stderr.write('mine\\n'); sys.exit(3)"
    monkeypatch.setattr(Interpreter, "command", (sys.executable, "-c", script))
    with worker(tmp_path) as child, pytest.raises(WorkerCrashed) as caught:
        child.ask(Probe(runtime="ort", device="cpu"), Probed)
    assert "exited with code 3; its last words: mine" in str(caught.value)
    assert "earlier launch" not in str(caught.value)


def test_a_worker_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="could not be started: "):
        Worker(tmp_path / "log", 1, 1.0, interpreter=Interpreter(python=str(tmp_path / "python")))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_kernel_ends_a_worker_before_its_parent_when_memory_runs_out(tmp_path: Path) -> None:
    with worker(tmp_path) as child:
        child.ask(Probe(runtime="ort", device="cpu"), Probed)
        assert Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == "1000"


@pytest.mark.parametrize(
    ("printed", "kind"),
    [('{"works": tr', WorkerCrashed), ('{"other": 1}\n', WorkerError), ("\udcff\n", WorkerCrashed)],
    ids=["short", "other", "no text"],
)
def test_an_answer_cut_short_or_of_another_kind_is_the_workers_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, kind: type[Exception]
) -> None:
    script = f"import sys; sys.stdin.readline(); sys.stdout.buffer.write({printed!r}.encode(errors='surrogateescape'))"
    monkeypatch.setattr(Interpreter, "command", (sys.executable, "-c", script))
    with worker(tmp_path) as child, pytest.raises(kind):
        child.ask(Probe(runtime="ort", device="cpu"), Probed)


def test_children_of_a_worker_end_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import subprocess, sys; sys.stdin.readline()\n"
        "p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    )
    monkeypatch.setattr(Interpreter, "command", (sys.executable, "-c", script))
    with worker(tmp_path) as child:
        with pytest.raises(WorkerError, match="expected Probed from the worker") as caught:
            child.ask(Probe(runtime="ort", device="cpu"), Probed)
        grandchild = psutil.Process(int(str(caught.value).split("'")[1].split("\\")[0]))
        child.kill()
    gone, _ = psutil.wait_procs([grandchild], timeout=10)
    assert gone or grandchild.status() == psutil.STATUS_ZOMBIE


def test_a_graph_that_could_not_be_exported_is_tried_again(lenet: Path, tmp_path: Path) -> None:
    """The cause may have passed, such as a full disk."""
    copied = tmp_path / "artifact"
    shutil.copytree(lenet, copied)
    facts = artifact.read_facts(copied)
    assert facts is not None
    failed = facts.model_copy(update={"onnx_error": "no space left", "onnx_bytes": None})
    (copied / artifact.FACTS).write_text(failed.model_dump_json())
    with worker(tmp_path) as child:
        child.ask(Build(spec=LENET, key="again", folder=str(copied)), ArtifactFacts)
    again = artifact.read_facts(copied)
    assert again is not None
    assert again.onnx_error is None


def test_a_request_says_what_is_not_the_default_so_that_an_older_revision_takes_it() -> None:
    case = Case(spec=ModelSpec(model="lenet5"), workload="inference", runtime="ort", batch=3)
    said = json.loads(Load(case=case, threads=2).line)
    assert (said["op"], set(said["case"])) == ("load", {"spec", "workload", "runtime", "batch"})
    assert Load.model_validate(said) == Load(case=case, threads=2)


def test_a_worker_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    with worker(tmp_path, limit_s=0.3) as child:
        child.suspend()
        with pytest.raises(WorkerHung, match=r"no answer within 0\.3 s"):
            child.ask(Probe(runtime="ort", device="cpu"), Probed)
        assert not psutil.pid_exists(child.pid)


def test_a_worker_can_be_driven_by_hand_and_only_replies_reach_its_output() -> None:
    lines = ['{"op": "probe", "runtime": "eager", "device": "cpu"}', '{"op": "nonsense"}', "not json"]
    done = subprocess.run(HERE.command, input="\n".join(lines), capture_output=True, text=True, timeout=120, check=True)
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert replies[0] == {"works": True, "name": "cpu", "reason": "", "formats": None}
    assert all("not a request" in reply["failure"] for reply in replies[1:])


def test_every_request_has_a_handler_that_takes_it() -> None:
    assert set(HANDLERS) == set(Request.__subclasses__())
    for request, handler in HANDLERS.items():
        if isinstance(handler, str):
            function = pkgutil.resolve_name(f"cnnbench.worker.{handler}")
            assert next(iter(get_type_hints(function).values())) is request


def test_warming_up_again_leaves_the_baseline_of_memory_as_it_was(lenet: Path, tmp_path: Path) -> None:
    case = Case(spec=LENET, workload="training", runtime="eager", batch=512)
    folder = str(lenet)
    loaded = []
    for warm_ups in (1, 3):
        with worker(tmp_path) as child:
            child.ask(Load(case=case, threads=2), Loaded)
            child.ask(Open(case=case, folder=folder), Opened)
            for _ in range(warm_ups):  # each holds the activations of a step
                child.ask(Warm(limit_s=0.1), Warmed)
            loaded.append(child.ask(Close(), Closed).memory.loaded_bytes)
    assert loaded[1] == pytest.approx(loaded[0], rel=0.02)


def test_a_warm_up_without_time_is_one_call(lenet: Path, tmp_path: Path) -> None:
    case = Case(spec=LENET, workload="inference", runtime="ort", batch=1)
    with worker(tmp_path) as child:
        child.ask(Load(case=case, threads=1), Loaded)
        child.ask(Open(case=case, folder=str(lenet)), Opened)
        assert child.ask(Warm(limit_s=60.0, hard_limit_s=0.0), Warmed).calls == 1


def test_runtimes_do_not_share_a_stopwatch() -> None:
    class Idle(Runtime):
        def __init__(self) -> None:
            pass

        predict = phases = result = ran = None  # type: ignore[assignment]

    first, second = Idle(), Idle()
    assert first.stopwatch is first.stopwatch
    assert first.stopwatch is not second.stopwatch


class Driver:
    """NVIDIA's driver with one device, of whose 100 bytes 30 are free."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.retained = fails, 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name == "cuDeviceGetName":
                arguments[0].value = b"NVIDIA Testing GPU"
            elif name == "cuMemGetInfo_v2":
                arguments[0]._obj.value, arguments[1]._obj.value = 30, 100
            self.retained += {"cuDevicePrimaryCtxRetain": 1, "cuDevicePrimaryCtxRelease_v2": -1}.get(name, 0)
            return int(name == self.fails)

        return call


def test_the_driver_says_the_devices_name_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr("ctypes.CDLL", lambda _: driver)
    assert (cuda_driver.device_name(), cuda_driver.used_bytes()) == ("NVIDIA Testing GPU", 70)
    assert driver.retained == 0


@pytest.mark.parametrize("fails", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2"])
def test_a_driver_that_fails_says_nothing(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: Driver(fails))
    assert cuda_driver.used_bytes() is None
    assert fails not in ("cuInit", "cuDeviceGet") or cuda_driver.device_name() is None


def test_a_machine_without_the_driver_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libnothing.so.1")
    assert cuda_driver.device_name() is None


TAKES_SPACE = "import sys, tempfile; print(tempfile.mkdtemp(), flush=True); sys.stdin.read()"


def test_what_a_killed_worker_left_in_its_folder_for_temporary_files_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(Interpreter, "command", (sys.executable, "-c", TAKES_SPACE))
    child = worker(tmp_path)
    left = Path(child._answers.get(timeout=30).strip())
    assert left.is_dir()
    assert left.is_relative_to(tmp_path / "temporary")
    child.kill()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_a_killed_run_left_is_deleted_by_the_next_and_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import time; from cnnbench.runner.scratch import scratch_folder\n"
        "with scratch_folder() as folder: print(folder, flush=True); time.sleep(60)"
    )
    command, there = [sys.executable, "-c", script], {**os.environ, "TMPDIR": str(tmp_path)}
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=there)
    assert run.stdout is not None
    left = Path(run.stdout.readline().strip())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scratch.sweep()
    assert left.exists(), "its process is alive"
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(scratch, "_is_running", lambda _: False)
        scratch.sweep()
    assert left.exists(), "its process is alive in another container"
    run.kill()
    run.wait()
    run.stdout.close()
    others = [f"cnnbench-{run.pid}", f"cnnbench-gate-{run.pid}-x", f"cnnbench-{'9' * 30}-x", f"theirs-{run.pid}-x"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / f"cnnbench-{run.pid}-link").symlink_to(tmp_path)
    scratch.sweep()
    assert {path.name for path in tmp_path.iterdir()} == {*others, f"cnnbench-{run.pid}-link"}


def test_a_folder_whose_deletion_is_interrupted_goes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete, asked = shutil.rmtree, []

    def interrupted(folder: str, **options: Any) -> None:
        asked.append(folder)
        if len(asked) == 1:
            raise KeyboardInterrupt
        delete(folder, **options)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), scratch.scratch_folder():
        pass
    assert len(asked) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_worker_does_not_log_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "worker.log").symlink_to("secret")
    with pytest.raises(WorkerError, match=r"could not be started: .*worker\.log"):
        worker(tmp_path)
    assert not (tmp_path / "secret").exists()
