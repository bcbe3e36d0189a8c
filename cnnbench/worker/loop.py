"""The worker's own loop: one JSON request per line in, one reply per line out.

Libraries print as they like: what they write goes to standard error, and only replies go to the real standard output.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pydantic import ValidationError
from safetensors.numpy import load_file

from cnnbench.errors import CnnbenchError, InputError, WorkerError
from cnnbench.records.artifact import GOLDEN, read_facts
from cnnbench.records.messages import (
    Advance,
    Build,
    BuildStep,
    Close,
    Closed,
    Count,
    Describe,
    Evaluate,
    Failure,
    Fork,
    Load,
    Loaded,
    MeasurePeaks,
    Open,
    Opened,
    Preload,
    Probe,
    Profile,
    Reap,
    Reply,
    Request,
    Resolve,
    Resolved,
    Sample,
    Sampled,
    StartTraining,
    Trace,
    Warm,
    Warmed,
    parse_request,
)
from cnnbench.records.record import Parity, Ran
from cnnbench.suite.case import Case
from cnnbench.worker import forking, probes
from cnnbench.worker.reference.labels import PROOF_IMAGES
from cnnbench.worker.reference.parity import Array, batches, compare, mixed_limit_for, size, tiled
from cnnbench.worker.runtimes.base import Runtime
from cnnbench.worker.runtimes.registry import import_libraries, open_session, preload
from cnnbench.worker.timing import measure, memory

if TYPE_CHECKING:
    from cnnbench.worker.training_run import TrainingRun

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Answer requests until the input ends."""
    replies = _claim_stdout()
    _die_with_parent()
    _serve(sys.stdin, replies)


def _serve(requests: TextIO, replies: TextIO) -> None:
    worker = Worker()
    for line in requests:
        if not line.strip():
            continue
        reply = _answer(worker, line)
        replies.write(reply.model_dump_json() + "\n")
        replies.flush()


def _serve_forked(requests: TextIO, replies: TextIO) -> None:
    _die_with_parent()
    _serve(requests, replies)


def _answer(worker: "Worker", line: str) -> Reply:
    try:
        return worker.handle(parse_request(line))
    except ValidationError as error:
        return Failure(failure=f"not a request: {error}", is_user_error=True)
    except CnnbenchError as error:
        return Failure(failure=str(error), is_user_error=isinstance(error, InputError))
    except MemoryError:
        return Failure(failure="out of memory", is_user_error=False)
    except Exception as error:
        import traceback

        traceback.print_exc()  # into the worker's log
        text = " ".join(str(error).split())
        if "allocate memory" in text or "out of memory" in text.lower():
            text = f"out of memory: {text}"
        return Failure(failure=f"{type(error).__name__}: {text}"[:500], is_user_error=False)


class Worker:
    """What one process holds between requests: at most one open case."""

    def __init__(self) -> None:
        self.threads = 1
        self.imported_bytes = self.loaded_bytes = 0
        self.opened: OpenCase | None = None
        self.training: TrainingRun | None = None

    def handle(self, request: Request) -> Reply:
        """Carry out one request. Raises CnnbenchError, or anything a library raises."""
        match request:
            case Resolve():
                from cnnbench.worker import models

                module, image = models.build(request.spec)
                return Resolved(input_shape=image, classes=models.try_out(module, image, request.spec))
            case Count():
                from cnnbench.worker import models
                from cnnbench.worker.counters import collect as counters

                module, image = models.build(request.spec)
                return counters.collect_export(counters.collect(module, image, request.spec), module, image)
            case Trace():
                import torch

                from cnnbench.worker import models
                from cnnbench.worker.counters.trace import trace

                module, image = models.build(request.spec)
                models.try_out(module, image, request.spec)
                return trace(module, torch.zeros(1, *image))
            case Build():
                from cnnbench.worker.artifact import build_artifact

                return build_artifact(request)
            case BuildStep():
                from cnnbench.worker.export.training.prove import build_step

                return build_step(request)
            case Describe():
                from cnnbench.worker.graph_file import describe

                return describe(Path(request.file))
            case Preload():
                import_s = preload(request.purpose)
                forking.check_can_fork()
                return Loaded(import_s=import_s)
            case Fork():
                return forking.fork(request, _serve_forked)
            case Reap():
                return forking.reap(request)
            case Load():
                import_s = import_libraries(request.case, request.threads)
                self.threads = request.threads
                self.imported_bytes = memory.resident_bytes()
                return Loaded(import_s=import_s)
            case Open():
                self.opened = OpenCase(request, self.threads)
                return self.opened.prove()
            case Warm():
                self.loaded_bytes = memory.resident_bytes()
                self._case().runtime.reset_peak()
                return self._case().warm(request.limit_s, request.min_calls)
            case Sample():
                return self._case().sample(request.seconds)
            case Close():
                return self._case().close(self.imported_bytes, self.loaded_bytes)
            case Profile():
                from cnnbench.worker.profilers.layers import profile

                return profile(request, self.threads)
            case StartTraining():
                from cnnbench.worker.training_run import TrainingRun

                self.training = TrainingRun(request)
                return self.training.started()
            case Advance():
                return self._run().advance(request.seconds)
            case Evaluate():
                return self._run().evaluate(request.out)
            case MeasurePeaks(library="torch"):
                from cnnbench.worker.peaks import pytorch as peaks_torch

                return peaks_torch.measure(request)
            case MeasurePeaks():
                from cnnbench.worker.peaks import ort as peaks_ort

                return peaks_ort.measure(request)
            case Probe():
                return probes.probe(request.runtime, request.device)

    def _run(self) -> "TrainingRun":
        if self.training is None:
            raise WorkerError("no training was started; send a `start_training` request first")
        return self.training

    def _case(self) -> "OpenCase":
        if self.opened is None:
            raise WorkerError("no case is open; send an `open` request first")
        return self.opened


