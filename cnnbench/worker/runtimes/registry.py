"""The runtimes by name, each imported only when it is asked for: an ONNX Runtime worker never imports torch."""

import importlib
from pathlib import Path

from cnnbench.archs import catalogue
from cnnbench.case import Case
from cnnbench.record import ArtifactFacts
from cnnbench.worker.parity import Array
from cnnbench.worker.runtimes.base import Runtime


def import_libraries(case: Case, threads: int) -> None:
    """Import what the case's runtime and model need, and set the threads where that comes first."""
    if case.runtime == "ort":
        import onnxruntime  # noqa: F401

        return
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    if case.workload == "training":
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
    if case.runtime == "ort":
        from cnnbench.worker.runtimes.ort import OrtInference

        return OrtInference(case, folder, batch, threads)
    from cnnbench.worker.runtimes.eager import EagerInference, EagerTraining

    kind = EagerTraining if case.workload == "training" else EagerInference
    return kind(case, facts, folder, batch)
