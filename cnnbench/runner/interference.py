"""What the machine did besides measuring, from the system's counters; the measured values play no part.

A block with interference is known as such before its times are looked at, so leaving it out favours nobody.
"""

import functools
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from cnnbench.records.reason import Interference, InterferenceKind
from cnnbench.runner.machine import control_groups, read

N = TypeVar("N", int, float)

TICK_S = 0.01
"""CPU time is counted in steps of 10 ms, so short windows resolve no more."""
STEAL_SHARE = 0.03
"""Of all CPUs' time; a host that takes less hardly moves the median of a block."""
STEAL_TICKS = 2
"""One tick may have begun before the window."""
OTHERS_SHARE = 0.1
"""Of all CPUs' time; a system that only idles uses a few per cent."""
OTHERS_TICKS = 3
"""The machine's and the processes' CPU times are rounded apart from each other: by up to two ticks in 0.1 s."""
THROTTLED_SHARE = 0.01
"""Of the window; a group that is throttled at all loses the rest of a period, 100 ms by default."""


@dataclass(frozen=True)
class SystemCounters:
    """The system's counters at one moment; None where the system has no such counter, or does not show it."""

    clock_s: float
    busy_s: float | None = None
    """CPU time of everybody, over the CPUs that this process may use; what the host took is not in it."""
    steal_s: float | None = None
    """Time that the host gave to others while this machine had work."""
    own_s: float | None = None
    """CPU time of the measured process with its descendants, and of this process."""
    throttled_s: float | None = None
    """How long control groups had spent their quota, summed over CPUs and groups up to the root."""
    thermal_events: int | None = None
    """How often cores slowed down to cool, summed over CPUs."""
    swapped_pages: int | None = None
    energy_j: tuple[tuple[float, float], ...] | None = None
    """Of each processor package: joules, and the joules at which its counter starts again from zero."""

    @classmethod
    def read(cls, pid: int, root: str = "") -> Self:
        """The counters now, for the measured process `pid`; `root` is a folder to be read in place of `/`.

        Without a `/proc` there, psutil gives the CPU times alone: its count of swapping is none on other systems.
        """
        tree = _tree(root, pid)
        clock_s = time.perf_counter()
        stat = read(f"{root}/proc/stat")
        if stat is None:
            busy_s, own_s = _psutil_times(pid)
            return cls(clock_s, busy_s=busy_s, own_s=own_s)
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        user, nice, system, _idle, _iowait, irq, softirq, *later = _ticks(stat)
        own_s = _own_s(root, pid, tree, ticks_per_s)  # at once, for it is compared with the line above
        memory = read(f"{root}/proc/vmstat")
        return cls(
            clock_s,
            busy_s=(user + nice + system + irq + softirq) / ticks_per_s,
            steal_s=later[0] / ticks_per_s if later else None,
            own_s=own_s,
            throttled_s=_throttled_s(root, pid),
            thermal_events=_sum(_number(read(file), b"") for file in _thermal_files(root)),
            swapped_pages=_sum(_number(memory, name) for name in (b"pswpin ", b"pswpout ")),
            energy_j=_energy_j(root),
        )


@dataclass(frozen=True)
class Window:
    """What happened between two readings; None where it is not known, which counts as no interference."""

    seconds: float
    cpus: int
    steal_share: float | None
    """Of all CPUs' time."""
    others_share: float | None
    """CPU time of everybody but the measured processes and this one, as a share of all CPUs' time."""
    throttled_s: float | None
    thermal_events: int | None
    swapped_pages: int | None
    joules: float | None

    def interference(self) -> list[Interference]:
        """What interfered with the measured process; empty if nothing is known to have."""
        found: dict[InterferenceKind, float] = {}
        if self.steal_share is not None and self._counts(self.steal_share, STEAL_SHARE, STEAL_TICKS):
            found["steal"] = self.steal_share
        if self.others_share is not None and self._counts(self.others_share, OTHERS_SHARE, OTHERS_TICKS):
            found["other-processes"] = self.others_share
        if self.throttled_s is not None and self.throttled_s > THROTTLED_SHARE * self.seconds:
            found["throttled"] = self.throttled_s / self.seconds
        if self.thermal_events:
            found["thermal"] = self.thermal_events
        if self.swapped_pages:
            found["swap"] = self.swapped_pages
        return [Interference(kind=kind, amount=round(amount, 4)) for kind, amount in found.items()]

    def _counts(self, share: float, least_share: float, min_ticks: int) -> bool:
        return share > least_share and round(share * self.cpus * self.seconds / TICK_S) >= min_ticks


def _ticks(stat: bytes) -> list[int]:
    """Of the CPUs that this process may use, as only there others take time from it; of all if they are not shown."""
    every, *single = (line.split() for line in stat.splitlines() if line.startswith(b"cpu"))
    allowed = {b"cpu%d" % cpu for cpu in os.sched_getaffinity(0)}
    own = [list(map(int, ticks)) for name, *ticks in single if name in allowed]
    is_whole = len(own) == len(allowed) and all(len(ticks) == len(every) - 1 for ticks in own)
    return [sum(column) for column in zip(*own, strict=True)] if is_whole else list(map(int, every[1:]))


