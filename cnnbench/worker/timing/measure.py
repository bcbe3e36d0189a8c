"""The timed region: the clock, the loop, its warm-up, and when that has converged."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import ParamSpec, Protocol, TypeVar

from cnnbench.records.messages import Sampled, Warmed
from cnnbench.worker.timing.usage import usage_now, usage_since

Given = ParamSpec("Given")
Result = TypeVar("Result")
Phases = Mapping[str, Callable[[], None]]
"""The parts of one step in order, each to be called once."""

MIN_SAMPLE_S = 1e-3
"""A sample is one call, or a block of calls at least so long: two readings of the clock cost about 1e-7 s."""
WINDOW = 5
"""Calls in each of the two windows that are compared to find convergence."""
SAME_WITHIN = 0.01
MIN_WARMUP_CALLS = 6
"""However slow: over the first three of EfficientNet-B0's training steps eager PyTorch took 1.3 times as long as from
the sixth on, ONNX Runtime no longer (batch 8, five launches), so that fewer favour what converges sooner."""
WAKE_BELOW_S = 0.1
"""Shorter calls are made once, uncounted, at the start of a block: a worker that was suspended finds the caches filled
by others, and filling them again takes a few milliseconds."""


class Stopwatch(Protocol):
    """Marks in order, on the host's clock or in a device's stream, then the seconds between them."""

    def mark(self) -> None:
        """Note the present moment."""

    def intervals_s(self) -> list[float]:
        """Seconds between consecutive marks since the last call; waits until the device is done."""


class HostStopwatch:
    """Marks on a monotonic clock of the host, for devices that are done when a call returns."""

    def __init__(self, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._marks: list[int] = []
        self.mark = lambda: self._marks.append(clock_ns())  # one call less than a method

    def intervals_s(self) -> list[float]:
        """Seconds between consecutive marks since the last call."""
        seconds = [(later - earlier) / 1e9 for earlier, later in pairwise(self._marks)]
        self._marks.clear()
        return seconds


def slowed(call: Callable[Given, Result], slowdown: float) -> Callable[Given, Result]:
    """The same call, longer by a share of its own time, to try out whether a slowdown is detected.

    By the host's clock: work that a device goes on with meanwhile is not slowed.
    """
    if not slowdown:
        return call

    def slow(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        start = time.perf_counter()
        result = call(*args, **kwargs)
        end = time.perf_counter()
        end += slowdown * (end - start)
        while time.perf_counter() < end:
            pass
        return result

    return slow


def time_block(phases: Phases, calls: int, stopwatch: Stopwatch) -> dict[str, float]:
    """Seconds of a block of calls, by phase.

    With one phase the clock is read before and after the whole block; with several, after each phase of each call.
    """
    mark = stopwatch.mark
    steps = list(phases.values())
    mark()
    if len(steps) == 1:
        step = steps[0]
        for _ in range(calls):
            step()
        mark()
    else:
        for _ in range(calls):
            for step in steps:
                step()
                mark()
    intervals = stopwatch.intervals_s()
    return {name: sum(intervals[index :: len(steps)]) for index, name in enumerate(phases)}


def has_converged(seconds: list[float]) -> bool:
    """Whether the medians of the last two windows agree within 1 %, or within three of their standard errors.

    The standard error is that of a mean of normal noise, 1.4826 MAD / sqrt(n), with the median absolute deviation of
    both windows; the factor of three covers what the median adds.
    """
    if len(seconds) < 2 * WINDOW:
        return False
    earlier, later = seconds[-2 * WINDOW : -WINDOW], seconds[-WINDOW:]
    before, now = statistics.median(earlier), statistics.median(later)
    deviations = [abs(s - before) for s in earlier] + [abs(s - now) for s in later]
    noise = 3 * 1.4826 * statistics.median(deviations) / math.sqrt(WINDOW)
    return abs(now - before) <= max(SAME_WITHIN * before, noise)


def warm_up(
    phases: Phases,
    stopwatch: Stopwatch,
    limit_s: float,
    clock_s: Callable[[], float] = time.perf_counter,
    *,
    least_s: float = 0.0,
    hard_limit_s: float = math.inf,
    min_calls: int = 0,
) -> Warmed:
    """Call until the times have converged and `least_s` have gone by, or until the limit; six calls at least.

    After the hard limit it ends with however few calls. Where `min_calls` are requested, to equalise warm-up with
    others, these are enough, however soon.
    """
    gc.collect()
    gc.freeze()  # so that collecting between blocks takes no time
    start = clock_s()
    seconds: list[float] = []
    while True:
        seconds.append(sum(time_block(phases, 1, stopwatch).values()))
        elapsed = clock_s() - start
        if min_calls:
            converged = len(seconds) >= min_calls
        else:
            converged = elapsed >= min(least_s, limit_s) and has_converged(seconds)
        enough = len(seconds) >= min(MIN_WARMUP_CALLS, min_calls or MIN_WARMUP_CALLS)
        if (enough and (converged or elapsed >= limit_s)) or elapsed >= hard_limit_s:
            break
    call_s, calls = statistics.median(seconds[-2 * WINDOW :]), len(seconds)
    per_sample = calls_per_sample(call_s)
    return Warmed(calls=calls, seconds=elapsed, converged=converged, calls_per_sample=per_sample, call_s=call_s)


def calls_per_sample(call_s: float) -> int:
    """How many calls make a sample of at least a millisecond."""
    return max(1, math.ceil(MIN_SAMPLE_S / max(call_s, 1e-9)))


def sample(
    phases: Phases,
    calls: int,
    seconds: float,
    stopwatch: Stopwatch,
    *,
    wake: bool = False,
    clock_s: Callable[[], float] = time.perf_counter,
) -> Sampled:
    """Samples of `calls` calls for about so many seconds, one at least, and what the system counted meanwhile.

    Garbage is collected before and not meanwhile. With `wake`, one call is made first and not counted.
    """
    samples: dict[str, list[float]] = {name: [] for name in phases}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        if wake:
            time_block(phases, 1, stopwatch)
        before, start = usage_now(), clock_s()
        while True:
            for name, spent in time_block(phases, calls, stopwatch).items():
                samples[name].append(spent)
            if clock_s() - start >= seconds:
                return Sampled(seconds=samples, usage=usage_since(before))
    finally:
        if collecting:
            gc.enable()
