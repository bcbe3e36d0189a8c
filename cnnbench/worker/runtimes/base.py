"""What every runtime is: a case made executable from its artifact."""

import importlib
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnbench.archs import catalogue
from cnnbench.case import Case
from cnnbench.record import ArtifactFacts, Memory, Ran
from cnnbench.worker import memory
from cnnbench.worker.measure import Phases
from cnnbench.worker.stopwatch import HostStopwatch, Stopwatch

Array = NDArray[np.floating]


class Runtime(ABC):
    """A session that can be called: made by `open`, timed through `phases`.

    An input that stays where it is, is bound to the session before timing; what a step puts out stays on the device.
    """

    stopwatch: Stopwatch = HostStopwatch()

    @abstractmethod
    def predict(self, images: Array) -> Array:
        """Logits (N, classes) for images (N, C, H, W), on the host; not timed."""

    @abstractmethod
    def phases(self) -> Phases:
        """The timed step on the bound batch, in parts."""

    @abstractmethod
    def result(self) -> Array:
        """What the last timed step put out: logits (N, classes) in inference, the loss () in training."""

    @abstractmethod
    def ran(self) -> Ran:
        """What really ran, as the runtime itself says."""

    def reset_peak(self) -> None:
        """Let the peak of memory begin anew, where the system can."""
        memory.reset_peak()

    def memory(self, imported_bytes: int, loaded_bytes: int) -> Memory:
        """What the process has held. Runtimes with device memory of their own add to it."""
        return Memory(imported_bytes=imported_bytes, loaded_bytes=loaded_bytes, peak_bytes=memory.peak_bytes())


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
