"""Which devices really work, found out by running something on them."""

import sys
from pathlib import Path

from cnnbench.records.messages import Probed
from cnnbench.records.reason import Reason
from cnnbench.suite.case import Device
from cnnbench.suite.runtimes import runtimes, split
from cnnbench.worker.runtimes.registry import plugin_runtime

LONGEST_REASON = 200


def probe(runtime: str, device: Device) -> Probed:
    """Run an addition on the device through the runtime. A provider's or a build's own list proves nothing."""
    try:
        name = _try(runtime, device)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Probed(works=False, reason=reason[:LONGEST_REASON])
    return Probed(works=True, name=name)


def watchers() -> list[Reason]:
    """A debugger or profiler that is attached to this process, and slows it down."""
    found = []
    if sys.gettrace() is not None:
        found.append(Reason(code="traced", detail="sys.settrace, as by a debugger or coverage tool"))
    if sys.getprofile() is not None:
        found.append(Reason(code="traced", detail="sys.setprofile, as by a profiler"))
    tracer = next((line for line in _status_lines() if line.startswith("TracerPid:")), "TracerPid: 0")
    if tracer.split()[1] != "0":
        found.append(Reason(code="traced", detail=f"by process {tracer.split()[1]}"))
    return found


def _status_lines() -> list[str]:
    status = Path("/proc/self/status")
    return status.read_text().splitlines() if status.exists() else []


def _try(runtime: str, device: Device) -> str:
    name, variant = split(runtime)
    if runtimes()[name].is_plugin:
        return plugin_runtime(name).probe(device)
    if name == "ort":
        return _try_ort(device, variant)
    if name == "compile":
        from cnnbench.worker.runtimes.compiled import check_compiler

        check_compiler(device)
    return _try_torch(device)


def _try_torch(device: Device) -> str:
    import torch

    ones = torch.ones(1, device=device)  # raises torch's own reason where there is no such device
    assert (ones + ones).item() == 2
    return torch.cuda.get_device_name(0) if device == "cuda" else "cpu"


def _try_ort(device: Device, variant: str) -> str:
    from cnnbench.worker.runtimes.ort import run_identity

    run_identity(device, variant)
    return device
