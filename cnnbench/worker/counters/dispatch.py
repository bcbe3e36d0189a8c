"""MACs as torch's dispatcher sees them: every convolution and matrix product that is executed."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnnbench.networks.units import FLOP_PER_MAC
from cnnbench.records.record import Counts
from cnnbench.worker.counters.module import exclusive


def count(module: nn.Module, x: torch.Tensor) -> Counts:
    """Of one image x (1, C, H, W)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
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