class OpenCase:
    """A case in a session: proved, warmed, sampled, closed, in this order."""

    def __init__(self, request: Open, threads: int) -> None:
        case, folder, self.slowdown = request.case, Path(request.folder), request.slowdown
        facts = read_facts(folder)
        if facts is None:
            raise WorkerError(f"no finished artifact in {folder}")
        self.case, self.facts = case, facts
        self.reference_inputs = load_file(folder / GOLDEN)
        batch = tiled(self.reference_inputs["images"], case.batch)
        start = time.perf_counter()
        self.runtime: Runtime = open_session(case, facts, folder, batch, threads)
        self.load_s = time.perf_counter() - start
        self.proves_itself = case.is_exported_step
        self.calls_per_sample, self.wake = 1, False

    def prove(self) -> Opened:
        """Call once, timed as the first call, then compare outputs with the reference.

        Only at batches up to the case's own: a larger one would leave the allocator with more memory than the case ever
        asks for, and the timed calls would be faster than a user's (docs/method.md, "What the proof must not touch").
        """
        images = self.reference_inputs["images"]
        own = tiled(images, self.case.batch)
        start = time.perf_counter()
        self.runtime.first_call(images if self.runtime.takes_any_batch else own)
        first_call_s = time.perf_counter() - start
        if self.proves_itself:
            parity = self._own_proof() if self.case.batch >= PROOF_IMAGES else []
        elif self.runtime.takes_any_batch:
            parity = [self._prove(batch) for batch in batches(len(images)) if size(batch) <= self.case.batch]
        else:
            expected = tiled(self.reference_inputs["reference"], self.case.batch)
            parity = [self._compare(f"{self.case.runtime} b{self.case.batch}", self.runtime.predict(own), expected)]
        return Opened(load_s=self.load_s, first_call_s=first_call_s, parity=parity)

    def warm(self, limit_s: float, min_calls: int) -> Warmed:
        """Warm up, and settle how many calls make a sample."""
        self.phases = self.runtime.phases()
        if self.slowdown:
            self.phases = measure.slowed(self.phases, self.slowdown)
        done = measure.warm_up(self.phases, self.runtime.stopwatch, limit_s, min_calls=min_calls)
        self.calls_per_sample = measure.calls_per_sample(done.call_s)
        self.wake = done.call_s < measure.WAKE_BELOW_S
        return Warmed(
            calls=done.calls,
            seconds=done.seconds,
            converged=done.converged,
            calls_per_sample=self.calls_per_sample,
            call_s=done.call_s,
        )

    def sample(self, seconds: float) -> Sampled:
        """One turn."""
        stopwatch = self.runtime.stopwatch
        return Sampled(seconds=measure.sample(self.phases, self.calls_per_sample, seconds, stopwatch, wake=self.wake))

    def close(self, imported_bytes: int, loaded_bytes: int) -> Closed:
        """Compare the very output that was timed last, the batches that were too large before, and what really ran."""
        held = self.runtime.memory(imported_bytes, loaded_bytes)
        result, ran = self.runtime.result(), self.runtime.ran()
        faults = [*_differences(self.case, ran), *self.runtime.faults(), *probes.watchers()]
        parity: list[Parity] = []
        if self.proves_itself:
            parity = self._own_proof() if self.case.batch < PROOF_IMAGES else []
        elif self.case.workload == "inference":
            expected = tiled(self.reference_inputs["reference"], self.case.batch)
            parity = [self._compare(f"timed b{self.case.batch}", result, expected)]
            larger = [batch for batch in batches(len(self.reference_inputs["images"])) if size(batch) > self.case.batch]
            parity += [self._prove(batch) for batch in larger if self.runtime.takes_any_batch]
        if self.case.workload == "training" and not bool(abs(result) < float("inf")):
            faults.append(f"the loss of the last timed step is {result}")
        return Closed(parity=parity, memory=held, ran=ran, faults=faults)

    def _own_proof(self) -> list[Parity]:
        return self.runtime.own_proof(self.reference_inputs["images"]) or []

    def _prove(self, batch: slice) -> Parity:
        y = self.runtime.predict(self.reference_inputs["images"][batch])
        return self._compare(f"{self.case.runtime} b{size(batch)}", y, self.reference_inputs["reference"][batch])

    def _compare(self, what: str, y: Array, reference: Array) -> Parity:
        limit = self.facts.parity_limit
        if self.case.precision != "fp32":
            limit = mixed_limit_for(self.facts.eager_error, self.case.precision)
        return compare(what, y, reference, self.facts.output_rms, limit)


def _differences(case: Case, ran: Ran) -> list[str]:
    """Where what ran is not what was asked."""
    asked = {"device": case.device, "precision": case.precision}
    return [
        f"{key} {want} was asked and {getattr(ran, key)} ran"
        for key, want in asked.items()
        if getattr(ran, key) != want
    ]


def _claim_stdout() -> TextIO:
    """The real standard output for replies alone; file descriptor 1 then leads to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _die_with_parent() -> None:
    """Have Linux kill this process when its parent is gone, even while it is stopped, or else when memory runs out."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
