"""What NVIDIA's driver says of the first CUDA device, for runtimes that report none of it; None where there is none."""

import ctypes
import sys
from typing import Any

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def device_name() -> str | None:
    """As torch names it too."""
    name = ctypes.create_string_buffer(256)
    found = _first_device()
    if found is None or found[0].cuDeviceGetName(name, len(name), found[1]):
        return None
    return name.value.decode()


def used_bytes() -> int | None:
    """What all processes use of the device's memory now: cudaMemGetInfo's total less what is free."""
    found = _first_device()
    if found is None:
        return None
    driver, device = found
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        return None
    try:  # the context that CUDA's runtime, and so the engine, works in
        if driver.cuCtxPushCurrent_v2(context):
            return None
        failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        return None if failed else total.value - free.value
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)


def _first_device() -> tuple[Any, ctypes.c_int] | None:
    """The driver's library, and the device. Its functions give 0 where they succeed."""
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    device = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
    return None if failed else (driver, device)
