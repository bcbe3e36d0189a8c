"""CSV and Parquet: a row per case with its figures, and a row per sample with its time."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from cnnbench.errors import InputError
from cnnbench.integrations.exporters.converted import Converted, unrecorded_lines
from cnnbench.records.record import MEASURED
from cnnbench.records.run_folder import Run
from cnnbench.report.escape import spreadsheet
from cnnbench.report.reasons import interference_text

if TYPE_CHECKING:
    import pandas as pd

WORDS = (
    *("id", "workload", "model", "batch", "device", "runtime", "precision", "layout", "backend"),
    *("status", "codes", "reason", "stopped"),
)
"""Columns of the table of cases that are no measured figures."""
LOST = "environment, memory before the peak, counts by layer and every single parity are in records.jsonl alone"


def csv(run: Run) -> Converted:
    """`.cases.csv` and `.samples.csv`."""
    return _converted(run, "csv", lambda table: spreadsheet(table).encode())


def parquet(run: Run) -> Converted:
    """`.cases.parquet` and `.samples.parquet`, with types kept. Raises InputError where pyarrow is not installed."""

    def content(table: "pd.DataFrame") -> bytes:
        stream = io.BytesIO()
        table.to_parquet(stream, engine="pyarrow", index=False)
        return stream.getvalue()

    try:
        return _converted(run, "parquet", content)
    except ImportError:
        raise InputError(
            "--to parquet: expected pyarrow, which writes it; it is not installed: pip install 'cnnbench[parquet]'"
        ) from None


def _converted(run: Run, ending: str, content: Callable[["pd.DataFrame"], bytes]) -> Converted:
    files = {f".cases.{ending}": content(_cases(run)), f".samples.{ending}": content(_samples(run))}
    return Converted(files, [LOST, *unrecorded_lines(run)])


def _cases(run: Run) -> "pd.DataFrame":
    """One row per case; the figures of those that must not be compared are empty."""
    from cnnbench.analysis.cases import CaseRow, case_rows
    from cnnbench.analysis.frames import frame

    table = frame(case_rows(list(run.records.values())), CaseRow)
    figures = [column for column in table.columns if column not in WORDS]
    table[figures] = table[figures].where(table["status"].isin(MEASURED))
    first = ["id", "workload", "status", "codes", "reason"]
    return table[[*first, *(column for column in table.columns if column not in first)]]


def _samples(run: Run) -> "pd.DataFrame":
    """One row per sample and phase of comparable cases: seconds of one call, with its launch and round."""
    import pandas as pd

    rows = [
        (
            record.id,
            number,
            launch.group,
            block.round,
            index,
            phase,
            interference_text(block.interference),
            seconds / calls,
        )
        for record in run.records.values()
        if record.status in MEASURED and record.measurement is not None
        for number, launch in enumerate(record.measurement.launches, start=1)
        for calls in [launch.calls_per_sample]
        for block in launch.blocks
        for phase, values in block.seconds.items()
        for index, seconds in enumerate(values)
    ]
    columns = ["id", "launch", "group", "round", "sample", "phase", "interference", "call_s"]
    return pd.DataFrame(rows, columns=columns)
