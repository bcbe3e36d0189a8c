"""Accuracy beside measured latency, with the Pareto front: measured with what was timed, or published."""

import math
from collections.abc import Sequence

import altair as alt

from cnnbench.analysis.pareto import Point, is_dominated, is_on_front, measured_points, of_smallest_batch, points_of
from cnnbench.records.artifact import file_name
from cnnbench.report.answer import batch_text
from cnnbench.report.charts import FAINT, INK, PAPER, WIDTH, Chart, colours, data, legend_of
from cnnbench.report.format import accuracy_source, accuracy_text
from cnnbench.report.html import Section
from cnnbench.report.labels import PLACES, places
from cnnbench.report.sections.sources import Sources, described

HEIGHT = 300
"""Of the plotting area, in pixels."""
MARGIN = 0.12
"""Of the range of the points, on either side."""


def section(sources: Sources) -> Section:
    """A chart per device and data set: top-1 accuracy over the latency of the smallest batch."""
    measured = measured_points(sources.records, sources.measured)
    charts = []
    for data_set in dict.fromkeys(point.data for point in measured):
        there = [point for point in measured if point.data == data_set]
        for device in dict.fromkeys(point.row.device for point in there):
            if len(shown := of_smallest_batch(there, device)) > 1:
                charts.append(_chart(shown, device, sources))
    points = points_of(sources.records, sources.measured)
    for device in dict.fromkeys(point.row.device for point in points):
        shown = of_smallest_batch(points, device)
        if len({point.row.model for point in shown}) > 1:
            charts.append(_chart(shown, device, sources))
    prose = [
        "Accuracy is what torchvision publishes for its pretrained weights on ImageNet, at the timed image size and "
        "number of classes. The timed weights are random, which does not affect times."
    ]
    if measured:
        prose = [
            "Measured accuracy is that of the artifact that was timed, on test images, on this machine. Published "
            "accuracy is torchvision's on ImageNet, of its own pretrained weights."
        ]
    return Section("accuracy", "Accuracy and latency", prose if charts else (), [*charts, *sources.table("accuracy")])


def _chart(points: Sequence[Point], device: str, sources: Sources) -> Chart:
    batch, backends = points[0].row.batch, sources.backends
    slowest_first = sorted(points, key=lambda point: point.ms.value, reverse=True)
    fastest = {point.row.model: point for point in slowest_first}.values()
    ends = [end for point in points for end in (point.ms.value, point.ms.low, point.ms.high) if end is not None]
    x_domain, y_domain = _domain(ends, log=True), _domain([point.top1 for point in points])
    pixels = [
        (WIDTH * _share(point.ms.value, x_domain, log=True), HEIGHT * (1 - _share(point.top1, y_domain)))
        for point in points
    ]
    names = [point.row.model if point in fastest else None for point in points]
    data_set = points[0].data
    how = accuracy_source(data_set)
    title = f"Measured accuracy against latency, {data_set}" if data_set else "Published accuracy against latency"
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
            "label": name,
            "place": place,
            "what": f"{described(point.row)}; top-1 {accuracy_text(point.accuracy)} %",
        }
        for point, name, place in zip(points, names, places(pixels, names, WIDTH), strict=True)
    ]
    base = alt.Chart(data(rows)).encode(
        x=alt.X("ms:Q", scale=alt.Scale(type="log", nice=False, domain=x_domain), title=f"ms per call, batch {batch}"),
        y=alt.Y("top1:Q", scale=alt.Scale(zero=False, nice=False, domain=y_domain), title=f"top-1 %, {how}"),
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
    texts = [
        alt.Chart(data(row for row in rows if row["label"] and row["place"] == number))
        .mark_text(align=place.align, dx=place.dx, dy=place.dy, color=INK)
        .encode(x="ms:Q", y="top1:Q", text="label:N")
        for number, place in enumerate(PLACES)
        if any(row["label"] and row["place"] == number for row in rows)
    ]
    line = line.encode(x="ms:Q", y="top1:Q", order="ms:Q")
    return Chart(
        f"accuracy-{file_name(data_set)}-{device}" if data_set else f"accuracy-{device}",
        f"{title}, batch {batch}, {device}",
        f"{_allocator(points, device, sources)}Up and to the left is better. The dashed line is the Pareto front by "
        "the medians. Hollow: another model or backend is at least as accurate and significantly faster. Bars are 95 % "
        "intervals; each model is named at its fastest.",
        alt.layer(line, bars, marks, *texts).properties(width=WIDTH, height=HEIGHT),
    )


def _allocator(points: Sequence[Point], device: str, sources: Sources) -> str:
    """That all points are of the system's allocator, where others were measured at other batches alone."""
    rows = [row for row in sources.measured if row.workload == "inference" and row.device == device]
    batches = sorted({row.batch for row in rows if row.allocator != "default"})
    if not batches or any(point.row.allocator != "default" for point in points):
        return ""
    return f"All with the system's memory allocator: others were measured at {batch_text(batches)} alone. "


def _domain(values: Sequence[float], *, log: bool = False) -> list[float]:
    """From the smallest to the largest, with room for marks and names at either end."""
    ends = [math.log(value) if log else value for value in (min(values), max(values))]
    room = MARGIN * (ends[1] - ends[0] or 1.0)
    low, high = ends[0] - room, ends[1] + room
    return [math.exp(low), math.exp(high)] if log else [low, high]


def _share(value: float, domain: Sequence[float], *, log: bool = False) -> float:
    """Where a value stands in its domain, from 0 to 1."""
    low, high, at = (math.log(each) if log else each for each in (*domain, value))
    return (at - low) / (high - low)
