"""PyTorch as it is written: one operator after the other."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from cnnbench.artifact import WEIGHTS
from cnnbench.case import Case
from cnnbench.record import ArtifactFacts, Memory, Ran
from cnnbench.worker import models
from cnnbench.worker.measure import Phases
from cnnbench.worker.parity import Array
from cnnbench.worker.runtimes import device as devices
from cnnbench.worker.runtimes.base import Runtime

LEARNING_RATE = 1e-3
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
"""As He et al. 2015 train. It also keeps the momentum of units that never fire out of the denormal numbers, whose
arithmetic is many times slower, over the thousands of steps of a small network."""


class Eager(Runtime):
    """A module with the artifact's weights on its device."""

    def __init__(self, case: Case, facts: ArtifactFacts, folder: Path, batch: Array) -> None:
        self.device = devices.use(case.device)
        self.module, _ = models.build(case.spec)
        self.module.load_state_dict(load_file(folder / WEIGHTS))
        self.module.to(self.device).eval()
        self.images = torch.from_numpy(batch).to(self.device)
        self.output = torch.empty(0)
        torch.manual_seed(case.spec.seed)

    def predict(self, images: Array) -> Array:
        """Logits in inference mode, whatever the workload; the module is left in the mode it was in."""
        training = self.module.training
        self.module.eval()
        with torch.inference_mode():
            y = self.module(torch.from_numpy(images).to(self.device))
        self.module.train(training)
        result: Array = devices.to_host(y).numpy()
        return result

    def result(self) -> Array:
        """What the last step put out, on the host."""
        result: Array = devices.to_host(self.output).numpy()
        return result

    def ran(self) -> Ran:
        """The device and type of the output itself, and torch's settings."""
        return Ran(
            device=self.output.device.type,
            device_name=devices.name(self.device),
            threads=torch.get_num_threads(),
            precision={torch.float32: "fp32"}.get(self.output.dtype, str(self.output.dtype)),
            facts={"torch": torch.__version__, **devices.facts(self.device)},
        )

    def reset_peak(self) -> None:
        """On the device too."""
        super().reset_peak()
        devices.reset_peak(self.device)

    def memory(self, imported_bytes: int, loaded_bytes: int) -> Memory:
        """The process's memory, and what torch's allocator held on the device."""
        allocated, reserved = devices.peak_bytes(self.device)
        on_host = super().memory(imported_bytes, loaded_bytes)
        return on_host.model_copy(update={"device_allocated_bytes": allocated, "device_reserved_bytes": reserved})


class EagerInference(Eager):
    """Timed: the module's forward under inference mode, images and logits staying on the device.

    Each call ends when its output is there, as in every other runtime, so the host's clock tells.
    """

    def phases(self) -> Phases:
        """One phase: forward."""
        module, images, device = self.module, self.images, self.device
        guard, synchronize = torch.inference_mode, devices.synchronize

        def forward() -> None:
            with guard():
                self.output = module(images)
            synchronize(device)

        return {"forward": forward}


class EagerTraining(Eager):
    """Timed: forward and loss, backward, and SGD with momentum and weight decay; data loading is left out."""

    def __init__(self, case: Case, facts: ArtifactFacts, folder: Path, batch: Array) -> None:
        super().__init__(case, facts, folder, batch)
        self.stopwatch = devices.stopwatch(self.device)  # the parts of a step do not wait for each other
        generator = torch.Generator().manual_seed(case.spec.seed)
        self.labels = torch.randint(facts.classes, (case.batch,), generator=generator).to(self.device)
        self.optimizer = torch.optim.SGD(
            self.module.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )

    def phases(self) -> Phases:
        """Forward with the loss; backward; the optimizer's step, which also drops the gradients."""
        self.module.train()

        def forward() -> None:
            self.output = models.loss(self.module(self.images), self.labels)

        def backward() -> None:
            self.output.backward()  # type: ignore[no-untyped-call]

        def optimizer() -> None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        return {"forward": forward, "backward": backward, "optimizer": optimizer}
