"""Workers that answer from a script: real processes, but without libraries, so that a test decides what happens.

    use(monkeypatch, tmp_path, Says("sample", Dies("SIGKILL"), runtime="ort", batch=7), *lenet())

has every worker that is started from then on follow the script. Of its lines, the first counts that answers the
request's `op` and whose further words stand in what the worker has been asked so far. Its answers are given one after
the other, the last one ever after.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest
    from pydantic import BaseModel

    from cnnbench.runner.worker_process import Worker


@dataclass(frozen=True)
class Dies:
    """Instead of an answer, the worker is killed."""

    by: str


@dataclass(frozen=True)
class Prints:
    """Instead of an answer, anything else; the worker then ends."""

    text: str


@dataclass(frozen=True)
class Hangs:
    """No answer ever comes."""


@dataclass(frozen=True)
class Slowly:
    """An answer after so many seconds."""

    seconds: float
    answer: "BaseModel"


class Says:
    """A line of a script."""

    def __init__(self, op: str, *answers: "BaseModel | Dies | Prints | Hangs | Slowly", **about: Any) -> None:
        words = [f'"{key}":{json.dumps(value)}' for key, value in about.items()]
        self.line = [op, words, [_written(answer) for answer in answers]]


def _written(answer: "BaseModel | Dies | Prints | Hangs | Slowly") -> list[Any]:
    match answer:
        case Dies():
            return ["die", int(signal.Signals[answer.by])]
        case Prints():
            return ["print", answer.text]
        case Hangs():
            return ["wait", 3600.0, ""]
        case Slowly():
            return ["wait", answer.seconds, answer.answer.model_dump_json()]
        case _:
            return ["wait", 0.0, answer.model_dump_json()]


def command(folder: Path, *script: Says) -> tuple[str, ...]:
    """What starts a worker that follows the script, which is kept in the folder."""
    file = folder / "script.json"
    file.write_text(json.dumps([line.line for line in script]))
    return (sys.executable, "-I", "-S", __file__, str(file))


def use(patch: "pytest.MonkeyPatch", folder: Path, *script: Says) -> None:
    """Have every worker follow the script, and find no artifact in the cache but its own."""
    from cnnbench.runner.worker_process import Interpreter

    patch.setenv("CNNBENCH_CACHE", str(folder / "cache"))
    patch.setattr(Interpreter, "command", command(folder, *script))


def worker(folder: Path, *script: Says, limit_s: float = 30.0) -> "Worker":
    """A worker that follows the script."""
    import subprocess

    from cnnbench.runner.worker_process import Worker

    process = subprocess.Popen(
        command(folder, *script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    (folder / "worker.log").touch()
    return Worker(folder / "worker.log", 1, limit_s, process)


def lenet(**figures: Any) -> list[Says]:
    """What a worker says when all is well, of LeNet-5 or a user's own model; `figures` are the artifact's."""
    from cnnbench.networks.registry import ARCHITECTURES
    from cnnbench.records import messages, task_messages
    from cnnbench.records.record import CounterResults, Memory, Parity, Ran, StepFacts
    from tests.records import facts

    layers = ARCHITECTURES["lenet5"].network().layers
    counts = {layer.name: (layer.params, layer.macs) for layer in layers if layer.params}
    counted = {"module": {name: (params, 0) for name, (params, _) in counts.items()}, "dispatch": counts}
    known, unknown = (CounterResults(closed_form=closed_form, counted=counted) for closed_form in (counts, None))
    right = [Parity(what="outputs", error=1e-7, limit=1e-5)]
    ran = Ran(device="cpu", device_name="CPU", threads=2, precision="fp32")
    memory = Memory(imported_bytes=2**20, loaded_bytes=2**21, peak_bytes=2**22)
    sampled = [
        Says("sample", messages.Sampled(seconds={phase: [0.01, 0.01] for phase in phases}), **about)
        for phases, about in (
            (["step"], {"workload": "training", "runtime": "ort"}),
            (["forward", "backward", "optimizer"], {"workload": "training"}),
            (["forward"], {}),
        )
    ]
    return [
        Says("preload", messages.Failure(failure="nothing is forked here", is_user_error=False)),
        Says("probe", task_messages.Probed(works=False, reason="there is none")),
        Says("build", facts().model_copy(update={"counters": known, **figures}), model="lenet5"),
        Says("build", facts().model_copy(update={"counters": unknown, **figures})),
        Says("build_step", StepFacts(nodes=100, losses=[2.3, 2.2], loss_limit=1e-3, parity=right)),
        Says("load", messages.Loaded(import_s=0.5)),
        Says("open", messages.Opened(load_s=0.1, first_call_s=0.01, parity=right)),
        Says("warm", messages.Warmed(calls=10, seconds=0.1, converged=True, calls_per_sample=1, call_s=0.01)),
        *sampled,
        Says("close", messages.Closed(parity=right, memory=memory, ran=ran, faults=[])),
    ]


def _follow(script: list[tuple[str, list[str], list[list[Any]]]]) -> None:
    asked = ""
    given: Counter[int] = Counter()
    for line in sys.stdin:
        asked += line
        op = json.loads(line)["op"]
        place = next(
            n for n, (named, words, _) in enumerate(script) if named == op and all(word in asked for word in words)
        )
        answers = script[place][2]
        kind, what, *text = answers[min(given[place], len(answers) - 1)]
        given[place] += 1
        if op == "build" and text:  # a real one leaves its facts in the artifact's folder too
            folder = Path(json.loads(line)["folder"])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "artifact.json").write_text(*text)
        _ACTIONS[kind](what, *text)


def _die(by: int) -> None:
    os.kill(os.getpid(), by)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
    sys.exit()


def _wait(seconds: float, text: str) -> None:
    time.sleep(seconds)
    print(text, flush=True)


_ACTIONS: dict[str, Callable[..., None]] = {"die": _die, "print": _print, "wait": _wait}

if __name__ == "__main__":
    _follow(json.loads(Path(sys.argv[1]).read_text()))
