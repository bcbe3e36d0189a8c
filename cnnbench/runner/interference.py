"""What the machine did besides measuring, from the system's counters; the measured values play no part.

A turn that was disturbed is known as such before its times are looked at, so leaving it out favours nobody.
"""

import functools
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from cnnbench.records.reason import Interference, InterferenceKind

N = TypeVar("N", int, float)

TICK_S = 0.01
"""CPU time is counted in steps of 10 ms, so short windows resolve no more."""
STEAL_SHARE = 0.03
"""Of all CPUs' time; a host that takes less hardly moves the median of a turn."""
STEAL_TICKS = 2
"""One tick may have begun before the window."""
OTHERS_SHARE = 0.1
"""Of all CPUs' time; a system that only idles uses a few per cent."""
OTHERS_TICKS = 3
"""The machine's and the processes' CPU times are rounded apart from each other: by up to two ticks in 0.1 s."""
THROTTLED_SHARE = 0.01
"""Of the window; a group that is throttled at all loses the rest of a period, 100 ms by default."""
MAX_THREADS = 32
"""Reading the switches of more would take about a millisecond."""


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
    involuntary_switches: int | None = None
    """How often a thread of the measured processes was put aside for another."""
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

        Without a `/proc` there, psutil gives the CPU times alone: its counts of switches and of swapping are other
        things, or zero, on other systems.
        """
        threads = _threads_of_tree(root, pid)
        clock_s = time.perf_counter()
        stat = _read(f"{root}/proc/stat")
        if stat is None:
            busy_s, own_s = _psutil_times(pid)
            return cls(clock_s, busy_s=busy_s, own_s=own_s)
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        user, nice, system, _idle, _iowait, irq, softirq, *later = _ticks(stat)
        own_s = _own_s(root, pid, set(threads), ticks_per_s)  # at once, for it is compared with the line above
        memory = _read(f"{root}/proc/vmstat")
        return cls(
            clock_s,
            busy_s=(user + nice + system + irq + softirq) / ticks_per_s,
            steal_s=later[0] / ticks_per_s if later else None,
            own_s=own_s,
            involuntary_switches=_involuntary_switches([thread for own in threads.values() for thread in own]),
            throttled_s=_throttled_s(root, pid),
            thermal_events=_sum(_number(_read(file), b"") for file in _thermal_files(root)),
            swapped_pages=_sum(_number(memory, name) for name in (b"pswpin ", b"pswpout ")),
            energy_j=_energy_j(root),
        )


@dataclass(frozen=True)
class Window:
    """What happened between two readings; None where it is not known, which never disturbs."""

    seconds: float
    cpus: int
    steal_share: float | None
    """Of all CPUs' time."""
    others_share: float | None
    """CPU time of everybody but the measured processes and this one, as a share of all CPUs' time."""
    throttled_s: float | None
    thermal_events: int | None
    swapped_pages: int | None
    involuntary_switches: int | None
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
    """Of all CPUs that this process may use, which are those of the measured one too; of all where they are not shown.

    What others do elsewhere on a large machine takes no time from a process that is confined to a few CPUs.
    """
    every, *single = (line.split() for line in stat.splitlines() if line.startswith(b"cpu"))
    allowed = {b"cpu%d" % cpu for cpu in os.sched_getaffinity(0)}
    own = [list(map(int, ticks)) for name, *ticks in single if name in allowed]
    is_whole = len(own) == len(allowed) and all(len(ticks) == len(every) - 1 for ticks in own)
    return [sum(column) for column in zip(*own, strict=True)] if is_whole else list(map(int, every[1:]))


def between(before: SystemCounters, after: SystemCounters, cpus: int) -> Window:
    """What happened from one reading to the next; `cpus` are those that this process may use.

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
        involuntary_switches=_moved(before.involuntary_switches, after.involuntary_switches),
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


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return None


def _number(text: bytes | None, name: bytes) -> int | None:
    """The number that follows `name` at the start of a line."""
    rest = (b"\n" + (text or b"")).partition(b"\n" + name)[2]
    return int(rest.split(maxsplit=1)[0]) if rest else None


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Of those that are known; None if none is."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _threads_of_tree(root: str, pid: int) -> dict[int, list[str]]:
    """By process, the process itself and its descendants, the folders of its threads.

    Without the kernel's lists of children (CONFIG_PROC_CHILDREN) descendants are not known and count as others.
    """
    found: dict[int, list[str]] = {}
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        if process in found:
            continue
        folder = f"{root}/proc/{process}/task"
        try:
            found[process] = [f"{folder}/{thread}" for thread in os.listdir(folder)]
        except OSError:
            continue
        for thread in found[process]:
            waiting += map(int, (_read(f"{thread}/children") or b"").split())
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
    stat = _read(f"{root}/proc/{pid}/stat") or b""
    return tuple(map(int, stat.rpartition(b")")[2].split()[11:15]))


def _involuntary_switches(threads: list[str]) -> int | None:
    if not 0 < len(threads) <= MAX_THREADS:
        return None
    return _sum(_number(_read(f"{thread}/status"), b"nonvoluntary_ctxt_switches:") for thread in threads)


def _throttled_s(root: str, pid: int) -> float | None:
    """Sum over the process's control group and those above it, each of which may have a quota of its own.

    Version 2 (`throttled_usec`) and version 1 (`throttled_time`, in ns). Inside a container the named group may not be
    visible; its mount point then is the container's own group.
    """
    counts_ns = []
    for line in (_read(f"{root}/proc/{pid}/cgroup") or b"").decode(errors="replace").splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        folder = f"{root}/sys/fs/cgroup" if number == "0" else f"{root}/sys/fs/cgroup/cpu"
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            stat = _read("/".join([folder, *parts[:depth], "cpu.stat"]))
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
        span = _read(f"{folder}/max_energy_range_uj")
        if (_read(f"{folder}/name") or b"").startswith(b"package") and span is not None:
            found.append((f"{folder}/energy_uj", int(span) / 1e6))
    return tuple(found)


def _energy_j(root: str) -> tuple[tuple[float, float], ...] | None:
    """None unless every package's counter can be read, for which most systems ask for root's rights."""
    found = []
    for file, span_j in _packages(root):
        text = _read(file)
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
