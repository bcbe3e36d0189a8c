"""Throughput and latency by batch size."""

import altair as alt
import pandas as pd

from cnnbench.report.charts import Chart, colours
from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources, shown_legend

COLUMNS, SPACING = 3, 52
UNITS = {"images_per_s": "images/s by batch", "ms": "ms per call by batch"}


def section(sources: Sources) -> Section | None:
    """A small chart per model, for throughput and for latency, where more than one batch was measured."""
    frame = sources.measured
    if not frame.empty:
        frame = frame[frame["workload"] == "inference"]
        frame = frame[frame.groupby(["model", "how"])["batch"].transform("nunique") > 1]
    if frame.empty:
        return None
    return Section(
        id="batches",
        heading="By batch size",
        parts=[
            *sources.table("batches"),
            _chart(
                frame,
                sources.hows,
                "throughput",
                "images_per_s",
                "Images per second by batch",
                "Inference. A line that rises: larger batches use the machine better; a flat one: a single image does "
                "already. Each model has its own scale, from zero.",
            ),
            _chart(
                frame,
                sources.hows,
                "latency",
                "ms",
                "Milliseconds per call by batch",
                "The same calls by how long each takes: what the last image of a batch waits for.",
            ),
        ],
    )


def _chart(frame: pd.DataFrame, hows: list[str], name: str, figure: str, title: str, caption: str) -> Chart:
    panels = [_panel(str(model), rows, hows, figure) for model, rows in frame.groupby("model", sort=False)]
    return Chart(name, title, caption, alt.concat(*panels, columns=COLUMNS, bounds="flush", spacing=SPACING))


def _panel(model: str, shown: pd.DataFrame, hows: list[str], figure: str) -> alt.LayerChart | alt.FacetChart:
    """One model's lines, on scales of its own."""
    batches = sorted(int(batch) for batch in shown["batch"].unique())
    base = alt.Chart(shown[["batch", "how", "what", figure]]).encode(
        x=alt.X("batch:Q", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=batches, grid=False), title=None),
        y=alt.Y(f"{figure}:Q", title=None, axis=alt.Axis(tickCount=4, format="~s")),
        color=alt.Color("how:N", scale=colours(hows), title=UNITS[figure], legend=shown_legend(shown)),
    )
    lines = alt.layer(base.mark_line(), base.mark_point(filled=True).encode(description="what:N"))
    return lines.properties(width=120, height=85, title=alt.Title(model))
