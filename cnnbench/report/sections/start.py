"""Cold start, and when a longer one pays back."""

from collections.abc import Hashable

import altair as alt
import pandas as pd

from cnnbench.report import charts
from cnnbench.report.charts import ROW, WIDTH, Chart, colours
from cnnbench.report.format import significant
from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources

STAGES = {"import": "import_s", "export": "export_s", "load": "load_s", "first call": "first_call_s"}


def section(sources: Sources) -> Section | None:
    """The stages before the first result, in a chart and a table."""
    tables = sources.table("start")
    if not tables:
        return None
    data = tables[0].data
    return Section(
        id="start",
        heading="Cold start, and what pays back",
        parts=[_chart(data[data["workload"] == "inference"]), *tables]
        if "inference" in set(data["workload"])
        else tables,
    )


def _chart(data: pd.DataFrame) -> Chart:
    rows = [stage for row in data.to_dict("records") for stage in _stages(row)]
    chart = (
        alt.Chart(pd.DataFrame(rows))
        .mark_bar(size=ROW - 6)
        .encode(
            x=alt.X("seconds:Q", stack="zero", title="seconds to the first output"),
            y=alt.Y("line:N", sort=None, title=None),
            color=alt.Color("stage:N", scale=colours(list(STAGES), charts.PARTS), sort=list(STAGES), title=None),
            order="order:Q",
            description="what:N",
        )
    )
    return Chart(
        "start",
        "From nothing to the first output",
        "Inference, by model and runtime. Each stage was measured once, so there is no interval. The export is made "
        "once and kept, so it is paid by the first start alone.",
        chart.properties(width=WIDTH, height=alt.Step(ROW)),
    )


def _stages(row: dict[Hashable, object]) -> list[dict[str, object]]:
    line = f"{row['model']}, {row['how']}"
    seconds = {stage: _seconds(row, column) for stage, column in STAGES.items()}
    return [
        {
            "line": line,
            "stage": stage,
            "order": order,
            "seconds": value,
            "what": f"{line}: {stage} {significant(value)} s",
        }
        for order, (stage, value) in enumerate(seconds.items())
        if value == value  # not a number where there is no such stage
    ]


def _seconds(row: dict[Hashable, object], column: str) -> float:
    value = row["first_call_ms"] if column == "first_call_s" else row[column]
    if value is None:
        return float("nan")
    return float(str(value)) / (1e3 if column == "first_call_s" else 1)
