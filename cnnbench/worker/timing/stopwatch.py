"""Reading the time on a device: marks on the host's clock, or events in the device's own stream."""

import time
from collections.abc import Callable
from typing import Protocol


class Stopwatch(Protocol):
    """Marks in order, then the seconds between them."""

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
        seconds = [(later - earlier) / 1e9 for earlier, later in zip(self._marks, self._marks[1:], strict=False)]
        self._marks.clear()
        return seconds
