"""Artifacts and training steps: found in the cache, or built by child processes, one on each core."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Self
from uuid import uuid4

import psutil
from filelock import Timeout

from cnnbench.errors import CnnbenchError, InputError, WorkerCrashed
from cnnbench.networks.trainable import ALL, first_trained
from cnnbench.records import artifact, cache, dataset
from cnnbench.records.messages import Build, BuildGraph, BuildPackage, BuildStep
from cnnbench.records.reason import Code, Reason, reason_for
from cnnbench.records.record import ArtifactFacts, GraphFacts, PackageFacts, Status, StepFacts
from cnnbench.runner import machine, scratch
from cnnbench.runner.fork_server import ForkServers, Lineage
from cnnbench.runner.worker_process import HERE, Interpreter, Worker
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.optimizer import TIMED_OPTIMIZER

BuildRequest = Build | BuildStep | BuildPackage | BuildGraph
Made = PackageFacts | GraphFacts | CnnbenchError
"""What is made for a case beside its model's artifact, or why it could not be."""
LIMIT_S = 600.0
"""The longest that one build may take; a run has its suite's."""
BUILDER_BYTES = 2 * 2**30
"""Of available memory, for each builder beside the first."""
POLL_S = 0.02


@dataclass(frozen=True)
class Wanted:
    """A model that is wanted as an artifact, and what builds it."""

    spec: ModelSpec
    key: str
    steps: tuple[str, ...] = ()
    """The parts of it whose training steps are wanted too."""
    interpreter: Interpreter = HERE
    weights: Path | None = None
    """A file of weights to take instead of the model's own, where they fit it."""
    ahead: tuple[Case, ...] = ()
    """The cases that a package or a graph of their own is wanted for."""

    @property
    def folder(self) -> Path:
        """The artifact's."""
        return artifact.folder_of(self.spec, self.key)


class Problem(NamedTuple):
    """Why a case cannot be run."""

    status: Status
    reason: Reason


@dataclass(frozen=True)
class Built:
    """What there is of a model, and why the rest is missing."""

    folder: Path
    facts: ArtifactFacts | None = None
    fault: str | None = None
    """What was wrong with the one in the cache, which is rebuilt for that."""
    error: CnnbenchError | None = None
    """Why it could not be built."""
    steps: Mapping[str, StepFacts] = field(default_factory=dict)
    """By the part that is trained."""
    step_errors: Mapping[str, CnnbenchError] = field(default_factory=dict)
    made: Mapping[str, Made] = field(default_factory=dict)
    """By name."""

    def made_for(self, case: Case) -> Made | None:
        """What is made for a case; None if nobody has asked for it yet."""
        name = artifact.made_for(case, machine.threads_of(case))
        if name in self.made or self.facts is None:
            return self.made.get(name)
        if case.is_compiled_ahead:
            package = artifact.read_package(self.folder / name)
            return package if package is not None and package.error is None else None
        graph, source = artifact.read_graph(self.folder, case), dataset.fingerprint(case.calibration)
        return graph if graph is not None and graph.error is None and graph.source == source else None

    def graph(self, case: Case) -> GraphFacts | None:
        """What is known of the graph that was made for a case's precision."""
        found = self.made_for(case) if case.has_own_graph else None
        return found if isinstance(found, GraphFacts) else None

    def with_made(self, case: Case, found: Made) -> Self:
        """The same, with what came of making something for a case."""
        return replace(self, made={**self.made, artifact.made_for(case, machine.threads_of(case)): found})

    def require(self) -> ArtifactFacts:
        """The facts. Raises why there are none: ModelError, WorkerError."""
        if self.error is not None:
            raise self.error
        assert self.facts is not None
        return self.facts

    def problem(self, case: Case) -> Problem | None:
        """Why a case of the model cannot be run; None if it can. Raises InputError for a part that it does not have."""
        if self.error is not None:
            return Problem("failed", reason_for(self.error))
        if self.facts is not None and case.trainable != ALL:
            order, heads = self.facts.order, self.facts.heads
            first_trained(case.spec.label, order, heads[0] if heads else None, case.trainable)
        if case.is_exported_step and (error := self.step_errors.get(case.trainable)) is not None:
            return Problem("failed", reason_for(error))
        step = self.steps.get(case.trainable)
        if case.is_exported_step and step is not None and step.error is not None:
            return Problem("unavailable", Reason(code="not-exportable", detail=step.error))
        if case.is_exported and not case.is_exported_step and self.facts is not None and self.facts.onnx_error:
            return Problem("unavailable", Reason(code="not-exportable", detail=self.facts.onnx_error))
        if (case.is_compiled_ahead or case.has_own_graph) and (found := self.made_for(case)) is not None:
            code: Code = "not-exportable" if case.is_compiled_ahead else "no-graph"
            if isinstance(found, InputError):  # what it is calibrated with
                return Problem("failed", Reason(code=code, detail=str(found)))
            if isinstance(found, CnnbenchError):
                return Problem("failed", reason_for(found))
            if found.error is not None:
                return Problem("unavailable", Reason(code=code, detail=found.error))
        if self.facts is not None and self.facts.batch not in (None, case.batch):
            only = f"the file takes batches of {self.facts.batch} alone"
            return Problem("unavailable", Reason(code="unsupported", detail=only))
        return None


