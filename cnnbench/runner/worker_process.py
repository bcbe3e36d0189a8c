"""A worker as its parent sees it: a child process that is asked one thing at a time."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import psutil
from pydantic import BaseModel, ValidationError

from cnnbench.errors import InputError, ModelError, WorkerCrashed, WorkerError, WorkerHung, WorkerOutOfMemory
from cnnbench.records import files
from cnnbench.records.cache import private_folder
from cnnbench.records.messages import Failure, Request
from cnnbench.runner import scratch
from cnnbench.runner.git import without_git

R = TypeVar("R", bound=BaseModel)

LAST_WORDS_LINES, LAST_WORDS_BYTES = 3, 4096
GRACE_S = 5.0
SAFE_PATH = ("-P",)
"""Has Python not look for modules in the folder where it is started: a `torch.py` there would stand for the library."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that workers run in."""

    python: str = sys.executable
    folder: Path | None = None
    """Where they are started: the parent's own folder if None. Only a user's own model is looked for there, at last."""
    paths: tuple[Path, ...] = ()
    """The places of modules that come first."""
    variables: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Environment variables beside the parent's."""

    @property
    def command(self) -> tuple[str, ...]:
        """What starts a worker."""
        return (self.python, *SAFE_PATH, "-m", "cnnbench.worker")

    def environment(self) -> dict[str, str]:
        """All environment variables of a worker, but those that size its thread pools."""
        paths = [str(path) for path in self.paths]
        if paths and os.environ.get("PYTHONPATH"):
            paths.append(os.environ["PYTHONPATH"])
        own = without_git(os.environ)
        own.pop("PYTHONWARNINGS", None)  # meant for the user's tests; libraries that warn could not be imported
        own = {**NO_TELEMETRY, **_place_of_compiled_code(), **own}
        return {**own, **self.variables, **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}


def _place_of_compiled_code() -> dict[str, str]:
    """Where torch.compile is told to keep its code: a folder of this user's alone, for torch runs what it finds there.

    Set before torch is imported, which sets it to a folder of its own; where there is none that can be used, that is
    one in the worker's scratch folder, which goes with it.
    """
    with contextlib.suppress(OSError, InputError):
        return {"TORCHINDUCTOR_CACHE_DIR": str(private_folder("inductor"))}
    return {}


NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}
"""ONNX Runtime from 1.29 on sends names and digests of models to its makers, from threads beside what is measured."""
HERE = Interpreter()
"""The Python that this runs in."""


