"""Forking: a second process in which everything is imported already."""

import ctypes
import gc
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from cnnbench.errors import WorkerError
from cnnbench.records import files
from cnnbench.records.messages import Fork, Forked, Reap, Reaped

Serve = Callable[[TextIO, TextIO], None]
"""Answers requests until they end."""

MADV_POPULATE_READ = 22  # asm-generic/mman-common.h, since Linux 5.14
PAGE_PRESENT = 63
"""The bit of an entry in /proc/self/pagemap that says that the page is in memory (Linux, admin-guide/mm/pagemap)."""
POLL_S = 0.01


def check_can_fork() -> None:
    """Raises WorkerError if this process has threads, which a fork would lose."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise WorkerError(f"expected a process with one thread after importing; got {threads}")


def fork(request: Fork, serve: Serve) -> Forked:
    """Start a process that answers requests from the socket at the address; only the old one returns."""
    gc.collect()
    gc.freeze()  # so that collecting in the new process does not write to what both share
    resident = list(_resident_ranges())
    pid = os.fork()
    if pid:
        return Forked(pid=pid)
    try:
        _begin(request.log, resident)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(request.address)
        serve(connection.makefile("r", encoding="utf-8"), connection.makefile("w", encoding="utf-8"))
    finally:
        sys.stderr.flush()
        os._exit(0)


def reap(request: Reap) -> Reaped:
    """How a forked process ended."""
    end = time.monotonic() + request.seconds
    while True:
        try:
            pid, status = os.waitpid(request.pid, os.WNOHANG)
        except ChildProcessError:
            raise WorkerError(f"{request.pid} is no process that was forked here") from None
        if pid:
            return Reaped(code=os.waitstatus_to_exitcode(status))
        if time.monotonic() >= end:
            return Reaped(code=None)
        time.sleep(POLL_S)


def _begin(log: str, resident: list[tuple[int, int]]) -> None:
    """Become a worker: a session, standard streams and memory of its own."""
    os.setsid()
    errors = files.open_to_append(Path(log))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    libc = ctypes.CDLL(None, use_errno=True)
    for start, size in resident:
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), MADV_POPULATE_READ)


def _resident_ranges() -> Iterator[tuple[int, int]]:
    """(address, bytes) of what is in memory of mapped files.

    A fork does not hand these pages on, though they are in the memory of a process that has imported for itself; the
    new process maps them again, so that the resident memory of both is the same.
    """
    page = mmap.PAGESIZE
    with Path("/proc/self/maps").open() as maps, Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        for line in maps.read().splitlines():
            addresses, _, _, _, inode, *_ = line.split()
            if inode == "0":
                continue
            start, end = (int(address, 16) for address in addresses.split("-"))
            pagemap.seek(start // page * 8)
            entries = np.frombuffer(pagemap.read((end - start) // page * 8), np.uint64)
            present = np.concatenate([[0], (entries >> np.uint64(PAGE_PRESENT)).astype(np.int8), [0]])
            edges = np.flatnonzero(np.diff(present))
            for first, last in zip(edges[::2], edges[1::2], strict=True):
                yield start + int(first) * page, int(last - first) * page
