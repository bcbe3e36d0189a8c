"""Throughput and latency by batch size."""

from collections.abc import Callable, Sequence

import altair as alt

from cnnbench.analysis.cases import CaseRow
from cnnbench.report.charts import Chart, colours
from cnnbench.report.html import Section
from cnnbench.report.sections.drawing import data, legend_of
from cnnbench.report.sections.sources import Sources, described

COLUMNS, SPACING = 3, 52


def section(sources: Sources) -> Section:
    """A small chart per model, for throughput and for latency, where more than one batch was measured."""
    rows = [row for row in sources.measured if row.workload == "inference"]
    batches: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        batches.setdefault((row.model, row.backend), set()).add(row.batch)
    rows = [row for row in rows if len(batches[row.model, row.backend]) > 1]
    if not rows:
        return Section("batches", "Batch size")
    throughput = Chart(
        "throughput",
        "Images per second by batch",
        "Inference. A rising line: larger batches use the machine better; a flat line: one image already saturates it. "
        "Each model has its own scale, from zero.",
        _panels(rows, sources.backends, "images/s by batch", lambda row: row.images_per_s),
    )
    latency = Chart(
        "latency",
        "Milliseconds per call by batch",
        "The same calls by latency: every image of a batch waits for the whole batch.",
        _panels(rows, sources.backends, "ms per call by batch", lambda row: row.ms.value if row.ms else None),
    )
    return Section("batches", "Batch size", parts=[*sources.table("batches"), throughput, latency])


def _panels(
    rows: Sequence[CaseRow], backends: Sequence[str], title: str, figure: Callable[[CaseRow], float | None]
) -> alt.ConcatChart:
    """One small chart for each model, on scales of its own."""
    panels = []
    for model in dict.fromkeys(row.model for row in rows):
        shown = [row for row in rows if row.model == model]
        values = sorted({row.batch for row in shown})
        base = alt.Chart(
            data(
                {"batch": row.batch, "backend": row.backend, "what": described(row), "figure": figure(row)}
                for row in shown
            )
        ).encode(
            x=alt.X(
                "batch:Q", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=values, grid=False), title=None
            ),
            y=alt.Y("figure:Q", title=None, axis=alt.Axis(tickCount=4, format="~s")),
            color=alt.Color(
                "backend:N", scale=colours(backends), title=title, legend=legend_of(row.backend for row in shown)
            ),
        )
        lines = alt.layer(base.mark_line(), base.mark_point(filled=True).encode(description="what:N"))
        panels.append(lines.properties(width=120, height=85, title=alt.Title(model)))
    return alt.concat(*panels, columns=COLUMNS, bounds="flush", spacing=SPACING)