class Process(Protocol):
    """A running child as `subprocess.Popen` shows one, whose `stdin` sends each line at once."""

    pid: int
    stdin: Any
    stdout: Any

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal. Raises subprocess.TimeoutExpired."""

    def kill(self) -> None:
        """End it."""


class Worker:
    """A child process in a session of its own, so that Ctrl-C reaches the parent alone, which then ends it."""

    def __init__(
        self, log: Path, threads: int, limit_s: float, process: Process | None = None, interpreter: Interpreter = HERE
    ) -> None:
        """Start it, unless it is there; what its libraries print goes to `log`. Raises WorkerError."""
        self.log, self.limit_s = log, limit_s
        self._log_begins = log.stat().st_size if log.exists() else 0  # launches of one case share it
        self._held = contextlib.ExitStack()
        """Its folder for temporary files, which it may be killed in the middle of using."""
        self._process = process or self._start(threads, interpreter)
        self.pid = self._process.pid
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._due_s = 0.0
        self._suspended = self._ended = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        try:
            self._listener.start()
        except RuntimeError as error:  # no thread can be started any more
            self._process.kill()
            self._held.close()
            raise WorkerError(f"a worker could not be started: {error}") from None

    def _start(self, threads: int, interpreter: Interpreter) -> Process:
        variables = interpreter.environment() | thread_environment(threads)
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(files.open_to_append(self.log), "ab") as stderr, contextlib.ExitStack() as held:
                with contextlib.suppress(OSError):  # where there is no place for one, it may still need none
                    variables["TMPDIR"] = str(held.enter_context(scratch.scratch_folder()))
                process = subprocess.Popen(
                    interpreter.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    encoding="utf-8",
                    bufsize=1,  # each line is sent at once
                    env=variables,
                    cwd=interpreter.folder,
                    start_new_session=True,
                )
                self._held = held.pop_all()
                return process
        except OSError as error:
            raise WorkerError(f"a worker could not be started: {error}") from None

    def ask(self, request: Request, answer: type[R]) -> R:
        """Send a request and wait for its answer; several threads may ask, one after the other.

        Raises ModelError if the user's model is at fault, WorkerError if the request failed, WorkerCrashed if the
        process died, WorkerHung (and ends it) if it did not answer within `limit_s`.
        """
        with self._turn:
            self.send(request)
            return self.receive(answer)

    def send(self, request: Request) -> None:
        """Send a request whose answer is received later, so that several workers can be busy at once."""
        self._due_s = time.monotonic() + self.limit_s
        try:
            self._process.stdin.write(request.line + "\n")
        except (OSError, ValueError):  # a broken pipe, or one that `kill` has closed
            raise WorkerCrashed(self._how_it_died()) from None

    @property
    def has_answer(self) -> bool:
        """Whether `receive` returns or raises at once."""
        return not self._answers.empty() or time.monotonic() >= self._due_s

    def receive(self, answer: type[R]) -> R:
        """The answer to the request that was sent last; raises as `ask` does."""
        try:
            line = self._answers.get(timeout=max(0.0, self._due_s - time.monotonic()))
        except queue.Empty:
            self.kill()
            raise WorkerHung(
                f"no answer within {self.limit_s:g} s, so it was ended (a case has `limit` in its suite)"
            ) from None
        if not line.endswith("\n"):  # nothing, or an answer cut short
            raise WorkerCrashed(self._how_it_died())
        try:
            return answer.model_validate_json(line)
        except ValidationError:
            try:
                failure = Failure.model_validate_json(line)
            except ValidationError:
                raise WorkerError(f"expected {answer.__name__} from the worker; got {line[:100]!r}") from None
        if failure.out_of_memory:
            raise WorkerOutOfMemory(failure.failure)
        raise (ModelError if failure.is_user_error else WorkerError)(failure.failure)

    def suspend(self) -> None:
        """Stop it, so that its threads take no time from others."""
        if not self._suspended:
            self._signal_all("suspend")
            self._suspended = True

    def resume(self) -> None:
        """Let it go on."""
        if self._suspended:
            self._signal_all("resume")
            self._suspended = False

    def kill(self) -> None:
        """End it, whatever it is doing, with all that it started, and close the pipes."""
        if self._ended:
            return
        self._ended = True
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)  # it leads a session of its own
        self._process.kill()
        self._process.wait()
        self._held.close()
        self._listener.join(GRACE_S)
        if self._listener.is_alive():  # somebody still holds the other end: closing would wait for it
            return
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what could not be sent any more
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and not self._suspended and not self._ended:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._process.stdin.close()  # it ends when its input does
                self._process.wait(timeout=GRACE_S)
        self.kill()

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the other side of a socket died, or what it sent is no text
            for line in self._process.stdout:
                self._answers.put(line)
        self._answers.put("")  # the end

    def _signal_all(self, what: str) -> None:
        try:
            getattr(psutil.Process(self.pid), what)()
        except psutil.NoSuchProcess:
            raise WorkerCrashed(self._how_it_died()) from None

    def _how_it_died(self) -> str:
        try:
            code = self._process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return "the worker closed its output without an answer"
        name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
        how = f"the worker was killed by {name}" if code < 0 else f"the worker exited with code {code}"
        if name == "SIGKILL":
            how += ", as the system does when memory runs out"
        words: list[str] = []
        with contextlib.suppress(OSError), self.log.open("rb") as stream:
            stream.seek(max(self._log_begins, self.log.stat().st_size - LAST_WORDS_BYTES))
            words = stream.read().decode(errors="replace").strip().splitlines()[-LAST_WORDS_LINES:]
        return how + (f"; its last words: {' | '.join(words)}"[:400] if words else "") + f" (log: {self.log})"


def thread_environment(threads: int) -> dict[str, str]:
    """The variables that size thread pools; OpenBLAS is numpy's, whose threads only stand in the way of a fork."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}


Start = Callable[[Path], Worker]
"""Starts a worker that logs to a file."""


@contextlib.contextmanager
def one_worker(name: str, threads: int, limit_s: float, start: Start | None = None) -> Iterator[Worker]:
    """A worker for one task, whose log is kept only as long as it takes; one that imports for itself, by default."""
    scratch.sweep()
    with scratch.scratch_folder() as logs:
        log = logs / f"{name}.log"
        with start(log) if start else Worker(log, threads, limit_s) as worker:
            yield worker
