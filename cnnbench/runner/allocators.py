"""Memory allocators of workers: what puts one in force before the process starts, and why it is not available here.

glibc returns large blocks to the kernel when they are freed, and requests them again, page by page, at the next call.
"""

import ctypes.util
import os
import platform

from cnnbench.suite.case import Allocator

KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**33)}
"""glibc (mallopt(3)): no block has a mapping of its own, and the heap shrinks only above 8 GiB that are free."""
LIBRARIES: dict[Allocator, tuple[str, str]] = {
    "tcmalloc": ("tcmalloc_minimal", "libtcmalloc-minimal4"),
    "jemalloc": ("jemalloc", "libjemalloc2"),
}
"""By allocator, the library that takes the place of malloc, and Debian's package of it."""


def variables(allocator: Allocator) -> dict[str, str]:
    """Environment variables that put the allocator in force in a process that is started with them."""
    if allocator in LIBRARIES:
        library = ctypes.util.find_library(LIBRARIES[allocator][0]) or ""
        return {"LD_PRELOAD": " ".join(filter(None, [library, os.environ.get("LD_PRELOAD")]))}
    return KEEP if allocator == "keep" else {}


def why_not(allocator: Allocator) -> str | None:
    """Why the allocator is not available here; None if it is."""
    if allocator == "default":
        return None
    if platform.libc_ver()[0] != "glibc":
        return f"{allocator} needs a system with glibc"
    if allocator in LIBRARIES and not ctypes.util.find_library(LIBRARIES[allocator][0]):
        return f"{allocator} is not installed; Debian's package is {LIBRARIES[allocator][1]}"
    return None
