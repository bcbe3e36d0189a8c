"""Throughput and latency by batch size."""

import altair as alt
import pandas as pd

from cnnbench.report.charts import Chart, colours
from cnnbench.report.page import Section
from cnnbench.report.sections.sources import Sources

COLUMNS = 3


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
                "ms_per_image",
                "Milliseconds per image by batch",
                "The same the other way round: the time of a call divided by its images.",
            ),
        ],
    )


def _chart(frame: pd.DataFrame, hows: list[str], name: str, figure: str, title: str, caption: str) -> Chart:
    shown = frame.assign(ms_per_image=frame["ms"] / frame["batch"])[["model", "batch", "how", "what", figure]]
    base = alt.Chart(shown).encode(
        x=alt.X(
            "batch:Q",
            scale=alt.Scale(type="log", base=2),
            axis=alt.Axis(values=sorted(int(batch) for batch in shown["batch"].unique()), grid=False, title=None),
        ),
        y=alt.Y(f"{figure}:Q", title=None, axis=alt.Axis(tickCount=4)),
        color=alt.Color("how:N", scale=colours(hows), title=None),
    )
    chart = (
        alt.layer(base.mark_line(), base.mark_point().encode(description="what:N"))
        .properties(width=150, height=90)
        .facet(facet=alt.Facet("model:N", sort=None, title=None), columns=COLUMNS, spacing=14)
        .resolve_scale(y="independent", x="independent")
    )
    return Chart(name, title, caption, chart)
