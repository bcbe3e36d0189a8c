"""The runtimes' classes by name, imported only when asked for: an ONNX Runtime worker never imports torch."""

import importlib
import os
import pkgutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from cnnbench.errors import WorkerError
from cnnbench.networks import registry
from cnnbench.records.messages import Purpose
from cnnbench.records.record import ArtifactFacts
from cnnbench.suite.case import Case
from cnnbench.suite.runtimes import runtime_kind
from cnnbench.worker.origin import look_here_too
from cnnbench.worker.reference.parity import Array
from cnnbench.worker.runtimes.base import Runtime

COMPILER = "torch._dynamo"
"""Of torch.compile; the first optimizer imports it too, which takes a second."""
RUNNING = ("torch", COMPILER, "torchvision")
PRELOADED: Mapping[Purpose, tuple[str, ...]] = MappingProxyType(
    {
        "run": RUNNING,
        # Not ONNX Runtime, which starts a thread when it is imported; and then nothing could be forked.
        "build": (
            *RUNNING,
            "onnx",
            "onnxscript.function_libs.torch_lib.ops",
            "fvcore.nn",
            "cnnbench.worker.artifact",
            "cnnbench.worker.export.training.step",
        ),
    }
)
"""What processes that are forked find imported."""

_import_s: dict[str, float] = {}
"""How long importing each module took, in this process or in the one that it was forked from."""


def preload(purpose: Purpose) -> float:
    """Import what most models need for the purpose; in seconds."""
    return sum(map(_imported, PRELOADED[purpose]))


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
    architecture = registry.find(case.spec.model)
    if case.spec.model.startswith("torchvision/") or (architecture and architecture.from_torchvision):
        found.append("torchvision")
    elif case.spec.model.startswith("timm/"):
        found.append("timm")
    elif case.spec.is_users_own:
        look_here_too()
        found.append(case.spec.model.partition(":")[0])
    return found


def _imported(module: str) -> float:
    """Seconds that importing a module took."""
    if module not in _import_s:
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of processes that outlives a compilation
        start = time.perf_counter()
        importlib.import_module(module)
        _import_s[module] = time.perf_counter() - start
    return _import_s[module]


def open_session(case: Case, facts: ArtifactFacts, folder: Path, batch: Array, threads: int) -> Runtime:
    """The runtime of a case, loaded, with its batch (N, C, H, W) bound. Raises WorkerError if it cannot."""
    return class_of(case.runtime, case.workload)(case, facts, folder, batch, threads)


def class_of(runtime: str, workload: str = "") -> type[Runtime]:
    """The class that executes a workload, or any of its classes. Raises WorkerError if a plugin's is none."""
    classes = runtime_kind(runtime).classes
    found = pkgutil.resolve_name(classes[workload or next(iter(classes))])
    if not (isinstance(found, type) and issubclass(found, Runtime)):
        raise WorkerError(
            f"runtime {runtime!r}: expected a class derived from {Runtime.__module__}.Runtime; got {found!r}"
        )
    return found
