"""What CONTRIBUTING.md says of adding an architecture is done, in a copy of the package, and is enough."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cnnbench.records.run_folder import read_run
from tests.conftest import ROOT, write_suite

FAMILY = '''"""Three layers."""

from cnnbench.networks.architecture import ours
from cnnbench.networks.layers import AdaptiveAvgPool, Conv, Flatten, Linear, Value
from cnnbench.networks.families.blocks import chain
from cnnbench.networks.network import Net


def tiny(net: Net, x: Value, classes: int) -> Value:
    """conv 16 - mean - classes."""
    return chain(
        net, x, conv=Conv(16, kernel=3, padding=1), pool=AdaptiveAvgPool(1), flatten=Flatten(), fc=Linear(classes)
    )


NETWORKS = [ours("tiny", tiny, (3, 32, 32), "this test")]
'''
MODULE = """

class Tiny(nn.Module):
    def __init__(self, image: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(image[0], 16, 3, padding=1)
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


NETWORKS["tiny"] = Tiny
"""

Copy = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """`copy("count", "tiny")` runs the command line of a copy of the package that has the three-layer network."""
    home = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "cnnbench", home / "cnnbench", ignore=shutil.ignore_patterns("__pycache__"))
    (home / "cnnbench" / "networks" / "families" / "tiny.py").write_text(FAMILY)
    registry = home / "cnnbench" / "networks" / "registry.py"
    registry.write_text(re.sub(r"(?m)^FAMILIES\b.*?[\[(]", r'\g<0>"tiny", ', registry.read_text(), count=1))
    with (home / "cnnbench" / "worker" / "builtin_models.py").open("a") as file:
        file.write(MODULE)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(home)}
        command = [sys.executable, "-m", "cnnbench", *words]
        return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)

    return call


def test_a_network_of_three_layers_is_counted(copy: Copy) -> None:
    (tiny,) = json.loads(copy("count", "tiny", "--json").stdout)
    assert (tiny["params"], tiny["macs"]) == (3 * 9 * 16 + 16 + 16 * 10 + 10, 32 * 32 * 16 * 27 + 160)


@pytest.mark.slow
def test_it_is_exported_proved_timed_and_in_the_page(copy: Copy, tmp_path: Path) -> None:
    suite = write_suite(
        tmp_path,
        "models: [tiny]\nlaunches: 1\n"
        "defaults: {workloads: [inference], runtimes: [eager, ort], batches: [1], case_budget: 0.1s}",
    )
    done = copy("run", suite, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    for record in read_run(tmp_path / "out").records.values():
        assert record.status in ("ok", "noisy"), record.reasons
        assert record.counts is not None
        assert record.counts.closed_form
        assert record.counts.disagreements == []
        assert all(parity.passed for parity in record.parity)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "tiny" in page
    assert "ort/cpu" in page


def test_contributing_names_files_that_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = set(re.findall(r"`((?:cnnbench|tests|docs)/[\w/.]+)`", text))
    assert len(files) > 10
    assert {file for file in files if not (ROOT / file).exists()} == set()
    assert set(re.findall(r"Copy (?:a function of )?`([^`]+)`", text)) <= files
    assert len(re.findall(r"(?m)^## Add ", text)) == 5
