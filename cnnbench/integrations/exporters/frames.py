"""CSV and Parquet: a row per case with its figures, and a row per sample with its time; of services a row per test."""

from typing import TYPE_CHECKING

from cnnbench.integrations.exporters.converted import Converted, unrecorded
from cnnbench.records.record import MEASURED
from cnnbench.records.run_folder import Run
from cnnbench.report.escape import spreadsheet
from cnnbench.report.reasons import interference_text

if TYPE_CHECKING:
    import pandas as pd

WORDS = (
    *("id", "workload", "model", "batch", "device", "runtime", "precision", "layout", "allocator", "backend"),
    *("status", "codes", "reason", "stopped"),
)
"""Columns of the table of cases that are no measured figures."""
LOST = "environment, memory before the peak, counts by layer and every single parity are in records.jsonl alone"


def csv(run: Run) -> Converted:
    """`.cases.csv` and `.samples.csv`, and `.serving.csv` where there are services."""
    contents = {f".{name}.csv": spreadsheet(table) for name, table in _tables(run).items()}
    return Converted(contents, [LOST, *unrecorded(run)])


def parquet(run: Run) -> Converted:
    """`.cases.parquet` and `.samples.parquet`, and `.serving.parquet` where there are services, with types kept."""
    tables = {f".{name}.parquet": table for name, table in _tables(run).items()}
    contents = {end: table.to_parquet(engine="pyarrow", index=False) for end, table in tables.items()}
    return Converted(contents, [LOST, *unrecorded(run)])


def _tables(run: Run) -> "dict[str, pd.DataFrame]":
    served = _served(run)
    return {"cases": _cases(run), "samples": _samples(run), **({"serving": served} if len(served) else {})}


def _cases(run: Run) -> "pd.DataFrame":
    """One row per case; the figures of those that must not be compared are empty."""
    from cnnbench.analysis.cases import case_frame, case_rows

    table = case_frame(case_rows(list(run.records.values())))
    figures = [column for column in table.columns if column not in WORDS]
    table[figures] = table[figures].where(table["status"].isin(MEASURED))
    first = ["id", "workload", "status", "codes", "reason"]
    return table[[*first, *(column for column in table.columns if column not in first)]]


def _samples(run: Run) -> "pd.DataFrame":
    """One row per sample and phase of comparable cases: seconds of one call, with its launch and round."""
    import pandas as pd

    columns = ["id", "launch", "group", "round", "sample", "phase", "interference", "call_s"]
    rows = [
        (record.id, number, launch.group, block.round, index, phase, interference_text(block.interference), s / calls)
        for record in run.records.values()
        if record.status in MEASURED
        for number, launch in enumerate(record.launches, start=1)
        for calls in [launch.calls_per_sample]
        for block in launch.blocks
        for phase, values in block.seconds.items()
        for index, s in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=columns)


def _served(run: Run) -> "pd.DataFrame":
    """One row per test of LoadGen's, of the services whose figures may be compared."""
    import pandas as pd

    rows = [
        {
            "id": record.id,
            "launch": number,
            "bound_s": launch.serving.bound_s,
            "loadgen_s": launch.serving.loadgen_s,
            "queue_s": launch.serving.queue_s,
            **test.model_dump(),
            "interference": interference_text(test.interference),
        }
        for record in run.records.values()
        if record.status in MEASURED
        for number, launch in enumerate(record.launches, start=1)
        if launch.serving is not None
        for test in launch.serving.tests
    ]
    return pd.DataFrame(rows)
