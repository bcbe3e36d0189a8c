"""Which memory allocator this process has, found out by its libraries and by what it does."""

import contextlib
import ctypes
import sys
from pathlib import Path

from cnnbench.worker.timing.usage import usage_now

PROBE_BYTES = 64 * 2**20
"""Above 32 MiB, the largest block that glibc may come to keep of itself (mallopt(3), M_MMAP_THRESHOLD)."""
PAGE_BYTES = 4096
LIBRARIES = ("tcmalloc", "jemalloc", "mimalloc")


def allocator_in_force() -> str | None:
    """A library that is mapped; else `keep` or `default`, by whether freed memory is kept. None outside Linux."""
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError):
        mapped = Path("/proc/self/maps").read_text()
        for name in LIBRARIES:
            if f"lib{name}" in mapped:
                return name
    return "keep" if _keeps_memory() else "default"


def _keeps_memory() -> bool:
    """Whether a block that is freed and asked for again costs no page faults: its pages are still the process's."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]

    def faults() -> int:
        before = usage_now()
        block = libc.malloc(PROBE_BYTES)
        if not block:
            raise MemoryError
        ctypes.memset(block, 1, PROBE_BYTES)
        libc.free(block)
        after = usage_now()
        assert before is not None
        assert after is not None
        return after.minor_faults - before.minor_faults

    first, second = faults(), faults()
    return second < max(first, PROBE_BYTES / PAGE_BYTES / 512) / 2
