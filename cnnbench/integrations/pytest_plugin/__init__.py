"""The pytest plugin: `pytest --cnnbench SUITE` makes a test of every case, and a fixture measures in any test.

Until one of them is used, only this file and pytest are imported.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from cnnbench.records.record import Record


class Measure(Protocol):
    """The type of the fixture `cnnbench_measure`."""

    def __call__(self, *ids: str, budget: str = "2s", launches: int = 1) -> "list[Record]":
        """Measure cases by id, each for `budget` in each launch; returns their records in the same order."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the command line's options."""
    group = parser.getgroup("cnnbench", "cnnbench: benchmarks of convolutional networks")
    group.addoption(
        "--cnnbench",
        action="append",
        default=[],
        dest="cnnbench_suites",
        metavar="SUITE",
        help="Measure a suite (a YAML file, or the name of a bundled one): one test per case. "
        "Other tests run only if their paths are given.",
    )
    group.addoption(
        "--cnnbench-budget",
        metavar="TIME",
        dest="cnnbench_budget",
        help="Time for each suite, such as 10m; the suite's own if not given.",
    )
    group.addoption(
        "--cnnbench-out",
        metavar="DIR",
        dest="cnnbench_out",
        type=Path,
        help="Keep the runs here, a folder per suite, as `cnnbench run` writes them; discarded if not given.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect suites if any are requested."""
    if config.getoption("cnnbench_suites"):
        from cnnbench.integrations.pytest_plugin.suites import Suites

        config.pluginmanager.register(Suites(config), "cnnbench-suites")


@pytest.fixture(scope="session")
def cnnbench_measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """A function that measures cases by id and returns their records. Cases that differ in runtime only are compared.

    A case that cannot run here skips the test with the reason; one that fails, or is invalid, fails it.

        def test_onnx_runtime_pays(cnnbench_measure):
            eager, ort = cnnbench_measure("lenet5/inference/eager/cpu/fp32/b1", "lenet5/inference/ort/cpu/fp32/b1")
    """

    def measure(*ids: str, budget: str = "2s", launches: int = 1) -> "list[Record]":
        from cnnbench.integrations.pytest_plugin.suites import measure_ids

        return measure_ids(ids, budget, launches, tmp_path_factory.mktemp("cnnbench") / "run")

    return measure
