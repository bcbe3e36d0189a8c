"""The page of several runs side by side."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from cnnbench.analysis.compare import Comparison
from cnnbench.report.charts import ROW, WIDTH, Chart, colours
from cnnbench.report.comparing import cases_frame
from cnnbench.report.html import Page, Section
from cnnbench.report.tables import Table, interval_text, ratio_text

MAX_LINES = 8
"""Machines in one chart: more colours are not told apart."""
MAX_SETTINGS = 6


def comparison_page(comparison: Comparison, tables: Sequence[Table]) -> Page:
    """Machines, means, times, ratios, rankings, and what was left out."""
    by_name = {table.name: [table] for table in tables}
    frame = cases_frame(comparison)
    sections = [
        Section("machines", "Machines", comparison.remarks(), _without_notes(by_name.get("machines", []))),
        Section("means", "Means over common cases", (), by_name.get("means", [])),
        Section("times", "Times side by side", (), [*by_name.get("cases", []), *_ratios(comparison, frame)]),
        Section("rankings", "Rankings", (), [*_bumps(comparison), *by_name.get("rankings", [])]),
        Section("left-out", "What was left out", (), by_name.get("left-out", [])),
    ]
    names = ", ".join(machine.name for machine in comparison.machines)
    return Page(
        title=f"{len(comparison.machines)} machines",
        subtitle=f"Convolutional networks on {names}. Ratios are to {comparison.reference.name}. "
        "A description, not a verdict.",
        sections=[section for section in sections if section.parts],
        warnings=[line for run in {id(m.run): m.run for m in comparison.machines}.values() for line in run.unreadable],
    )


def _without_notes(tables: Sequence[Table]) -> list[Table]:
    """The remarks stand in the prose."""
    return [Table(t.name, t.title, t.caption, t.cells, t.data, []) for t in tables]


def _ratios(comparison: Comparison, frame: pd.DataFrame) -> list[Chart]:
    """Times as multiples of the reference's, with their intervals, for each machine."""
    if not 1 < len(comparison.machines) <= MAX_LINES or frame["ratio"].isna().all():
        return []
    shown = frame[frame["ratio"].notna() & frame["on_every_machine"]]
    if shown.empty:
        return []
    shown = shown.assign(
        line=[f"{r['model']}, {r['workload']}, {r['runtime']}, {r['batch']}" for r in shown.to_dict("records")],
        what=[
            f"{r['model']}, {r['workload']}, {r['runtime']}, batch {r['batch']} on {r['machine']}: "
            f"{interval_text(r['ms'], r['ms_low'], r['ms_high'])} ms, "
            f"{ratio_text(r['ratio'], r['ratio_low'], r['ratio_high'])}"
            for r in shown.to_dict("records")
        ],
    )[["line", "machine", "ratio", "ratio_low", "ratio_high", "what"]]
    others = [machine.name for machine in comparison.machines if machine is not comparison.reference]
    base = alt.Chart(shown).encode(
        y=alt.Y("line:N", sort=None, title="model, workload, runtime, batch"),
        color=alt.Color("machine:N", scale=colours(others), title=None),
        description="what:N",
    )
    scale = alt.Scale(type="log")
    title = f"time as a multiple of {comparison.reference.name}'s"
    chart = alt.layer(
        base.mark_rule(strokeWidth=2).encode(x=alt.X("ratio_low:Q", scale=scale, title=title), x2="ratio_high:Q"),
        base.mark_point().encode(x=alt.X("ratio:Q", scale=scale, title=title)),
    ).properties(width=WIDTH, height=alt.Step(ROW))
    caption = (
        "A mark right of 1 is a longer time than the reference's, one left of it a shorter one; the line is its 95 % "
        "interval. Only cases that every machine has measured."
    )
    return [Chart("ratios", "Times as multiples of the reference's", caption, chart)]


def _bumps(comparison: Comparison) -> list[Chart]:
    """How ranks of models change from machine to machine: one small chart for each of the first few settings."""
    rows = [
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
    frame = pd.DataFrame(rows)
    models = list(frame["model"].unique())
    base = alt.Chart(frame).encode(
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
        "Each line is a model: the shortest time is on top, and lines that cross change places. Models whose intervals "
        f"overlap share a rank. Of more than {MAX_SETTINGS} settings the first ones; the table has all."
    )
    return [Chart("rankings", "Ranks of models from machine to machine", caption, chart)]
