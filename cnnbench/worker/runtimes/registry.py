"""The runtimes by name, each imported only when it is asked for: an ONNX Runtime worker never imports torch."""

import importlib
import os
from pathlib import Path

from cnnbench.archs import catalogue
from cnnbench.case import Case
from cnnbench.errors import WorkerError
from cnnbench.record import ArtifactFacts
from cnnbench.runtime import others, runtimes, split
from cnnbench.worker.parity import Array
from cnnbench.worker.runtimes.base import Runtime


def import_libraries(case: Case, threads: int) -> None:
    """Import what the case's runtime and model need, and set the threads where that comes first."""
    name, _ = split(case.runtime)
    if name == "ort":
        import onnxruntime  # noqa: F401

        return
    if runtimes()[name].is_others:
        others_runtime(name)
        return
    if name == "compile":
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of processes that outlives the compilation
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    if case.workload == "training" or name == "compile":
        import torch._dynamo  # the first optimizer imports it, which takes a second
    arch = catalogue.find(case.spec.model)
    if case.spec.model.startswith("torchvision/") or (arch and arch.from_torchvision):
        import torchvision  # noqa: F401
    elif case.spec.model.startswith("timm/"):
        import timm  # noqa: F401
    elif case.spec.is_users_own:
        importlib.import_module(case.spec.model.partition(":")[0])


def open_session(case: Case, facts: ArtifactFacts, folder: Path, batch: Array, threads: int) -> Runtime:
    """The runtime of a case, loaded, with its batch (N, C, H, W) bound. Raises WorkerError if it cannot."""
    return _class_of(case)(case, facts, folder, batch, threads)


def _class_of(case: Case) -> type[Runtime]:
    name, _ = split(case.runtime)
    if name == "ort":
        from cnnbench.worker.runtimes.ort import OrtInference

        return OrtInference
    if runtimes()[name].is_others:
        return others_runtime(name)
    from cnnbench.worker.runtimes import compiled, eager, folded

    kinds: dict[tuple[str, str], type[Runtime]] = {
        ("eager", "inference"): eager.EagerInference,
        ("eager", "training"): eager.EagerTraining,
        ("folded", "inference"): folded.Folded,
        ("compile", "inference"): compiled.CompiledInference,
        ("compile", "training"): compiled.CompiledTraining,
    }
    return kinds[name, case.workload]


def others_runtime(name: str) -> type[Runtime]:
    """The class of another package's runtime. Raises WorkerError if it is none."""
    (entry,) = (entry for entry in others() if entry.name == name)
    found = entry.load()
    if not (isinstance(found, type) and issubclass(found, Runtime)):
        raise WorkerError(
            f"runtime {name!r}: expected a class derived from {Runtime.__module__}.Runtime; got {found!r}"
        )
    return found
