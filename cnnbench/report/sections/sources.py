"""What the sections of a run's page are made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cnnbench.analysis.cases import CaseRow, beside_each_other, case_rows
from cnnbench.records.record import Record
from cnnbench.records.run_folder import Run
from cnnbench.report.format import NONE, interval_text, significant
from cnnbench.report.table import Table


@dataclass(frozen=True)
class Sources:
    """A run, and its tables as they stand in the terminal and in Markdown too."""

    run: Run
    tables: Sequence[Table]

    def table(self, *names: str) -> list[Table]:
        """The tables of these names, without those that would be empty."""
        return [table for name in names for table in self.tables if table.name == name]

    @cached_property
    def records(self) -> list[Record]:
        """All records; those of one network stand beside each other."""
        return beside_each_other(self.run.records.values())

    @cached_property
    def measured(self) -> list[CaseRow]:
        """The cases whose times may be compared."""
        return [row for row in case_rows(self.records) if row.is_comparable]

    @cached_property
    def backends(self) -> list[str]:
        """The backends of the measured cases; each has one colour in every chart."""
        return list(dict.fromkeys(row.backend for row in self.measured))


def described(row: CaseRow) -> str:
    """`resnet18, inference, ort/cpu, batch 1: 19.7 [19.4, 20.1] ms, 50.7 images/s`."""
    case = f"{row.model}, {row.workload}, {row.backend}, batch {row.batch}"
    time = interval_text(row.ms) if row.ms else NONE
    return f"{case}: {time} ms, {significant(row.images_per_s or 0.0)} images/s"
