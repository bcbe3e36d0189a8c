"""What else the machine did: pure on counters made by hand, on files of machines that are not here, and for real."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest

from cnnbench.records.reason import Interference
from cnnbench.runner.interference import TICK_S, SystemCounters, Window, between

BUSY = "while True: pass"
IDLE = "import time; time.sleep(60)"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the counters are Linux's")

Start = Callable[[str], int]

ZERO = SystemCounters(
    clock_s=100.0,
    busy_s=50.0,
    steal_s=5.0,
    own_s=30.0,
    throttled_s=1.0,
    thermal_events=7,
    swapped_pages=3,
    energy_j=((900.0, 1000.0), (10.0, 1000.0)),
)


def window(
    seconds: float = 1.0, cpus: int = 2, busy_s: float = 0.0, steal_s: float = 0.0, own_s: float = 0.0
) -> Window:
    """A window in which so much CPU time was used."""
    before = SystemCounters(100.0, busy_s=50.0, steal_s=5.0, own_s=30.0)
    return between(before, SystemCounters(100.0 + seconds, 50.0 + busy_s, 5.0 + steal_s, 30.0 + own_s), cpus)


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(code)` runs Python code in a child process and gives its pid once the code is running."""
    children: list[subprocess.Popen[str]] = []

    def call(code: str) -> int:
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", f"print(flush=True)\n{code}"], stdout=subprocess.PIPE, text=True
        )
        children.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        return child.pid

    yield call
    for child in children:
        child.kill()
        child.communicate()


def test_a_quiet_window_has_no_disturbances() -> None:
    after = replace(ZERO, clock_s=101.0, busy_s=51.8, own_s=31.8)
    quiet = between(ZERO, after, 2)
    assert quiet == Window(1.0, 2, 0.0, 0.0, 0.0, 0, 0, 0.0)
    assert quiet.interference() == []


def test_reasons_have_the_figures() -> None:
    after = SystemCounters(102.0, 50 + 2.92, 5.2, 32.0, 1.5, 8, 15, ((950.0, 1000.0), (10.0, 1000.0)))
    assert between(ZERO, after, 2).interference() == [
        Interference(kind="steal", amount=0.05),
        Interference(kind="other-processes", amount=0.23),
        Interference(kind="throttled", amount=0.25),
        Interference(kind="thermal", amount=1),
        Interference(kind="swap", amount=12),
    ]


@pytest.mark.parametrize(
    ("interference", "quiet"),
    [
        (window(steal_s=0.07), window(steal_s=0.06)),  # 3 % of two CPUs
        (window(busy_s=1.21, own_s=1.0), window(busy_s=1.19, own_s=1.0)),  # 10 %
        (window(0.05, steal_s=0.02), window(0.05, steal_s=0.01)),  # 10 % of the time, though one tick
        (window(0.05, busy_s=0.03), window(0.05, busy_s=0.02)),  # 20 % of the time, though two ticks
        (window(0.11, busy_s=0.13, own_s=0.1), window(0.2, busy_s=0.13, own_s=0.1)),  # three ticks, 14 and 7 %
    ],
)
def test_a_share_disturbs_above_its_threshold_and_not_below_the_ticks_that_can_be_told(
    interference: Window, quiet: Window
) -> None:
    assert len(interference.interference()) == 1
    assert quiet.interference() == []


@pytest.mark.parametrize(
    ("interference", "quiet"),
    [
        (replace(ZERO, throttled_s=1.011), replace(ZERO, throttled_s=1.009)),
        (replace(ZERO, thermal_events=8), ZERO),
        (replace(ZERO, swapped_pages=4), ZERO),
    ],
)
def test_throttling_and_swapping_disturb(interference: SystemCounters, quiet: SystemCounters) -> None:
    assert len(between(ZERO, replace(interference, clock_s=101.0), 2).interference()) == 1
    assert between(ZERO, replace(quiet, clock_s=101.0), 2).interference() == []


