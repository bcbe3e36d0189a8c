"""What accuracy costs: published accuracy against measured latency, and who is on the front."""

from collections.abc import Iterator

import altair as alt
import pandas as pd

from cnnbench.networks import registry
from cnnbench.records.record import Record
from cnnbench.report.charts import FAINT, INK, PAPER, WIDTH, Chart, colours
from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources, shown_legend


def section(sources: Sources) -> Section | None:
    """A chart per device: top-1 accuracy over the latency of the smallest batch, with the Pareto front."""
    accuracies = {record.id: top1 for record in sources.records if (top1 := published_top1(record)) is not None}
    frame = sources.measured
    if frame.empty or not accuracies:
        return None
    frame = frame[frame["id"].isin(accuracies) & (frame["workload"] == "inference") & (frame["precision"] == "fp32")]
    frame = frame.assign(top1=frame["id"].map(accuracies))
    found = [chart for device in frame["device"].unique() if (chart := _chart(frame, str(device), sources.hows))]
    if not found:
        return None
    return Section(
        id="accuracy",
        heading="What accuracy costs",
        prose=[
            "Accuracy is what torchvision publishes for its pretrained weights on ImageNet, at the image size and "
            "classes that were timed; the timed weights are random, which changes no time."
        ],
        parts=found,
    )


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


def front(frame: pd.DataFrame) -> pd.DataFrame:
    """Two columns more: `front`, whether no other is at least as accurate and faster by the medians; `beaten`, whether
    another is so for certain, its whole interval below this one's.

    Of rows with `top1` in percent and `ms`, `ms_low`, `ms_high`.
    """
    rows = list(frame[["top1", "ms", "ms_low", "ms_high"]].itertuples(index=False, name=None))

    def others(row: tuple[float, ...]) -> Iterator[tuple[float, ...]]:
        return (other for other in rows if other is not row and other[0] >= row[0])

    on_front = [not any(other[1] < row[1] for other in others(row)) for row in rows]
    beaten = [any(other[3] < row[2] for other in others(row)) for row in rows]
    return frame.assign(front=on_front, beaten=beaten)


def _chart(frame: pd.DataFrame, device: str, hows: list[str]) -> Chart | None:
    shown = frame[frame["device"] == device]
    batch = shown["batch"].min()
    shown = front(shown[shown["batch"] == batch])
    if shown["model"].nunique() < 2:
        return None
    shown = shown.assign(
        what=[f"{what}; top-1 {top1:.1f} %" for what, top1 in zip(shown["what"], shown["top1"], strict=True)],
    )
    x = alt.X("ms:Q", scale=alt.Scale(type="log", nice=False, padding=45), title=f"ms per call, batch {batch}")
    y = alt.Y("top1:Q", scale=alt.Scale(zero=False, padding=16), title="top-1 %, published")
    colour = colours(hows)
    line = alt.Chart(shown[shown["front"]]).mark_line(color=FAINT, strokeDash=[5, 3], strokeWidth=1.2)
    bars = (
        alt.Chart(shown)
        .mark_rule(strokeWidth=1.6)
        .encode(
            x="ms_low:Q",
            x2="ms_high:Q",
            y=y,
            color=alt.Color("how:N", scale=colour, title=None, legend=shown_legend(shown)),
        )
    )
    points = (
        alt.Chart(shown)
        .mark_point()
        .encode(
            x=x,
            y=y,
            stroke=alt.Stroke("how:N", scale=colour, legend=None),
            fill=alt.condition("datum.beaten", alt.value(PAPER), alt.Fill("how:N", scale=colour, legend=None)),
            description="what:N",
        )
    )
    fastest = shown[shown["ms"] == shown.groupby("model")["ms"].transform("min")]
    names = alt.Chart(fastest).mark_text(align="left", dx=7, dy=10, color=INK).encode(x=x, y=y, text="model:N")
    return Chart(
        f"accuracy-{device}",
        f"Published accuracy against latency, {device}",
        "Up and to the left is better. The dashed line is the Pareto front by the medians. Hollow: another model or "
        "runtime is at least as accurate, and faster for certain. Bars are 95 % intervals; each model is named at its "
        "fastest.",
        alt.layer(line.encode(x=x, y=y, order="ms:Q"), bars, points, names).properties(width=WIDTH, height=300),
    )
