"""What a process may use of its machine, from control groups written here."""

from pathlib import Path

import pytest

from cnnbench.runner import machine


def group(root: Path, path: str, **files: str) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def own(root: Path, groups: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)


def test_the_tightest_quota_on_the_way_to_the_root_counts(tmp_path: Path) -> None:
    own(tmp_path, "0::/box/inner\n")
    group(tmp_path, "box", cpu__max="150000 100000")
    group(tmp_path, "box/inner", cpu__max="max 100000")
    assert machine.cpu_quota(str(tmp_path)) == 1.5


def test_the_older_kind_of_control_group_is_read_too(tmp_path: Path) -> None:
    own(tmp_path, "4:memory:/x\n3:cpu,cpuacct:/box\n")
    group(tmp_path, "cpu/box", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    assert machine.cpu_quota(str(tmp_path)) == 0.5


@pytest.mark.parametrize("text", ["max 100000", "garbage", ""])
def test_no_quota_is_none(tmp_path: Path, text: str) -> None:
    own(tmp_path, "0::/\n")
    group(tmp_path, "", cpu__max=text)
    assert machine.cpu_quota(str(tmp_path)) is None


def test_two_logical_cores_of_one_physical_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for core in range(4):
        group(tmp_path, f"cpu{core}/topology", physical_package_id="0\n", core_id=f"{core // 2}\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    assert machine.physical_cores(f"{tmp_path}/sys/fs/cgroup") == 2


@pytest.mark.parametrize(("quota", "threads"), [(None, 4), (2.9, 2), (0.5, 1), (64.0, 4)])
def test_threads_stay_within_quota_and_physical_cores(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, threads: int
) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    monkeypatch.setattr(machine, "physical_cores", lambda: 4)
    assert machine.usable_threads() == threads


def test_the_environment_names_machine_versions_and_commit(tmp_path: Path) -> None:
    about = machine.environment([2, 1, 2], Path(__file__).parent)
    assert about.machine.cpu
    assert about.machine.memory_bytes > 2**20
    assert about.software["torch"]
    assert about.threads.used == (1, 2)
    assert about.label.endswith(", 1 or 2 threads")
    assert about.model_copy(update={"accelerators": {"cuda": "NVIDIA H100"}}).label.endswith("threads, NVIDIA H100")
    assert machine.environment([2, 1, 2], tmp_path).software["git_commit"] is None


@pytest.mark.parametrize("policy", ["passive", "active"])
def test_the_environment_has_how_openmps_threads_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    found = machine.environment([1], tmp_path).threads.OMP_WAIT_POLICY
    assert found == policy
