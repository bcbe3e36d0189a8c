"""An optimizer as data, and the one of every training step that is timed."""

from typing import Literal, TypeAlias

from cnnbench.suite.case import Frozen

OptimizerName: TypeAlias = Literal["sgd", "adam", "adamw"]


class Optimizer(Frozen):
    """An optimizer of torch.optim and its constants; the learning rate comes with each step."""

    name: OptimizerName = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_norm: float | None = None
    """Gradients are scaled down to this norm over all parameters, where theirs is larger; None for as they are."""

    @property
    def states(self) -> tuple[str, ...]:
        """What it keeps for each parameter, by torch's names; all begin as zeros."""
        if self.is_adam:
            return ("exp_avg", "exp_avg_sq")
        return ("momentum_buffer",) if self.momentum else ()

    @property
    def counts_steps(self) -> bool:
        """Whether it needs to know how many steps were made."""
        return self.is_adam

    @property
    def is_adam(self) -> bool:
        """Adam, with its weight decay in the gradient or beside it."""
        return self.name in ("adam", "adamw")


TIMED_OPTIMIZER = Optimizer(momentum=0.9, weight_decay=1e-4)
"""Of every training step that is timed (He et al. 2015). Weight decay also keeps the momentum of units that never fire
out of the denormal numbers, whose arithmetic is many times slower, over the thousands of steps of a small network."""
TIMED_LEARNING_RATE = 1e-3
