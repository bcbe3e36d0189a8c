"""Artifacts and training steps, from the cache or built in a child process."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cnnbench.errors import CnnbenchError
from cnnbench.records import artifact
from cnnbench.records.messages import (
    Build,
    BuildStep,
    Describe,
    Described,
    Load,
    Loaded,
    Open,
    Opened,
)
from cnnbench.records.reason import Reason, reason_for
from cnnbench.records.record import ArtifactFacts, Parity, StepFacts
from cnnbench.runner import machine
from cnnbench.runner.fork_server import ForkServer, start_fork_server
from cnnbench.runner.worker_process import HERE, Interpreter, Worker
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.optimizer import TIMED_OPTIMIZER, Optimizer

LIMIT_S = 600.0
"""The longest that building one artifact may take."""
MAX_BATCH = 3
"""Of those that a graph is proved at; `Open` goes up to the case's own."""

Start = Callable[[Path], Worker]
"""Starts a worker that logs to a file."""


def start_worker(log: Path) -> Worker:
    """A worker that imports for itself what it needs."""
    return Worker(log, machine.usable_threads(), LIMIT_S)


class Builders:
    """Starts workers that build: forked from one process that has imported all of it, which takes as long as a build.

    For several builds one after the other; the process ends with `close`.
    """

    def __init__(self) -> None:
        self._fork_servers: dict[Interpreter, ForkServer | None] = {}

    def starter(self, interpreter: Interpreter = HERE) -> Start:
        """What starts a worker in the interpreter; the first one imports."""
        return partial(self._start, interpreter)

    def _start(self, interpreter: Interpreter, log: Path) -> Worker:
        threads = machine.usable_threads()
        if interpreter not in self._fork_servers:
            fork_server_log = log.with_name(f"template-{log.name}")
            self._fork_servers[interpreter] = start_fork_server(fork_server_log, threads, LIMIT_S, interpreter, "build")
        fork_server = self._fork_servers[interpreter]
        return fork_server.start(log) if fork_server else Worker(log, threads, LIMIT_S, interpreter=interpreter)

    def close(self) -> None:
        """End what workers were forked from."""
        for fork_server in self._fork_servers.values():
            if fork_server is not None:
                fork_server.close()
        self._fork_servers.clear()


def find_artifact(spec: ModelSpec, run_id: str) -> ArtifactFacts | None:
    """What is known of the model's artifact in the cache; None if there is none, or its graph could not be exported.

    A failed export may have had a passing cause, such as a full disk, so it is tried again by whoever asks next.
    """
    return found_artifact(artifact.folder_of(spec, artifact.key_of(spec, run_id)))


def found_artifact(folder: Path) -> ArtifactFacts | None:
    """What is known of the artifact in a folder; None as above."""
    facts = artifact.read_facts(folder)
    return facts if facts is not None and facts.onnx_error is None else None


def build_artifact(spec: ModelSpec, run_id: str, log: Path, start: Start = start_worker) -> ArtifactFacts:
    """Have a worker build the model's artifact.

    Raises ModelError for a model that cannot be built or run, WorkerError if the worker fails.
    """
    key = artifact.key_of(spec, run_id)
    return build_into(Build(spec=spec, key=key, folder=str(artifact.folder_of(spec, key))), log, start)


def build_into(request: Build, log: Path, start: Start) -> ArtifactFacts:
    """Have a worker fill the artifact's folder; raises as `build_artifact` does."""
    folder = Path(request.folder)
    with start(log) as worker:
        try:
            return worker.ask(request, ArtifactFacts)
        finally:
            worker.kill()
            for left in folder.parent.glob(f"{artifact.BUILDING}{worker.pid}-*"):  # if it was ended halfway
                shutil.rmtree(left, ignore_errors=True)


def find_step(folder: Path) -> StepFacts | None:
    """What is known of a finished artifact's training step; None if there is none, or it could not be exported."""
    facts = artifact.read_step(folder)
    return facts if facts is not None and facts.error is None else None


def build_step(spec: ModelSpec, folder: Path, log: Path, start: Start = start_worker) -> StepFacts:
    """Have a worker export and prove the training step that is timed, into the artifact's folder.

    Raises WorkerError if the worker fails.
    """
    return export_step(spec, folder, folder / artifact.STEP, TIMED_OPTIMIZER, log, start)


def export_step(
    spec: ModelSpec, folder: Path, out: Path, optimizer: Optimizer, log: Path, start: Start = start_worker
) -> StepFacts:
    """Have a worker export and prove a training step, into any file."""
    with start(log) as worker:
        return worker.ask(
            BuildStep(spec=spec, folder=str(folder), out=str(out.absolute()), optimizer=optimizer), StepFacts
        )


Around = Callable[[], AbstractContextManager[object]]
"""Makes what is entered while something is built, to tell of it and to time it."""


@dataclass
class Artifacts:
    """What a run needs of the cache: each artifact and training step is looked for once, and built if it is not there.

    What cannot be built is not tried again. Whoever makes one closes its `builders`.
    """

    builders: Builders = field(default_factory=Builders)
    _facts: dict[Path, ArtifactFacts | Reason] = field(default_factory=dict)
    _steps: dict[Path, StepFacts] = field(default_factory=dict)

    def artifact(
        self, request: Build, log: Path, interpreter: Interpreter = HERE, around: Around = nullcontext
    ) -> ArtifactFacts | Reason:
        """The facts of an artifact, or the reason why there is none."""
        folder = Path(request.folder)
        if folder not in self._facts:
            known: ArtifactFacts | Reason | None = found_artifact(folder)
            if known is None:
                try:
                    with around():
                        known = build_into(request, log, self.builders.starter(interpreter))
                except CnnbenchError as error:
                    known = reason_for(error)
            self._facts[folder] = known
        return self._facts[folder]

    def step(
        self, spec: ModelSpec, folder: Path, log: Path, interpreter: Interpreter = HERE, around: Around = nullcontext
    ) -> StepFacts:
        """The facts of a finished artifact's training step; its error tells why there is none."""
        if folder not in self._steps:
            known = find_step(folder)
            if known is None:
                try:
                    with around():
                        known = build_step(spec, folder, log, self.builders.starter(interpreter))
                except CnnbenchError as error:
                    known = StepFacts(error=str(error))
            self._steps[folder] = known
        return self._steps[folder]

    def lacks(self, folder: Path) -> bool:
        """Whether an artifact would have to be built."""
        return folder not in self._facts and found_artifact(folder) is None

    def lacks_step(self, folder: Path) -> bool:
        """Whether a training step would have to be built."""
        return folder not in self._steps and find_step(folder) is None


def prove_graph(spec: ModelSpec, folder: Path, log: Path) -> list[Parity]:
    """The parity of the artifact's graph in ONNX Runtime on the CPU, at batches of 1, 2 and 3. Raises WorkerError."""
    case = Case(spec=spec, workload="inference", runtime="ort", batch=MAX_BATCH)
    threads = machine.usable_threads()
    with Worker(log, threads, LIMIT_S) as worker:
        worker.ask(Load(case=case, threads=threads), Loaded)
        return worker.ask(Open(case=case, folder=str(folder)), Opened).parity


def describe_graph(file: Path, log: Path) -> Described:
    """What an ONNX file holds. Raises WorkerError."""
    with Worker(log, machine.usable_threads(), LIMIT_S) as worker:
        return worker.ask(Describe(file=str(file)), Described)


def forget_artifact(spec: ModelSpec, run_id: str) -> None:
    """Delete the artifact of a user's own model, which no later run can use."""
    if spec.is_users_own:
        artifact.remove(spec, artifact.key_of(spec, run_id))
