"""What this computer is: identity, what a process may use of it, and what will interfere with a measurement."""

import contextlib
import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from pathlib import Path

import psutil

from cnnbench import __version__
from cnnbench.errors import InputError
from cnnbench.networks.units import MIB
from cnnbench.records.environment import Environment, Machine, State, Threads, differences
from cnnbench.records.toolchain import engine_versions, int8_instructions, library_versions
from cnnbench.runner import git
from cnnbench.suite.case import Case

BUSY_SHARE = 0.1
"""Of one core: a process that uses more is called a busy neighbour."""
GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


def read(path: str) -> bytes | None:
    """The content of one of the system's files; None where it has none, or does not show it."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return None


def _text(path: str) -> str:
    return (read(path) or b"").decode(errors="replace").strip()


def control_groups(root: str, pid: int | str) -> list[str]:
    """The folders of a process's control groups of CPU time, of versions 2 and 1, and of the groups above them.

    Inside a container the named group may not be visible; its mount point then is the container's own group. `root` is
    a folder to be read in place of `/`.
    """
    found: list[str] = []
    for line in (_text(f"{root}/proc/{pid}/cgroup") or "0::/").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or "cpu" in controllers.split(","):
            mount = f"{root}/sys/fs/cgroup" if number == "0" else f"{root}/sys/fs/cgroup/cpu"
            names = [name for name in path.split("/") if name not in ("", "..")]
            found += accumulate(names, "{}/{}".format, initial=mount)
    return found


def cpu_model() -> str:
    """The CPU's name for itself."""
    for line in _text("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True, timeout=10).strip()
    return platform.processor() or platform.machine()


def affinity_cores() -> int:
    """Logical cores in this process's affinity mask."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(root: str = "") -> float | None:
    """Cores' worth of time that the container may use: the least quota of its control groups; None if unlimited."""
    quotas: list[float] = []
    for folder in control_groups(root, "self"):
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        limits = _text(f"{folder}/cpu.max").split() or [_text(f"{folder}/{name}") for name in names]
        with contextlib.suppress(ValueError):  # there is none: `max`, or no such file
            quota, period = map(int, limits)
            quotas += [quota / period] if quota > 0 else []
    return min(quotas, default=None)


def physical_cores(topology: str = "/sys/devices/system/cpu") -> int:
    """Physical cores behind the logical ones in this process's affinity mask."""
    if hasattr(os, "sched_getaffinity"):
        places = [f"{topology}/cpu{core}/topology" for core in os.sched_getaffinity(0)]
        cores = {(_text(f"{place}/physical_package_id"), _text(f"{place}/core_id")) for place in places}
        if all(all(core) for core in cores):
            return len(cores)
    return min(psutil.cpu_count(logical=False) or affinity_cores(), affinity_cores())


def usable_threads() -> int:
    """Threads to use by default: the physical cores in the affinity mask, within the container's quota."""
    quota = cpu_quota()
    return max(1, min(physical_cores(), math.floor(quota) if quota else physical_cores()))


def threads_of(case: Case) -> int:
    """The threads that a case runs with, in each of its sessions."""
    return case.threads or max(1, usable_threads() // case.sessions)


def last_level_cache_bytes(caches: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Of the largest cache that the first core can use; 0 where the system does not tell."""
    sizes = [_text(str(size)) for size in caches.glob("index*/size")]
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=0)


def environment(threads: Sequence[int], folder: Path) -> Environment:
    """The machine, its software, and the numbers of threads that cases use; `folder` is the suite's."""
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
            governor=_text(GOVERNOR) or None,
        ),
        software={
            "cnnbench": __version__,
            "python": platform.python_version(),
            **library_versions(),
            **engine_versions(),
            "git_commit": git.commit_of(folder),
        },
        threads=Threads(
            usable=usable_threads(),
            used=tuple(sorted(set(threads))),
            OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS"),
            MKL_NUM_THREADS=os.environ.get("MKL_NUM_THREADS"),
            KMP_AFFINITY=os.environ.get("KMP_AFFINITY"),
            OMP_WAIT_POLICY=os.environ.get("OMP_WAIT_POLICY"),
        ),
    )


def check_is_this(recorded: Environment | None, where: str) -> None:
    """Raises InputError, naming what differs, if an environment was recorded on another machine, or is unknown."""
    if recorded is None:
        raise InputError(f"{where}: expected a run of this machine; it does not say which machine it was measured on")
    found = differences(recorded, environment([], Path.cwd()))
    if found:
        raise InputError(f"{where}: expected a run of this machine; got another's: {'; '.join(found)}")


def int8_fit() -> str:
    """Which of the int8 precisions fits this processor, and why."""
    if found := int8_instructions():
        return f"int8 fits this processor: it adds up int8 products without saturation ({', '.join(found)})"
    if platform.machine() in ("x86_64", "AMD64"):
        return (
            "int8-7bit fits this processor: it has no VNNI, and sums of products of 8-bit weights may saturate; int8 "
            "may be no faster than fp32 here"
        )
    return "no instructions for int8 dot products were found; int8 may be no faster than fp32 here"


def interference() -> list[str]:
    """What will make times on this machine vary, in words, with what can be done about it."""
    found = []
    neighbours = busy_neighbours()
    if neighbours:
        found.append(f"other processes are busy: {', '.join(neighbours)}; stop them while measuring")
    quota = cpu_quota()
    if quota is not None and quota < affinity_cores():
        found.append(f"a CPU quota of {quota:g} for {affinity_cores()} cores: threads are throttled when it is used up")
    if _virtualised():
        found.append("a virtual machine: the host's other guests take time that cannot be seen from here")
    governor = _text(GOVERNOR)
    if governor and governor != "performance":
        found.append(
            f"the frequency governor is {governor!r}: the clock frequency follows the load; set the governor to "
            "`performance`"
        )
    swap = psutil.swap_memory()
    if swap.used > 64 * MIB:
        found.append(f"{swap.used // MIB} MiB are swapped out; free some memory first")
    if _on_battery():
        found.append("running on battery power: plug it in")
    if (os.cpu_count() or 1) > (psutil.cpu_count(logical=False) or 1):
        found.append("two logical cores share a physical one: threads are kept to the physical ones by default")
    return found


def busy_neighbours() -> list[str]:
    """Names of other processes that use more than a tenth of a core, over half a second."""
    list(psutil.process_iter(["cpu_percent"]))  # what is read next is the share since now
    time.sleep(0.5)
    found = psutil.process_iter(["name", "cpu_percent"])
    used = [(each.info["cpu_percent"] or 0.0, each.info["name"]) for each in found if each.pid != os.getpid()]
    busy = sorted((pair for pair in used if pair[0] > 100 * BUSY_SHARE), key=lambda pair: -pair[0])
    return [f"{name} ({percent:.0f} % of a core)" for percent, name in busy]


def _on_battery() -> bool:
    with contextlib.suppress(AttributeError, OSError):  # not on this system; no power supplies, as in some containers
        battery = psutil.sensors_battery()
        return battery is not None and not battery.power_plugged
    return False


def _virtualised() -> bool:
    return "hypervisor" in _text("/proc/cpuinfo")
