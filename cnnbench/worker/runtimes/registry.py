"""The runtimes' classes by name, imported only when asked for: an ONNX Runtime worker never imports torch."""

import importlib
import os
import pkgutil
import time
from collections.abc import Mapping
from functools import cache

from cnnbench.errors import WorkerError
from cnnbench.networks import registry
from cnnbench.records.messages import Loaded, Preload, Purpose
from cnnbench.records.task_messages import Probe, Probed
from cnnbench.suite.case import Case
from cnnbench.suite.runtimes import PT2E, QUANTISER, runtime_kind, split
from cnnbench.worker.forking import check_can_fork
from cnnbench.worker.origin import look_here_too
from cnnbench.worker.runtimes.base import Runtime

COMPILER = "torch._dynamo"
"""Of torch.compile; the first optimizer imports it too, which takes a second."""
RUNNING = ("torch", COMPILER, "torchvision")
BUILDING = ("onnx", "onnxscript.function_libs.torch_lib.ops", "fvcore.nn")
BUILDERS = ("cnnbench.worker.artifact", "cnnbench.worker.export.training.step")
FIRST_EXPORT = "cnnbench.worker.building:export_once"
PRELOADED: Mapping[Purpose, tuple[str, ...]] = {"run": RUNNING, "build": (*RUNNING, *BUILDING, *BUILDERS)}
"""What processes that are forked find imported. Not ONNX Runtime, which starts a thread when it is imported; and then
nothing could be forked."""
MAX_REASON = 200


def preload(request: Preload) -> Loaded:
    """Import what most models need for the purpose. Raises WorkerError if this process cannot be forked then."""
    import_s = sum(map(_imported, PRELOADED[request.purpose]))
    if request.purpose == "build":
        pkgutil.resolve_name(FIRST_EXPORT)()
    check_can_fork()
    return Loaded(import_s=import_s)


def import_libraries(case: Case, threads: int) -> float:
    """Import what the case's runtime and model need, and set the threads where that comes first; in seconds.

    In a process that was forked, importing took so long in the one that it was forked from.
    """
    kind = runtime_kind(case.runtime)
    seconds = sum(map(_imported, kind.imports))
    if not kind.runs_in_torch:
        return seconds
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    return seconds + sum(_imported(module) for module in _further(case) if module not in kind.imports)


def _further(case: Case) -> list[str]:
    """What a case in PyTorch imports beside it: the compiler for its optimizer, and the package of its model."""
    found = [COMPILER] if case.workload == "training" else []
    found += [QUANTISER] if case.precision == PT2E else []
    architecture = registry.find(case.spec.model)
    if case.spec.model.startswith("torchvision/") or (architecture and architecture.from_torchvision):
        found.append("torchvision")
    elif case.spec.model.startswith("timm/"):
        found.append("timm")
    elif case.spec.is_users_own:
        look_here_too()
        found.append(case.spec.model.partition(":")[0])
    if case.spec.loss and case.workload == "training":
        look_here_too()
        found.append(case.spec.loss.partition(":")[0])
    return found


@cache
def _imported(module: str) -> float:
    """Seconds that importing a module took, in this process or in the one that it was forked from."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of processes that outlives a compilation
    start = time.perf_counter()
    importlib.import_module(module)
    return time.perf_counter() - start


def probe(request: Probe) -> Probed:
    """Run an addition on the device through the runtime. A provider's or a build's own list proves nothing.

    Where the engine is missing, or a part of it, the reason says what to install.
    """
    variant = split(request.runtime)[1]
    try:
        kind = class_of(request.runtime)
        name = kind.probe(request.device, variant) if variant else kind.probe(request.device)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        install = runtime_kind(request.runtime).install
        if install and not isinstance(error, WorkerError):
            reason = f"it is not installed, or not whole: {install} ({reason[:90]})"
        return Probed(works=False, reason=reason[:MAX_REASON])
    return Probed(works=True, name=name, formats=kind.formats_on(request.device))


def class_of(runtime: str, workload: str = "", ranks: int = 1) -> type[Runtime]:
    """The class that executes a workload, or any of its classes. Raises WorkerError if a plugin's is none."""
    kind = runtime_kind(runtime)
    found = pkgutil.resolve_name(kind.ranked if ranks > 1 else kind.classes[workload or next(iter(kind.classes))])
    if not (isinstance(found, type) and issubclass(found, Runtime)):
        raise WorkerError(
            f"runtime {runtime!r}: expected a class derived from {Runtime.__module__}.Runtime; got {found!r}"
        )
    return found
