"""What the sections of a run's page are made from."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import altair as alt
import pandas as pd

from cnnbench.analysis.frames import all_cases_table
from cnnbench.records.record import MEASURED, Record
from cnnbench.records.run_folder import Run
from cnnbench.report.format import significant
from cnnbench.report.tables import Table, interval_text, is_missing


@dataclass(frozen=True)
class Sources:
    """A run, and its tables as they stand in the terminal and in Markdown too."""

    run: Run
    tables: Sequence[Table]

    def table(self, name: str) -> list[Table]:
        """The table of that name, or none where it would be empty."""
        return [table for table in self.tables if table.name == name]

    @cached_property
    def records(self) -> list[Record]:
        """All records, in the suite's order."""
        return list(self.run.records.values())

    @cached_property
    def measured(self) -> pd.DataFrame:
        """One row per case whose time may be compared: `all_cases_table`, and in `what` the case's time in words."""
        frame = all_cases_table(self.records)
        if frame.empty:
            return frame
        frame = frame[frame["status"].isin(MEASURED) & frame["ms"].notna()]
        return frame.assign(what=[_in_words(row) for row in frame.to_dict("records")])

    @cached_property
    def models(self) -> list[str]:
        """The labels of models that were measured, in the suite's order."""
        return list(self.measured["model"].unique()) if not self.measured.empty else []

    @cached_property
    def hows(self) -> list[str]:
        """What executed the cases that were measured: in every chart one colour each."""
        return list(self.measured["how"].unique()) if not self.measured.empty else []


def shown_legend(frame: pd.DataFrame) -> alt.Legend | None:
    """A legend of what executed these cases; none where they are all the same."""
    hows = list(frame["how"].unique())
    return alt.Legend(values=hows) if len(hows) > 1 else None


def _in_words(row: dict[Hashable, object]) -> str:
    """`resnet18, inference, ort/cpu, batch 1: 19.7 [19.4, 20.1] ms, 50.7 images/s`."""
    ms, low, high, rate = (_number(row[name]) for name in ("ms", "ms_low", "ms_high", "images_per_s"))
    case = f"{row['model']}, {row['workload']}, {row['how']}, batch {row['batch']}"
    return f"{case}: {interval_text(ms, low, high)} ms, {significant(rate or 0.0)} images/s"


def _number(value: object) -> float | None:
    return None if is_missing(value) else float(str(value))
