"""One case in a process: opened and proved, warmed up, sampled, closed, in this order; or profiled."""

import math
import pkgutil
import time
from pathlib import Path

from safetensors.numpy import load_file

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import GOLDEN, read_facts
from cnnbench.records.messages import Closed, Open, Opened, Sample, Sampled, Warm, Warmed
from cnnbench.records.reason import Reason
from cnnbench.records.record import ArtifactFacts, Parity
from cnnbench.records.task_messages import Profile, Profiled
from cnnbench.suite.runtimes import runtime_kind
from cnnbench.worker import probes
from cnnbench.worker.reference.labels import PROOF_IMAGES
from cnnbench.worker.reference.parity import Array, batches, compare, limit_for, size, tiled
from cnnbench.worker.runtimes.registry import open_session
from cnnbench.worker.timing import measure, memory


class Session:
    """A case in its runtime."""

    def __init__(self, request: Open, threads: int, imported_bytes: int) -> None:
        """Load the artifact. Raises WorkerError if the runtime cannot."""
        self.case, folder = request.case, Path(request.folder)
        self.facts, inputs = _artifact(folder)
        self.images, self.reference = inputs["images"], inputs["reference"]
        start = time.perf_counter()
        self.runtime = open_session(self.case, self.facts, folder, tiled(self.images, self.case.batch), threads)
        self.load_s = time.perf_counter() - start
        phases = self.runtime.phases()
        if tuple(phases) != self.case.phases:
            raise WorkerError(f"expected the phases {', '.join(self.case.phases)}; got {', '.join(phases)}")
        self.phases = measure.slowed(phases, request.slowdown)
        self.calls_per_sample, self.wake = 1, False
        self.imported_bytes, self.loaded_bytes = imported_bytes, 0

    def open(self) -> Opened:
        """Call once, timed as the first call, then compare outputs with the reference.

        Only at batches up to the case's own: a larger one would leave the allocator with more memory than the case ever
        asks for, and the timed calls would be faster than a user's (docs/method.md, "What the proof must not touch").
        """
        own = tiled(self.images, self.case.batch)
        start = time.perf_counter()
        self.runtime.first_call(self.images if self.runtime.takes_any_batch else own)
        first_call_s = time.perf_counter() - start
        parity = self._proofs(after_timing=False)
        self.loaded_bytes = memory.resident_bytes()
        return Opened(load_s=self.load_s, first_call_s=first_call_s, parity=parity)

    def warm(self, request: Warm) -> Warmed:
        """Warm up, and settle how many calls make a sample.

        The peak of memory begins anew afterwards: the first calls also hold what libraries try out, such as the
        workspaces of cuDNN's search for the fastest algorithm, which are freed.
        """
        done = measure.warm_up(
            self.phases,
            self.runtime.stopwatch,
            request.limit_s,
            hard_limit_s=request.hard_limit_s or math.inf,
            min_calls=request.min_calls,
        )
        self.runtime.reset_peak()
        self.calls_per_sample = measure.calls_per_sample(done.call_s)
        self.wake = done.call_s < measure.WAKE_BELOW_S
        return Warmed(**vars(done), calls_per_sample=self.calls_per_sample)

    def sample(self, request: Sample) -> Sampled:
        """One block."""
        stopwatch = self.runtime.stopwatch
        samples = measure.sample(self.phases, self.calls_per_sample, request.seconds, stopwatch, wake=self.wake)
        return Sampled(seconds=samples)

    def close(self) -> Closed:
        """Compare the very output that was timed last, the batches that were too large before, and what really ran."""
        held = self.runtime.memory(self.imported_bytes, self.loaded_bytes)
        result, ran = self.runtime.result(), self.runtime.ran()
        faults = [*ran.faults(self.case), *map(_reason, self.runtime.faults()), *probes.watchers()]
        parity: list[Parity] = []
        if self.case.workload == "inference":
            expected = tiled(self.reference, self.case.batch)
            parity = [self._compare(f"timed b{self.case.batch}", result, expected), *self._proofs(after_timing=True)]
        else:
            if self.case.is_exported_step:
                parity = self._proofs(after_timing=True)
            if not math.isfinite(result):
                faults.append(Reason(code="not-finite", detail=f"{result} in the last timed step"))
        return Closed(parity=parity, memory=held, ran=ran, faults=faults)

    def _proofs(self, *, after_timing: bool) -> list[Parity]:
        """At batches up to the case's own, or after timing at larger ones."""
        runtime, batch = self.runtime, self.case.batch
        if self.case.is_exported_step:
            return (runtime.own_proof(self.images) or []) if (batch < PROOF_IMAGES) == after_timing else []
        if runtime.takes_any_batch:
            chosen = [each for each in batches(len(self.images)) if (size(each) > batch) == after_timing]
            pairs = [(self.images[each], self.reference[each]) for each in chosen]
        else:
            pairs = [] if after_timing else [(tiled(self.images, batch), tiled(self.reference, batch))]
        return [
            self._compare(f"{self.case.runtime} b{len(images)}", runtime.predict(images), reference)
            for images, reference in pairs
        ]

    def _compare(self, what: str, y: Array, reference: Array) -> Parity:
        precision = self.case.precision
        limit = limit_for(self.facts.eager_error, precision)
        return compare(what, y, reference, self.facts.output_rms, limit, precision)


def _reason(fault: Reason | str) -> Reason:
    """A runtime's fault; another package's says in words what it is."""
    return fault if isinstance(fault, Reason) else Reason(code="runtime", detail=fault)


def profile(request: Profile, threads: int) -> Profiled:
    """The time of each layer, by the runtime's own profiler. Raises WorkerError if it has none or missed a call."""
    profiler = runtime_kind(request.case.runtime).profiler
    if not profiler:
        raise WorkerError(f"{request.case.runtime} has no profiler that tells layers")
    facts, inputs = _artifact(Path(request.folder))
    found = pkgutil.resolve_name(profiler)(request, facts, tiled(inputs["images"], request.case.batch), threads)
    return Profiled.model_validate(found)


def _artifact(folder: Path) -> tuple[ArtifactFacts, dict[str, Array]]:
    """Facts, and the reference inputs and outputs. Raises WorkerError if the artifact is not finished."""
    facts = read_facts(folder)
    if facts is None:
        raise WorkerError(f"no finished artifact in {folder}")
    return facts, load_file(folder / GOLDEN)
