"""Seeing a module's submodules run, by name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

Hook = Callable[[str, nn.Module, Any], object]
"""Called with a submodule's name, itself, and its inputs (before) or its output (after)."""


@contextmanager
def hooked(module: nn.Module, before: Hook | None = None, after: Hook | None = None) -> Iterator[None]:
    """Call `before` and `after` around the forward pass of the module and of each inside it, while this lasts.

    The hooks are global: some modules of torch take another path when they have hooks of their own.
    """
    names = {child: name for name, child in module.named_modules()}

    def enter(child: nn.Module, inputs: Any) -> None:
        if before and child in names:
            before(names[child], child, inputs)

    def leave(child: nn.Module, _: Any, output: Any) -> None:
        if after and child in names:
            after(names[child], child, output)

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def running(module: nn.Module) -> Iterator[list[str]]:
    """The names of the modules that are running, outermost first."""
    stack: list[str] = []
    with hooked(module, lambda name, *_: stack.append(name), lambda *_: stack.pop()):
        yield stack


def is_leaf(module: nn.Module) -> bool:
    """Whether no other module is inside it."""
    return next(module.children(), None) is None
