"""What a machine can do at best, measured in child processes, one with PyTorch, one with ONNX Runtime; and kept."""

import contextlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import get_args

import psutil

from cnnbench.errors import RunFolderError, WorkerError
from cnnbench.records.cache import cache_folder
from cnnbench.records.environment import Environment
from cnnbench.records.peaks import PEAKS, Peaks, find_peaks, read_peaks, write_peaks
from cnnbench.records.run_folder import Run
from cnnbench.records.task_messages import MeasuredPeaks, MeasurePeaks
from cnnbench.records.toolchain import library_versions
from cnnbench.runner import machine
from cnnbench.runner.scratch import scratch_folder
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, Device
from cnnbench.suite.runtimes import Library

PEAKS_S: Mapping[Device, float] = {"cpu": 10.0, "cuda": 66.0}
"""What measuring all of a device's takes, about: two cores, an NVIDIA H200."""
KERNEL_S = 0.12
"""For each kernel, about: all of them together are a few seconds."""
MIN_LARGEST_BYTES = 256 * 2**20
CACHES = 4
"""The largest working set is so many last-level caches, and no cache helps it."""
MEMORY_SHARE = 1 / 8
LIMIT_S = 120.0


def peaks_of(
    device: Device, threads: int, environment: Environment, logs: Path | None = None, *, anew: bool = False
) -> Peaks:
    """What this machine reaches: from the cache, by identity and versions, or measured now. Raises WorkerError."""
    found = None if anew else known_peaks(device, threads, environment)
    if found is None:
        found, folder = measure_peaks(device, threads, logs=logs), _folder_of(environment)
        with contextlib.suppress(OSError):  # a cache that cannot be written saves no time
            folder.mkdir(parents=True, exist_ok=True)
            write_peaks(folder, [found])
    return found


def known_peaks(device: Device, threads: int, environment: Environment) -> Peaks | None:
    """What the cache has of this machine with these versions; None if nothing, or nothing that can be read."""
    folder, name = _folder_of(environment), environment.accelerators.get(device)
    try:
        found = find_peaks(read_peaks(folder), device, threads)
    except RunFolderError:  # damaged
        with contextlib.suppress(OSError):
            (folder / PEAKS).unlink()
        return None
    return None if found is None or (name and found.device_name != name) else found


def _folder_of(environment: Environment) -> Path:
    about = [environment.fingerprint, *sorted(_versions().items())]
    return cache_folder() / "peaks" / sha256(repr(about).encode()).hexdigest()[:16]


def measure_peaks(
    device: Device,
    threads: int,
    *,
    kernel_s: float = KERNEL_S,
    largest_set_bytes: int | None = None,
    logs: Path | None = None,
) -> Peaks:
    """What the device reaches at best with so many CPU threads, in a few seconds; workers log into `logs`, if given.

    Raises WorkerError where PyTorch cannot use the device; what ONNX Runtime cannot is in `failures`.
    """
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    beyond_caches = max(MIN_LARGEST_BYTES, CACHES * machine.last_level_cache_bytes())
    largest_set_bytes = largest_set_bytes or min(beyond_caches, int(psutil.virtual_memory().total * MEMORY_SHARE))
    found: dict[str, MeasuredPeaks] = {}
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        folder = logs or stack.enter_context(scratch_folder())
        for library in get_args(Library):
            request = MeasurePeaks(
                library=library, device=device, threads=threads, kernel_s=kernel_s, largest_set_bytes=largest_set_bytes
            )
            try:
                with Worker(folder / f"peaks-{library}-{device}-{threads}.log", threads, LIMIT_S) as worker:
                    found[library] = worker.ask(request, MeasuredPeaks)
            except WorkerError as error:
                if library == "torch":
                    raise WorkerError(f"the peaks of {device} cannot be measured: {error}") from None
                failures[library] = str(error)
    return Peaks(
        device=device,
        device_name=machine.cpu_model() if device == "cpu" else found["torch"].device_name,
        threads=threads,
        started=started,
        versions=_versions(),
        throughputs=[each for peaks in found.values() for each in peaks.throughputs],
        bandwidths=[each for peaks in found.values() for each in peaks.bandwidths],
        calls=[each for peaks in found.values() for each in peaks.calls],
        failures=failures | {what: why for peaks in found.values() for what, why in peaks.failures.items()},
    )


def _versions() -> dict[str, str]:
    return {name: text for name, text in library_versions().items() if name.startswith(("torch", "onnxruntime"))}


def peaks_for(cases: Iterable[Case]) -> list[tuple[Device, int]]:
    """The devices and numbers of threads that cases run with, each once; an accelerator once in all."""
    found: dict[tuple[Device, int | None], int] = {}
    for case in cases:
        threads = machine.threads_of(case)
        found.setdefault((case.device, threads if case.device == "cpu" else None), threads)
    return [(device, threads) for (device, _), threads in found.items()]


def peaks_for_run(run: Run) -> list[tuple[Device, int]]:
    """The same for the cases that a run has measured. Raises InputError if that was on another machine."""
    machine.check_is_this(run.environment, str(run.folder))
    return peaks_for(record.case for record in run.records.values() if record.measurement)
