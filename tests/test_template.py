"""Workers forked from a process that has imported PyTorch: processes like any other."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cnnbench.errors import WorkerCrashed, WorkerError
from cnnbench.records import artifact
from cnnbench.records.messages import Close, Closed, Load, Loaded, Open, Opened, Sample, Sampled, Warm, Warmed
from cnnbench.runner.fork_server import CAN_FORK, ForkServer, ForkServers, Lineage
from cnnbench.runner.worker_process import Worker, thread_environment
from cnnbench.suite.case import Case, ModelSpec

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="processes that have imported PyTorch are forked on Linux alone")
LENET = ModelSpec(model="lenet5", image_size=(28, 28), classes=10)
CASE = Case(spec=LENET, workload="inference", runtime="eager", batch=2)


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("logs") / "template.log", 2, 120) as fork_server:
        yield fork_server


@pytest.fixture(scope="module")
def lenet(artifact_of: Callable[[ModelSpec], Path]) -> Path:
    return artifact_of(LENET)


def whole_launch(worker: Worker, folder: Path) -> tuple[Loaded, Closed]:
    with worker:
        loaded = worker.ask(Load(case=CASE, threads=2), Loaded)
        worker.ask(Open(case=CASE, folder=str(folder)), Opened)
        worker.ask(Warm(limit_s=0.2), Warmed)
        worker.suspend()
        end = time.monotonic() + 10
        while psutil.Process(worker.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < end
        worker.resume()
        assert worker.ask(Sample(seconds=0.05), Sampled).seconds["forward"]
        return loaded, worker.ask(Close(), Closed)


def test_a_forked_worker_has_the_memory_threads_and_import_time_of_a_fresh_one(
    fork_server: ForkServer, lenet: Path, tmp_path: Path
) -> None:
    start = time.monotonic()
    forked = fork_server.start(tmp_path / "forked.log")
    loaded, closed = whole_launch(forked, lenet)
    took_s = time.monotonic() - start
    _, fresh = whole_launch(Worker(tmp_path / "fresh.log", 2, 120), lenet)
    assert loaded.import_s > 0.5, "what its template took, not the moment that a look at loaded modules takes"
    assert took_s < loaded.import_s + 3
    assert closed.ran.threads == fresh.ran.threads == 2
    assert all(parity.passed for parity in closed.parity)
    # The template has torchvision and the compiler too, which LeNet does not import.
    assert 1.0 < closed.memory.imported_bytes / fresh.memory.imported_bytes < 1.6
    grown = [held.memory.peak_bytes - held.memory.imported_bytes for held in (closed, fresh)]
    assert abs(grown[0] - grown[1]) < 0.05 * fresh.memory.imported_bytes


@pytest.mark.slow
def test_what_builders_are_forked_of_imports_no_more_when_it_exports_and_still_has_one_thread() -> None:
    program = """
