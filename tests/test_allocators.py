"""Memory allocators: put in force before a worker starts, checked by what it does, refused where not available."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cnnbench.records.record import Ran
from cnnbench.runner import allocators
from cnnbench.runner.fork_server import ForkServers, Lineage
from cnnbench.runner.tasks.probe import find_unavailable
from cnnbench.suite.case import Allocator, Case, ModelSpec
from cnnbench.suite.load import load_suite
from tests.conftest import write_suite

LENET = ModelSpec(model="lenet5", image_size=(28, 28), classes=10)
KEEP = "lenet5/inference/eager/cpu/fp32/keep/b1"
ON_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="allocators other than default need glibc")


def case(allocator: Allocator) -> Case:
    return Case(spec=LENET, workload="inference", runtime="eager", allocator=allocator, batch=1)


def test_an_id_names_the_allocator_unless_it_is_the_default() -> None:
    assert case("keep").id == KEEP
    assert Case.from_id(KEEP) == case("keep")
    assert "default" not in case("default").id
    assert case("keep").backend == "eager/cpu/keep"


def test_allocators_are_compared_with_the_default_one(tmp_path: Path) -> None:
    text = "name: s\ndefaults: {workloads: [inference], batches: [1], allocators: [default, keep]}\nmodels: [lenet5]\n"
    cases = load_suite(write_suite(tmp_path, text)).cases
    assert len(cases) == 4
    assert len({each.group_key for each in cases}) == 1
    assert [each.id for each in cases if each.is_reference] == [case("default").id]


@ON_GLIBC
@pytest.mark.parametrize("allocator", ["default", "keep", "tcmalloc", "jemalloc"])
def test_what_is_asked_for_is_in_force_in_the_process(allocator: Allocator, tmp_path: Path) -> None:
    if why := allocators.why_not(allocator):
        pytest.skip(why)
    program = "import json; from cnnbench.worker.allocator import allocator_in_force as f; print(json.dumps(f()))"
    environment = ForkServers(tmp_path, 1.0)._interpreter(Lineage(1, allocator=allocator)).environment()
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == allocator


def test_another_one_than_was_asked_for_is_a_fault() -> None:
    ran = Ran(device="cpu", device_name="CPU", threads=1, precision="fp32", allocator="default")
    assert [str(fault) for fault in ran.faults(case("keep"))] == ["allocator: requested keep, got default"]
    assert ran.model_copy(update={"allocator": "keep"}).faults(case("keep")) == []
    assert ran.model_copy(update={"allocator": "keep"}).faults(case("default")) == []


def test_a_library_that_is_not_installed_is_told_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    reasons, _ = find_unavailable([case("keep"), case("tcmalloc"), case("jemalloc")], tmp_path)
    assert {id_.split("/")[-2]: str(reason) for id_, reason in reasons.items()} == {
        "tcmalloc": "no-allocator: tcmalloc is not installed; Debian's package is libtcmalloc-minimal4",
        "jemalloc": "no-allocator: jemalloc is not installed; Debian's package is libjemalloc2",
    }


def test_keeping_memory_needs_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert allocators.why_not("keep") == "keep needs a system with glibc"
    assert allocators.why_not("default") is None


def test_what_the_user_preloads_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda name: f"lib{name}.so.4")
    monkeypatch.setenv("LD_PRELOAD", "libmine.so")
    assert allocators.variables("tcmalloc") == {"LD_PRELOAD": "libtcmalloc_minimal.so.4 libmine.so"}
    assert allocators.variables("default") == {}
