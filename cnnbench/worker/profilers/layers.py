"""The time of each layer, as a runtime's own profiler sees it, in a process of its own. No torch here."""

import gc
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.numpy import load_file

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import GOLDEN, read_facts
from cnnbench.records.messages import LayerTimes, Profile, Profiled
from cnnbench.suite.runtimes import split
from cnnbench.worker.reference.parity import tiled

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


def profile(request: Profile, threads: int) -> Profiled:
    """Profile a case's runtime. Raises WorkerError if its profiler did not see every call."""
    case, folder, scratch = request.case, Path(request.folder), Path(request.scratch)
    facts = read_facts(folder)
    if facts is None:
        raise WorkerError(f"no finished artifact in {folder}")
    batch = tiled(load_file(folder / GOLDEN)["images"], case.batch)
    if split(case.runtime)[0] == "ort":
        from cnnbench.worker.profilers import ort as profile_ort

        return profile_ort.profile(case, facts, folder, batch, threads, request.calls, scratch)
    from cnnbench.worker.profilers import eager as profile_eager

    return profile_eager.profile(case, facts, folder, batch, threads, request.calls)


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
