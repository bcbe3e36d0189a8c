"""What the operating system counts of this process: CPU time in user space and in the kernel, and page faults."""

import sys

from cnnbench.records.record import Usage

if sys.platform != "win32":
    import resource


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
        user_s=max(now.user_s - before.user_s, 0.0),  # the kernel shares the CPU time out anew at each reading
        kernel_s=max(now.kernel_s - before.kernel_s, 0.0),
        minor_faults=now.minor_faults - before.minor_faults,
        major_faults=now.major_faults - before.major_faults,
    )
