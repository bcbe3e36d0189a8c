"""Calls under a runtime's own profiler, and their seconds by layer. No torch."""

import gc
import time
from collections.abc import Callable, Iterable, Sequence

from cnnbench.records.task_messages import LayerTimes

US = 1e-6
"""Profilers tell microseconds."""
WARMUP_CALLS = 5
"""Calls that are profiled first and not counted: what a library or its profiler prepares is prepared then."""
Seen = tuple[str | None, str, float]
"""An operator that ran: the innermost module around it (None where that is unknown), its kind, and its seconds."""


def layer_times(calls: Sequence[Iterable[Seen]]) -> tuple[list[LayerTimes], list[LayerTimes]]:
    """Seconds of each call by module, and by operator those of no known module, in the order of their first run."""
    layers: dict[str, LayerTimes] = {}
    other: dict[str, LayerTimes] = {}
    for index, call in enumerate(calls):
        for module, operator, seconds in call:
            found, name = (other, operator) if module is None else (layers, module)
            if name not in found:
                found[name] = LayerTimes(name=name, operators=[], seconds=[0.0] * len(calls))
            found[name].seconds[index] += seconds
            if operator not in found[name].operators:
                found[name].operators.append(operator)
    return list(layers.values()), list(other.values())


def timed_calls(call: Callable[[], None], calls: int, after: Callable[[], None] = lambda: None) -> list[float]:
    """Seconds of each counted call, by the host's clock; those that warm up come first and are left out.

    `after` is called after each, and not timed.
    """
    seconds = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(WARMUP_CALLS + calls):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
            after()
    finally:
        gc.enable()
    return seconds[WARMUP_CALLS:]