def between(before: SystemCounters, after: SystemCounters, cpus: int) -> Window:
    """What happened between two readings; `cpus` are those that this process may use.

    A counter that went back, as when a thread ended and took its count along, did not move.
    """
    seconds = after.clock_s - before.clock_s
    all_s = cpus * seconds
    steal_s = _moved(before.steal_s, after.steal_s)
    busy_s = _moved(before.busy_s, after.busy_s)
    own_s = _moved(before.own_s, after.own_s)
    others_s = None if busy_s is None or own_s is None else max(0.0, busy_s - own_s)
    return Window(
        seconds=seconds,
        cpus=cpus,
        steal_share=steal_s / all_s if steal_s is not None and all_s > 0 else None,
        others_share=others_s / all_s if others_s is not None and all_s > 0 else None,
        throttled_s=_moved(before.throttled_s, after.throttled_s),
        thermal_events=_moved(before.thermal_events, after.thermal_events),
        swapped_pages=_moved(before.swapped_pages, after.swapped_pages),
        joules=_joules(before.energy_j, after.energy_j),
    )


def _moved(before: N | None, after: N | None) -> N | None:
    return None if before is None or after is None else max(after - before, 0)


def _joules(
    before: tuple[tuple[float, float], ...] | None, after: tuple[tuple[float, float], ...] | None
) -> float | None:
    """Joules of all packages; a counter that is lower than before has started again from zero once."""
    if before is None or after is None or len(before) != len(after):
        return None
    return sum(now - then + (span if now < then else 0.0) for (then, _), (now, span) in zip(before, after, strict=True))


def _number(text: bytes | None, name: bytes) -> int | None:
    """The number that follows `name` at the start of a line."""
    rest = (b"\n" + (text or b"")).partition(b"\n" + name)[2]
    return int(rest.split(maxsplit=1)[0]) if rest else None


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Of those that are known; None if none is."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _tree(root: str, pid: int) -> set[int]:
    """The process and its descendants, which the kernel lists with CONFIG_PROC_CHILDREN; else they are others."""
    found: set[int] = set()
    waiting = {pid}
    while waiting:
        process = waiting.pop()
        folder = f"{root}/proc/{process}/task"
        try:
            children = [read(f"{folder}/{thread}/children") or b"" for thread in os.listdir(folder)]
        except OSError:  # it is gone
            continue
        found.add(process)
        waiting |= set(map(int, b" ".join(children).split())) - found
    return found


def _own_s(root: str, pid: int, tree: set[int], ticks_per_s: int) -> float | None:
    """None if the process is gone. Descendants that ended count with who waited for them, if that is in the tree."""
    if pid not in tree:
        return None
    ticks = sum(sum(_cpu_ticks(root, process)) for process in tree)
    if os.getpid() not in tree:  # whose children are not all measured
        ticks += sum(_cpu_ticks(root, os.getpid())[:2])
    return ticks / ticks_per_s


def _cpu_ticks(root: str, pid: int) -> tuple[int, ...]:
    """User, system, and both of children that were waited for (proc_pid_stat(5), fields 14 to 17)."""
    stat = read(f"{root}/proc/{pid}/stat") or b""
    return tuple(map(int, stat.rpartition(b")")[2].split()[11:15]))


def _throttled_s(root: str, pid: int) -> float | None:
    """Over the control group and those above it: `throttled_usec` in version 2, `throttled_time` (ns) in version 1."""
    counts_ns = []
    for folder in control_groups(root, pid):
        stat = read(f"{folder}/cpu.stat")
        microseconds = _number(stat, b"throttled_usec ")
        counts_ns += [_number(stat, b"throttled_time ") if microseconds is None else 1000 * microseconds]
    total_ns = _sum(counts_ns)
    return None if total_ns is None else total_ns / 1e9


@functools.cache
def _thermal_files(root: str) -> tuple[str, ...]:
    pattern = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"
    return tuple(map(str, Path(f"{root}/").glob(pattern)))


@functools.cache
def _packages(root: str) -> tuple[tuple[str, float], ...]:
    """The energy counter of each processor package (RAPL, Linux powercap) with its span in joules.

    Cores, graphics and the like are parts of a package, and `psys` has packages in it, so neither is added.
    """
    found = []
    for folder in sorted(Path(f"{root}/sys/class/powercap").glob("intel-rapl:*")):
        span = read(f"{folder}/max_energy_range_uj")
        if (read(f"{folder}/name") or b"").startswith(b"package") and span is not None:
            found.append((f"{folder}/energy_uj", int(span) / 1e6))
    return tuple(found)


def _energy_j(root: str) -> tuple[tuple[float, float], ...] | None:
    """None unless every package's counter can be read, for which most systems ask for root's rights."""
    found = []
    for file, span_j in _packages(root):
        text = read(file)
        if text is None:
            return None
        found.append((int(text) / 1e6, span_j))
    return tuple(found) or None


def _psutil_times(pid: int) -> tuple[float, float | None]:
    """CPU seconds of everybody, and of the measured process with its descendants and this one."""
    import psutil

    times = psutil.cpu_times()
    busy_s = times.user + times.system + getattr(times, "nice", 0.0)
    try:
        measured = psutil.Process(pid)
        processes = {measured, *measured.children(recursive=True), psutil.Process()}
        used = [process.cpu_times() for process in processes]
    except psutil.Error:
        return busy_s, None
    return busy_s, sum(each.user + each.system for each in used)
