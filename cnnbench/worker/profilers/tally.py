"""Seconds by layer and call, as a runtime's own profiler sees them. No torch."""

import gc
import time
from collections.abc import Callable

from cnnbench.records.task_messages import LayerTimes

WARMUP_CALLS = 5
"""Calls that are profiled first and not counted: what a library or its profiler prepares is prepared then."""


class Tally:
    """Seconds by name, call by call, in the order in which names first come."""

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._seconds: dict[str, list[float]] = {}
        self._operators: dict[str, dict[str, None]] = {}

    def add(self, name: str, operator: str, call: int, seconds: float) -> None:
        """An operator ran for so long in this call."""
        self._seconds.setdefault(name, [0.0] * self._calls)[call] += seconds
        self._operators.setdefault(name, {})[operator] = None

    def times(self) -> list[LayerTimes]:
        """All that was added."""
        return [
            LayerTimes(name=name, operators=list(self._operators[name]), seconds=seconds)
            for name, seconds in self._seconds.items()
        ]


def timed_calls(call: Callable[[], None], calls: int) -> list[float]:
    """Seconds of each counted call, by the host's clock; those that warm up come first and are left out."""
    seconds = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(WARMUP_CALLS + calls):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    finally:
        gc.enable()
    return seconds[WARMUP_CALLS:]
