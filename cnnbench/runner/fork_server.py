"""A process that has imported PyTorch, of which workers are forked.

Importing takes seconds, a fork milliseconds. Each fork is a process of its own, with its own heap, threads and results;
only where libraries lie in memory is shared, so each launch of a case is forked from another template.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from cnnbench.errors import WorkerCrashed, WorkerError
from cnnbench.records.messages import Fork, Forked, Loaded, Preload, Purpose, Reap, Reaped
from cnnbench.runner.worker_process import HERE, Interpreter, Worker
from cnnbench.suite.runtimes import runtime_kind

CAN_FORK = sys.platform == "linux"
"""Elsewhere libraries may run threads already when they have been imported, which a fork would lose."""


class ForkServer:
    """A worker that only forks."""

    def __init__(
        self, log: Path, threads: int, limit_s: float, interpreter: Interpreter = HERE, purpose: Purpose = "run"
    ) -> None:
        """Start it and have it import what the purpose needs. Raises WorkerError if it cannot be forked."""
        self.threads, self.limit_s = threads, limit_s
        self._worker = Worker(log, threads, limit_s, interpreter=interpreter)
        self._folder = tempfile.TemporaryDirectory(prefix="cnnbench-")  # the address of a socket must be short
        self._address = str(Path(self._folder.name) / "socket")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._address)
        self._listener.listen()
        self._listener.settimeout(limit_s)
        try:
            self._worker.ask(Preload(threads=threads, purpose=purpose), Loaded)
        except BaseException:
            self.close()
            raise

    def start(self, log: Path) -> Worker:
        """A worker forked from it; what its libraries print goes to `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        pid = self._worker.ask(Fork(address=self._address, log=str(log.absolute())), Forked).pid
        try:
            connection, _ = self._listener.accept()
        except TimeoutError:
            raise WorkerCrashed("a forked worker did not answer") from None
        return Worker(log, self.threads, self.limit_s, _Child(pid, connection, self._worker))

    def close(self) -> None:
        """End it, and with it whatever was forked from it."""
        self._worker.kill()
        self._listener.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_fork_server(
    log: Path, threads: int, limit_s: float, interpreter: Interpreter = HERE, purpose: Purpose = "run"
) -> ForkServer | None:
    """A template; None where processes cannot be forked, so that each imports for itself."""
    if CAN_FORK:
        with contextlib.suppress(WorkerError):
            return ForkServer(log, threads, limit_s, interpreter, purpose)
    return None


def starter(
    runtime: str, threads: int, limit_s: float, fork_server: ForkServer | None, interpreter: Interpreter = HERE
) -> Callable[[Path], Worker]:
    """What starts a worker for a runtime: PyTorch's are forked from the template, if there is one."""
    if fork_server is not None and runtime_kind(runtime).runs_in_torch:
        return fork_server.start
    return lambda log: Worker(log, threads, limit_s, interpreter=interpreter)


class _Child:
    """A forked process, as `subprocess.Popen` shows one: it is the template's child, so the template waits for it."""

    def __init__(self, pid: int, connection: socket.socket, parent: Worker) -> None:
        self.pid = pid
        self._connection, self._parent = connection, parent
        self.stdin = _Closing(connection)
        self.stdout = connection.makefile("r", encoding="utf-8")
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal. Raises TimeoutExpired."""
        if self._code is None:
            try:
                self._code = self._parent.ask(Reap(pid=self.pid, seconds=timeout or self._parent.limit_s), Reaped).code
            except WorkerError:  # the template is gone, and has taken it along
                self._code = -signal.SIGKILL
        if self._code is None:
            raise subprocess.TimeoutExpired("a forked worker", timeout or 0.0)
        return self._code

    def kill(self) -> None:
        """End it."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class _Closing:
    """The writing half of a connection; closing it lets the other side read its end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("w", encoding="utf-8")

    def write(self, text: str) -> int:
        return self._file.write(text)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        self._connection.close()  # as soon as the reading half is closed too
