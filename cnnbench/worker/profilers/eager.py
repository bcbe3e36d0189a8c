"""PyTorch's profiler on an eager forward pass: the time of each operator, by the module that calls it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from cnnbench.errors import WorkerError
from cnnbench.records.messages import Profiled
from cnnbench.records.record import ArtifactFacts
from cnnbench.suite.case import Case
from cnnbench.worker.profilers.layers import WARMUP_CALLS, Tally, timed_calls
from cnnbench.worker.reference.parity import Array
from cnnbench.worker.runtimes.eager import EagerInference

CALL = "cnnbench call"
MODULE = "cnnbench module:"
"""Begins the name of a module's range; the module's own name follows."""
US = 1e-6


def profile(case: Case, facts: ArtifactFacts, folder: Path, batch: Array, threads: int, calls: int) -> Profiled:
    """Operators by the innermost module that runs; what Python does between them belongs to none."""
    runtime = EagerInference(case, facts, folder, batch, threads)
    forward = runtime.phases()["forward"]

    def call() -> None:
        with record_function(CALL):
            forward()

    with (
        _ranges(runtime.module) as entered,
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler,
    ):
        call_s = timed_calls(call, calls)
    ranges = [event for event in profiler.events() or [] if event.name == CALL]
    if len(ranges) != WARMUP_CALLS + calls:
        raise WorkerError(f"PyTorch's profiler saw {len(ranges)} of {WARMUP_CALLS + calls} calls")
    layers, outside = Tally(calls), Tally(calls)
    for index, event in enumerate(ranges[WARMUP_CALLS:]):
        for module, operator in _operators(event, None):
            kind = operator.name.removeprefix("aten::")
            tally, name = (layers, module) if module is not None else (outside, kind)
            tally.add(name, kind, index, operator.time_range.elapsed_us() * US)  # type: ignore[no-untyped-call]
    return Profiled(modules=list(entered), layers=layers.times(), other=outside.times(), call_s=call_s)


@contextmanager
def _ranges(module: nn.Module) -> Iterator[dict[str, None]]:
    """Each call of a module is a range in the profile; gives the modules' names as they are entered.

    The hooks are global: some modules of torch take another path when they have hooks of their own.
    """
    names = {child: name for name, child in module.named_modules()}
    entered: dict[str, None] = {}
    open_ranges: list[Any] = []

    def enter(child: nn.Module, _: Any) -> None:
        if child in names:
            entered[names[child]] = None
            open_ranges.append(record_function(MODULE + names[child]))
            open_ranges[-1].__enter__()

    def leave(child: nn.Module, *_: Any) -> None:
        if child in names:
            open_ranges.pop().__exit__(None, None, None)

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield entered
    finally:
        for hook in hooks:
            hook.remove()


def _operators(event: FunctionEvent, module: str | None) -> Iterator[tuple[str | None, FunctionEvent]]:
    """The outermost operators inside an event, each with the innermost module around it."""
    for child in event.cpu_children:
        if child.name.startswith(MODULE):
            yield from _operators(child, child.name.removeprefix(MODULE))
        elif child.is_user_annotation:
            yield from _operators(child, module)
        else:
            yield module, child
