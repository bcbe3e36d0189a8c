"""Where a training step's time goes: forward, backward, optimizer."""

import altair as alt
import pandas as pd

from cnnbench.case import PHASES, STEP
from cnnbench.report.charts import ROW, WIDTH, Chart, colours
from cnnbench.report.page import Section
from cnnbench.report.sections.sources import Sources
from cnnbench.units import significant

PARTS = [*PHASES["training"], *STEP]


def section(sources: Sources) -> Section | None:
    """The parts of each model's step as shares of it, beside steps that cannot be told apart into parts."""
    frame = sources.measured
    if not frame.empty:
        frame = frame[frame["workload"] == "training"]
    if frame.empty:
        return None
    rows = [part for row in frame.to_dict("records") for part in _parts(row)]
    return Section(id="training", heading="A training step, in parts", parts=[_chart(pd.DataFrame(rows))])


def _parts(row: dict[object, object]) -> list[dict[str, object]]:
    """The parts of one step in milliseconds for one image; one part for a step that is a single graph."""
    batch = int(str(row["batch"]))
    found = {phase: float(str(row[f"{phase}_ms"])) for phase in PHASES["training"]}
    if not all(ms == ms for ms in found.values()):
        found = {STEP[0]: float(str(row["ms"]))}
    whole = sum(found.values())
    return [
        {
            "model": row["model"],
            "how": f"{row['how']}, {batch}",
            "part": part,
            "order": PARTS.index(part),
            "share": ms / whole,
            "what": f"{row['model']}, {row['how']}, batch {batch}: {part} {significant(ms)} ms, {ms / whole:.0%}",
        }
        for part, ms in found.items()
    ]


def _chart(rows: pd.DataFrame) -> Chart:
    split = rows[rows["part"] != STEP[0]]
    shown = split if not split.empty else rows
    shown = shown.assign(line=shown["model"] + ", " + shown["how"])
    parts = [part for part in PARTS if part in set(shown["part"])]
    chart = (
        alt.Chart(shown)
        .mark_bar(size=ROW - 6)
        .encode(
            x=alt.X(
                "share:Q", stack="zero", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]), title="of the step"
            ),
            y=alt.Y("line:N", sort=None, title="model, runtime, batch"),
            color=alt.Color("part:N", scale=colours(parts), sort=parts, title=None),
            order="order:Q",
            description="what:N",
        )
    )
    return Chart(
        "training-step",
        "Forward, backward, optimizer",
        "Shares of one training step. Two thirds for backward are what the arithmetic alone would give; a large share "
        "of the optimizer means many parameters for little arithmetic. A step that is exported is a single graph, "
        "whose parts cannot be told apart: it stands in the table alone.",
        chart.properties(width=WIDTH, height=alt.Step(ROW)),
    )
