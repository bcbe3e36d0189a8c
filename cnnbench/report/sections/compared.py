"""The page of several runs side by side."""

from collections.abc import Sequence
from dataclasses import replace

import altair as alt

from cnnbench.analysis.compare import Comparison, compared_rows
from cnnbench.analysis.hardware import ByHardware
from cnnbench.report.charts import Chart, Mark, colours, data, ratio_marks
from cnnbench.report.comparing import remarks
from cnnbench.report.format import interval_text, ratio_text
from cnnbench.report.html import Page, Section
from cnnbench.report.table import Table

MAX_SERIES = 8
"""Machines in one chart: more colours cannot be distinguished."""
MAX_SETTINGS = 6


def comparison_page(comparison: Comparison, tables: Sequence[Table], grouped: ByHardware | None = None) -> Page:
    """Machines, means, times, ratios, rankings, and what was left out; of kinds of hardware, if they are given."""
    unreadable = [line for run in {id(m.run): m.run for m in comparison.machines}.values() for line in run.unreadable]
    prose = remarks(comparison, grouped)
    comparison = grouped.comparison if grouped else comparison
    by_name = {table.name: [table] for table in tables}
    machines = [replace(table, notes=()) for table in by_name.get("machines", [])]  # the remarks are in the prose
    sections = [
        Section("machines", "Machines", prose, [*machines, *by_name.get("spreads", [])]),
        Section("means", "Means over common cases", (), by_name.get("means", [])),
        Section("times", "Times side by side", (), [*by_name.get("cases", []), *_ratios(comparison)]),
        Section("rankings", "Rankings", (), [*_rankings(comparison), *by_name.get("rankings", [])]),
        Section("left-out", "Cases left out", (), by_name.get("left-out", [])),
    ]
    names = ", ".join(machine.name for machine in comparison.machines)
    return Page(
        title=f"{sum(machine.count for machine in comparison.machines)} machines",
        subtitle=f"Convolutional networks on {names}. Ratios are to {comparison.reference.name}. "
        "A description, not a verdict.",
        sections=[section for section in sections if section.parts],
        warnings=unreadable,
    )


def _ratios(comparison: Comparison) -> list[Chart]:
    """Times as multiples of the reference's, with their intervals, for each machine."""
    marks = []
    for row in compared_rows(comparison):
        if row.ratio and row.is_common:
            line = f"{row.key.model}, {row.key.workload}, {row.key.runtime}, {row.key.batch}"
            figures = f"{interval_text(row.measured.seconds.scaled(1e3))} ms, {ratio_text(row.ratio)}"
            what = f"{row.key.text} on {row.machine.name}: {figures}"
            marks.append(Mark(line, row.machine.name, row.ratio, what))
    others = [machine.name for machine in comparison.machines if machine is not comparison.reference]
    if not marks or len(comparison.machines) > MAX_SERIES:
        return []
    title = f"time as a multiple of {comparison.reference.name}'s"
    chart = ratio_marks(marks, others, title)
    caption = (
        "By model, workload, runtime and batch. Right of 1 is slower than the reference, left of it faster; the line "
        "is the 95 % interval. Only cases that every machine measured."
    )
    return [Chart("ratios", "Times as multiples of the reference's", caption, chart)]


def _rankings(comparison: Comparison) -> list[Chart]:
    """How ranks of models change from machine to machine: one small chart for each of the first few settings."""
    rows: list[dict[str, object]] = [
        {
            "setting": setting,
            "machine": name,
            "model": model,
            "rank": rank,
            "what": f"{model} on {name}: rank {rank}, {setting}",
        }
        for setting, by_machine in list(comparison.rankings().items())[:MAX_SETTINGS]
        for name, places in by_machine.items()
        for model, rank in places.items()
    ]
    if len(comparison.machines) < 2 or not rows:
        return []
    models = list(dict.fromkeys(str(row["model"]) for row in rows))
    base = alt.Chart(data(rows)).encode(
        x=alt.X("machine:N", sort=None, title=None, axis=alt.Axis(labelAngle=-20)),
        y=alt.Y("rank:Q", scale=alt.Scale(reverse=True, zero=False), axis=alt.Axis(tickMinStep=1), title="rank"),
        color=alt.Color("model:N", scale=colours(models), sort=models, title=None, legend=alt.Legend(columns=4)),
        description="what:N",
    )
    chart = (
        alt.layer(base.mark_line(), base.mark_point())
        .properties(width=200, height=150)
        .facet(facet=alt.Facet("setting:N", sort=None, title=None), columns=2, spacing=24)
    )
    caption = (
        "Each line is a model; the fastest is on top, and crossing lines swap ranks. Models with overlapping intervals "
        f"share a rank. The first {MAX_SETTINGS} settings are drawn; the table has all."
    )
    return [Chart("rankings", "Ranks of models by machine", caption, chart)]
