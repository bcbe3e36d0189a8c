"""The backward pass of a module, counted by torch's own formulas, layer by layer."""

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cnnbench.networks.units import FLOP_PER_MAC
from cnnbench.records.record import Counts

BATCH = 2
"""Batch normalisation of a single value per channel cannot be trained."""


def backward(module: nn.Module, x: torch.Tensor) -> Counts:
    """MACs of the backward pass for one image, by torch's own formulas; on shapes alone, nothing is computed.

    In torch 2.14 that formula takes the weight gradient of a convolution for `groups` times what it is.
    """
    shapes = {
        name: tensor.detach().to("meta").requires_grad_(tensor.requires_grad)
        for name, tensor in module.state_dict(keep_vars=True).items()
    }
    images = torch.zeros(BATCH, *x.shape[1:], device="meta")
    was_training = module.training
    try:
        with _NodeOwners(module) as owners:
            output = torch.func.functional_call(module.train(), shapes, (images,))
        heads = [head for head in (output if isinstance(output, tuple) else (output,)) if head is not None]
        with _BackwardFlops() as flops:
            torch.stack([head.sum() for head in heads]).sum().backward()  # type: ignore[no-untyped-call]
    finally:
        module.train(was_training)
    macs: dict[str, int] = {}
    for node, count in flops.by_node.items():
        owner = owners.of(node)
        macs[owner] = macs.get(owner, 0) + count
    return {name: (0, count // FLOP_PER_MAC // BATCH) for name, count in macs.items()}


class _NodeOwners:
    """Which module's forward pass made each autograd node, by the running number that autograd gives its nodes."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.starts: list[tuple[str, int]] = []
        self.ranges: list[tuple[int, int, str]] = []
        """First number, first number after, module; inner modules before those that they are in."""

    def __enter__(self) -> "_NodeOwners":
        self.hooks = [
            hook
            for name, child in self.module.named_modules()
            for hook in (
                child.register_forward_pre_hook(lambda *_, name=name: self.starts.append((name, _next_node()))),
                child.register_forward_hook(lambda *_: self._leave()),
            )
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _leave(self) -> None:
        name, first = self.starts.pop()
        self.ranges.append((first, _next_node(), name))

    def of(self, node: int) -> str:
        """The innermost module."""
        return next(name for first, after, name in self.ranges if first <= node < after)


def _next_node() -> int:
    return int(torch._C._autograd._get_sequence_nr())


class _BackwardFlops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Torch's flop formulas applied to what the backward pass executes, by autograd node."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_node: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            node = torch._C._current_autograd_node()._sequence_nr()
            self.by_node[node] = self.by_node.get(node, 0) + formula(*args, **(kwargs or {}), out_val=out)
        return out
