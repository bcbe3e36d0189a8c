"""The kinds of charts that several sections draw."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import altair as alt

from cnnbench.analysis.stats import Estimate
from cnnbench.report.charts import FAINT, PARTS, ROW, WIDTH, colours


class Bar(NamedTuple):
    """One part of a stacked bar."""

    line: str
    part: str
    value: float
    what: str
    """In words, for who points at it."""


class Mark(NamedTuple):
    """A ratio with its interval."""

    line: str
    series: str
    ratio: Estimate
    what: str


def data(rows: Iterable[Mapping[str, object]]) -> alt.InlineData:
    """Rows as a chart's data."""
    return alt.InlineData(values=[dict(row) for row in rows])


def stacked_bars(
    bars: Sequence[Bar], parts: Sequence[str], title: str, *, is_share: bool = False, palette: Sequence[str] = PARTS
) -> alt.Chart:
    """A bar for each line, in the order in which they come; its parts in the order of `parts`."""
    rows = data({**bar._asdict(), "order": parts.index(bar.part)} for bar in bars)
    axis = alt.Axis(format="%") if is_share else alt.Axis()
    present = [part for part in parts if any(bar.part == part for bar in bars)]
    legend = alt.Legend(values=present, columns=3 if len(present) > 4 else 0)
    chart: alt.Chart = alt.Chart(rows).mark_bar(size=ROW - 6)
    return chart.encode(
        x=alt.X("value:Q", stack="zero", title=title, axis=axis),
        y=alt.Y("line:N", sort=None, title=None),
        color=alt.Color("part:N", scale=colours(parts, palette), sort=list(parts), title=None, legend=legend),
        order="order:Q",
        description="what:N",
    ).properties(width=WIDTH, height=alt.Step(ROW))


def ratio_marks(
    marks: Sequence[Mark], series: Sequence[str], title: str, lines: str | None = None
) -> alt.LayerChart | alt.FacetChart:
    """Ratios with their intervals by line, on a logarithmic scale, beside a line at 1; a colour for each series."""
    rows = data(
        {
            "line": mark.line,
            "series": mark.series,
            "ratio": mark.ratio.value,
            "low": mark.ratio.low,
            "high": mark.ratio.high,
            "what": mark.what,
        }
        for mark in marks
    )
    x = alt.X("ratio:Q", scale=alt.Scale(type="log", nice=False, padding=12), title=title)
    base = alt.Chart(rows).encode(
        y=alt.Y("line:N", sort=None, title=lines),
        yOffset=alt.YOffset("series:N", sort=list(series)),
        color=alt.Color("series:N", scale=colours(series), title=None, legend=legend_of(mark.series for mark in marks)),
    )
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    points = base.mark_point(filled=True).encode(x=x, description="what:N")
    one = alt.Chart(data([{"ratio": 1.0}])).mark_rule(color=FAINT, strokeDash=[4, 3]).encode(x=x)
    return alt.layer(one, bars, points).properties(width=WIDTH, height=alt.Step(ROW - 3))


def legend_of(series: Iterable[str]) -> alt.Legend | None:
    """A legend of the series that are drawn; none for a single one."""
    shown = list(dict.fromkeys(series))
    return alt.Legend(values=shown) if len(shown) > 1 else None
