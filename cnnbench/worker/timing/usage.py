"""What the operating system counts of this process: resident memory, CPU time and page faults."""

import contextlib
import sys
from pathlib import Path

import psutil

from cnnbench.records.record import Usage

if sys.platform != "win32":
    import resource

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Resident now."""
    return int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    """Reset the peak. Only Linux can; elsewhere it is that of the process's life."""
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text("5")


def peak_bytes() -> int:
    """The largest resident size since `reset_peak` (Linux: VmHWM), or since the process started."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def usage_now() -> Usage | None:
    """Since the process began, over all its threads (getrusage(2)); None on Windows, which does not tell."""
    if sys.platform == "win32":
        return None
    now = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(user_s=now.ru_utime, kernel_s=now.ru_stime, minor_faults=now.ru_minflt, major_faults=now.ru_majflt)


def usage_since(before: Usage | None) -> Usage | None:
    """What came to it since then."""
    now = usage_now()
    if now is None or before is None:
        return None
    return Usage(
        user_s=max(now.user_s - before.user_s, 0.0),  # the kernel divides the CPU time again at each reading
        kernel_s=max(now.kernel_s - before.kernel_s, 0.0),
        minor_faults=now.minor_faults - before.minor_faults,
        major_faults=now.major_faults - before.major_faults,
    )
