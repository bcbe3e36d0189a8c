"""What every runtime is: a case made executable from its artifact."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from cnnbench.errors import WorkerError
from cnnbench.records.reason import Reason
from cnnbench.records.record import ArtifactFacts, Memory, Parity, Ran
from cnnbench.suite.case import Case, Device
from cnnbench.worker.reference.parity import Tensors, part
from cnnbench.worker.timing import usage
from cnnbench.worker.timing.measure import HostStopwatch, Phases, Stopwatch


class Runtime(ABC):
    """A loaded model that can be called, timed through `phases`.

    An input that stays where it is, is bound to the session before timing; what a step puts out stays on the device.
    """

    takes_any_batch = True
    """Whether it is checked at other batches than the case's; not where each batch needs its own compilation."""

    @abstractmethod
    def __init__(self, case: Case, facts: ArtifactFacts, folder: Path, batch: Tensors, threads: int) -> None:
        """Load the artifact in `folder` and bind the batch (N, C, H, W), or that of each input where there are several.

        Raises WorkerError if it cannot.
        """

    @cached_property
    def stopwatch(self) -> Stopwatch:
        """What its phases are timed by."""
        return HostStopwatch()

    @classmethod
    def probe(cls, device: Device, variant: str = "") -> str:
        """The device's name, if this runtime works on it here; else any error, whose message is the reason."""
        if device != "cpu":
            raise WorkerError("it does not say that it can use one")
        return device

    @classmethod
    def formats_on(cls, device: Device) -> tuple[str, ...] | None:
        """The number formats that it computes in on the device of this machine; None where nothing says so."""
        return None

    def first_call(self, reference_inputs: Tensors) -> None:
        """The first call, timed as such: of one reference input (N, C, H, W), or of as many as it is compiled for."""
        self.predict(part(reference_inputs, slice(1)) if self.takes_any_batch else reference_inputs)

    def own_proof(self, reference_inputs: Tensors) -> list[Parity] | None:
        """How far it is from the reference on reference inputs (N, C, H, W); None where logits are compared instead."""
        return None

    @abstractmethod
    def predict(self, images: Tensors) -> Tensors:
        """Logits (N, classes) for images (N, C, H, W), on the host; not timed. One array for each output."""

    def serve(self, images: Tensors) -> Tensors:
        """The same as a service calls it, and as it is timed there; called in a thread of its own for each instance."""
        return self.predict(images)

    @abstractmethod
    def phases(self) -> Phases:
        """The timed step on the bound batch, in parts."""

    @abstractmethod
    def result(self) -> Tensors:
        """What the last timed step put out: logits (N, classes) in inference, the loss () in training."""

    @abstractmethod
    def ran(self) -> Ran:
        """What really ran, as the runtime itself says."""

    def faults(self) -> Sequence[Reason | str]:
        """Why what ran is not what was asked, beside device and precision; other packages may say it in words."""
        return []

    def reset_peak(self) -> None:
        """Reset the peak of memory, where the system can."""
        usage.reset_peak()

    def memory(self, imported_bytes: int, loaded_bytes: int) -> Memory:
        """What the process has held. Runtimes with device memory of their own add to it."""
        return Memory(imported_bytes=imported_bytes, loaded_bytes=loaded_bytes, peak_bytes=usage.peak_bytes())