def test_missing_counters_never_disturb() -> None:
    nothing = SystemCounters(101.0)
    worst = SystemCounters(101.0, 1e6, 1e6, 0.0, 1e6, 10**6, 10**6, ((1e6, 1e9),))
    for before, after in ((SystemCounters(100.0), worst), (ZERO, nothing), (SystemCounters(100.0), nothing)):
        found = between(before, after, 2)
        assert found == Window(1.0, 2, None, None, None, None, None, None)
        assert found.interference() == []
    assert between(ZERO, replace(worst, own_s=None), 2).others_share is None  # the process is gone


def test_a_window_without_length_has_no_shares() -> None:
    found = between(ZERO, replace(ZERO, steal_s=6.0, busy_s=60.0), 2)
    assert (found.steal_share, found.others_share, found.interference()) == (None, None, [])


def test_counters_that_go_back_did_not_move() -> None:
    back = SystemCounters(101.0, 49.0, 4.0, 31.0, 0.5, 1, 1, ZERO.energy_j)
    assert between(ZERO, back, 2) == Window(1.0, 2, 0.0, 0.0, 0.0, 0, 0, 0.0)


def test_an_energy_counter_starts_again_from_zero() -> None:
    after = replace(ZERO, energy_j=((20.0, 1000.0), (15.0, 1000.0)))
    assert between(ZERO, after, 2).joules == pytest.approx(120 + 5)
    assert between(ZERO, replace(ZERO, energy_j=((20.0, 1000.0),)), 2).joules is None


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(root)


def process(pid: int, ticks: tuple[int, int, int, int], children: str = "") -> dict[str, str]:
    user, system, waited_user, waited_system = ticks
    return {
        f"proc/{pid}/stat": f"{pid} (a) b) R 1 1 1 0 -1 0 9 9 9 9 {user} {system} {waited_user} {waited_system} 20 0",
        f"proc/{pid}/task/{pid}/children": children,
    }


POWERCAP = "sys/class/powercap"
OTHER_MACHINE = {
    "proc/stat": "cpu  1000 200 300 9999 9999 40 5 60 700 0\ncpu0 1 1 1\nintr 5\n",
    "proc/vmstat": "nr_free_pages 5\npswpin 30\npswpout 12\npswpin_other 9\n",
    **process(10**9, (100, 10, 7, 3), "1000000001 "),
    **process(10**9 + 1, (20, 2, 0, 0)),
    "proc/1000000000/task/1000000002/children": "",
    **process(os.getpid(), (50, 5, 10**6, 10**6)),
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
    f"{POWERCAP}/intel-rapl:0/name": "package-0\n",
    f"{POWERCAP}/intel-rapl:0/energy_uj": "5000000\n",
    f"{POWERCAP}/intel-rapl:0/max_energy_range_uj": "262143328850\n",
    f"{POWERCAP}/intel-rapl:0:0/name": "core\n",
    f"{POWERCAP}/intel-rapl:0:0/energy_uj": "4000000\n",
    f"{POWERCAP}/intel-rapl:0:0/max_energy_range_uj": "262143328850\n",
    f"{POWERCAP}/intel-rapl:1/name": "psys\n",
    f"{POWERCAP}/intel-rapl:1/energy_uj": "9000000\n",
    f"{POWERCAP}/intel-rapl:1/max_energy_range_uj": "262143328850\n",
}


@LINUX
def test_a_machine_with_every_counter(tmp_path: Path) -> None:
    """Two threads and a child are measured; this process counts without the children that it waited for."""
    own = {"proc/1000000000/cgroup": "0::/user/worker\n", "sys/fs/cgroup/cpu.stat": "usage_usec 5\n"}
    quotas = {
        "sys/fs/cgroup/user/cpu.stat": "usage_usec 5\nthrottled_usec 250000\n",
        "sys/fs/cgroup/user/worker/cpu.stat": "usage_usec 5\nthrottled_usec 500000\n",
    }
    counters = SystemCounters.read(10**9, write(tmp_path, OTHER_MACHINE | own | quotas))
    assert replace(counters, clock_s=0.0) == SystemCounters(
        clock_s=0.0,
        busy_s=15.45,
        steal_s=0.6,
        own_s=1.2 + 0.22 + 0.55,
        throttled_s=0.75,
        thermal_events=7,
        swapped_pages=42,
        energy_j=((5.0, 262143.32885),),
    )


