"""Where a training step's time goes: forward, backward, optimizer."""

from collections.abc import Hashable

import altair as alt
import pandas as pd

from cnnbench.report import charts
from cnnbench.report.charts import ROW, WIDTH, Chart, colours
from cnnbench.report.format import significant
from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources
from cnnbench.report.tables import is_missing
from cnnbench.suite.case import PHASES, STEP
from cnnbench.suite.runtimes import REFERENCE

PARTS = [*PHASES["training"], *STEP]


def section(sources: Sources) -> Section | None:
    """The parts of each model's step, beside steps that are a single graph."""
    frame = sources.measured
    if not frame.empty:
        frame = frame[frame["workload"] == "training"]
    if frame.empty:
        return None
    rows = frame.to_dict("records")
    eager = {_group(row): float(str(row["ms"])) for row in rows if _is_reference(row)}
    parts = [part for row in rows for part in _parts(row, eager.get(_group(row)))]
    return Section(id="training", heading="A training step, in parts", parts=[_chart(pd.DataFrame(parts))])


def _is_reference(row: dict[Hashable, object]) -> bool:
    return row["runtime"] == REFERENCE and row["layout"] == "nchw"


def _group(row: dict[Hashable, object]) -> tuple[object, ...]:
    return tuple(row[name] for name in ("model", "batch", "device", "precision"))


def _parts(row: dict[Hashable, object], eager_ms: float | None) -> list[dict[str, object]]:
    """The parts of one step as shares of eager's, or of its own where eager was not measured beside it.

    Medians of parts do not add up to the median of the whole, so they are scaled to.
    """
    whole = float(str(row["ms"]))
    found = {
        phase: float(str(row[f"{phase}_ms"])) for phase in PHASES["training"] if not is_missing(row[f"{phase}_ms"])
    }
    found = found or {STEP[0]: whole}
    line = f"{row['model']}, {row['how']}, {row['batch']}"
    return [
        {
            "line": line,
            "part": part,
            "order": PARTS.index(part),
            "share": ms / sum(found.values()) * whole / (eager_ms or whole),
            "what": f"{line}: {part} {significant(ms)} ms of {significant(whole)} ms",
        }
        for part, ms in found.items()
    ]


def _chart(rows: pd.DataFrame) -> Chart:
    parts = [part for part in PARTS if part in set(rows["part"])]
    chart = (
        alt.Chart(rows)
        .mark_bar(size=ROW - 6)
        .encode(
            x=alt.X("share:Q", stack="zero", axis=alt.Axis(format="%"), title="of eager's step"),
            y=alt.Y("line:N", sort=None, title=None),
            color=alt.Color("part:N", scale=colours(PARTS, charts.PARTS), legend=alt.Legend(values=parts), title=None),
            order="order:Q",
            description="what:N",
        )
    )
    return Chart(
        "training-step",
        "Forward, backward, optimizer",
        "By model, runtime and batch: eager's step is 100 %. The arithmetic alone would give two thirds to backward; a "
        "large share of the optimizer means many parameters for little arithmetic. An exported step is a single graph "
        "whose parts cannot be told apart. Lengths are medians; ratios with their intervals stand above.",
        chart.properties(width=WIDTH, height=alt.Step(ROW)),
    )
