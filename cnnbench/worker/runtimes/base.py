"""What every runtime is: a case made executable from its artifact."""

from abc import ABC, abstractmethod

from cnnbench.record import Memory, Ran
from cnnbench.worker import memory
from cnnbench.worker.measure import Phases
from cnnbench.worker.parity import Array
from cnnbench.worker.stopwatch import HostStopwatch, Stopwatch


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
