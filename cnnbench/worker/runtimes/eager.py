"""PyTorch as it is written: one operator after the other."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import WEIGHTS
from cnnbench.records.reason import Reason
from cnnbench.records.record import ArtifactFacts, Memory, Ran
from cnnbench.suite.case import AMP, Case, Device, Layout
from cnnbench.suite.optimizer import TIMED_LEARNING_RATE, TIMED_OPTIMIZER, Optimizer
from cnnbench.worker import models
from cnnbench.worker.hooks import hooked
from cnnbench.worker.reference.parity import Array, Tensors, labels_for, several
from cnnbench.worker.runtimes import device as devices
from cnnbench.worker.runtimes.base import Runtime
from cnnbench.worker.signature import flat
from cnnbench.worker.timing.measure import HostStopwatch, Phases, Stopwatch
from cnnbench.worker.trainable import freeze

FORMATS: dict[Layout, torch.memory_format] = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
IMAGE_AXES = 4


class Eager(Runtime):
    """A module with the artifact's weights on its device."""

    def __init__(self, case: Case, facts: ArtifactFacts, folder: Path, batch: Tensors, threads: int) -> None:
        self.case = case
        self.device = devices.use(case.device)
        module = self.loaded(facts, folder)
        if case.layout == "channels_last" and (isinstance(batch, tuple) or batch.ndim != IMAGE_AXES):
            shapes = " and ".join(str(array.shape) for array in several(batch))
            raise WorkerError(f"the layout channels_last is for images (N, C, H, W); got {shapes}")
        self.module = self.prepared(module.eval()).to(self.device)
        if case.layout == "channels_last":
            self.module = self.module.to(memory_format=torch.channels_last)
        self.inputs = tuple(map(self.placed, several(batch)))
        """The batch of each input."""
        self.autocast = devices.autocast(self.device, case.precision)
        self.half = None if case.precision.startswith(AMP) else devices.HALVES.get(case.format)
        """The type of all weights, where that is a 16-bit one."""
        self.whole = Half(self.module, self.half) if self.half else self.module
        """It, with float32 at its boundary."""
        self.run: Callable[..., Any] = self.whole
        """What is called with the inputs."""
        self.output: Any = torch.empty(0)
        self.logits_type: torch.dtype | None = None
        torch.manual_seed(case.spec.seed)

    @classmethod
    def probe(cls, device: Device, variant: str = "") -> str:
        """The device's name. Raises torch's own reason where there is no such device."""
        ones = torch.ones(1, device=device)
        assert (ones + ones).item() == 2
        return devices.name(ones.device)

    def loaded(self, facts: ArtifactFacts, folder: Path) -> nn.Module:
        """The module with the artifact's weights. Raises WorkerError where what it is loaded from is not there."""
        module = models.rebuild(self.case.spec, facts)
        module.load_state_dict(load_file(folder / WEIGHTS))
        return module

    def prepared(self, module: nn.Module) -> nn.Module:
        """The module that is run, made from the one with the artifact's weights."""
        return module

    @property
    def images(self) -> Tensor:
        """The batch of the only input, or of the first."""
        return self.inputs[0]

    def placed(self, images: Array) -> Tensor:
        """Images on the device, in the case's layout."""
        return torch.from_numpy(images).to(self.device).contiguous(memory_format=FORMATS[self.case.layout])

    def predict(self, images: Tensors) -> Tensors:
        """Outputs in inference mode, whatever the workload; the module is left in the mode it was in."""
        training = self.module.training
        self.module.eval()
        inputs = tuple(map(self.placed, several(images)))  # ordinary tensors, as the timed ones are
        with torch.inference_mode(), self.autocast:
            y = self.run(*inputs)
        self.logits_type = flat(y)[0].dtype
        self.module.train(training)
        return on_host(y)

    def result(self) -> Tensors:
        return on_host(self.output)

    def ran(self) -> Ran:
        """The device and type of the output itself, how layers got their inputs, and torch's settings."""
        output = flat(self.output)[0]
        dtypes = {output.dtype if self.case.workload == "inference" else self.logits_type}
        if self.half:  # what is put out is float32 again
            dtypes = {x.dtype for x in self.module.state_dict().values() if x.is_floating_point()}
        tf32 = devices.tf32(self.device)
        return Ran(
            device=output.device.type,
            device_name=devices.name(self.device),
            threads=torch.get_num_threads(),
            precision=" and ".join(sorted(map(devices.format_of, dtypes))),
            torch_in_process=True,
            shares={self.case.format: 1.0} if self.half and dtypes == {self.half} else {},  # operators mix no types
            tf32=None if tf32 is None else bool(tf32),
            facts={"torch": torch.__version__, **devices.facts(self.device)},
        )

    def faults(self) -> list[Reason]:
        """TF32 where float32 was asked; convolutions whose inputs were silently copied to another layout."""
        coarse = (devices.tf32(self.device) or []) if self.case.precision == "fp32" else []
        return [*(Reason(code="tf32", detail=f"for {what}") for what in coarse), *self.layout_faults()]

    def layout_faults(self) -> list[Reason]:
        """That convolutions got inputs that are not channels_last, seen in a pass that is not timed.

        Where there is one channel or one pixel, both layouts are the same.
        """
        if self.case.layout == "nchw":
            return []
        kept: list[bool] = []

        def look(_: str, child: nn.Module, inputs: tuple[Tensor]) -> None:
            if isinstance(child, nn.Conv2d):
                kept.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

        training = self.module.training
        with hooked(self.module, before=look), torch.inference_mode():
            self.module.eval()
            self.whole(*(x[:1] for x in self.inputs))
        self.module.train(training)
        detail = f"channels_last was lost before {kept.count(False)} of {len(kept)} convolutions"
        return [] if all(kept) else [Reason(code="layout", detail=detail)]

    def reset_peak(self) -> None:
        super().reset_peak()
        if self.device.type != "cpu":
            torch.cuda.reset_peak_memory_stats(self.device)

    def memory(self, imported_bytes: int, loaded_bytes: int) -> Memory:
        on_host = super().memory(imported_bytes, loaded_bytes)
        return on_host.model_copy(update=devices.memory(self.device))


