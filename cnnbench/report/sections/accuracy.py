"""Published accuracy beside measured latency, with the Pareto front."""

from collections.abc import Sequence
from typing import NamedTuple

import altair as alt

from cnnbench.analysis.cases import CaseRow
from cnnbench.analysis.stats import Estimate
from cnnbench.networks import registry
from cnnbench.records.record import Record
from cnnbench.report.charts import FAINT, INK, PAPER, WIDTH, Chart, colours, data, legend_of
from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources, described


class Point(NamedTuple):
    """A case whose model has a published accuracy."""

    row: CaseRow
    top1: float
    """ImageNet accuracy in percent."""
    ms: Estimate


def section(sources: Sources) -> Section:
    """A chart per device: top-1 accuracy over the latency of the smallest batch."""
    accuracies = {record.id: published_top1(record) for record in sources.records}
    points = [
        Point(row, top1, row.ms)
        for row in sources.measured
        if (row.workload, row.precision) == ("inference", "fp32")
        and (top1 := accuracies[row.id]) is not None
        and row.ms
    ]
    charts = []
    for device in dict.fromkeys(point.row.device for point in points):
        batch = min(point.row.batch for point in points if point.row.device == device)
        shown = [point for point in points if (point.row.device, point.row.batch) == (device, batch)]
        if len({point.row.model for point in shown}) > 1:
            charts.append(_chart(shown, device, batch, sources.backends))
    prose = [
        "Accuracy is what torchvision publishes for its pretrained weights on ImageNet, at the timed image size and "
        "number of classes. The timed weights are random, which does not affect times."
    ]
    return Section("accuracy", "Accuracy and latency", prose if charts else (), charts)


def published_top1(record: Record) -> float | None:
    """ImageNet accuracy in percent, where it was published for the very image size and classes that ran."""
    if record.artifact is None or (published := record.artifact.counters.published) is None:
        return None
    architecture, size = registry.find(record.case.spec.model), published.image_size
    same_size = size is not None and record.artifact.input_shape[1:] == (size, size)
    same_classes = architecture is None or record.artifact.classes == architecture.classes
    return published.top1_percent if same_size and same_classes else None


def is_on_front(point: Point, points: Sequence[Point]) -> bool:
    """Whether no other point is at least as accurate and faster, by the medians."""
    return not any(other.top1 >= point.top1 and other.ms.value < point.ms.value for other in points)


def is_dominated(point: Point, points: Sequence[Point]) -> bool:
    """Whether another point is at least as accurate, and faster by its whole interval."""
    low = point.ms.low
    highs = [other.ms.high for other in points if other.top1 >= point.top1]
    return low is not None and any(high is not None and high < low for high in highs)


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
