"""Suites on real Ray nodes, several on this machine: nodes and drivers are killed, and nothing finished is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnbench.records import messages
from cnnbench.records.run_folder import read_run
from tests import scripted
from tests.conftest import Cli, write_suite
from tests.fake_cluster import FakeCluster
from tests.scripted import Says, Slowly

pytestmark = pytest.mark.slow

CASES = 5
SUITE = f"""
models: [lenet5]
launches: 1
defaults:
  workloads: [inference]
  runtimes: [eager]
  classes: 10
  batches: {list(range(1, CASES + 1))}
  case_budget: 0.2s
"""
SAMPLE = messages.Sampled(seconds={"forward": [0.01, 0.01]})


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("f")


def scripted_command(folder: Path) -> tuple[str, ...]:
    """Workers that take a second for a case."""
    lines = [line for line in scripted.lenet() if line.line[0] != "sample"]
    return scripted.command(folder, Says("sample", Slowly(0.05, SAMPLE)), *lines)


@pytest.fixture
def cluster(folder: Path) -> Iterator[FakeCluster]:
    write_suite(folder, SUITE)
    with FakeCluster(folder, {"a": {}, "b": {}, "c": {}}, scripted_command(folder)) as started:
        yield started


def start(cluster: FakeCluster, folder: Path, *options: str) -> "subprocess.Popen[str]":
    words = ["run", "suite.yaml", "--fleet", cluster.address, "--out", "out", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "cnnbench", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=cluster.environment,
    )


def finished(driver: "subprocess.Popen[str]") -> str:
    out, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, out
    return out


def whole(folder: Path) -> None:
    """Every machine has every case, once."""
    for name in ("a", "b", "c"):
        run = read_run(folder / "out" / name)
        assert run.unreadable == []
        assert [record.status for record in run.records.values()] == ["noisy"] * CASES or len(run.records) == CASES
        assert all(len(record.launches) == 1 for record in run.records.values())
        assert len((folder / "out" / name / "records.jsonl").read_text().splitlines()) == CASES


def counted(folder: Path) -> dict[str, int]:
    """Records that have arrived."""
    files = (folder / "out").glob("*/records.jsonl")
    return {file.parent.name: len(file.read_text().splitlines()) for file in files}


def kept(before: dict[str, str], folder: Path) -> None:
    """What had arrived is where it was."""
    for name, text in before.items():
        assert (folder / "out" / name / "records.jsonl").read_text().startswith(text)


def arrived(folder: Path) -> dict[str, str]:
    return {file.parent.name: file.read_text() for file in (folder / "out").glob("*/records.jsonl")}


def kill_nodes(cluster: FakeCluster, folder: Path, times: int, drawn: random.Random) -> int:
    """Have a driver go on while nodes die and come back; gives how many died before it ended.

    A node that dies more than three times is given up, which the command says and ends with 3.
    """
    driver, done = start(cluster, folder), 0
    try:
        for _ in range(times):
            time.sleep(drawn.uniform(1.0, 8.0))
            before, name = arrived(folder), drawn.choice("abc")
            if driver.poll() is not None:
                break
            cluster.tell(f"kill {name}")
            done += 1
            cluster.tell(f"add {name}")
            kept(before, folder)
        before = arrived(folder)
        out, _ = driver.communicate(timeout=300)
        kept(before, folder)
    finally:
        driver.kill()
    left = {name: CASES - counted(folder).get(name, 0) for name in "abc"}
    assert driver.returncode == (3 if any(left.values()) else 0), out
    if any(left.values()):
        assert all(f"{name}: {number} of {CASES} cases left" in out for name, number in left.items() if number), out
        before = arrived(folder)
        finished(start(cluster, folder))
        kept(before, folder)
    whole(folder)
    return done


def kill_driver(cluster: FakeCluster, folder: Path, times: int, drawn: random.Random) -> int:
    """Kill the driver, and give the same command again; gives how many died before they ended."""
    done = 0
    for _ in range(times):
        driver = start(cluster, folder)
        time.sleep(drawn.uniform(2.0, 9.0))
        before = arrived(folder)
        done += driver.poll() is None
        driver.send_signal(drawn.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
        driver.communicate(timeout=60)
        assert driver.returncode in (0, -signal.SIGKILL, -signal.SIGINT, 130)
        kept(before, folder)
        if driver.returncode == 0:
            break
    before = arrived(folder)
    finished(start(cluster, folder))
    kept(before, folder)
    whole(folder)
    return done


def test_a_node_that_dies_and_comes_back_loses_and_doubles_nothing(cluster: FakeCluster, folder: Path) -> None:
    kill_nodes(cluster, folder, 2, random.Random(int(os.environ.get("SEED", "1"))))


def test_the_same_command_completes_what_a_killed_driver_has_begun(cluster: FakeCluster, folder: Path) -> None:
    kill_driver(cluster, folder, 2, random.Random(int(os.environ.get("SEED", "1"))))


def test_a_node_that_cannot_measure_is_a_row_and_the_others_go_on(folder: Path) -> None:
    """One has another Python without the package, one a full disk, one no place for its cache."""
    write_suite(folder, SUITE)
    full = Path("/dev/full")
    nodes = {
        "bare": {"CNNBENCH_PYTHON": "/bin/false"},
        "full": {"CNNBENCH_CACHE": str(full)},
        "gone": {"CNNBENCH_PYTHON": "/no/python"},
        "well": {},
    }
    with FakeCluster(folder, nodes, scripted_command(folder)) as cluster:
        driver = start(cluster, folder)
        out, _ = driver.communicate(timeout=200)
    assert driver.returncode == 3, out
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()[:1]}
    assert "No such file" in out
    assert "it ended with code 1" in out
    assert "complete" in rows["well"] or "well" in out
    assert counted(folder) == {"well": CASES}


def test_artifacts_are_built_once_and_fetched_by_a_node_that_lacks_them(folder: Path) -> None:
    """With real workers: the node's cache, elsewhere than the driver's, has the driver's artifact, byte for byte."""
    write_suite(folder, "models: [lenet5]\nlaunches: 1\ndefaults: {batches: [1], case_budget: 0.2s}\n")
    with FakeCluster(folder, {"a": {"CNNBENCH_CACHE": str(folder / "far")}}) as cluster:
        cluster.environment["CNNBENCH_CACHE"] = str(folder / "near")
        driver = start(cluster, folder, "--build", "once")
        finished(driver)
    (near,), (far,) = (list((folder / name / "artifacts").iterdir()) for name in ("near", "far"))
    assert near.name == far.name
    for file in near.iterdir():
        assert file.read_bytes() == (far / file.name).read_bytes(), file.name


