"""What this machine can run, found out by trying it in a child process."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from cnnbench.errors import CnnbenchError, InputError
from cnnbench.networks import registry
from cnnbench.records.artifact import file_name
from cnnbench.records.reason import Code, Reason
from cnnbench.records.task_messages import Probe, Probed
from cnnbench.runner import allocators
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import DEVICES, Case, Device
from cnnbench.suite.runtimes import OVER_HTTP, REFERENCE, cannot, runtime_kind, runtimes

PROBE_LIMIT_S = 120.0
LOADGEN = "mlperf_loadgen"
INSTALL_LOADGEN = "pip install 'cnnbench[serving]'"


def probe_all(logs: Path) -> dict[tuple[str, Device], Probed]:
    """Try every device in every runtime that runs here."""
    here = [runtime for runtime in runtimes() if runtime != OVER_HTTP]
    return _probed([(runtime, device) for device in DEVICES for runtime in here], logs)


def find_unavailable(cases: Sequence[Case], logs: Path) -> tuple[dict[str, Reason], dict[str, str]]:
    """Why cases cannot run here, by id, and the names of the accelerators that work.

    The CPU is taken to work in most runtimes; whatever else is asked for is tried once.
    """
    reasons: dict[str, Reason] = {}
    asked: set[tuple[str, Device]] = set()
    for case in cases:
        try:
            registry.file_of(case.spec.model)
        except InputError as error:
            reasons[case.id] = Reason(code="no-package", detail=str(error))
            continue
        asked_for = (case.runtime, case.workload, case.device, case.precision, case.layout)
        if why := cannot(*asked_for, model=case.spec.model, ranks=case.ranks):
            reasons[case.id] = Reason(code="unsupported", detail=why)
            continue
        if why := allocators.why_not(case.allocator):
            reasons[case.id] = Reason(code="no-allocator", detail=why)
        if case.workload == "serving" and find_spec(LOADGEN) is None:
            reasons[case.id] = Reason(code="no-loadgen", detail=INSTALL_LOADGEN)
        if case.device != "cpu" or runtime_kind(case.runtime).must_be_tried:
            asked.add((case.runtime, case.device))
    probed = _probed(sorted(asked), logs)
    for case in cases:
        found = probed.get((case.runtime, case.device))
        if case.id in reasons or found is None:
            continue
        if found.formats is not None and case.format not in found.formats:
            detail = f"on this processor {case.runtime} computes in {', '.join(found.formats)} alone"
            reasons[case.id] = Reason(code="unsupported", detail=detail)
        if not found.works:
            code: Code = "no-runtime" if case.device == "cpu" else "no-device"
            reasons[case.id] = Reason(code=code, detail=f"{case.runtime} on {case.device}: {found.reason}")
    by_torch = {device: found for (runtime, device), found in probed.items() if runtime == REFERENCE}
    return reasons, {device: found.name for device, found in by_torch.items() if found.works}


def _probed(pairs: Sequence[tuple[str, Device]], logs: Path) -> dict[tuple[str, Device], Probed]:
    def probe(pair: tuple[str, Device]) -> Probed:
        runtime, device = pair
        try:
            with Worker(logs / file_name(f"probe-{runtime}-{device}.log"), 1, PROBE_LIMIT_S) as worker:
                return worker.ask(Probe(runtime=runtime, device=device), Probed)
        except CnnbenchError as error:
            return Probed(works=False, reason=str(error))

    with ThreadPoolExecutor(max(len(pairs), 1)) as pool:
        return dict(zip(pairs, pool.map(probe, pairs), strict=True))
