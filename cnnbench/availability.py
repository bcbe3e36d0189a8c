"""What this machine can run, found out by trying it in a child process."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cnnbench.case import DEVICES, RUNTIMES, Case, Device, RuntimeName, Workload
from cnnbench.errors import CnnbenchError
from cnnbench.messages import Probe, Probed
from cnnbench.process import Worker

CANNOT: dict[tuple[RuntimeName, Workload], str] = {
    ("ort", "training"): "this version exports no training step to ONNX Runtime",
}
"""What no machine can run, with the reason."""

PROBE_LIMIT_S = 120.0


def probe_all(logs: Path) -> dict[tuple[RuntimeName, Device], Probed]:
    """Try every device in every runtime."""
    pairs = [(runtime, device) for device in DEVICES for runtime in RUNTIMES]
    with ThreadPoolExecutor(len(pairs)) as pool:
        return dict(zip(pairs, pool.map(lambda pair: _probe(pair[0], pair[1], logs), pairs), strict=True))


def find_unavailable(cases: Sequence[Case], logs: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The reason, by case id, for each case that cannot run here, and the names of the accelerators that work.

    The CPU is taken to work; other devices are tried once in each runtime.
    """
    pairs: list[tuple[RuntimeName, Device]] = sorted({(c.runtime, c.device) for c in cases if c.device != "cpu"})
    with ThreadPoolExecutor(max(len(pairs), 1)) as pool:
        probed = dict(zip(pairs, pool.map(lambda pair: _probe(pair[0], pair[1], logs), pairs), strict=True))
    reasons = {}
    for case in cases:
        found = probed.get((case.runtime, case.device))
        if reason := CANNOT.get((case.runtime, case.workload)):
            reasons[case.id] = reason
        elif found is not None and not found.works:
            reasons[case.id] = f"no {case.device} device that {case.runtime} can use: {found.reason}"
    by_torch = {device: found for (runtime, device), found in probed.items() if runtime == "eager"}
    return reasons, {device: found.name for device, found in by_torch.items() if found.works}


def _probe(runtime: RuntimeName, device: Device, logs: Path) -> Probed:
    try:
        with Worker(logs / f"probe-{runtime}-{device}.log", 1, PROBE_LIMIT_S) as worker:
            return worker.ask(Probe(runtime=runtime, device=device), Probed)
    except CnnbenchError as error:
        return Probed(works=False, reason=str(error))
