"""What a trace of the forward pass cannot see of the backward pass: functions with their own, hooks, writes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode

from cnnbench.worker import models
from cnnbench.worker.hooks import hooked, running

HARMLESS = ("requires_grad_", "detach_", "retain_grad")
"""Methods that end like those that write into their tensor."""

REGISTERED = "GeneratedBackwardFor"
"""Begins the name of the function of an operator with a registered gradient: the trace shows that operator."""


def check_hooks(module: nn.Module) -> str | None:
    """Which hook may change the module's gradients, in a sentence; None where there is none.

    A copy of the module has lost those of its parameters.
    """
    for name, child in module.named_modules():
        if child._backward_hooks or child._backward_pre_hooks:
            return (
                f"{_named(name)} has a backward hook, which may change gradients: no trace of the forward pass sees it"
            )
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return f"the parameter {name} has a gradient hook, which no trace of the forward pass sees"
    return None


def check_backward(module: nn.Module, inputs: Sequence[Tensor], labels: Tensor) -> str | None:
    """Why the module's gradients are not the derivative of its forward pass, in a sentence; None where they are.

    Runs it once, in the mode that it is in, and looks at autograd's own graph: what runs under `no_grad`, or is not
    part of the loss, is not in it. Its buffers are put back.
    """
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    state = torch.get_rng_state()
    made_in: dict[Any, str] = {}
    seen: set[Any] = set()

    def after(name: str, _: nn.Module, output: Any) -> None:
        for node in _unseen(_tensors(output), seen):
            made_in[node] = name

    def before_it(_: str, __: nn.Module, inputs: Any) -> None:
        for node in _unseen(_tensors(inputs), seen):  # what the module around has computed
            made_in[node] = stack[-2] if len(stack) > 1 else ""

    watch = _Watch(module)
    try:
        with running(module) as stack, hooked(module, before_it, after), watch.over(stack):
            loss = models.loss(module, module(*inputs), labels)
    finally:
        torch.set_rng_state(state)
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(before[name])
    if watch.found:
        return watch.found
    for node in _unseen([loss], set()):
        if isinstance(node, BackwardCFunction) and not type(node).__name__.startswith(REGISTERED):
            function = type(node).__name__.removesuffix("Backward")
            where = _named(made_in.get(node, ""))
            return (
                f"{function}, a torch.autograd.Function that {where} calls, has a backward pass of its own, which no "
                "trace of the forward pass sees; write it with torch's operators"
            )
    return None


def written_parameter(module: nn.Module, inputs: Sequence[Tensor]) -> str | None:
    """Which parameter the forward pass writes into, and where, in a sentence; None if it writes into none."""
    watch = _Watch(module)
    with running(module) as stack, watch.over(stack):
        module(*inputs)
    return watch.found


def _named(module: str) -> str:
    return f"module {module}" if module else "the model"


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for each in value for tensor in _tensors(each)] if isinstance(value, (tuple, list)) else []


def _unseen(tensors: list[Tensor], seen: set[Any]) -> list[Any]:
    """The nodes of autograd's graph behind the tensors that were not met before."""
    found, waiting = [], [tensor.grad_fn for tensor in tensors]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found.append(node)
        waiting += [each for each, _ in node.next_functions]
    return found


class _Watch(TorchFunctionMode):
    """Sees gradient hooks being set, and writes into parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.storages = {p.untyped_storage().data_ptr(): name for name, p in module.named_parameters() if p.numel()}
        self.found: str | None = None
        self.stack: list[str] = []

    def over(self, stack: list[str]) -> "_Watch":
        """With the names of the modules that run."""
        self.stack = stack
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        where = _named(self.stack[-1] if self.stack else "")
        if name in ("register_hook", "register_post_accumulate_grad_hook"):
            self.found = self.found or f"{where} sets a hook on a gradient, which no trace of the forward pass sees"
        elif args and isinstance(args[0], Tensor) and self._writes(name):
            parameter = self.storages.get(args[0].untyped_storage().data_ptr())
            if parameter is not None:
                self.found = self.found or (
                    f"{where} writes into the parameter {parameter} in its forward pass ({name}), which no graph can "
                    "do; compute what is used from the parameter instead, such as weight * mask"
                )
        return func(*args, **(kwargs or {}))

    def _writes(self, name: str) -> bool:
        in_place = name.endswith("_") and not name.startswith("__") and name not in HARMLESS
        return (
            in_place
            or name == "__setitem__"
            or (name.startswith("__i") and name not in ("__index__", "__int__", "__invert__"))
        )
