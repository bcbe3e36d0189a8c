"""What an optimizer does with a gradient, as torch.optim computes it, in ONNX nodes."""

from collections.abc import Sequence

from cnnbench.suite.optimizer import Optimizer
from cnnbench.worker.export.training.graph import Graph, Tensor


def update(
    g: Graph, optimizer: Optimizer, w: Tensor, dw: Tensor, states: Sequence[Tensor], rate: Tensor, step: Tensor | None
) -> tuple[Tensor, Sequence[Tensor]]:
    """The parameter's new value and its new states; `step` counts from 1 and is used by Adam alone.

    Adam is Kingma and Ba 2015, algorithm 1, with epsilon outside the corrected root as torch has it.
    """
    if optimizer.weight_decay:
        dw = g.add(dw, g.mul(w, optimizer.weight_decay))
    if optimizer.name == "adam":
        assert step is not None
        first, second = optimizer.betas
        mean = g.add(g.mul(states[0], first), g.mul(dw, 1 - first))
        square = g.add(g.mul(states[1], second), g.mul(g.mul(dw, dw), 1 - second))
        one = g.constant(1.0)
        corrections = [g.sub(one, g("Pow", g.constant(beta), step)) for beta in (first, second)]
        root = g.div(g("Sqrt", square), g("Sqrt", corrections[1]))
        change = g.div(mean, g.add(root, g.constant(optimizer.eps)))
        return g.sub(w, g.mul(change, g.div(rate, corrections[0]))), [mean, square]
    if optimizer.momentum:
        dw = g.add(g.mul(states[0], optimizer.momentum), dw)
        states = [dw]
    return g.sub(w, g.mul(dw, rate)), states
