"""Suites as pytest files with one test per case; all selected cases are measured before the first test runs.

The samples are passed through pytest-benchmark's fixture, so that its options save and compare them: it times an empty
function with a clock that replays the measured times.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cnnbench.errors import CnnbenchError
from cnnbench.integrations.exporters.converted import extra_info, measured_of, rate_of
from cnnbench.records.record import Record
from cnnbench.records.run_folder import read_run
from cnnbench.report.reasons import reasons_text
from cnnbench.report.terminal import Progress
from cnnbench.runner.run import run
from cnnbench.runner.scratch import scratch_folder
from cnnbench.suite.case import Case
from cnnbench.suite.load import Suite, load_suite, suite_of
from cnnbench.suite.parse import parse_duration


def measure_ids(ids: Sequence[str], budget: str, launches: int, folder: Path) -> list[Record]:
    """Measure cases and return their records; fails or skips the test if one has no number."""
    try:
        suite = suite_of([Case.from_id(id_) for id_ in ids], parse_duration(budget), launches)
        records = _measure(suite, suite.cases, folder, suite.budget_s, Console(quiet=True))
    except (CnnbenchError, ValueError) as error:
        pytest.fail(f"cnnbench_measure: {error}", pytrace=False)
    return [_checked(case, records.get(case.id)) for case in suite.cases]


def _measure(suite: Suite, cases: Sequence[Case], folder: Path, budget_s: float, console: Console) -> dict[str, Record]:
    """Run cases of a suite into a new folder, as `cnnbench run` does; returns records by id. Raises CnnbenchError."""
    run(suite, cases, folder, budget_s=budget_s, resume=False, watch=partial(Progress, console)).check()
    return read_run(folder).records


def _checked(case: Case, record: Record | None) -> Record:
    """The record if it has a number. Skips the test of a case that cannot run here; fails it for any other reason."""
    if record is None:
        pytest.fail(f"{case.id}: not reached within the budget; increase it", pytrace=False)
    if measured_of(record) is None and rate_of(record) is None:
        why = f"{record.id}: {record.status}: {reasons_text(record.reasons)}"
        if record.status == "unavailable":
            pytest.skip(why)
        pytest.fail(why, pytrace=False)
    return record


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
        given = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
        named = {Path(arg.partition("::")[0]).resolve() for arg in given}  # of these, the cases that are named alone
        config.args = [*given, *(str(path) for path in self.paths if path not in named)]

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

    @property
    def is_disabled(self) -> bool:
        """Whether pytest-benchmark is told to measure nothing."""
        return bool(self.config.getoption("benchmark_disable") or self.config.getoption("benchmark_skip"))

    def setup(self) -> None:
        """Measure the selected cases, as `cnnbench run` does."""
        if self.is_disabled:
            return
        chosen = [item.case for item in self.session.items if isinstance(item, CaseTest) and item.parent is self]
        with scratch_folder() as scratch, self._terminal():
            folder = _unused(self.out or scratch, self.suite.name)
            try:
                self.records = _measure(self.suite, chosen, folder, self.budget_s or self.suite.budget_s, Console())
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
            if parent.is_disabled:
                benchmark(_nothing)
            else:
                _report(parent.records.get(case.id), case, benchmark, clock)

        item: CaseTest = cls.from_parent(parent, name=case.id, callobj=test)
        item.case = case
        item.add_marker(pytest.mark.benchmark(timer=clock, group=case.label))
        return item

    def reportinfo(self) -> tuple[Path, int, str]:
        """Reported in the suite's file."""
        return self.path, 0, self.name


def _unused(place: Path, name: str) -> Path:
    """A folder for a run, numbered where earlier sessions have left theirs: `classic`, `classic-2`."""
    numbered = (place / (f"{name}-{number}" if number > 1 else name) for number in count(1))
    return next(folder for folder in numbered if not folder.exists() or not any(folder.iterdir()))


def _report(record: Record | None, case: Case, benchmark: Any, clock: "Replay") -> None:
    measured = measured_of(record) if record else None
    if measured is None:
        benchmark.disabled = True  # nothing is saved
        benchmark.pedantic(_nothing)
        _checked(case, record)
        return
    samples = measured.samples_s
    benchmark.fullname, benchmark.params, benchmark.param = case.id, measured.params, case.id
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
