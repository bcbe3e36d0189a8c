"""What is trained of a module: the order in which its parts run, its heads, and the freezing of what comes before."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cnnbench.networks.trainable import ALL, first_trained, norm_trains
from cnnbench.records.record import ArtifactFacts
from cnnbench.worker import models
from cnnbench.worker.copies import copied

BATCH = 2
"""Batch normalisation of a single value per channel cannot be trained."""
MAX_DEPTH = 6
"""Of operators between a parameter and what it is made into, such as a transpose or a product of two factors."""


class Survey(NamedTuple):
    """How a module runs in training."""

    order: list[str]
    """Its submodules with parameters or buffers of their own, as they are first used."""
    heads: list[str]
    """Of each output, the main one first, the last submodule with parameters; empty if one of them is not certain."""


def survey(module: nn.Module, *inputs: Tensor) -> Survey:
    """What one pass in training mode shows, on shapes alone unless it looks at values; nothing where it cannot run.

    `inputs` are one image (1, C, H, W), or a tensor for each input.
    """
    for device in ("meta", "cpu"):
        try:
            given = [torch.zeros(BATCH, *x.shape[1:], dtype=x.dtype, device=device) for x in inputs]
            return _survey(copied(module).to(device).train(), given)
        except Exception:  # the second time it is the model's own: what cannot run cannot be trained either
            continue
    return Survey([], [])


def _survey(module: nn.Module, inputs: Sequence[Tensor]) -> Survey:
    named = [*module.named_parameters(), *module.named_buffers()]
    owners = {_memory(tensor): name.rpartition(".")[0] for name, tensor in reversed(named) if tensor.numel()}
    with torch.enable_grad(), _Used(owners) as used:
        output = module(*inputs)
    parameters = {id(parameter): name.rpartition(".")[0] for name, parameter in module.named_parameters()}
    heads = [_last(head, parameters) for head in models.heads(output)]
    return Survey(list(used.order), [head for head in heads if head] if all(heads) else [])


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Used(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The owners of pieces of memory in the order in which operators are given them."""

    def __init__(self, owners: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owners = owners
        self.order: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in torch.utils._pytree.tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and (owner := self.owners.get(_memory(tensor))) is not None:
                self.order[owner] = None
        return func(*args, **(kwargs or {}))


def _last(output: Tensor, owners: Mapping[int, str]) -> str | None:
    """The submodule whose parameters an output is last computed with; None where several are, or none.

    Goes back through autograd's graph, on each way until a node that takes something made of parameters alone.
    """
    waiting, seen, found = [output.grad_fn], set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        children = [child for child, _ in node.next_functions if child is not None]
        made_of = [leaves for child in children if (leaves := _leaves_if_all_parameters(child)) is not None]
        if made_of:
            found |= {owners.get(id(parameter), "") for leaves in made_of for parameter in leaves}
        else:
            waiting += children
    return found.pop() if len(found) == 1 else None


def _leaves_if_all_parameters(node: Any, depth: int = 0) -> list[Tensor] | None:
    """The parameters that a value is made of, such as a transposed weight; None where anything else is in it."""
    if node is None or depth > MAX_DEPTH:
        return None
    if hasattr(node, "variable"):
        return [node.variable]
    found = [_leaves_if_all_parameters(child, depth + 1) for child, _ in node.next_functions]
    known = [leaves for leaves in found if leaves is not None]
    return [leaf for leaves in known for leaf in leaves] if found and len(known) == len(found) else None


def freeze(module: nn.Module, facts: ArtifactFacts | Survey, part: str, model: str) -> None:
    """Leave nothing but a part of the module to be trained; a parameter whose gradient is off stays so.

    Batch normalisation of what is frozen stays in evaluation mode, unless the part says otherwise. Raises InputError
    for a part that the module has not.
    """
    if part == ALL:
        return
    first = first_trained(model, facts.order, facts.heads[0] if facts.heads else None, part)
    trained = set(facts.order[facts.order.index(first) :])
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[0] not in trained:
            parameter.requires_grad_(False)
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and name not in trained and not norm_trains(part):
            child.eval()
            child.__dict__["train"] = _stays


def _stays(mode: bool = True) -> None:
    """In place of a module's `train`: it stays in the mode that it is in."""
