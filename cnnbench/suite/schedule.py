"""The learning rate as a function of the step's number alone, so that a run that is resumed goes on with its own."""

import math
from typing import Annotated, Literal

from pydantic import Field

from cnnbench.suite.case import Frozen


class Schedule(Frozen):
    """How the learning rate changes; all lengths are in epochs.

    As torch.optim.lr_scheduler's SequentialLR of LinearLR and, behind the warm-up, of ConstantLR, StepLR or
    CosineAnnealingLR, each counted in steps.
    """

    name: Literal["constant", "step", "cosine"] = "constant"
    warmup: Annotated[float, Field(ge=0)] = 0.0
    """So long the rate grows linearly up to its value, from a part of it at the first step."""
    every: Annotated[float, Field(gt=0)] = 30.0
    """Of `step`: after each so many epochs behind the warm-up, the rate is multiplied by `gamma`."""
    gamma: Annotated[float, Field(ge=0)] = 0.1

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """What the rate is multiplied by at a step, from 0; `cosine` would be zero at the step behind the last."""
        warm = round(self.warmup * steps_per_epoch)
        if step < warm:
            return (step + 1) / warm
        if self.name == "step":
            return float(self.gamma ** ((step - warm) // max(1, round(self.every * steps_per_epoch))))
        if self.name == "cosine":
            done = (step - warm) / max(1, epochs * steps_per_epoch - warm)
            return (1 + math.cos(math.pi * min(1.0, done))) / 2
        return 1.0

    @property
    def depends_on_epochs(self) -> bool:
        """Whether another number of epochs is another schedule from the first step on."""
        return self.name == "cosine"
