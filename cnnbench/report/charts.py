"""Charts: how every one looks, the kinds that several sections draw, and SVG and PNG of each without a browser."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import altair as alt

from cnnbench.analysis.stats import Estimate

PAPER, INK, FAINT, GRID = "#ffffff", "#1c2430", "#5b6675", "#e3e7ec"
SERIES = ("#d9601a", "#2b6cb0", "#23866f", "#8457b3", "#b8860b", "#c2385b", "#4a8fc7", "#7a8a3c")
"""Colours of series, in order; distinguishable with colour-blindness, the first four with every kind of it."""
_DARK_SERIES = ("#f08a4b", "#6aa9e9", "#4fb89d", "#b08ad9", "#dcae3c", "#e8708e", "#86bfe8", "#a9ba66")
DARK = dict(
    zip((PAPER, INK, FAINT, GRID, *SERIES), ("#14181d", "#e4e8ee", "#9aa5b3", "#2b323b", *_DARK_SERIES), strict=True)
)
"""What each colour becomes on a dark page."""
PARTS = SERIES[2:]
"""Colours of the parts of a whole, different from those of the first backends."""
FONT = "'Liberation Sans', Arial, Helvetica, sans-serif"
"""All of one width, so that labels fit whoever draws them."""
WIDTH = 410
"""Of a chart's plotting area, in pixels: with its labels it fits a printed page, and two fit a screen."""
ROW = 17
"""Height of one line of a chart that has a line per model or case, in pixels."""
PNG_SCALE = 2
NEAR = 5.0
"""A largest ratio of less than so many times the smallest has more ticks between them."""
_LABELS = {"labelColor": FAINT, "titleColor": INK, "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": 500}
CONFIG: dict[str, Any] = {
    "background": PAPER,
    "font": FONT,
    "view": {"stroke": None},
    "padding": {"left": 8, "right": 12, "top": 5, "bottom": 5},
    "axis": {
        **_LABELS,
        "gridColor": GRID,
        "domainColor": GRID,
        "tickColor": GRID,
        "labelLimit": 0,
        "labelSeparation": 10,
    },
    "axisY": {"titlePadding": 8},
    "legend": {
        **_LABELS,
        "orient": "top",
        "titleColor": FAINT,
        "symbolStrokeWidth": 2,
        "labelLimit": 0,
        "columnPadding": 24,
        "layout": {"top": {"margin": 24}},
    },
    "header": {"labelColor": INK, "labelFontSize": 12, "labelFontWeight": 600, "titleColor": INK},
    "range": {"category": list(SERIES)},
    "title": {"color": INK, "fontSize": 12, "fontWeight": 600, "frame": "group", "offset": 6},
    "text": {"color": INK, "fontSize": 11},
    "rule": {"color": FAINT},
    "point": {"size": 45, "opacity": 1, "strokeWidth": 1.6},
    "line": {"strokeWidth": 2},
    "bar": {"opacity": 1},
}
"""Of every chart, in Vega-Lite's words."""


@dataclass(frozen=True)
class Chart:
    """A chart with what it shows and how to read it."""

    name: str
    """Of letters and hyphens: the name of its files."""
    title: str
    caption: str
    spec: alt.TopLevelMixin
    """An Altair chart. A `description` encoding says what a mark stands for when it is pointed at."""
    is_wide: bool = False
    """Whether its words would be too small on a phone if all of it were shown, so that it is scrolled there."""

    @cached_property
    def svg(self) -> str:
        """The chart as SVG; the names of its parts begin with its own, so that several can stand in one page."""
        import vl_convert

        version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
        drawn = vl_convert.vegalite_to_svg(self.vega_lite, vl_version=version)
        return re.sub(r"(\bid=\"|url\(#)", rf"\g<1>{self.name}-", drawn)

    @property
    def png(self) -> bytes:
        """The chart as a picture, two pixels to a point."""
        import vl_convert

        return bytes(vl_convert.svg_to_png(self.svg, scale=PNG_SCALE))

    @property
    def vega_lite(self) -> dict[str, Any]:
        """The chart as Vega-Lite, in the look that all share."""
        with alt.data_transformers.disable_max_rows():
            spec: dict[str, Any] = self.spec.to_dict()
        return spec | {"config": CONFIG}

    def _repr_svg_(self) -> str:
        """What a notebook shows, without a network."""
        return self.svg


def colours(names: Sequence[str], palette: Sequence[str] = SERIES) -> alt.Scale:
    """The colours of series by name, the same in every chart that names them in the same order."""
    return alt.Scale(domain=list(names), range=[palette[place % len(palette)] for place in range(len(names))])


def dark_style() -> str:
    """CSS that gives charts their dark colours where the reader's system is dark, on screens."""
    rules = "\n".join(
        f'.chart [{what}="{light}"]{{{what}:{dark}}}' for light, dark in DARK.items() for what in ("fill", "stroke")
    )
    return f"\n@media screen and (prefers-color-scheme: dark){{\n{rules}\n}}\n"


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
    axis = alt.Axis(format="%", tickCount=6) if is_share else alt.Axis(tickCount=6)
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


def ratio_marks(marks: Sequence[Mark], series: Sequence[str], title: str) -> alt.LayerChart | alt.FacetChart:
    """Ratios with their intervals by line, on a logarithmic scale, beside a line at 1; a colour for each series."""
    rows = data(
        mark._asdict() | {"ratio": mark.ratio.value, "low": mark.ratio.low, "high": mark.ratio.high} for mark in marks
    )
    limits = [limit for mark in marks for limit in (mark.ratio.low, mark.ratio.high, mark.ratio.value) if limit]
    axis = alt.Axis(values=ratio_ticks(min([1.0, *limits]), max([1.0, *limits])), format=".3~g")
    x = alt.X("ratio:Q", scale=alt.Scale(type="log", nice=False, padding=12), axis=axis, title=title)
    base = alt.Chart(rows).encode(
        y=alt.Y("line:N", sort=None, title=None),
        yOffset=alt.YOffset("series:N", sort=list(series)),
        color=alt.Color("series:N", scale=colours(series), title=None, legend=legend_of(mark.series for mark in marks)),
    )
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", axis=axis, title=title), x2="high:Q")
    points = base.mark_point(filled=True).encode(x=x, description="what:N")
    one = alt.Chart(data([{"ratio": 1.0}])).mark_rule(color=FAINT, strokeDash=[4, 3]).encode(x=x)
    return alt.layer(one, bars, points).properties(width=WIDTH, height=alt.Step(ROW - 3))


def ratio_ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, fewer of them where these are far apart."""
    steps = (1, 1.2, 1.5, 2, 3, 5, 7) if high < NEAR * low else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{step}e{power}") for power in powers for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def folded(name: str, length: int) -> list[str]:
    """A long name in lines of at most so many characters, broken behind punctuation where there is some."""
    lines = [""]
    for word in re.findall(rf"[^/_@:,-]{{1,{length - 1}}}[/_@:,-]?|[/_@:,-]", name):
        if len(lines[-1]) + len(word) > length:
            lines.append("")
        lines[-1] += word
    return lines


def legend_of(series: Iterable[str]) -> alt.Legend | None:
    """A legend of the series that are drawn; none for a single one."""
    shown = list(dict.fromkeys(series))
    return alt.Legend(values=shown) if len(shown) > 1 else None