import sys, torch
from cnnbench.records.messages import Preload
from cnnbench.worker.export import inference
from cnnbench.worker.runtimes import registry
registry.preload(Preload(threads=1, purpose="build"))
before = set(sys.modules)
inference.trace(torch.nn.Conv2d(3, 4, 3).eval(), torch.zeros(2, 3, 8, 8))
print(len(set(sys.modules) - before))
"""
    variables = {**os.environ, **thread_environment(1)}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20, "400 at a first export"


def test_two_forks_are_two_processes(fork_server: ForkServer, tmp_path: Path) -> None:
    with fork_server.start(tmp_path / "a.log") as one, fork_server.start(tmp_path / "b.log") as other:
        assert one.pid != other.pid
        assert {psutil.Process(worker.pid).ppid() for worker in (one, other)} == {fork_server._worker.pid}
        one.kill()
        assert other.ask(Load(case=CASE, threads=2), Loaded).import_s > 0
    assert not psutil.pid_exists(other.pid)


def test_a_worker_that_dies_before_it_connects_is_noticed_at_once(
    fork_server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nowhere:
        def getsockname(self) -> bytes:
            return b"\0nobody listens here"

        def accept(self) -> None:
            time.sleep(0.01)
            raise TimeoutError

    monkeypatch.setattr(fork_server, "_listener", Nowhere())
    start = time.monotonic()
    with pytest.raises(WorkerCrashed, match="ended with code 0 before it connected"):
        fork_server.start(tmp_path / "worker.log")
    assert time.monotonic() - start < 5


def test_how_a_forked_worker_died_is_told(fork_server: ForkServer, tmp_path: Path) -> None:
    with fork_server.start(tmp_path / "dies.log") as worker:
        os.kill(worker.pid, signal.SIGSEGV)
        with pytest.raises(WorkerCrashed, match="SIGSEGV"):
            worker.ask(Load(case=CASE, threads=2), Loaded)


def test_what_a_forked_worker_prints_goes_to_its_own_log(fork_server: ForkServer, lenet: Path, tmp_path: Path) -> None:
    with fork_server.start(tmp_path / "own.log") as worker:
        worker.ask(Load(case=CASE, threads=2), Loaded)
        (lenet_without_weights := tmp_path / "artifact").mkdir()
        (lenet_without_weights / artifact.FACTS).write_bytes((lenet / artifact.FACTS).read_bytes())
        with pytest.raises(WorkerError):
            worker.ask(Open(case=CASE, folder=str(lenet_without_weights)), Opened)
    assert "Traceback" in (tmp_path / "own.log").read_text()


def test_forked_workers_end_with_their_server(tmp_path: Path) -> None:
    with ForkServer(tmp_path / "template.log", 1, 120) as fork_server:
        worker = fork_server.start(tmp_path / "worker.log")
    with pytest.raises(WorkerCrashed):
        worker.ask(Load(case=CASE, threads=1), Loaded)
    worker.kill()
    gone = time.monotonic() + 10
    while psutil.pid_exists(worker.pid) and time.monotonic() < gone:
        time.sleep(0.05)
    assert not psutil.pid_exists(worker.pid)


def test_a_process_with_threads_is_not_forked() -> None:
    if sys.platform != "linux":
        pytest.skip("looks into /proc")
    from cnnbench.worker.forking import check_can_fork

    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        with pytest.raises(WorkerError, match="one thread after importing"):
            check_can_fork()
    finally:
        release.set()
        thread.join()


class Started:
    """What fork servers and workers are started, by scripted ones; each server dies after so many forks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, forks: int) -> None:
        self.log: list[str] = []

        class Server:
            def __init__(server, *words: object) -> None:
                self.log.append("server")
                server.left = forks

            def start(server, file: Path) -> str:
                if not server.left:
                    raise WorkerCrashed("the server was killed")
                server.left -= 1
                self.log.append("fork")
                return "fork"

            def close(server) -> None:
                self.log.append("close")

        def worker(*words: object, **settings: object) -> str:
            self.log.append("worker")
            return "worker"

        monkeypatch.setattr("cnnbench.runner.fork_server.ForkServer", Server)
        monkeypatch.setattr("cnnbench.runner.fork_server.Worker", worker)


def test_a_server_that_died_is_started_once_more_and_then_workers_import_for_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Started(monkeypatch, forks=1)
    with ForkServers(tmp_path, 10) as servers:
        for _ in range(4):
            servers.fork(Lineage(1), tmp_path / "log")
    assert started.log == ["server", "fork", "close", "server", "fork", "close", "worker", "worker"]


def test_no_server_is_started_before_a_worker_needs_one_and_each_launch_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Started(monkeypatch, forks=9)
    with ForkServers(tmp_path, 10) as servers:
        servers.starter("ort", Lineage(1))(tmp_path / "log")
        servers.starter("ort:basic", Lineage(1))(tmp_path / "log")
        assert started.log == ["worker", "worker"]
        for number in (0, 0, 1):
            servers.starter("eager", Lineage(1, number))(tmp_path / "log")
        assert started.log[2:] == ["server", "fork", "fork", "server", "fork"]
        servers.close(before=1)
        servers.starter("compile", Lineage(1, 1))(tmp_path / "log")
        assert started.log[7:] == ["close", "fork"]
    assert started.log[9:] == ["close"]


def test_a_forked_worker_does_not_log_through_a_link(fork_server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "forked.log").symlink_to("secret")
    with pytest.raises(WorkerCrashed, match="before it connected"):
        fork_server.start(tmp_path / "forked.log")
    assert not (tmp_path / "secret").exists()
