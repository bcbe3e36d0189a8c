"""What this machine can run, found out by trying it in a child process."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cnnbench.errors import CnnbenchError
from cnnbench.records.artifact import file_name
from cnnbench.records.reason import Code, Reason
from cnnbench.records.task_messages import Probe, Probed
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import DEVICES, Case, Device
from cnnbench.suite.runtimes import REFERENCE, cannot, runtime_kind, runtimes

PROBE_LIMIT_S = 120.0


def probe_all(logs: Path) -> dict[tuple[str, Device], Probed]:
    """Try every device in every runtime."""
    pairs = [(runtime, device) for device in DEVICES for runtime in runtimes()]
    with ThreadPoolExecutor(len(pairs)) as pool:
        return dict(zip(pairs, pool.map(lambda pair: _probe(pair[0], pair[1], logs), pairs), strict=True))


def find_unavailable(cases: Sequence[Case], logs: Path) -> tuple[dict[str, Reason], dict[str, str]]:
    """The reason, by case id, for each case that cannot run here, and the names of the accelerators that work.

    The CPU is taken to work in most runtimes; whatever else is asked for is tried once.
    """
    possible = [case for case in cases if _cannot(case) is None]
    pairs: list[tuple[str, Device]] = sorted(
        {(c.runtime, c.device) for c in possible if c.device != "cpu" or runtime_kind(c.runtime).must_be_tried}
    )
    with ThreadPoolExecutor(max(len(pairs), 1)) as pool:
        probed = dict(zip(pairs, pool.map(lambda pair: _probe(pair[0], pair[1], logs), pairs), strict=True))
    reasons = {}
    for case in cases:
        found = probed.get((case.runtime, case.device))
        if why := _cannot(case):
            reasons[case.id] = Reason(code="unsupported", detail=why)
        elif found is not None and not found.works:
            code: Code = "no-runtime" if case.device == "cpu" else "no-device"
            reasons[case.id] = Reason(code=code, detail=f"{case.runtime} on {case.device}: {found.reason}")
    by_torch = {device: found for (runtime, device), found in probed.items() if runtime == REFERENCE}
    return reasons, {device: found.name for device, found in by_torch.items() if found.works}


def _cannot(case: Case) -> str | None:
    return cannot(case.runtime, case.workload, case.device, case.precision, case.layout)


def _probe(runtime: str, device: Device, logs: Path) -> Probed:
    try:
        with Worker(logs / file_name(f"probe-{runtime}-{device}.log"), 1, PROBE_LIMIT_S) as worker:
            return worker.ask(Probe(runtime=runtime, device=device), Probed)
    except CnnbenchError as error:
        return Probed(works=False, reason=str(error))
