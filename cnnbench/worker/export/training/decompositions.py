"""Operators without a gradient rule, as torch's own tables or we write them by operators that have one."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table

from cnnbench.worker.export.training.rules import RULES

aten = torch.ops.aten


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """aten.scaled_dot_product_attention (Vaswani et al. 2017, section 3.2.1)."""
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
    scores = torch.matmul(q, k.transpose(-2, -1)) * (scale or 1 / math.sqrt(q.shape[-1]))
    if is_causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(mask.logical_not(), -math.inf) if mask.dtype == torch.bool else scores + mask
    weights = torch.softmax(scores, -1)
    return torch.matmul(torch.dropout(weights, dropout, True) if dropout else weights, v)


def _pad(x: Tensor, pads: list[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """aten.pad, whose circular mode torch writes value by value into an empty tensor."""
    if mode == "constant":
        return aten.constant_pad_nd(x, pads, value or 0.0)  # type: ignore[no-any-return]
    if mode == "circular":
        for i in range(len(pads) // 2):
            axis, (before, after) = x.ndim - 1 - i, pads[2 * i : 2 * i + 2]
            size = x.shape[axis]
            ends = [x.narrow(axis, size - before, before)] if before > 0 else []
            starts = [x.narrow(axis, 0, after)] if after > 0 else []
            inside = x.narrow(axis, max(-before, 0), size - max(-before, 0) - max(-after, 0))
            x = torch.cat([*ends, inside, *starts], axis)
        return x
    name = {"reflect": "reflection", "replicate": "replication"}[mode]
    return getattr(aten, f"{name}_pad{len(pads) // 2}d")(x, pads)  # type: ignore[no-any-return]


OWN: dict[Any, Callable[..., Any]] = {
    aten.pad.default: _pad,
    aten.scaled_dot_product_attention.default: _attention,
}
"""Where torch's own write what would have no rule, or be slow."""


def table() -> dict[Any, Callable[..., Any]]:
    """For each operator that has no gradient rule, how it is written by others."""
    known = {**decomposition_table, **torch.export.default_decompositions(), **OWN}
    return {operator: by for operator, by in known.items() if str(operator) not in RULES}