@LINUX
@pytest.mark.parametrize("place", ["", "docker/x/"])
def test_throttling_by_version_1_control_groups_seen_or_not_from_a_container(tmp_path: Path, place: str) -> None:
    files = {
        "proc/1000000000/cgroup": "3:memory:/other\n2:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n0::/\n",
        f"sys/fs/cgroup/cpu/{place}cpu.stat": "nr_periods 9\nnr_throttled 2\nthrottled_time 1500000000\n",
    }
    assert SystemCounters.read(10**9, write(tmp_path, OTHER_MACHINE | files)).throttled_s == 1.5


@LINUX
def test_a_machine_with_hardly_a_counter(tmp_path: Path) -> None:
    counters = SystemCounters.read(10**9, write(tmp_path, {"proc/stat": "cpu 1 0 0 9 0 0 0\n"}))
    assert replace(counters, clock_s=0.0) == SystemCounters(0.0, busy_s=0.01)


def test_where_the_system_has_no_files_of_counters_psutil_gives_the_cpu_times(tmp_path: Path) -> None:
    before, own_s = psutil.cpu_times(), cpu_s(os.getpid())
    counters = SystemCounters.read(os.getpid(), str(tmp_path))
    assert counters.busy_s is not None
    assert counters.busy_s >= before.user + before.system
    assert counters.own_s is not None
    assert own_s <= counters.own_s < counters.busy_s
    gone = SystemCounters.read(2**22 + 1, str(tmp_path))
    assert replace(gone, clock_s=0.0, busy_s=None) == SystemCounters(0.0)


@LINUX
def test_only_the_cpus_that_may_be_used_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["cpu  600 0 0 0 0 0 0 9", "cpu0 100 0 0 0 0 0 0 4", "cpu1 200 0 0 0 0 0 0 5", "cpu2 300 0 0 0 0 0 0 0"]
    root = write(tmp_path, {"proc/stat": "\n".join([*lines, "intr 5"])})
    for allowed, busy_s, steal_s in [({0, 2}, 4.0, 0.04), ({1}, 2.0, 0.05), ({0, 7}, 6.0, 0.09)]:
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cpus=allowed: cpus)
        counters = SystemCounters.read(10**9, root)
        assert (counters.busy_s, counters.steal_s) == (busy_s, steal_s)


@LINUX
def test_an_energy_counter_that_may_not_be_read_is_not_known(tmp_path: Path) -> None:
    root = write(tmp_path, OTHER_MACHINE)
    (tmp_path / POWERCAP / "intel-rapl:0/energy_uj").unlink()
    assert SystemCounters.read(10**9, root).energy_j is None


@LINUX
def test_this_machine_has_the_main_counters_and_reading_them_is_cheap(start: Start) -> None:
    pid = start(IDLE)
    costs = []
    for _ in range(100):
        begin = time.perf_counter()
        counters = SystemCounters.read(pid)
        costs.append(time.perf_counter() - begin)
    assert None not in (counters.busy_s, counters.own_s, counters.swapped_pages)
    assert min(costs) < 1e-3


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def cpus() -> int:
    return os.cpu_count() or 1


def others_s(found: Window) -> float:
    assert found.others_share is not None
    return found.others_share * found.cpus * found.seconds


def stolen_s(found: Window) -> float:
    """A process's own clock may run on while the host has taken its CPU; the machine's does not."""
    return (found.steal_share or 0.0) * found.cpus * found.seconds


ROUNDING_S = 4 * TICK_S


def wait_for_cpu(pid: int, seconds: float) -> None:
    """Until the process has used so much CPU time, however many others want it."""
    least, limit = cpu_s(pid) + seconds, time.monotonic() + 30
    while cpu_s(pid) < least:
        assert time.monotonic() < limit
        time.sleep(0.02)


@LINUX
def test_a_busy_neighbour_is_seen_by_what_it_uses(start: Start) -> None:
    idle, busy = start(IDLE), start(BUSY)
    before, used_s = SystemCounters.read(idle), cpu_s(busy)
    wait_for_cpu(busy, 0.4)
    used_s, found = cpu_s(busy) - used_s, between(before, SystemCounters.read(idle), cpus())
    assert others_s(found) >= used_s - stolen_s(found) - ROUNDING_S
    share = used_s / (found.cpus * found.seconds)
    if share > 0.15:  # on a machine with few CPUs, that are not all wanted by others
        assert any(each.kind == "other-processes" for each in found.interference())


