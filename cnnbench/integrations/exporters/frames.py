"""Data frames in two files: a row per case with its figures, and a row per sample with its time."""

from typing import TYPE_CHECKING

from cnnbench.records.record import MEASURED
from cnnbench.records.run_folder import Run

if TYPE_CHECKING:
    import pandas as pd

AXES = ("id", "workload", "model", "batch", "device", "runtime", "precision", "layout", "how")
WORDS = (*AXES, "status", "codes", "reason", "stopped")
"""Columns of the table of cases that are no measured figures."""


def cases(run: Run) -> "pd.DataFrame":
    """One row per case of both workloads; the figures of what is not to be compared are empty."""
    import pandas as pd

    from cnnbench.analysis.frames import cases_table
    from cnnbench.suite.case import WORKLOADS

    records = list(run.records.values())
    frames = [cases_table(records, workload).assign(workload=workload) for workload in WORKLOADS]
    table = pd.DataFrame([row for frame in frames for row in frame.to_dict("records")])
    figures = [column for column in table.columns if column not in WORDS]
    table[figures] = table[figures].where(table["status"].isin(MEASURED))
    first = ["id", "workload", "status", "codes", "reason"]
    return table[[*first, *(column for column in table.columns if column not in first)]]


def samples(run: Run) -> "pd.DataFrame":
    """One row per sample and phase of what may be compared: seconds of one call, in which launch and turn."""
    import pandas as pd

    from cnnbench.report.reasons import interference_text

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


LOST = "environment, memory before the peak, counts by layer and every single parity are in records.jsonl alone"
