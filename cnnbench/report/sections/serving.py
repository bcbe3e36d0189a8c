"""How many queries a second a service answers, within how many milliseconds."""

import altair as alt

from cnnbench.report.charts import FAINT, Chart, colours, data, legend_of
from cnnbench.report.format import significant
from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources
from cnnbench.report.serving import MS, RateRow, rate_rows, served

PERCENTILES = ("p50", "p99")


def section(sources: Sources) -> Section:
    """The highest rate within the bound, the other scenarios, and the curve."""
    tables = sources.table("serving", "loadgen", "curve")
    rows = rate_rows(sources.records)
    return Section("serving", "Serving", parts=[*tables, *([_chart(sources, rows)] if rows else ())])


def _chart(sources: Sources, rows: list[RateRow]) -> Chart:
    return Chart(
        "serving-curve",
        "Latency by offered rate",
        "Median (dashed) and 99th percentile (solid) of the latency from the scheduled arrival; dots: LoadGen says "
        "VALID, crosses: INVALID. The grey line is the bound of p99. Where the line rises steeply, queries wait for "
        "each other: the service is near its capacity.",
        _panels(sources, rows),
    )


def _panels(sources: Sources, rows: list[RateRow]) -> alt.ConcatChart:
    """A small chart for each model and batch."""
    backends = list(dict.fromkeys(_series(row) for row in rows))
    panels = []
    for title in dict.fromkeys(_panel(row) for row in rows):
        shown = [row for row in rows if _panel(row) == title]
        points = data(
            {
                "rate": row.rate,
                "ms": MS * getattr(row.worst, f"{percentile}_s"),
                "percentile": percentile,
                "series": _series(row),
                "verdict": "VALID" if row.is_valid else "INVALID",
                "what": f"{title}, {_series(row)}, {significant(row.rate)} queries/s: {percentile} "
                f"{significant(MS * getattr(row.worst, f'{percentile}_s'))} ms",
            }
            for row in shown
            for percentile in PERCENTILES
        )
        base = alt.Chart(points).encode(
            x=alt.X("rate:Q", scale=alt.Scale(zero=False), title=None, axis=alt.Axis(tickCount=4, format=",.3~r")),
            y=alt.Y("ms:Q", scale=alt.Scale(type="log"), title=None, axis=alt.Axis(tickCount=4, format=",.3~r")),
            color=alt.Color(
                "series:N",
                scale=colours(backends),
                title="ms by queries per second",
                legend=legend_of(_series(row) for row in shown),
            ),
        )
        dash = alt.StrokeDash(
            "percentile:N", scale=alt.Scale(domain=list(PERCENTILES), range=[[4, 3], [1, 0]]), legend=None
        )
        shape = alt.Shape(
            "verdict:N", scale=alt.Scale(domain=["VALID", "INVALID"], range=["circle", "cross"]), legend=None
        )
        ids = {row.record.id for row in shown}
        bounds = [each.service.bound_s for each in served(sources.records) if each.service and each.record.id in ids]
        rules = alt.Chart(data({"ms": MS * bound} for bound in dict.fromkeys(bounds)))
        lines = alt.layer(
            rules.mark_rule(color=FAINT, strokeDash=[4, 3]).encode(y="ms:Q"),
            base.mark_line().encode(strokeDash=dash),
            base.mark_point(filled=True).encode(shape=shape, description="what:N"),
        )
        panels.append(lines.properties(width=170, height=120, title=alt.Title(title)))
    return alt.concat(*panels, columns=2, bounds="flush", spacing=52)


def _panel(row: RateRow) -> str:
    return f"{row.record.case.spec.label}, batch {row.record.case.batch}"


def _series(row: RateRow) -> str:
    return row.record.case.backend + row.record.case.service
