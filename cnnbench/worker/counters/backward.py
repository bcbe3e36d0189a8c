"""MACs of the backward pass, by torch's own formulas; on shapes alone, nothing is computed.

In torch 2.14 the formula takes the weight gradient of a convolution for `groups` times what it is.
"""

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cnnbench.networks.units import FLOP_PER_MAC
from cnnbench.records.record import Counts
from cnnbench.worker.hooks import hooked

BATCH = 2
"""Batch normalisation of a single value per channel cannot be trained."""


def count(module: nn.Module, x: torch.Tensor) -> Counts:
    """By layer, for one image x (1, C, H, W)."""
    shapes = {
        name: tensor.detach().to("meta").requires_grad_(tensor.requires_grad)
        for name, tensor in module.state_dict(keep_vars=True).items()
    }
    images = torch.zeros(BATCH, *x.shape[1:], device="meta")
    was_training = module.training
    starts: list[int] = []
    ranges: list[tuple[range, str]] = []
    """The numbers that autograd gave the nodes of each module's forward pass; inner modules come first."""
    try:
        with hooked(
            module,
            lambda *_: starts.append(_next_node()),
            lambda name, *_: ranges.append((range(starts.pop(), _next_node()), name)),
        ):
            output = torch.func.functional_call(module.train(), shapes, (images,))
        heads = [head for head in (output if isinstance(output, tuple) else (output,)) if head is not None]
        with _FlopsByNode() as flops:
            torch.stack([head.sum() for head in heads]).sum().backward()  # type: ignore[no-untyped-call]
    finally:
        module.train(was_training)
    macs: Counter[str] = Counter()
    for node, flop in flops.by_node.items():
        macs[next(name for nodes, name in ranges if node in nodes)] += flop
    return {name: (0, flop // FLOP_PER_MAC // BATCH) for name, flop in macs.items()}


def _next_node() -> int:
    return int(torch._C._autograd._get_sequence_nr())


class _FlopsByNode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Torch's flop formulas applied to what the backward pass executes, by autograd node."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_node: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            node = torch._C._current_autograd_node()._sequence_nr()
            self.by_node[node] += formula(*args, **(kwargs or {}), out_val=out)
        return out
