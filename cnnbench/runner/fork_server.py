"""Processes that have imported PyTorch, of which workers are forked.

Importing takes seconds, a fork milliseconds. Each fork is a process of its own, with its own heap, threads and results;
only where libraries lie in memory is shared, so each launch of a case is forked from another server.
"""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Self

from cnnbench.errors import WorkerCrashed, WorkerError, WorkerHung
from cnnbench.records.messages import Fork, Forked, Loaded, Preload, Purpose, Reap, Reaped
from cnnbench.runner import allocators
from cnnbench.runner.worker_process import HERE, Interpreter, Worker
from cnnbench.suite.case import Allocator
from cnnbench.suite.runtimes import runtime_kind

CAN_FORK = sys.platform == "linux"
"""Elsewhere libraries may run threads already when they have been imported, which a fork would lose."""
POLL_S = 0.1
MAX_STARTS = 2


class ForkServer(ExitStack):
    """A worker that only forks; at its end whatever was forked from it ends too."""

    def __init__(
        self, log: Path, threads: int, limit_s: float, interpreter: Interpreter = HERE, purpose: Purpose = "run"
    ) -> None:
        """Start it and have it import what the purpose needs. Raises WorkerError if it cannot be forked."""
        super().__init__()
        self.threads, self.limit_s = threads, limit_s
        with ExitStack() as stack:
            self._listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            self._listener.settimeout(POLL_S)
            self._listener.bind("")  # Linux finds an abstract address: it needs no file
            self._listener.listen()
            self._worker = Worker(log, threads, limit_s, interpreter=interpreter)
            stack.callback(self._worker.kill)
            self._worker.ask(Preload(threads=threads, purpose=purpose), Loaded)
            self.push(stack.pop_all())

    def start(self, log: Path) -> Worker:
        """A worker forked from it; what its libraries print goes to `log`. Raises WorkerError, OSError."""
        log.parent.mkdir(parents=True, exist_ok=True)
        address = self._listener.getsockname().decode()
        pid = self._worker.ask(Fork(address=address, log=str(log.absolute())), Forked).pid
        return Worker(log, self.threads, self.limit_s, _Child(pid, self._connection_of(pid), self._worker))

    def _connection_of(self, pid: int) -> socket.socket:
        end = time.monotonic() + self.limit_s
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listener.accept()
                peer, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                if peer == pid:
                    return connection
                connection.close()  # an abstract address is open to all processes
            if (code := self._worker.ask(Reap(pid=pid, seconds=0.0), Reaped).code) is not None:
                raise WorkerCrashed(f"a forked worker ended with code {code} before it connected")
        raise WorkerHung(f"a forked worker did not connect within {self.limit_s:g} s")


@dataclass(frozen=True)
class Lineage:
    """What a worker is started with; forks of one lineage come from one server."""

    threads: int
    number: int = 0
    """Launches of one case have different ones."""
    allocator: Allocator = "default"
    interpreter: Interpreter = HERE
    purpose: Purpose = "run"


class ForkServers:
    """Starts workers, and the fork servers that they need when they are needed.

    A server that has died is started once more; then, and where processes cannot be forked, workers import themselves.
    """

    def __init__(
        self, logs: Path, limit_s: float, vary: Callable[[Interpreter], Interpreter] = lambda interpreter: interpreter
    ) -> None:
        """`vary` changes the interpreter of each process that is started."""
        self._logs, self._limit_s, self._vary = logs, limit_s, vary
        self._servers: dict[Lineage, ForkServer | None] = {}
        self._starts: Counter[Lineage] = Counter()
        self._starting = Lock()

    def starter(self, runtime: str, lineage: Lineage) -> Callable[[Path], Worker]:
        """What starts a worker for a runtime, given its log: PyTorch's own are forked."""
        return partial(self.fork if runtime_kind(runtime).runs_in_torch else self.start, lineage)

    def start(self, lineage: Lineage, log: Path) -> Worker:
        """A worker that imports for itself. Raises WorkerError."""
        return Worker(log, lineage.threads, self._limit_s, interpreter=self._interpreter(lineage))

    def fork(self, lineage: Lineage, log: Path) -> Worker:
        """A worker of the lineage's server, or one that imports for itself. Raises WorkerError."""
        with self._starting:
            while (server := self.server(lineage)) is not None:
                try:
                    return server.start(log)
                except (WorkerError, OSError):
                    server.close()
                    del self._servers[lineage]
        return self.start(lineage, log)

    def server(self, lineage: Lineage) -> ForkServer | None:
        """What workers of the lineage are forked from, started at the first call; None if they cannot be forked."""
        if lineage not in self._servers:
            threads, purpose = lineage.threads, lineage.purpose
            self._servers[lineage] = None
            self._starts[lineage] += 1
            if CAN_FORK and self._starts[lineage] <= MAX_STARTS:
                about = (purpose, lineage.allocator, threads, lineage.number)
                log = self._logs / f"fork-server-{'-'.join(map(str, about))}.log"
                interpreter = self._interpreter(lineage)
                with contextlib.suppress(WorkerError, OSError):
                    self._servers[lineage] = ForkServer(log, threads, self._limit_s, interpreter, purpose)
        return self._servers[lineage]

    def _interpreter(self, lineage: Lineage) -> Interpreter:
        varied = self._vary(lineage.interpreter)
        return replace(varied, variables={**varied.variables, **allocators.variables(lineage.allocator)})

    def close(self, before: int | None = None) -> None:
        """End the servers of all launches, or of those with numbers below `before`."""
        for lineage in [each for each in self._servers if before is None or each.number < before]:
            if (server := self._servers.pop(lineage)) is not None:
                server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Child:
    """A forked process, as `subprocess.Popen` shows one: it is the server's child, so the server waits for it."""

    def __init__(self, pid: int, connection: socket.socket, parent: Worker) -> None:
        self.pid, self._connection, self._parent = pid, connection, parent
        self.stdin, self.stdout = self, connection.makefile("r", encoding="utf-8")
        self._code: int | None = None

    def write(self, text: str) -> int:
        """Send a line."""
        self._connection.sendall(text.encode())
        return len(text)

    def close(self) -> None:
        """Let the other side read its end."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        self._connection.close()  # as soon as the reading half is closed too

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal. Raises TimeoutExpired."""
        if self._code is None:
            try:
                self._code = self._parent.ask(Reap(pid=self.pid, seconds=timeout or self._parent.limit_s), Reaped).code
            except WorkerError:  # the server is gone, and has taken it along
                self._code = -signal.SIGKILL
        if self._code is None:
            raise subprocess.TimeoutExpired("a forked worker", timeout or 0.0)
        return self._code

    def kill(self) -> None:
        """End it."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
