"""Measurement inside a test session, and the outcome of a test for a record."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from cnnbench.analysis.times import comparable_time
from cnnbench.errors import CnnbenchError
from cnnbench.records.record import Record
from cnnbench.records.run_folder import read_run
from cnnbench.report.reasons import reasons_text
from cnnbench.runner.run import Watch, run
from cnnbench.suite.case import Case
from cnnbench.suite.load import Suite, suite_of
from cnnbench.suite.parse import parse_duration


class NoProgress:
    """Progress is not shown."""

    def doing(self, what: str, left_s: float) -> None:
        """A step begins."""

    def done(self, record: Record) -> None:
        """A case is finished."""


def measure(suite: Suite, cases: Sequence[Case], folder: Path, budget_s: float, watch: Watch) -> dict[str, Record]:
    """Run cases of a suite into a new folder, as `cnnbench run` does; returns records by id. Raises CnnbenchError."""
    if run(suite, cases, folder, budget_s=budget_s, resume=False, watch=watch).interrupted:
        raise KeyboardInterrupt
    return read_run(folder).records


def measure_ids(ids: Sequence[str], budget: str, launches: int, folder: Path) -> list[Record]:
    """Measure cases and return their records; fails or skips the test if one has no number."""
    try:
        case_budget_s = parse_duration(budget)
        suite = suite_of([Case.from_id(id_) for id_ in ids], case_budget_s, launches)
        records = measure(suite, suite.cases, folder, suite.budget_s, lambda total, finished: nullcontext(NoProgress()))
    except (CnnbenchError, ValueError) as error:
        pytest.fail(f"cnnbench_measure: {error}", pytrace=False)
    found = [records.get(case.id) for case in suite.cases]
    for case, record in zip(suite.cases, found, strict=True):
        end_test_without_number(case, record)
    return [record for record in found if record is not None]


def end_test_without_number(case: Case, record: Record | None) -> None:
    """Skip the test of a case that this machine cannot run; fail that of one that failed or is invalid."""
    if record is None:
        pytest.fail(f"{case.id}: not reached within the budget; increase it", pytrace=False)
    if comparable_time(record) is None:
        why = f"{record.id}: {record.status}: {reasons_text(record.reasons)}"
        if record.status == "unavailable":
            pytest.skip(why)
        pytest.fail(why, pytrace=False)
