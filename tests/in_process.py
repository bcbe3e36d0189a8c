"""Workers that answer from a script, in this process: what a run decides can be tested without starting any."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel

from cnnbench.records.messages import Closed, Loaded, Opened, Sampled, Warmed
from cnnbench.records.record import Memory, Ran
from cnnbench.runner.worker_process import Worker

NOBODY = 2**22 + 1
"""No process has this id: Linux gives none above 2^22."""

MEMORY = Memory(imported_bytes=1, loaded_bytes=2, peak_bytes=3)
RAN = Ran(device="cpu", device_name="cpu", threads=1, precision="fp32")
GOOD: Mapping[str, BaseModel] = {
    "load": Loaded(import_s=0.1),
    "open": Opened(load_s=0.1, first_call_s=0.01, parity=[]),
    "warm": Warmed(calls=10, seconds=0.1, converged=True, calls_per_sample=1, call_s=0.01),
    "sample": Sampled(seconds={"forward": [0.01]}),
    "close": Closed(parity=[], memory=MEMORY, ran=RAN, faults=[]),
}
"""What a worker answers to each request when all is well; no two samples are alike."""

Answer = BaseModel | str | int | Callable[[], None]
"""A reply; a line as it is, nothing if empty; the exit code of a process that dies instead; or something to do before
it answers well."""


class ScriptedProcess:
    """A child as `Worker` sees one."""

    def __init__(self, script: Mapping[str, Answer], log: list[str], name: str) -> None:
        read, write = os.pipe()
        self.pid = NOBODY
        self.stdin, self.stdout = self, os.fdopen(read)
        self._replies = os.fdopen(write, "w")
        self._script, self._log, self._name = script, log, name
        self._code: int | None = None
        self._samples = 0

    def write(self, text: str) -> int:
        op = json.loads(text)["op"]
        self._log.append(f"{op} {self._name}")
        answer = self._script[op] if op in self._script else GOOD[op]
        if callable(answer):
            answer()
            answer = GOOD[op]
        if answer is GOOD["sample"]:
            self._samples += 1
            answer = Sampled(seconds={"forward": [0.01 * (1 + self._samples % 5)]})
        if isinstance(answer, int):
            self._end(answer)
        else:
            self._replies.write(answer if isinstance(answer, str) else answer.model_dump_json() + "\n")
            self._replies.flush()
        return len(text)

    def close(self) -> None:
        self._end(0)

    def wait(self, timeout: float | None = None) -> int:
        self._end(-9)
        assert self._code is not None
        return self._code

    def kill(self) -> None:
        self._end(-9)

    def _end(self, code: int) -> None:
        if self._code is None:
            self._code = code
            self._replies.close()


class ScriptedWorker(Worker):
    """Answers as its script says, and well where it says nothing; writes down what is asked of it."""

    def __init__(
        self, script: Mapping[str, Answer], log: list[str], name: str = "worker", limit_s: float = 10.0
    ) -> None:
        self._asked, self._name = log, name
        super().__init__(Path(os.devnull), 1, limit_s, ScriptedProcess(script, log, name))

    def resume(self) -> None:
        self._asked.append(f"resume {self._name}")

    def suspend(self) -> None:
        self._asked.append(f"suspend {self._name}")
