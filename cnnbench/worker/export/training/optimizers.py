"""What an optimizer does with a gradient, as torch.optim computes it, in ONNX nodes."""

from cnnbench.suite.optimizer import Optimizer
from cnnbench.worker.export.training.graph import Graph, Tensor


def update(
    g: Graph,
    optimizer: Optimizer,
    parameter: Tensor,
    gradient: Tensor,
    states: list[Tensor],
    rate: Tensor,
    step: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """The parameter's new value and its new states; `step` counts from 1 and is used by Adam alone."""
    if optimizer.weight_decay:
        gradient = g.add(gradient, g.mul(parameter, optimizer.weight_decay))
    if optimizer.name == "adam":
        assert step is not None
        return _adam(g, optimizer, parameter, gradient, states, rate, step)
    if optimizer.momentum:
        gradient = g.add(g.mul(states[0], optimizer.momentum), gradient)
        states = [gradient]
    return g.sub(parameter, g.mul(gradient, rate)), states


def _adam(
    g: Graph,
    optimizer: Optimizer,
    parameter: Tensor,
    gradient: Tensor,
    states: list[Tensor],
    rate: Tensor,
    step: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Kingma and Ba 2015, algorithm 1, with epsilon outside the corrected root as torch has it."""
    first, second = optimizer.betas
    mean = g.add(g.mul(states[0], first), g.mul(gradient, 1 - first))
    square = g.add(g.mul(states[1], second), g.mul(g.mul(gradient, gradient), 1 - second))
    one = g.constant(1.0)
    corrections = [g.sub(one, g("Pow", g.constant(beta), step, shape=())) for beta in (first, second)]
    root = g.div(g("Sqrt", square, shape=square.shape), g("Sqrt", corrections[1], shape=()))
    change = g.div(mean, g.add(root, g.constant(optimizer.eps)))
    return g.sub(parameter, g.mul(change, g.div(rate, corrections[0]))), [mean, square]
