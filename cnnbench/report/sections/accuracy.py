"""Published accuracy beside measured latency, with the Pareto front."""

from collections.abc import Sequence

import altair as alt

from cnnbench.analysis.pareto import Point, is_dominated, is_on_front, of_smallest_batch, points_of
from cnnbench.report.charts import FAINT, INK, PAPER, WIDTH, Chart, colours, data, legend_of
from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources, described


def section(sources: Sources) -> Section:
    """A chart per device: top-1 accuracy over the latency of the smallest batch."""
    points = points_of(sources.records, sources.measured)
    charts = []
    for device in dict.fromkeys(point.row.device for point in points):
        shown = of_smallest_batch(points, device)
        if len({point.row.model for point in shown}) > 1:
            charts.append(_chart(shown, device, shown[0].row.batch, sources.backends))
    prose = [
        "Accuracy is what torchvision publishes for its pretrained weights on ImageNet, at the timed image size and "
        "number of classes. The timed weights are random, which does not affect times."
    ]
    return Section("accuracy", "Accuracy and latency", prose if charts else (), charts)


def _chart(points: Sequence[Point], device: str, batch: int, backends: Sequence[str]) -> Chart:
    slowest_first = sorted(points, key=lambda point: point.ms.value, reverse=True)
    fastest = {point.row.model: point for point in slowest_first}.values()
    rows = [
        {
            "model": point.row.model,
            "backend": point.row.backend,
            "top1": point.top1,
            "ms": point.ms.value,
            "low": point.ms.low,
            "high": point.ms.high,
            "front": is_on_front(point, points),
            "dominated": is_dominated(point, points),
            "label": point.row.model if point in fastest else None,
            "what": f"{described(point.row)}; top-1 {point.top1:.1f} %",
        }
        for point in points
    ]
    base = alt.Chart(data(rows)).encode(
        x=alt.X("ms:Q", scale=alt.Scale(type="log", nice=False, padding=45), title=f"ms per call, batch {batch}"),
        y=alt.Y("top1:Q", scale=alt.Scale(zero=False, padding=16), title="top-1 %, published"),
    )
    colour, legend = colours(backends), legend_of(point.row.backend for point in points)
    line = alt.Chart(data(row for row in rows if row["front"])).mark_line(
        color=FAINT, strokeDash=[5, 3], strokeWidth=1.2
    )
    bars = base.mark_rule(strokeWidth=1.6).encode(
        x="low:Q", x2="high:Q", color=alt.Color("backend:N", scale=colour, title=None, legend=legend)
    )
    marks = base.mark_point().encode(
        stroke=alt.Stroke("backend:N", scale=colour, legend=None),
        fill=alt.condition("datum.dominated", alt.value(PAPER), alt.Fill("backend:N", scale=colour, legend=None)),
        description="what:N",
    )
    names = base.mark_text(align="left", dx=7, dy=10, color=INK).encode(text="label:N")
    line = line.encode(x="ms:Q", y="top1:Q", order="ms:Q")
    return Chart(
        f"accuracy-{device}",
        f"Published accuracy against latency, {device}",
        "Up and to the left is better. The dashed line is the Pareto front by the medians. Hollow: another model or "
        "backend is at least as accurate and significantly faster. Bars are 95 % intervals; each model is named at its "
        "fastest.",
        alt.layer(line, bars, marks, names).properties(width=WIDTH, height=300),
    )
