"""What an optimizer does with a gradient, as torch.optim computes it, in ONNX nodes."""

from collections.abc import Sequence

from cnnbench.suite.optimizer import Optimizer
from cnnbench.worker.graphs.graph import Graph, Tensor

CLIP_EPS = 1e-6
"""Added to the norm, as torch.nn.utils.clip_grad_norm_ does."""


def clip_factor(g: Graph, max_norm: float, gradients: Sequence[Tensor]) -> Tensor:
    """What all gradients are multiplied by, (): their global norm is then at most `max_norm` (Pascanu et al. 2013)."""
    squares = [g("ReduceSumSquare", gradient, shape=(), keepdims=0) for gradient in gradients]
    norm = g("Sqrt", g("Sum", *squares))
    return g("Min", g.div(g.constant(max_norm), g.add(norm, CLIP_EPS)), g.constant(1.0))


def update(
    g: Graph,
    optimizer: Optimizer,
    w: Tensor,
    dw: Tensor,
    states: Sequence[Tensor],
    rate: Tensor,
    step: Tensor | None,
    *,
    is_shared: bool = False,
) -> tuple[Tensor, Sequence[Tensor]]:
    """The parameter's new value and its new states; `step` counts from 1 and is used by Adam and AdamW.

    `is_shared`: the gradient is that of other values, too, so that nothing may be added to it where it is computed.

    Adam is Kingma and Ba 2015, algorithm 1, with epsilon outside the corrected root as torch has it; AdamW takes the
    decay from the weight instead (Loshchilov and Hutter 2019, algorithm 2, its rate multiplied in).
    """
    adds_itself = not is_shared and g.is_open_product(dw)

    def plus(x: Tensor, scale: float) -> Tensor:
        return g.add_to_product(dw, x, scale) if adds_itself else g.add(dw, g.mul(x, scale))

    if optimizer.weight_decay and optimizer.name == "adamw":
        w = g.mul(w, g.sub(g.constant(1.0), g.mul(rate, optimizer.weight_decay)))
    elif optimizer.momentum:
        # Decay and state are one summand, which a gradient that is one product, as of large weights, can add itself.
        kept = states[0]
        if share := optimizer.weight_decay / optimizer.momentum:
            kept = g.sum_as_product(kept, w, share) if adds_itself else g.add(kept, g.mul(w, share))
        dw = plus(kept, optimizer.momentum)
        states = [dw]
    elif optimizer.weight_decay:
        dw = plus(w, optimizer.weight_decay)
    if optimizer.is_adam:
        assert step is not None
        first, second = optimizer.betas
        mean = g.add(g.mul(states[0], first), g.mul(dw, 1 - first))
        square = g.add(g.mul(states[1], second), g.mul(g.mul(dw, dw), 1 - second))
        one = g.constant(1.0)
        corrections = [g.sub(one, g("Pow", g.constant(beta), step)) for beta in (first, second)]
        root = g.div(g("Sqrt", square), g("Sqrt", corrections[1]))
        change = g.div(mean, g.add(root, g.constant(optimizer.eps)))
        return g.sub(w, g.mul(change, g.div(rate, corrections[0]))), [mean, square]
    return g.sub(w, g.mul(dw, rate)), states