class Half(nn.Module):
    """A module in a 16-bit type, which takes and puts out float32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module.to(dtype), dtype

    def forward(self, *inputs: Tensor) -> Any:
        """The module's outputs in float32."""
        y = self.module(*(x.to(self.dtype) if x.is_floating_point() else x for x in inputs))
        return tree_map_only(Tensor, lambda x: x.float() if x.is_floating_point() else x, y)


class EagerInference(Eager):
    """Timed: the module's forward under inference mode, on the device, until its output is there."""

    def serve(self, images: Tensors) -> Tensors:
        with torch.inference_mode(), self.autocast:
            return on_host(self.run(*map(self.placed, several(images))))

    def phases(self) -> Phases:
        run, inputs, device = self.run, self.inputs, self.device
        guard, synchronize, autocast = torch.inference_mode, devices.synchronize, self.autocast

        def forward() -> None:
            with guard():
                self.output = run(*inputs)
            synchronize(device)

        def mixed() -> None:
            with guard(), autocast:
                self.output = run(*inputs)
            synchronize(device)

        return {"forward": mixed if self.case.precision.startswith(AMP) else forward}


def on_host(output: Any) -> Tensors:
    """Each tensor of a module's output."""
    arrays = tuple(map(devices.to_host, flat(output)))
    return arrays if len(arrays) > 1 else arrays[0]


def optimizer_of(module: nn.Module, settings: Optimizer, rate: float) -> torch.optim.Optimizer:
    """torch's own optimizer of a module's parameters."""
    parameters, decay = module.parameters(), settings.weight_decay
    if settings.is_adam:
        kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
        return kind(parameters, rate, settings.betas, settings.eps, weight_decay=decay)
    return torch.optim.SGD(parameters, rate, settings.momentum, weight_decay=decay)


class EagerTraining(Eager):
    """Timed: forward and loss, backward, and SGD with momentum and weight decay; data loading is left out."""

    def __init__(self, case: Case, facts: ArtifactFacts, folder: Path, batch: Tensors, threads: int) -> None:
        super().__init__(case, facts, folder, batch, threads)
        freeze(self.module, facts, case.trainable, case.spec.label)
        labels = labels_for(case.batch, facts.classes, case.spec.seed, facts.places)
        self.labels = torch.from_numpy(labels).to(self.device)
        self.optimizer = optimizer_of(self.module, TIMED_OPTIMIZER, TIMED_LEARNING_RATE)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=case.precision == "amp-fp16")

    @cached_property
    def stopwatch(self) -> Stopwatch:
        """The device's: the parts of a step do not wait for each other."""
        return HostStopwatch() if self.device.type == "cpu" else devices.EventStopwatch(self.device)

    def phases(self) -> Phases:
        """Forward with the loss; backward; the optimizer's step, which also drops the gradients."""
        self.module.train()

        def forward() -> None:
            with self.autocast:
                self.output = models.loss(self.module, self.run(*self.inputs), self.labels)

        def backward() -> None:
            self.scaler.scale(self.output).backward()

        def optimizer() -> None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)

        return {"forward": forward, "backward": backward, "optimizer": optimizer}


class EagerTrainer:
    """One step after the other by autograd and torch's optimizer, on the module itself and in its precision."""

    def __init__(self, module: nn.Module, optimizer: Optimizer, rate: float) -> None:
        self.module, self.settings = module.train(), optimizer
        self.dtype = next(module.parameters()).dtype
        self.optimizer = optimizer_of(module, optimizer, rate)

    def train(self, images: Tensors, labels: Array) -> float:
        """One step on images (N, C, H, W), or several inputs, and labels (N); the loss before it."""
        self.optimizer.zero_grad()
        inputs = map(torch.from_numpy, several(images))
        outputs = self.module(*(x.to(self.dtype) if x.is_floating_point() else x for x in inputs))
        loss = models.loss(self.module, outputs, torch.from_numpy(labels))
        loss.backward()  # type: ignore[no-untyped-call]
        if self.settings.max_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.max_norm)
        self.optimizer.step()
        return float(loss.detach())

    def set_rate(self, rate: float) -> None:
        """The learning rate from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def resume(self, values: Mapping[str, Array], steps: int) -> None:
        """Go on after so many steps, with what `values` gave then."""
        tensors = {name: torch.from_numpy(value.copy()) for name, value in values.items()}
        self.module.load_state_dict({name: tensors[name] for name in self.module.state_dict()})
        for name, parameter in self.module.named_parameters():
            state = {key: tensors[f"{name}.{key}"] for key in self.settings.states if f"{name}.{key}" in tensors}
            if state and self.settings.counts_steps:
                state["step"] = torch.tensor(float(steps))
            if state:
                self.optimizer.state[parameter] = state

    def values(self) -> dict[str, Array]:
        """Parameters, buffers and the optimizer's states by the exported step's names; valid until the next step."""
        found = weights_of(self.module)
        for name, parameter in self.module.named_parameters():
            state = self.optimizer.state[parameter]
            found |= {f"{name}.{key}": state[key].numpy() for key in self.settings.states if state.get(key) is not None}
        return found


def weights_of(module: nn.Module) -> dict[str, Array]:
    """The module's own parameters and buffers, as arrays in the same memory."""
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
