"""The wheel and the sdist, and what an environment that has nothing of the checkout can do with them."""

import os
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
hatchling = pytest.importorskip("hatchling", reason="no hatchling here: pip install hatchling")

Installed = Callable[..., str]


def build(checkout: Path, folder: Path, *options: str) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder), *options], cwd=checkout, check=True)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def installed(dist: Path, home: Path) -> Installed:
    """`installed("cnnbench", "--help")` runs a program of an environment where the wheel is installed, in `home`."""
    venv.create(home / ".venv", symlinks=True)
    python = home / ".venv" / "bin" / "python"
    (wheel,) = dist.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True)
    (packages,) = (home / ".venv").glob("lib/python*/site-packages")
    # What it depends on. A path that a .pth file names is not searched for further ones: no editable install is found.
    (packages / "dependencies.pth").write_text(str(Path(numpy.__file__).parent.parent))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(name: str, *words: str) -> str:
        command = [str(home / ".venv" / "bin" / name), *words]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_a_wheel_of_the_sdist_is_the_wheel(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    build(unpacked, tmp_path, "-t", "wheel")
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()
    assert (unpacked / "tests" / "conftest.py").exists()


def test_the_installed_package_is_the_wheels_and_has_its_types(installed: Installed, home: Path) -> None:
    found = installed("python", "-c", "import cnnbench; print(cnnbench.__file__)")
    package = Path(found.strip()).parent
    assert package.is_relative_to(home)
    assert (package / "py.typed").exists()
    assert "cnnbench run classic" in installed("cnnbench")
    assert "Usage: cnnbench" in installed("cnnbench", "--help")
    assert "resnet18" in installed("cnnbench", "list", "models")


def test_a_suite_of_the_wheel_runs_and_its_page_is_written(installed: Installed, home: Path) -> None:
    assert "resnet_cifar" in installed("cnnbench", "cases", "smoke")
    only = ["--only", "lenet5/inference/*/b1", "--budget", "10s"]
    answer = installed("cnnbench", "run", "smoke", *only, "--out", "run")
    assert "ONNX Runtime" in answer
    assert "<svg" in (home / "run" / "report.html").read_text()
    assert "lenet5" in installed("cnnbench", "report", "run", "--tables")
