"""Training on several ranks: DistributedDataParallel under torchrun, gloo on the CPU and nccl on CUDA."""

import contextlib
import json
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cnnbench.errors import WorkerError
from cnnbench.records.messages import Open
from cnnbench.records.reason import Reason
from cnnbench.records.record import AllReduce, ArtifactFacts, Memory, Ran, Ranks
from cnnbench.suite.case import Case, Device
from cnnbench.worker.reference.parity import Array, Tensors, several
from cnnbench.worker.runtimes.base import Runtime
from cnnbench.worker.runtimes.eager import EagerTraining
from cnnbench.worker.timing.measure import Phases, Stopwatch

START_LIMIT_S = 120.0
LAST_WORDS = 400
"""Characters of what torchrun wrote, where it failed."""


class RankedTraining(Runtime):
    """The same step on every rank, each with a batch of its own. Timed between barriers; the slowest rank counts."""

    def __init__(self, case: Case, facts: ArtifactFacts, folder: Path, batch: Tensors, threads: int) -> None:
        if case.device == "cuda" and torch.cuda.device_count() < case.ranks:
            there = torch.cuda.device_count()
            raise WorkerError(f"{case.ranks} ranks: expected a CUDA device for each; there are {there}")
        self.case = case
        self._scratch = Path(tempfile.mkdtemp(prefix="ranks-"))
        self._log = self._scratch / "torchrun.log"
        self._ranks: list[Any] = []
        self._loss = math.nan
        self._closed: list[dict[str, Any]] = []
        try:
            self._start(folder, threads)
        except BaseException:
            for stream in self._ranks:
                stream.close()
            if hasattr(self, "_torchrun"):  # its ranks end with their sockets
                self._torchrun.terminate()
                self._torchrun.wait()
            raise

    def _start(self, folder: Path, threads: int) -> None:
        case, place = self.case, str(self._scratch / "socket")
        with socket.socket(socket.AF_UNIX) as listener, self._log.open("wb") as log:
            listener.bind(place)
            listener.listen(case.ranks)
            listener.settimeout(1.0)
            words = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
            words += ["--nproc-per-node", str(case.ranks), "-m", "cnnbench.worker.rank", place, str(threads)]
            variables = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            if sys.platform == "linux" and case.device == "cpu":
                variables.setdefault("GLOO_SOCKET_IFNAME", "lo")
            self._torchrun = subprocess.Popen(
                words, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
            weakref.finalize(self, _end, self._torchrun)
            request = Open(case=case, folder=str(folder)).line
            for _ in range(case.ranks):
                self._ranks.append(stream := self._accepted(listener))
                stream.write(request + "\n")
                stream.flush()
        ready = {self._answer(stream)["rank"]: stream for stream in self._ranks}
        self._ranks = [ready[rank] for rank in sorted(ready)]

    @cached_property
    def stopwatch(self) -> Stopwatch:
        """The slowest rank's."""
        return _SlowestRank(self._steps)

    @classmethod
    def probe(cls, device: Device, variant: str = "") -> str:
        return EagerTraining.probe(device, variant)

    def predict(self, images: Tensors) -> Tensors:
        file = self._scratch / "predicted"
        np.savez(f"{file}.npz", *several(images))
        self._ask(op="predict", file=str(file))
        with np.load(f"{file}.out.npz") as outputs:
            arrays = tuple(outputs[name] for name in outputs.files)
        return arrays if len(arrays) > 1 else arrays[0]

    def phases(self) -> Phases:
        """Called for their number alone: the ranks make the steps when the stopwatch is read."""
        return {name: lambda: None for name in self.case.phases}

    def result(self) -> Array:
        """The mean of the ranks' last losses."""
        return np.array(sum(each["loss"] for each in self._close()) / self.case.ranks, dtype=np.float32)

    def ran(self) -> Ran:
        """As the first rank says, with what is measured of all."""
        closed = self._close()
        measured = self._ask(op="measure")
        sizes = measured[0]["all_reduces"]
        ranks = Ranks(
            count=self.case.ranks,
            backend=closed[0]["backend"],
            all_reduces=[
                AllReduce(bytes=int(size), seconds=_slowest([each["all_reduces"][size] for each in measured]))
                for size in sizes
            ],
            step_s=_slowest([each["step_s"] for each in measured]),
            apart_s=_slowest([each["apart_s"] for each in measured]),
        )
        return Ran.model_validate(closed[0]["ran"]).model_copy(update={"ranks": ranks})

    def faults(self) -> list[Reason]:
        """Those of the first rank, and parameters that are not the same on all."""
        closed = self._close()
        found = [Reason.model_validate(fault) for fault in closed[0]["faults"]]
        if len({each["parameters"] for each in closed}) > 1:
            found.append(Reason(code="runtime", detail="the ranks' parameters are not the same after the timed steps"))
        return found

    def reset_peak(self) -> None:
        self._ask(op="reset_peak")

    def memory(self, imported_bytes: int, loaded_bytes: int) -> Memory:
        """The sum over ranks, without this process, which waits for them."""
        held = [each["memory"] for each in self._close()]
        whole = {name: sum(each[name] for each in held) for name in held[0] if held[0][name] is not None}
        return Memory.model_validate({**whole, "imported_bytes": imported_bytes})

    def _steps(self, calls: int) -> list[float]:
        answers = [list(answer["seconds"].values()) for answer in self._ask(op="step", calls=calls)]
        return max(answers, key=sum)

    def _close(self) -> list[dict[str, Any]]:
        self._closed = self._closed or self._ask(op="close")
        return self._closed

    def _ask(self, **request: object) -> list[dict[str, Any]]:
        """Every rank's answer. Raises WorkerError where one has died."""
        for stream in self._ranks:
            with contextlib.suppress(OSError):  # it says below why it cannot
                stream.write(json.dumps(request) + "\n")
                stream.flush()
        return [self._answer(stream) for stream in self._ranks]

    def _answer(self, stream: Any) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(stream.readline())
            return found
        raise WorkerError(f"a rank ended: {self._words()}")

    def _accepted(self, listener: socket.socket) -> Any:
        for _ in range(int(START_LIMIT_S)):
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.settimeout(None)
                stream = connection.makefile("rw", encoding="utf-8")
                connection.close()  # once the stream is
                return stream
            if self._torchrun.poll() is not None:
                break
        raise WorkerError(f"the ranks did not start: {self._words()}")

    def _words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._torchrun.wait(5)
        lines = self._log.read_text(errors="replace").strip().splitlines()
        errors = [line for line in lines if re.search(r"\w(Error|Exception): ", line)]
        return " | ".join(errors[:1] or lines[-3:])[:LAST_WORDS]


class _SlowestRank:
    """Counts the marks of steps, and has the ranks make so many when it is read."""

    def __init__(self, steps: Callable[[int], list[float]]) -> None:
        self._steps, self._marks = steps, 0

    def mark(self) -> None:
        """Count."""
        self._marks += 1

    def intervals_s(self) -> list[float]:
        """By phase, the seconds of all steps on the slowest rank; those of each step are not known."""
        marks, self._marks = self._marks - 1, 0
        seconds = self._steps(marks // 3)
        return [*seconds, *[0.0] * (marks - len(seconds))]


def _slowest(by_rank: list[list[float]]) -> list[float]:
    return [max(seconds) for seconds in zip(*by_rank, strict=True)]


def _end(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(OSError):
        process.terminate()
