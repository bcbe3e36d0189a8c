"""What tests share: all cores, a cache of artifacts, the command line, and models of a user's own."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from errno import ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from tests.alone import hold

if TYPE_CHECKING:
    from cnnbench.suite.case import ModelSpec

ROOT = Path(__file__).parent.parent

Cli = Callable[..., subprocess.CompletedProcess[str]]
FillDisk = Callable[[Callable[[], bool]], None]

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # of this process, before it imports torch; workers are told their own

# Threads that wait in a loop keep the cores from other tests' processes: two proofs took 230 s instead of 33.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew", action="store_true", help="Rewrite tests/golden from the present output.")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Uses all cores where several files are tested, unless -n, --pdb or the like says otherwise."""
    option = config.option
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    several = len(config.args) != 1 or Path(config.args[0]).is_dir()
    asked = is_worker or option.usepdb or not config.pluginmanager.hasplugin("xdist") or option.numprocesses is not None
    if several and not asked:
        option.numprocesses = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        option.dist = "loadgroup" if option.dist == "no" else option.dist


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves tests that share a fixture of their module to one process, which makes it once."""
    for item in items:
        if isinstance(item, pytest.Function):
            definitions = item._fixtureinfo.name2fixturedefs.values()
            if any(each.scope == "module" for same in definitions for each in same):
                item.add_marker(pytest.mark.xdist_group(item.module.__name__))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Runs a test marked `alone` while no other test of the session runs."""
    with hold(run_folder(item.config), alone=item.get_closest_marker("alone") is not None):
        return (yield)


def run_folder(config: pytest.Config) -> Path | None:
    """A folder that all processes of this run of pytest have in common; None where there is one process."""
    if not hasattr(config, "workerinput"):
        return None
    return Path(config._tmp_path_factory.getbasetemp()).parent  # type: ignore[attr-defined]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("report.md", text)` compares a text with the file of that name in tests/golden, or writes it."""

    def check(name: str, text: str) -> None:
        file = ROOT / "tests" / "golden" / name
        if request.config.getoption("--renew"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8"), f"{file} differs; if it should, run pytest --renew"

    return check


@pytest.fixture(scope="session", autouse=True)
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this run of pytest alone, so that artifacts are really built, once for all its processes."""
    shared = run_folder(request.config)
    folder = shared / "cache" if shared else tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNBENCH_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def artifact_of(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> "Callable[[ModelSpec], Path]":
    """`artifact_of(spec)` is the folder of a model's artifact, which the first process that asks for it builds."""
    from cnnbench.records import artifact
    from cnnbench.runner.artifacts import Artifacts

    cache.mkdir(exist_ok=True)

    def call(spec: "ModelSpec") -> Path:
        lock = FileLock(cache / f"{artifact.file_name(spec.label)}.lock")
        with lock, Artifacts(tmp_path_factory.mktemp("logs")) as artifacts:
            facts = artifacts.get(spec)
        assert facts.onnx_error is None
        return artifact.folder_of(spec, facts.key)

    return call


@pytest.fixture
def fill_disk(monkeypatch: pytest.MonkeyPatch) -> FillDisk:
    """`fill_disk(is_full)`: while it says so, no file that this process writes reaches the disk."""
    sync = os.fsync

    def fill(is_full: Callable[[], bool]) -> None:
        def synced(descriptor: int) -> None:
            if is_full():
                raise OSError(ENOSPC, "No space left on device")
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", synced)

    return fill


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with `own_models.py` in it."""
    shutil.copy(Path(__file__).parent / "own_models.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(home: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli("count", "lenet5")` runs the command line in this process, in `home`."""
    from cnnbench import cli as command_line

    monkeypatch.syspath_prepend(str(home))  # as `python -m cnnbench` there has it

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["cnnbench", *words])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                command_line.main()
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        return subprocess.CompletedProcess(list(words), code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def program(home: Path) -> Cli:
    """`program("count", "lenet5")` runs the command line in a process of its own, in `home`, as a user starts it."""

    def call(*words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cnnbench", *words],
            cwd=home,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return call


def write_suite(folder: Path, text: str) -> str:
    """A suite file; gives its path."""
    file = folder / "suite.yaml"
    file.write_text(text)
    return str(file)
