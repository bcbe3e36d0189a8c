"""The runtimes by name, each imported only when it is asked for: an ONNX Runtime worker never imports torch."""

import importlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from cnnbench.errors import WorkerError
from cnnbench.networks import registry
from cnnbench.records.messages import Purpose
from cnnbench.records.record import ArtifactFacts
from cnnbench.suite.case import Case
from cnnbench.suite.runtimes import others, runtimes, split
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
"""How long importing each library took, in this process or in the one that it was forked from."""


def preload(purpose: Purpose) -> float:
    """Import what most models need for the purpose; in seconds."""
    return sum(_imported(library) for library in PRELOADED[purpose])


def import_libraries(case: Case, threads: int) -> float:
    """Import what the case's runtime and model need, and set the threads where that comes first; in seconds.

    In a process that was forked, importing took so long in the one that it was forked from.
    """
    name, _ = split(case.runtime)
    if name == "ort":
        return _imported("onnxruntime")
    if runtimes()[name].is_plugin:
        start = time.perf_counter()
        plugin_runtime(name)
        return time.perf_counter() - start
    seconds = _imported("torch")
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    if case.workload == "training" or name == "compile":
        seconds += _imported(COMPILER)
    architecture = registry.find(case.spec.model)
    if case.spec.model.startswith("torchvision/") or (architecture and architecture.from_torchvision):
        seconds += _imported("torchvision")
    elif case.spec.model.startswith("timm/"):
        seconds += _imported("timm")
    elif case.spec.is_users_own:
        look_here_too()
        seconds += _imported(case.spec.model.partition(":")[0])
    return seconds


def _imported(library: str) -> float:
    """Seconds that importing a library took."""
    if library not in _import_s:
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of processes that outlives a compilation
        start = time.perf_counter()
        importlib.import_module(library)
        _import_s[library] = time.perf_counter() - start
    return _import_s[library]


def open_session(case: Case, facts: ArtifactFacts, folder: Path, batch: Array, threads: int) -> Runtime:
    """The runtime of a case, loaded, with its batch (N, C, H, W) bound. Raises WorkerError if it cannot."""
    return _class_of(case)(case, facts, folder, batch, threads)


def _class_of(case: Case) -> type[Runtime]:
    name, _ = split(case.runtime)
    if name == "ort" and case.workload == "training":
        from cnnbench.worker.runtimes.ort_training import OrtTraining

        return OrtTraining
    if name == "ort":
        from cnnbench.worker.runtimes.ort import OrtInference

        return OrtInference
    if runtimes()[name].is_plugin:
        return plugin_runtime(name)
    from cnnbench.worker.runtimes import compiled, eager, folded

    kinds: dict[tuple[str, str], type[Runtime]] = {
        ("eager", "inference"): eager.EagerInference,
        ("eager", "training"): eager.EagerTraining,
        ("folded", "inference"): folded.Folded,
        ("compile", "inference"): compiled.CompiledInference,
        ("compile", "training"): compiled.CompiledTraining,
    }
    return kinds[name, case.workload]


def plugin_runtime(name: str) -> type[Runtime]:
    """The class of another package's runtime. Raises WorkerError if it is none."""
    (entry,) = (entry for entry in others() if entry.name == name)
    found = entry.load()
    if not (isinstance(found, type) and issubclass(found, Runtime)):
        raise WorkerError(
            f"runtime {name!r}: expected a class derived from {Runtime.__module__}.Runtime; got {found!r}"
        )
    return found
