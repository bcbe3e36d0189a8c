"""One case in a process: opened and checked, warmed up, sampled, closed, in this order; or profiled."""

import math
import pkgutil
import sys
import time
from pathlib import Path

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import golden_of, read_graph
from cnnbench.records.messages import Closed, Open, Opened, Sample, Sampled, Warm, Warmed
from cnnbench.records.reason import Reason
from cnnbench.records.record import Parity
from cnnbench.records.task_messages import Profile, Profiled
from cnnbench.suite.runtimes import runtime_kind
from cnnbench.worker.allocator import allocator_in_force
from cnnbench.worker.reference.parity import (
    LEAST_OF_FILE,
    PROOF_IMAGES,
    RESOLVED,
    Tensors,
    batches,
    centres_of,
    compare_all,
    compare_angles,
    limit_for,
    open_artifact,
    part,
    same_class,
    scales_of,
    several,
    tiled,
)
from cnnbench.worker.runtimes.registry import class_of
from cnnbench.worker.timing import measure, usage


class Session:
    """A case in its runtime."""

    def __init__(self, request: Open, threads: int, imported_bytes: int) -> None:
        """Load the artifact. Raises WorkerError if the runtime cannot."""
        self.case, folder = request.case, Path(request.folder)
        self.facts, (self.images, self.reference) = open_artifact(folder, golden_of(folder, self.case))
        least = LEAST_OF_FILE if self.case.spec.is_onnx_file else RESOLVED
        self.scales, self.centres = scales_of(self.reference, least), centres_of(self.reference, least)
        self.graph = read_graph(folder, self.case) if self.case.has_own_graph else None
        start = time.perf_counter()
        kind = class_of(self.case.runtime, self.case.workload, self.case.ranks)
        self.runtime = kind(self.case, self.facts, folder, tiled(self.images, self.case.batch), threads)
        self.load_s = time.perf_counter() - start
        phases = self.runtime.phases()
        if tuple(phases) != self.case.phases:
            raise WorkerError(f"expected the phases {', '.join(self.case.phases)}; got {', '.join(phases)}")
        self.phases = {name: measure.slowed(phase, request.slowdown) for name, phase in phases.items()}
        self.calls_per_sample, self.wake = 1, False
        self.imported_bytes, self.loaded_bytes = imported_bytes, 0

    def open(self) -> Opened:
        """Call once, timed as the first call, then compare outputs with the reference.

        Only at batches up to the case's own: a larger one would leave memory with the allocator, and the timed calls
        would be faster than a user's (docs/method.md, "What the proof must not touch").
        """
        own = tiled(self.images, self.case.batch)
        start = time.perf_counter()
        self.runtime.first_call(self.images if self.runtime.takes_any_batch else own)
        first_call_s = time.perf_counter() - start
        parity = self._proofs(after_timing=False)
        self.loaded_bytes = usage.resident_bytes()
        any_batch = self.runtime.takes_any_batch
        return Opened(load_s=self.load_s, first_call_s=first_call_s, parity=parity, takes_any_batch=any_batch)

    def warm(self, request: Warm) -> Warmed:
        """Warm up, and settle how many calls make a sample.

        The peak of memory is reset afterwards: the first calls also hold what libraries try out and then free.
        """
        stopwatch, hard_limit_s = self.runtime.stopwatch, request.hard_limit_s
        hard_limit_s = math.inf if hard_limit_s is None else hard_limit_s  # none is left where it is 0
        warmed = measure.warm_up(
            self.phases,
            stopwatch,
            request.limit_s,
            least_s=request.least_s,
            hard_limit_s=hard_limit_s,
            min_calls=request.min_calls,
        )
        self.runtime.reset_peak()
        self.calls_per_sample, self.wake = warmed.calls_per_sample, warmed.call_s < measure.WAKE_BELOW_S
        return warmed

    def sample(self, request: Sample) -> Sampled:
        """One block."""
        stopwatch = self.runtime.stopwatch
        return measure.sample(self.phases, self.calls_per_sample, request.seconds, stopwatch, wake=self.wake)

    def close(self) -> Closed:
        """Compare the very output that was timed last, the batches that were too large before, and what really ran."""
        held = self.runtime.memory(self.imported_bytes, self.loaded_bytes)
        result = self.runtime.result()
        ran = self.runtime.ran().model_copy(update={"allocator": allocator_in_force()})
        words = [f if isinstance(f, Reason) else Reason(code="runtime", detail=f) for f in self.runtime.faults()]
        faults = [*ran.faults(self.case), *words, *watchers()]
        parity = []
        if self.case.workload == "inference":
            parity.append(self._compare(f"timed b{self.case.batch}", result, tiled(self.reference, self.case.batch)))
        elif not math.isfinite(float(several(result)[0])):
            faults.append(Reason(code="not-finite", detail=f"{several(result)[0]} in the last timed step"))
        if self.case.workload == "inference" or self.case.is_exported_step:
            parity += self._proofs(after_timing=True)
        return Closed(parity=parity, memory=held, ran=ran, faults=faults)

    def _proofs(self, *, after_timing: bool) -> list[Parity]:
        """At batches up to the case's own, or after timing at larger ones."""
        runtime, batch = self.runtime, self.case.batch
        if self.case.is_exported_step:
            return (runtime.own_proof(self.images) or []) if (batch < PROOF_IMAGES) == after_timing else []
        if runtime.takes_any_batch:
            known = len(several(self.images)[0])
            chosen = [each for each in batches(known) if (len(each) > batch) == after_timing]
            pairs = [(part(self.images, each), part(self.reference, each)) for each in chosen]
        else:
            pairs = [] if after_timing else [(tiled(self.images, batch), tiled(self.reference, batch))]
        return [
            self._compare(f"{self.case.runtime} b{len(several(images)[0])}", runtime.predict(images), reference)
            for images, reference in pairs
        ]

    def _compare(self, what: str, y: Tensors, reference: Tensors) -> Parity:
        precision = self.case.precision
        limit = limit_for(self.facts.eager_error, precision, self.graph)
        if self.case.is_quantised:
            found = compare_angles(what, y, reference, self.centres, limit)
        else:
            found = compare_all(what, y, reference, self.scales, limit, precision)
        agreement = None if precision == "fp32" else same_class(y, reference)
        return found.model_copy(update={"agreement": agreement})


def watchers() -> list[Reason]:
    """A debugger or profiler that is attached to this process, and slows it down."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    tracer = next((line.split()[1] for line in lines if line.startswith("TracerPid:")), "0")
    found = {
        "sys.settrace, as by a debugger or coverage tool": sys.gettrace() is not None,
        "sys.setprofile, as by a profiler": sys.getprofile() is not None,
        f"by process {tracer}": tracer != "0",
    }
    return [Reason(code="traced", detail=what) for what, is_attached in found.items() if is_attached]


def profile(request: Profile, threads: int) -> Profiled:
    """The time of each layer, by the runtime's own profiler. Raises WorkerError if it has none or missed a call."""
    profiler = runtime_kind(request.case.runtime).profiler
    if not profiler:
        raise WorkerError(f"{request.case.runtime} has no profiler that tells layers")
    facts, golden = open_artifact(folder := Path(request.folder), golden_of(folder, request.case))
    found = pkgutil.resolve_name(profiler)(request, facts, tiled(golden.images, request.case.batch), threads)
    return Profiled.model_validate(found)
