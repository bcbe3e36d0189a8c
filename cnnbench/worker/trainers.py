"""One training step after the other, in either runtime, behind one interface."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cnnbench.suite.optimizer import Optimizer
from cnnbench.worker import models
from cnnbench.worker.runtimes.eager import optimizer_of
from cnnbench.worker.runtimes.step_session import StepSession

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Values = Mapping[str, NDArray[Any]]
"""Parameters, buffers and the optimizer's states, by the names that the exported step has for them."""


class Trainer(Protocol):
    """A model that is being trained."""

    def step(self, images: Images, labels: Labels) -> float:
        """One step; the loss before it."""

    def values(self) -> Values:
        """What lasts, now; valid until the next step."""


class EagerTrainer:
    """PyTorch's autograd and optimizer, on the module itself and in its precision."""

    def __init__(self, module: nn.Module, optimizer: Optimizer, rate: float) -> None:
        self.module, self.states = module.train(), optimizer.states
        self.dtype = next(module.parameters()).dtype
        self.optimizer = optimizer_of(module, optimizer, rate)

    def step(self, images: Images, labels: Labels) -> float:
        """One step; the loss before it."""
        self.optimizer.zero_grad()
        loss = models.loss(self.module(torch.from_numpy(images).to(self.dtype)), torch.from_numpy(labels))
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())

    def values(self) -> Values:
        """What lasts, now."""
        found = {name: tensor.detach().numpy() for name, tensor in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            state = self.optimizer.state[parameter]
            found |= {f"{name}.{key}": state[key].numpy() for key in self.states if state.get(key) is not None}
        return found


class OrtTrainer:
    """The exported step in ONNX Runtime, from the module's weights."""

    def __init__(self, module: nn.Module, session: StepSession, rate: float, *, drop: bool) -> None:
        self.session = session
        session.begin({name: tensor.numpy() for name, tensor in module.state_dict().items()}, rate, drop=drop)

    def step(self, images: Images, labels: Labels) -> float:
        """One step; the loss before it."""
        self.session.bind(images, labels)
        self.session.step()
        return self.session.loss

    def values(self) -> Values:
        """What lasts, now."""
        return self.session.values()
