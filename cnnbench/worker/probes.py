"""Which devices really work, found out by running something on them; and who watches this process."""

import sys
from pathlib import Path

from cnnbench.records.reason import Reason
from cnnbench.records.task_messages import Probe, Probed
from cnnbench.suite.runtimes import split
from cnnbench.worker.runtimes.registry import class_of

MAX_REASON = 200


def probe(request: Probe) -> Probed:
    """Run an addition on the device through the runtime. A provider's or a build's own list proves nothing."""
    variant = split(request.runtime)[1]
    try:
        kind = class_of(request.runtime)
        name = kind.probe(request.device, variant) if variant else kind.probe(request.device)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Probed(works=False, reason=reason[:MAX_REASON])
    return Probed(works=True, name=name)


def watchers() -> list[Reason]:
    """A debugger or profiler that is attached to this process, and slows it down."""
    found = []
    if sys.gettrace() is not None:
        found.append(Reason(code="traced", detail="sys.settrace, as by a debugger or coverage tool"))
    if sys.getprofile() is not None:
        found.append(Reason(code="traced", detail="sys.setprofile, as by a profiler"))
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    tracer = next((line.split()[1] for line in lines if line.startswith("TracerPid:")), "0")
    if tracer != "0":
        found.append(Reason(code="traced", detail=f"by process {tracer}"))
    return found
