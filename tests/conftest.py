"""What tests share: a cache of artifacts, the command line as a user runs it, and models of a user's own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

Cli = Callable[..., subprocess.CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew", action="store_true", help="Write tests/golden anew from what the code gives now.")


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
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the test session's own, so that artifacts are really built, once."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("CNNBENCH_CACHE")
    os.environ["CNNBENCH_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["CNNBENCH_CACHE"]
    else:
        os.environ["CNNBENCH_CACHE"] = before


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with `own_models.py` in it."""
    shutil.copy(Path(__file__).parent / "own_models.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(home: Path) -> Cli:
    """`cli("count", "lenet5")` runs the command line in a child process in `home`."""

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
