"""PyTorch's profiler on an eager forward pass: the time of each operator, by the module that calls it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent

from cnnbench.errors import WorkerError
from cnnbench.records.record import ArtifactFacts
from cnnbench.records.task_messages import Profile, Profiled
from cnnbench.worker.hooks import hooked
from cnnbench.worker.profilers.tally import US, WARMUP_CALLS, Seen, layer_times, timed_calls
from cnnbench.worker.reference.parity import Array
from cnnbench.worker.runtimes.eager import EagerInference

CALL = "cnnbench call"
MODULE = "cnnbench module:"
"""Begins the name of a module's range; the module's own name follows."""


def profile(request: Profile, facts: ArtifactFacts, batch: Array, threads: int) -> Profiled:
    """Operators by the innermost module that runs; what Python does between them belongs to none."""
    calls = request.calls
    runtime = EagerInference(request.case, facts, Path(request.folder), batch, threads)
    forward = runtime.phases()["forward"]

    def call() -> None:
        with record_function(CALL):
            forward()

    with (
        ranges(runtime.module) as entered,
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler,
    ):
        call_s = timed_calls(call, calls)
    events = [event for event in profiler.events() or [] if event.name == CALL]
    if len(events) != WARMUP_CALLS + calls:
        raise WorkerError(f"PyTorch's profiler saw {len(events)} of {WARMUP_CALLS + calls} calls")
    layers, outside = layer_times([_operators(event, None) for event in events[WARMUP_CALLS:]])
    return Profiled(modules=list(entered), layers=layers, other=outside, call_s=call_s)


@contextmanager
def ranges(module: nn.Module) -> Iterator[dict[str, None]]:
    """Each call of a module is a range in the profile; gives the modules' names as they are entered."""
    entered: dict[str, None] = {}
    active: list[record_function] = []

    def enter(name: str, *_: object) -> None:
        entered[name] = None
        active.append(record_function(MODULE + name))
        active[-1].__enter__()  # type: ignore[no-untyped-call]

    with hooked(module, enter, lambda *_: active.pop().__exit__(None, None, None)):
        yield entered


def _operators(event: FunctionEvent, module: str | None) -> Iterator[Seen]:
    """The outermost operators inside an event."""
    for child in event.cpu_children:
        if child.name.startswith(MODULE):
            yield from _operators(child, child.name.removeprefix(MODULE))
        elif child.is_user_annotation:
            yield from _operators(child, module)
        else:
            seconds = child.time_range.elapsed_us() * US  # type: ignore[no-untyped-call]
            yield module, child.name.removeprefix("aten::"), seconds
