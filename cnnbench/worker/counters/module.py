"""What a module is made of and does, counted by torch and by fvcore: parameters and MACs, by submodule.

Each counter of MACs takes one image (1, C, H, W), or a tensor for each input.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from cnnbench.networks.units import FLOP_PER_MAC
from cnnbench.records.record import Counts
from cnnbench.worker.hooks import hooked
from cnnbench.worker.signature import flat

FVCORE_MACS = ("conv", "linear", "addmm", "matmul", "bmm", "einsum")
"""fvcore's names of the operators that multiply and accumulate; it also counts normalisation, which is none."""
BACKWARD_BATCH = 2
"""Batch normalisation of a single value per channel cannot be trained."""


def parameters(module: nn.Module) -> Counts:
    """Parameters by the submodule that holds them; a shared parameter counts where it is first found."""
    counts: Counter[str] = Counter()
    for name, parameter in module.named_parameters():
        counts[name.rpartition(".")[0]] += parameter.numel()
    return {name: (params, 0) for name, params in counts.items()}


def dispatched(module: nn.Module, *inputs: torch.Tensor) -> Counts:
    """MACs as torch's dispatcher sees them: every convolution and matrix product that is executed."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return by_module(module, counter)


def by_module(module: nn.Module, counter: FlopCounterMode) -> Counts:
    """What torch's counter has seen, by the module that each count belongs to itself."""
    root = type(module).__name__
    inclusive = {
        name.removeprefix(root).removeprefix("."): sum(flops.values())
        for name, flops in counter.get_flop_counts().items()
        if name == root or name.startswith(root + ".")
    }
    return {name: (0, flops // FLOP_PER_MAC) for name, flops in exclusive(inclusive).items()}


def traced_by_fvcore(module: nn.Module, *inputs: torch.Tensor) -> Counts:
    """MACs as fvcore finds them in a trace; attention's, among others, it does not know."""
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(module, inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    inclusive = {
        name: sum(int(macs) for operator, macs in operators.items() if operator in FVCORE_MACS)
        for name, operators in analysis.by_module_and_operator().items()
    }
    return {name: (0, macs) for name, macs in exclusive(inclusive).items()}


def exclusive(inclusive: Mapping[str, int]) -> dict[str, int]:
    """What each module counts itself, from counts that include its children's; zeros are left out."""
    own = dict(inclusive)
    for name, value in inclusive.items():
        if name:
            parent = name.rpartition(".")[0]
            while parent not in inclusive:
                parent = parent.rpartition(".")[0]
            own[parent] -= value
    return {name: value for name, value in own.items() if value}


def backward(module: nn.Module, *inputs: torch.Tensor) -> Counts:
    """MACs of the backward pass, by torch's own formulas; on shapes alone, nothing is computed.

    In torch 2.14 the formula takes the weight gradient of a convolution for `groups` times what it is.
    """
    shapes = {
        name: tensor.detach().to("meta").requires_grad_(tensor.requires_grad)
        for name, tensor in module.state_dict(keep_vars=True).items()
    }
    images = tuple(torch.zeros(BACKWARD_BATCH, *x.shape[1:], device="meta") for x in inputs)
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
            output = torch.func.functional_call(module.train(), shapes, images)
        heads = flat(output)
        with _FlopsByNode() as flops:
            torch.stack([head.sum() for head in heads]).sum().backward()  # type: ignore[no-untyped-call]
    finally:
        module.train(was_training)
    macs: Counter[str] = Counter()
    for node, flop in flops.by_node.items():
        macs[next(name for nodes, name in ranges if node in nodes)] += flop
    return {name: (0, flop // FLOP_PER_MAC // BACKWARD_BATCH) for name, flop in macs.items()}


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
