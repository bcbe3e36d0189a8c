"""The pytest plugin: `pytest --cnnbench SUITE` makes a test of every case, and a fixture measures in any test.

Until one of them is used, only this file is imported, and it imports pytest alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from cnnbench.records.record import Record


class Measure(Protocol):
    """What the fixture `cnnbench_measure` is."""

    def __call__(self, *ids: str, budget: str = "2s", launches: int = 1) -> "list[Record]":
        """Measure cases by their ids, for so long each in each launch; their records, in the same order."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the command line's options."""
    group = parser.getgroup("cnnbench", "cnnbench: benchmarks of convolutional networks")
    group.addoption(
        "--cnnbench",
        action="append",
        default=[],
        dest="cnnbench_suites",
        metavar="SUITE",
        help="Measure a suite (a YAML file, or the name of one that comes with cnnbench): one test for each case. "
        "Without paths of tests, nothing else is run.",
    )
    group.addoption(
        "--cnnbench-budget",
        metavar="TIME",
        dest="cnnbench_budget",
        help="Time for each suite, such as 10m; its own if not given.",
    )
    group.addoption(
        "--cnnbench-out",
        metavar="DIR",
        dest="cnnbench_out",
        type=Path,
        help="Keep the runs here, a folder for each suite, as `cnnbench run` writes them; not kept if not given.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Where suites are asked for, have them collected."""
    if config.getoption("cnnbench_suites"):
        from cnnbench.integrations.pytest_plugin.suites import Suites

        config.pluginmanager.register(Suites(config), "cnnbench-suites")


@pytest.fixture(scope="session")
def cnnbench_measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """A function from ids of cases to their records, measured now; cases that differ in the runtime alone, in one race.

    A case that cannot run here skips the test, with the reason; one that fails, or whose result is invalid, fails it.

        def test_onnx_runtime_pays(cnnbench_measure):
            eager, ort = cnnbench_measure("lenet5/inference/eager/cpu/fp32/b1", "lenet5/inference/ort/cpu/fp32/b1")
    """

    def measure(*ids: str, budget: str = "2s", launches: int = 1) -> "list[Record]":
        from cnnbench.integrations.pytest_plugin.measuring import measure_ids

        return measure_ids(ids, budget, launches, tmp_path_factory.mktemp("cnnbench") / "run")

    return measure