class Building(NamedTuple):
    """A build begins, or has ended."""

    spec: ModelSpec
    what: str
    seconds: float | None = None
    """What it took; None as it begins."""
    error: CnnbenchError | None = None


@dataclass
class _Job:
    wanted: Wanted
    request: BuildRequest
    worker: Worker
    began_s: float


class Artifacts:
    """What a run or a command needs of the cache: everything is looked for once, and what cannot be built tried once.

    Artifacts of a user's own models are deleted at the end: their code may change in ways that no digest of one file
    sees, so nobody else can use them.
    """

    def __init__(self, logs: Path | None = None, limit_s: float = LIMIT_S) -> None:
        """Builders log into `logs`, or a folder that is gone at the end; none may take longer than `limit_s`."""
        self._held = contextlib.ExitStack()
        self.logs = logs or self._held.enter_context(scratch.scratch_folder())
        self._limit_s = limit_s
        self._run_id = uuid4().hex
        self._built: dict[Path, Built] = {}

    def wanted(self, spec: ModelSpec, steps: tuple[str, ...] = (), ahead: Iterable[Case] = ()) -> Wanted:
        """A model as this interpreter builds it, with training steps of these parts, and these cases compiled ahead."""
        return Wanted(spec, artifact.key_of(spec, self._run_id), steps, ahead=tuple(ahead))

    def find(self, wanted: Wanted) -> Built:
        """What there is of it.

        A graph or a step that could not be exported in another run may have had a passing cause, such as a full disk:
        it is missing, and is built again.
        """
        folder = wanted.folder
        if folder not in self._built:
            cache.note_use(folder)  # before it is looked at, so that nobody deletes it meanwhile
            facts, fault = artifact.read_facts(folder), artifact.fault_of(folder)
            if fault is not None or facts is None or facts.onnx_error is not None:
                facts = None
            self._built[folder] = Built(folder, facts, fault)
        built = self._built[folder]
        if built.facts is not None:
            read = {part: artifact.read_step(folder, part) for part in wanted.steps if part not in built.steps}
            known = {part: step for part, step in read.items() if step is not None and step.error is None}
            built = self._built[folder] = replace(built, steps={**known, **built.steps})
        return built

    def get(self, spec: ModelSpec) -> ArtifactFacts:
        """The facts of a model's artifact, which is built if it is not there. Raises ModelError, WorkerError."""
        wanted = self.wanted(spec)
        self.build([wanted])
        return self.find(wanted).require()

    def missing(self, wanted: Wanted) -> list[BuildRequest]:
        """What is still to be built of it, in order."""
        found, folder = self.find(wanted), str(wanted.folder)
        if found.error is not None:
            return []
        requests: list[BuildRequest] = []
        if found.facts is None:
            weights = str(wanted.weights) if wanted.weights else None
            requests.append(Build(spec=wanted.spec, key=wanted.key, folder=folder, weights=weights))
        for part in wanted.steps:
            if part not in found.steps and part not in found.step_errors:
                out = str(wanted.folder / artifact.step_files(part)[0])
                settings = {"folder": folder, "out": out, "optimizer": TIMED_OPTIMIZER, "trainable": part}
                requests.append(BuildStep(spec=wanted.spec, **settings))
        for case in wanted.ahead:
            if found.made_for(case) is None:
                threads = machine.threads_of(case)
                is_package = case.is_compiled_ahead
                if not case.is_exported or not (found.facts and found.facts.onnx_error):
                    requests.append(
                        BuildPackage(case=case, folder=folder, threads=threads)
                        if is_package
                        else BuildGraph(case=case, folder=folder)
                    )
        return requests

    def to_build(self, wanted: Iterable[Wanted]) -> list[ModelSpec]:
        """The models that something is still to be built of, once for each build."""
        return [each.spec for each in wanted for _ in self.missing(each)]

    def build(self, wanted: Sequence[Wanted], watch: Callable[[Building], bool] = lambda building: True) -> None:
        """Build what is missing, in this order, in as many processes of one thread as there are cores and memory.

        `watch` is told when each build begins and ends, and ends all of it by answering False.
        """
        cache.sweep()
        scratch.sweep()
        waiting = [each for each in wanted if self.missing(each)]
        if not waiting:
            return
        cache.prepare()
        alone = len(self.to_build(waiting)) == 1  # a fork server would import more than it needs
        most = min(machine.usable_threads(), 1 + psutil.virtual_memory().available // BUILDER_BYTES)
        running: list[_Job] = []
        with ForkServers(self.logs, self._limit_s) as servers:
            try:
                while waiting or running:
                    if waiting and len(running) < most:
                        each = waiting.pop(0)
                        requests = self.missing(each)
                        if not requests:  # another process has built it meanwhile
                            continue
                        if not watch(Building(each.spec, _what(requests[0], self.find(each).fault))):
                            return
                        start = servers.start if alone or each.spec.is_onnx_file else servers.fork
                        if not self._begin(each, requests[0], start, running) and self.missing(each):
                            waiting.insert(0, each)
                        continue
                    for job in [job for job in running if job.worker.has_answer]:
                        running.remove(job)
                        error = self._end(job)
                        took_s = time.monotonic() - job.began_s
                        if self.missing(job.wanted):
                            waiting.insert(0, job.wanted)
                        if not watch(Building(job.wanted.spec, _what(job.request), took_s, error)):
                            return
                    time.sleep(POLL_S)
            finally:
                for job in running:
                    self._discard(job)
        cache.prune(cache.limit_bytes(), keep_s=cache.RECENT_S)

    def _begin(
        self, wanted: Wanted, request: BuildRequest, start: Callable[[Lineage, Path], Worker], running: list[_Job]
    ) -> bool:
        """Start a builder; gives whether that was possible."""
        log = self.logs / f"{request.op}-{artifact.file_name(wanted.spec.label)}.log"
        if wanted.spec.depends_on_code:
            self._held.callback(_discard, wanted.folder)
        try:
            worker = start(Lineage(1, interpreter=wanted.interpreter, purpose="build"), log)
        except CnnbenchError as error:
            self._fail(wanted, request, error)
            return False
        running.append(_Job(wanted, request, worker, time.monotonic()))
        with contextlib.suppress(WorkerCrashed):  # told by `_end`
            worker.send(request)
        return True

    def _end(self, job: _Job) -> CnnbenchError | None:
        """Keep what came of a build; gives why nothing did, if so."""
        found = self.find(job.wanted)
        try:
            if isinstance(job.request, Build):
                found = replace(found, facts=job.worker.receive(ArtifactFacts))
            elif isinstance(job.request, BuildStep):
                step = job.worker.receive(StepFacts)
                found = replace(found, steps={**found.steps, job.request.trainable: step})
            elif isinstance(job.request, BuildPackage):
                found = found.with_made(job.request.case, job.worker.receive(PackageFacts))
            else:
                found = found.with_made(job.request.case, job.worker.receive(GraphFacts))
            self._built[job.wanted.folder] = found
        except CnnbenchError as error:
            self._fail(job.wanted, job.request, error)
            return error
        finally:
            self._discard(job)
        return None

    def _fail(self, wanted: Wanted, request: BuildRequest, error: CnnbenchError) -> None:
        found = self.find(wanted)
        if isinstance(request, Build):
            found = replace(found, error=error)
        elif isinstance(request, BuildStep):
            found = replace(found, step_errors={**found.step_errors, request.trainable: error})
        else:
            found = found.with_made(request.case, error)
        self._built[wanted.folder] = found

    def _discard(self, job: _Job) -> None:
        """End the builder, and delete what it has not finished."""
        job.worker.kill()
        cache.sweep([job.wanted.folder])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()


def _discard(folder: Path) -> None:
    with contextlib.suppress(Timeout, OSError):
        cache.discard(folder)


def _what(request: BuildRequest, fault: str | None = None) -> str:
    if isinstance(request, Build):
        return "building, counting and exporting" + (f" again: in the cache, {fault}" if fault else "")
    if isinstance(request, BuildGraph):
        return f"making its graph in {request.case.precision}"
    if isinstance(request, BuildPackage):
        return f"compiling ahead for {request.case.runtime} at batch {request.case.batch}"
    return "exporting and verifying the training step"
