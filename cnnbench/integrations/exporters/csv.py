"""Comma-separated values: `.cases.csv` and `.samples.csv`."""

from cnnbench.integrations.exporters import frames
from cnnbench.integrations.exporters.converted import Converted, unrecorded_lines
from cnnbench.records.run_folder import Run
from cnnbench.report.escape import spreadsheet


def convert(run: Run) -> Converted:
    """The run as two tables."""
    tables = {".cases.csv": frames.cases(run), ".samples.csv": frames.samples(run)}
    files = {name: spreadsheet(table).encode() for name, table in tables.items()}
    return Converted(files, [frames.LOST, *unrecorded_lines(run)])
