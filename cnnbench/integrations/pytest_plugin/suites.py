"""Suites as pytest files with one test per case; all selected cases are measured before the first test runs.

The samples are passed through pytest-benchmark's fixture, so that its options save and compare them: it times an empty
function with a clock that replays the measured times.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cnnbench.errors import CnnbenchError
from cnnbench.integrations.exporters.converted import extra_info, measured_of, params_of
from cnnbench.integrations.pytest_plugin.measuring import end_test_without_number, measure
from cnnbench.records.record import Record
from cnnbench.suite.case import Case
from cnnbench.suite.load import Suite, load_suite
from cnnbench.suite.parse import parse_duration


class Suites:
    """The plugin that is registered if suites are requested."""

    def __init__(self, config: pytest.Config) -> None:
        """Add the suites' files to the collected paths. Raises pytest.UsageError."""
        _check_plugins(config)
        try:
            found = [load_suite(name).path.resolve() for name in config.getoption("cnnbench_suites")]
            budget = config.getoption("cnnbench_budget")
            self.budget_s = parse_duration(budget) if budget else None
        except CnnbenchError as error:
            raise pytest.UsageError(f"--cnnbench: {error}") from None
        except ValueError as error:
            raise pytest.UsageError(f"--cnnbench-budget: {error}") from None
        self.paths = list(dict.fromkeys(found))
        self.out: Path | None = config.getoption("cnnbench_out")
        paths_given = config.args_source is pytest.Config.ArgsSource.ARGS
        config.args = [*(config.args if paths_given else []), *map(str, self.paths)]

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> "SuiteFile | None":
        """A requested suite is a file of tests."""
        if file_path.resolve() not in self.paths:
            return None
        suite: SuiteFile = SuiteFile.from_parent(parent, path=file_path)
        suite.budget_s, suite.out = self.budget_s, self.out
        return suite


def _check_plugins(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError(
            "--cnnbench: expected pytest-benchmark, which saves and compares results; it is not installed or disabled: "
            "pip install 'cnnbench[pytest]'"
        )
    if config.getoption("numprocesses", None):
        raise pytest.UsageError(
            "--cnnbench: expected one process; got several (-n), which interfere with each other: add -n 0"
        )


class SuiteFile(pytest.File):
    """A suite's file; its tests are cases."""

    budget_s: float | None = None
    out: Path | None = None
    suite: Suite
    records: dict[str, Record]

    def collect(self) -> Iterator["CaseTest"]:
        """One test for each case, in the suite's order."""
        self.suite = load_suite(str(self.path))
        self.records = {}
        for case in self.suite.cases:
            yield CaseTest.of(self, case)

    def setup(self) -> None:
        """Measure the selected cases, as `cnnbench run` does."""
        from rich.console import Console

        from cnnbench.report.terminal import Progress

        chosen = [item.case for item in self.session.items if isinstance(item, CaseTest) and item.parent is self]
        with TemporaryDirectory(prefix="cnnbench-") as scratch, self._terminal():
            folder = (self.out or Path(scratch)) / self.suite.name
            try:
                budget_s = self.budget_s or self.suite.budget_s
                self.records = measure(self.suite, chosen, folder, budget_s, partial(Progress, Console()))
            except CnnbenchError as error:
                pytest.fail(str(error), pytrace=False)

    def _terminal(self) -> Any:
        """Without pytest's capture, so that progress is shown."""
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
        return self.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled()


class CaseTest(pytest.Function):
    """The test of one case: passes its samples to pytest-benchmark; its outcome follows the record's status."""

    case: Case

    @classmethod
    def of(cls, parent: SuiteFile, case: Case) -> "CaseTest":
        """The test, with the clock for pytest-benchmark."""
        clock = Replay()

        def test(benchmark: Any) -> None:
            _report(parent.records.get(case.id), case, benchmark, clock)

        item: CaseTest = cls.from_parent(parent, name=case.id, callobj=test)
        item.case = case
        item.add_marker(pytest.mark.benchmark(timer=clock, group=case.label))
        return item

    def reportinfo(self) -> tuple[Path, int, str]:
        """Reported in the suite's file."""
        return self.path, 0, self.name


def _report(record: Record | None, case: Case, benchmark: Any, clock: "Replay") -> None:
    measured = measured_of(record) if record else None
    if record is None or measured is None:
        benchmark.disabled = True  # nothing is saved
        benchmark.pedantic(_nothing)
        end_test_without_number(case, record)
        return
    samples = measured.samples_s
    benchmark.fullname, benchmark.params, benchmark.param = record.id, params_of(record), record.id
    benchmark.extra_info.update(extra_info(measured))
    clock.load(samples)
    benchmark.pedantic(_nothing, rounds=len(samples))


def _nothing() -> None:
    """What pytest-benchmark calls; the case has been measured already."""


class Replay:
    """A clock that is read before and after each round, and advances by the next sample in between."""

    __name__ = "cnnbench"

    def __init__(self) -> None:
        self._readings: Iterator[float] = iter(())

    def load(self, samples_s: list[float]) -> None:
        """Replay these samples, each from zero, so that differences are exact."""
        self._readings = iter([reading for sample in samples_s for reading in (0.0, sample)])

    def __call__(self) -> float:
        """Seconds."""
        return next(self._readings)