@LINUX
def test_what_the_measured_process_uses_is_not_others(start: Start) -> None:
    """The same window from two points of view: measuring the busy process, and measuring an idle one."""
    idle, busy = start(IDLE), start(BUSY)
    mine, control = SystemCounters.read(busy), SystemCounters.read(idle)
    used_s = cpu_s(busy)
    wait_for_cpu(busy, 0.4)
    used_s = cpu_s(busy) - used_s
    after, control_after = SystemCounters.read(busy), SystemCounters.read(idle)
    # one reading of the machine for both, so that they differ in the process alone
    control = replace(control, clock_s=mine.clock_s, busy_s=mine.busy_s)
    control_after = replace(control_after, clock_s=after.clock_s, busy_s=after.busy_s)
    found, other = between(mine, after, cpus()), between(control, control_after, cpus())
    assert others_s(other) - others_s(found) >= used_s - stolen_s(found) - ROUNDING_S


@LINUX
def test_a_quiet_window_has_no_more_others_than_the_machine_was_busy(start: Start) -> None:
    idle = start(IDLE)
    busy = psutil.cpu_times()
    before = SystemCounters.read(idle)
    time.sleep(0.5)
    found = between(before, SystemCounters.read(idle), cpus())
    after = psutil.cpu_times()
    busy_s = sum(getattr(after, name) - getattr(busy, name) for name in ("user", "nice", "system", "irq", "softirq"))
    assert others_s(found) <= busy_s + ROUNDING_S
    if busy_s < 0.05 * found.cpus * found.seconds:
        assert not any(each.kind == "other-processes" for each in found.interference())


@LINUX
def test_what_descendants_use_is_the_measured_processs_own(start: Start) -> None:
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {BUSY!r}], timeout=20)"
    pid = start(nested)
    limit = time.monotonic() + 20
    while not (children := psutil.Process(pid).children()):
        assert time.monotonic() < limit
        time.sleep(0.01)
    try:
        before, used_s = SystemCounters.read(pid).own_s, cpu_s(children[0].pid)
        wait_for_cpu(children[0].pid, 0.3)
        used_s, after = cpu_s(children[0].pid) - used_s, SystemCounters.read(pid).own_s
    finally:
        children[0].kill()
    assert before is not None
    assert after is not None
    assert after - before >= used_s - ROUNDING_S


def test_the_process_that_measures_may_measure_itself_and_is_counted_once() -> None:
    before, begin = SystemCounters.read(os.getpid()), time.process_time()
    while time.process_time() - begin < 0.2:
        pass
    after = SystemCounters.read(os.getpid())
    assert before.own_s is not None
    assert after.own_s is not None
    assert 0.2 - ROUNDING_S <= after.own_s - before.own_s <= 0.2 + 2 * ROUNDING_S


@LINUX
def test_a_process_that_is_gone_leaves_others_unknown(start: Start) -> None:
    pid = start(IDLE)
    before = SystemCounters.read(pid)
    child = psutil.Process(pid)
    child.kill()
    child.wait(10)
    after = SystemCounters.read(pid)
    assert before.own_s is not None
    assert after.own_s is None
    assert between(before, after, cpus()).others_share is None


def test_where_there_is_no_proc_psutil_gives_the_cpu_times(tmp_path: Path, start: Start) -> None:
    busy = start(BUSY)
    before = SystemCounters.read(busy, str(tmp_path))
    wait_for_cpu(busy, 0.2)
    after = SystemCounters.read(busy, str(tmp_path))
    known = {field.name for field in fields(SystemCounters) if getattr(after, field.name) is not None}
    assert known == {"clock_s", "busy_s", "own_s"}
    assert before.own_s is not None
    assert after.own_s is not None
    assert after.own_s - before.own_s >= 0.2 - ROUNDING_S
    assert SystemCounters.read(10**9, str(tmp_path)).own_s is None