def test_own_models_travel_to_a_node_that_has_neither_package_nor_files(folder: Path) -> None:
    """With real workers: a package with loss and weights, and an ONNX file with weights, whose artifact is fetched."""
    import onnx
    import torch

    from tests import own_models, test_onnx_file

    (folder / "travelling").mkdir()
    source = "from tests.own_models import works\n\ndef build(): return works(5)\n"
    (folder / "travelling" / "nets.py").write_text(source)
    (folder / "losses.py").write_text("from torch.nn.functional import cross_entropy\n")
    torch.save(own_models.works(5).state_dict(), folder / "best.pt")
    net = str(folder / "net.onnx")
    onnx.save(test_onnx_file.model(), net, save_as_external_data=True, location="weights.bin", size_threshold=0)
    own = "{model: 'travelling.nets:build', image_size: 16, weights: best.pt, loss: 'losses:cross_entropy'}"
    defaults = "{workloads: [training], runtimes: [eager], batches: [1], case_budget: 0.2s}"
    graph = "{model: net.onnx, runtimes: [ort], workloads: [inference]}"
    write_suite(folder, f"models: [{own}, {graph}]\nlaunches: 1\ndefaults: {defaults}\n")
    with FakeCluster(folder, {"a": {"CNNBENCH_CACHE": str(folder / "far")}}) as cluster:
        cluster.environment["CNNBENCH_CACHE"] = str(folder / "near")
        finished(start(cluster, folder, "--build", "once"))
    assert len(read_run(folder / "out" / "a").records) == 2
    near, far = ({each.name for each in (folder / name / "artifacts").glob("net*")} for name in ("near", "far"))
    assert near == far
    assert len(near) == 1


def test_a_fleet_of_this_machine_gives_what_a_run_by_hand_gives(folder: Path, cli: Cli) -> None:
    """With real workers: the same cases, artifacts, threads and settings."""
    suite = write_suite(folder, "models: [lenet5]\nlaunches: 1\ndefaults: {batches: [1], case_budget: 0.2s}\n")
    by_hand = cli("run", suite, "--out", str(folder / "hand"))
    assert by_hand.returncode == 0, by_hand.stderr
    words = ["run", suite, "--fleet", "local", "--out", str(folder / "fleet")]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "cnnbench", *words], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (machine,) = [each.parent for each in (folder / "fleet").glob("*/run.json")]
    ours, theirs = read_run(machine), read_run(folder / "hand")
    assert ours.environment is not None
    assert theirs.environment is not None
    assert ours.environment.identity == theirs.environment.identity
    of_both = (ours.environment.threads, theirs.environment.threads)
    one, other = (threads.model_copy(update={"OMP_NUM_THREADS": None}) for threads in of_both)
    assert one == other
    assert list(ours.records) == list(theirs.records)
    for id_, record in ours.records.items():
        by_hands = theirs.records[id_]
        assert record.case == by_hands.case
        assert record.artifact == by_hands.artifact
        assert [launch.ran for launch in record.launches] == [launch.ran for launch in by_hands.launches]


LISTENING = """
import contextlib
import psutil
from cnnbench.fleet.ray_cluster import RayCluster
with RayCluster("local") as cluster:
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            for each in process.net_connections("inet"):
                if each.status == psutil.CONN_LISTEN:
                    print(each.laddr.ip)
"""


def test_ray_on_this_machine_alone_can_be_reached_from_this_machine_alone(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LISTENING], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = done.stdout.split()
    assert len(found) > 3  # its control store, the node's agent, workers
    assert {address.removeprefix("::ffff:") for address in found} == {"127.0.0.1"}
