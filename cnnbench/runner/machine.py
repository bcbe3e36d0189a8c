"""What this computer is: identity, what a process may use of it, and what will disturb a measurement."""

import math
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import psutil

from cnnbench import __version__
from cnnbench.errors import InputError
from cnnbench.networks.units import MIB
from cnnbench.records.artifact import library_versions
from cnnbench.records.environment import Environment, Machine, State, Threads, differences
from cnnbench.runner import git

CGROUP = Path("/sys/fs/cgroup")
BUSY_SHARE = 0.1
"""Of one core: a process that uses more is called a busy neighbour."""


def cpu_model() -> str:
    """The CPU's name for itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def affinity_cores() -> int:
    """Logical cores in this process's affinity mask."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(root: Path = CGROUP, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores' worth of time that the container may use: the least quota of its control groups; None if unlimited.

    Reads cgroup v2 (`cpu.max`) from this process's group up to the root, and v1 (`cpu.cfs_quota_us`).
    """
    quotas = []
    try:
        groups = [line.rstrip("\n").split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        groups = []
    for _, controllers, path in (group for group in groups if len(group) == 3):
        mount = root / "cpu" if "cpu" in controllers.split(",") else root
        folder = mount / path.lstrip("/")
        for place in (folder, *folder.parents):
            quotas += _quotas_in(place)
            if place == mount:
                break
    quotas += _quotas_in(root)
    return min(quotas, default=None)


def _quotas_in(folder: Path) -> list[float]:
    try:
        limit, period = (folder / "cpu.max").read_text().split()
        if limit != "max":
            return [int(limit) / int(period)]
    except (OSError, ValueError):
        pass
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period_us = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return []
    return [quota / period_us] if quota > 0 else []


def physical_cores(topology: Path = Path("/sys/devices/system/cpu")) -> int:
    """Physical cores behind the logical ones in this process's affinity mask."""
    if hasattr(os, "sched_getaffinity"):
        places = [topology / f"cpu{core}" / "topology" for core in os.sched_getaffinity(0)]
        names = ("physical_package_id", "core_id")
        cores = {tuple(_read(str(place / name)) for name in names) for place in places}
        if all(None not in core for core in cores):
            return len(cores)
    return min(psutil.cpu_count(logical=False) or affinity_cores(), affinity_cores())


def usable_threads() -> int:
    """Threads to use by default: the physical cores in the affinity mask, within the container's quota."""
    quota = cpu_quota()
    return max(1, min(physical_cores(), math.floor(quota) if quota else physical_cores()))


def memory_bytes() -> int:
    """Of the whole machine."""
    return int(psutil.virtual_memory().total)


def last_level_cache_bytes(caches: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Of the largest cache that the first core can use; 0 where the system does not tell."""
    sizes = [_read(str(size)) or "" for size in caches.glob("index*/size")]
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=0)


def environment(threads: Sequence[int], folder: Path) -> Environment:
    """All that is recorded of the machine and its software at the start of a run.

    `threads` are the numbers of threads that cases use, `folder` is the suite's.
    """
    memory = psutil.virtual_memory()
    return Environment(
        machine=Machine(
            cpu=cpu_model(),
            architecture=platform.machine(),
            logical_cores=os.cpu_count(),
            physical_cores=psutil.cpu_count(logical=False),
            affinity_cores=affinity_cores(),
            cpu_quota=cpu_quota(),
            memory_bytes=memory.total,
            swap_bytes=psutil.swap_memory().total,
            system=f"{platform.system()} {platform.release()}",
            virtualised=_virtualised(),
        ),
        state=State(
            time=datetime.now().astimezone().isoformat(timespec="seconds"),
            load_average=os.getloadavg() if hasattr(os, "getloadavg") else None,
            memory_available_bytes=memory.available,
            governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        ),
        software={
            "cnnbench": __version__,
            "python": platform.python_version(),
            **library_versions(),
            "git_commit": git.commit_of(folder),
        },
        threads=Threads(
            usable=usable_threads(),
            used=tuple(sorted(set(threads))),
            OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS"),
            MKL_NUM_THREADS=os.environ.get("MKL_NUM_THREADS"),
            KMP_AFFINITY=os.environ.get("KMP_AFFINITY"),
        ),
    )


def check_is_this(recorded: Environment | None, where: str) -> None:
    """Raises InputError, naming what differs, if an environment was recorded on another machine, or is unknown."""
    if recorded is None:
        raise InputError(f"{where}: expected a run of this machine; it does not say which machine it was measured on")
    found = differences(recorded, environment([], Path.cwd()))
    if found:
        raise InputError(f"{where}: expected a run of this machine; got another's: {'; '.join(found)}")


def interference() -> list[str]:
    """What will make times on this machine vary, in words, with what can be done about it."""
    found = []
    neighbours = busy_neighbours()
    if neighbours:
        found.append(f"other processes are busy: {', '.join(neighbours)}; stop them while measuring")
    quota = cpu_quota()
    if quota is not None and quota < affinity_cores():
        found.append(
            f"a quota of {quota:g} cores' time for {affinity_cores()} cores: threads are paused when it is spent"
        )
    if _virtualised():
        found.append("a virtual machine: the host's other guests take time that cannot be seen from here")
    governor = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor and governor != "performance":
        found.append(f"the frequency governor is {governor!r}: clocks follow the load; `performance` keeps them up")
    swap = psutil.swap_memory()
    if swap.used > 64 * MIB:
        found.append(f"{swap.used // MIB} MiB are swapped out; free some memory first")
    if _on_battery():
        found.append("running from a battery: plug it in")
    if (os.cpu_count() or 1) > (psutil.cpu_count(logical=False) or 1):
        found.append("two logical cores share a physical one: threads are kept to the physical ones by default")
    return found


def busy_neighbours(seconds: float = 0.5) -> list[str]:
    """Names of other processes that used more than a tenth of a core, over so many seconds."""
    processes = [p for p in psutil.process_iter() if p.pid != os.getpid()]
    for process in processes:
        _cpu_percent(process)
    psutil.cpu_percent(interval=seconds)
    busy = [(used, p) for p in processes if (used := _cpu_percent(p)) > 100 * BUSY_SHARE]
    named = []
    for used, process in sorted(busy, key=lambda pair: -pair[0]):
        try:
            named.append(f"{process.name()} ({used:.0f} % of a core)")
        except psutil.Error:
            continue
    return named


def _cpu_percent(process: psutil.Process) -> float:
    try:
        return process.cpu_percent()
    except psutil.Error:
        return 0.0


def _on_battery() -> bool:
    try:
        battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    except OSError:  # no power supplies listed, as in some containers
        return False
    return battery is not None and not battery.power_plugged


def _virtualised() -> bool:
    return "hypervisor" in (_read("/proc/cpuinfo") or "")


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
