"""Published accuracy beside measured latency, with the Pareto front."""

from collections.abc import Sequence
from typing import NamedTuple

import altair as alt

from cnnbench.analysis.cases import CaseRow
from cnnbench.analysis.stats import Estimate
from cnnbench.networks import registry
from cnnbench.records.record import Record
from cnnbench.report.charts import FAINT, INK, PAPER, WIDTH, Chart, colours
from cnnbench.report.html import Section
from cnnbench.report.sections.drawing import data, legend_of
from cnnbench.report.sections.sources import Sources, described


class Point(NamedTuple):
    """A case whose model has a published accuracy."""

    row: CaseRow
    top1: float
    """ImageNet accuracy in percent."""
    ms: Estimate


def section(sources: Sources) -> Section:
    """A chart per device: top-1 accuracy over the latency of the smallest batch."""
    accuracies = {record.id: top1 for record in sources.records if (top1 := published_top1(record)) is not None}
    points = [
        Point(row, accuracies[row.id], row.ms)
        for row in sources.measured
        if row.id in accuracies and row.ms and (row.workload, row.precision) == ("inference", "fp32")
    ]
    charts = []
    for device in dict.fromkeys(point.row.device for point in points):
        shown = [point for point in points if point.row.device == device]
        batch = min(point.row.batch for point in shown)
        shown = [point for point in shown if point.row.batch == batch]
        if len({point.row.model for point in shown}) > 1:
            charts.append(_chart(shown, device, batch, sources.backends))
    prose = [
        "Accuracy is what torchvision publishes for its pretrained weights on ImageNet, at the timed image size and "
        "number of classes. The timed weights are random, which does not affect times."
    ]
    return Section("accuracy", "Accuracy and latency", prose if charts else (), charts)


def published_top1(record: Record) -> float | None:
    """ImageNet accuracy in percent, where it was published for the very image size and classes that ran."""
    published = record.artifact.counters.published if record.artifact else None
    architecture = registry.find(record.case.spec.model)
    if published is None or record.artifact is None:
        return None
    size = published.image_size
    same_size = size is not None and record.artifact.input_shape[1:] == (size, size)
    same_classes = record.artifact.classes == (architecture.classes if architecture else record.artifact.classes)
    return published.top1_percent if same_size and same_classes else None


def is_on_front(point: Point, points: Sequence[Point]) -> bool:
    """Whether no other point is at least as accurate and faster, by the medians."""
    return not any(other.top1 >= point.top1 and other.ms.value < point.ms.value for other in points)


def is_dominated(point: Point, points: Sequence[Point]) -> bool:
    """Whether another point is at least as accurate, and faster by its whole interval."""
    return any(
        other.top1 >= point.top1
        and other.ms.high is not None
        and point.ms.low is not None
        and other.ms.high < point.ms.low
        for other in points
    )


def _chart(points: Sequence[Point], device: str, batch: int, backends: Sequence[str]) -> Chart:
    fastest = {
        point.row.model: point for point in sorted(points, key=lambda point: point.ms.value, reverse=True)
    }.values()
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
    colour = colours(backends)
    legend = legend_of(point.row.backend for point in points)
    front = alt.Chart(data(row for row in rows if row["front"])).mark_line(
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
    line = front.encode(x="ms:Q", y="top1:Q", order="ms:Q")
    return Chart(
        f"accuracy-{device}",
        f"Published accuracy against latency, {device}",
        "Up and to the left is better. The dashed line is the Pareto front by the medians. Hollow: another model or "
        "backend is at least as accurate and significantly faster. Bars are 95 % intervals; each model is named at its "
        "fastest.",
        alt.layer(line, bars, marks, names).properties(width=WIDTH, height=300),
    )
