"""MACs as fvcore finds them in a trace; attention's, among others, it does not know."""

import logging

import torch
from torch import nn

from cnnbench.records.record import Counts
from cnnbench.worker.counters.module import exclusive

MAC_OPERATORS = ("conv", "linear", "addmm", "matmul", "bmm", "einsum")
"""fvcore's names of the operators that multiply and accumulate; it also counts normalisation, which is none."""


def count(module: nn.Module, x: torch.Tensor) -> Counts:
    """Of one image x (1, C, H, W)."""
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(module, x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    inclusive = {
        name: sum(int(macs) for operator, macs in operators.items() if operator in MAC_OPERATORS)
        for name, operators in analysis.by_module_and_operator().items()
    }
    return {name: (0, macs) for name, macs in exclusive(inclusive).items()}
