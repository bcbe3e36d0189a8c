"""A history's page: changes, open, acknowledged or of other versions; the index of each case; exact figures."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from cnnbench.analysis.stats import Estimate
from cnnbench.history.changes import ACKNOWLEDGED, Change
from cnnbench.history.figures import FigureChange, ModelHistory
from cnnbench.history.index import CaseIndex, RunSeries, Track, VersionsGate, relative
from cnnbench.history.overview import Overview
from cnnbench.report.charts import FAINT, SERIES, Chart, colours, data
from cnnbench.report.history import probability_text, step_ratio
from cnnbench.report.html import Page, Section
from cnnbench.report.table import Column, Table, estimate, figure, table_of, words

WIDTH, HEIGHT, FIGURES_HEIGHT = 760, 220, 120
MAX_FIGURE_CHANGES = 500
Row = dict[str, Any]
INDEX = (
    "Time relative to the first commit, from chained gates, with its 95 % interval. A rule is a change: orange for "
    "slower, green for faster, grey for one that is acknowledged or came with other versions; the shade around it is "
    "the commits that hold it with 95 %. A dotted rule is where other versions, or another machine, began to measure: "
    "the index goes on, since each gate has both its commits in one environment. Faint dots are times of separate "
    "runs, those beyond the scale on its edge. Where gates do not connect commits, the index begins at 1 again."
)
RUNS = (
    "Medians of separate runs, relative to the first. They wander with the machine's state, so a change is told only "
    "when it is large beside that."
)
OPEN = (
    "The latest first. Each commit is the likeliest; with 95 % it is that one, or another that follows the one in the "
    "column after, up to the one in the last column of commits."
)
FIGURES = "Without noise, and equal on all machines: each difference is a change."


def page_of(found: Overview) -> Page:
    """A page without anything from elsewhere."""
    changes, gates = found.changes, sum(case.gates for case in found.indices)
    tables = [
        _table("open", "Open", OPEN, changes.open),
        _table("acknowledged", "Acknowledged", f"By {ACKNOWLEDGED}.", changes.acknowledged),
        _table("versions", "With other versions", "No change of the code is known from these.", changes.of_versions),
    ]
    parts = [table for table in tables if table.rows]
    prose = () if changes.open else ["No change is open."]
    sections = [Section("changes", "Changes", prose, [*parts, *_version_gates(found.version_gates)])]
    if found.indices:
        charts = [_index_chart(number, case, changes.changes) for number, case in enumerate(found.indices, start=1)]
        sections.append(Section("index", "Index", [INDEX], charts))
    if found.series:
        charts = [_series_chart(number, each, changes.changes) for number, each in enumerate(found.series, start=1)]
        sections.append(Section("runs", "Separate runs", [RUNS], charts))
    if found.models:
        sections.append(Section("figures", "Exact figures", [FIGURES], list(_figures(found.models))))
    subtitle = f"{len(found.indices)} indices of {gates} gates"
    origin = "from the history's entries alone"
    return Page(f"History in {found.folder.resolve().name}", subtitle, sections, found.warnings, origin)


def _table(name: str, title: str, caption: str, changes: Sequence[Change]) -> Table:
    def commit(change: Change, place: int) -> str:
        return change.track.commits[place][0][:12]

    columns: list[Column[Change]] = [
        words("case", lambda change: change.track.case, axis=True),
        words("machine", lambda change: change.track.machine, axis=True),
        words("change", lambda change: change.direction, axis=True),
        *estimate("time over before", _ratio, lambda ratio: f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"),
        words("commit", lambda change: commit(change, change.step.at)),
        words("of", lambda change: f"{change.track.commits[change.step.at][1]:%Y-%m-%d}"),
    ]
    if name == "open":
        columns += [
            words("after", lambda change: commit(change, change.step.first - 1)),
            words("up to", lambda change: commit(change, change.step.last)),
            figure("probability", lambda change: change.step.probability, probability_text),
        ]
    if name == "acknowledged":
        columns.append(words("why", lambda change: change.why))
    if name == "versions":
        columns.append(words("versions", lambda change: change.versions))
    return table_of(name, title, caption, changes, columns)


def _ratio(change: Change) -> Estimate:
    return Estimate(*relative(change.step.log, change.step.error))


def _version_gates(gates: Sequence[VersionsGate]) -> Iterator[Table]:
    if not gates:
        return
    columns: list[Column[VersionsGate]] = [
        words("case", lambda gate: gate.case, axis=True),
        words("machine", lambda gate: gate.machine, axis=True),
        words("commit", lambda gate: gate.commit[:12]),
        words("versions", lambda gate: gate.versions),
        *estimate(
            "time over before",
            lambda gate: Estimate(*(math.exp(gate.log + side * gate.interval) for side in (0, -1, 1))),
            lambda ratio: f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
        ),
    ]
    caption = "Gates of one commit in two environments, the latest first: what other versions alone do to its time."
    yield table_of("environments", "Versions alone", caption, gates, columns)


def _x(place: str = "place:Q") -> alt.X:
    return alt.X(place, title="commit, by date", scale=alt.Scale(nice=False), axis=alt.Axis(tickMinStep=1, format="d"))


def _y(name: str, title: str) -> alt.Y:
    return alt.Y(name, title=title, scale=alt.Scale(zero=False))


def _index_chart(number: int, case: CaseIndex, changes: Sequence[Change]) -> Chart:
    values: list[Row] = []
    for place, (commit, date) in enumerate(case.commits):
        ratio, low, high = relative(float(case.index.logs[place]), float(case.index.errors[place]))
        what = f"{commit[:12]} of {date:%Y-%m-%d}: {ratio:.3f} [{low:.3f}, {high:.3f}]"
        part = int(case.index.parts[place])
        values.append({"place": place, "ratio": ratio, "low": low, "high": high, "part": part, "what": what})
    title = "time, relative to the first"
    base = alt.Chart(data(values)).encode(x=_x(), detail="part:N")
    band = base.mark_area(color=SERIES[1], opacity=0.2, clip=True).encode(y=_y("low:Q", title), y2="high:Q")
    line = base.mark_line(color=SERIES[1], clip=True).encode(y=_y("ratio:Q", title))
    size = 18 if len(values) <= 150 else 8
    points = base.mark_point(color=SERIES[1], filled=True, size=size, clip=True).encode(
        y=_y("ratio:Q", title), description="what:N"
    )
    drawn = [*_runs_behind(case, values), *_rules(case, changes), band, line, points]
    caption = f"On {_machine(case)}; {case.gates} gates of {len(case.commits)} commits; {len(case.steps)} changes."
    if case.conflict > 1:
        caption += (
            f" Its gates contradict each other beyond their errors, which are taken {case.conflict**0.5:.1f} times as "
            "large: the effect of some commits depends on versions or on the machine."
        )
    spec = alt.layer(*drawn).properties(width=WIDTH, height=HEIGHT)
    return Chart(f"history-{number}", case.case, caption, spec, is_wide=True)


def _runs_behind(case: CaseIndex, values: Sequence[Row]) -> Iterator[alt.Chart]:
    """Times of separate runs, faint; those that are too far away are on the edge, so that the index keeps its scale."""
    if not case.runs:
        return
    low, high = min(row["low"] for row in values), max(row["high"] for row in values)
    around = max(high - low, 0.1)
    runs = [
        {
            "place": place,
            "ratio": min(max(math.exp(log), low - around), high + around),
            "what": f"a run: {math.exp(log):.3f}",
        }
        for place, log in case.runs
    ]
    yield (
        alt.Chart(data(runs))
        .mark_point(color=FAINT, filled=True, size=14, opacity=0.35)
        .encode(x=_x(), y=_y("ratio:Q", "time, relative to the first"), description="what:N")
    )


def _series_chart(number: int, track: RunSeries, changes: Sequence[Change]) -> Chart:
    values = [
        {"place": place, "ratio": math.exp(log), "what": f"{commit[:12]} of {date:%Y-%m-%d}: {math.exp(log):.3f}"}
        for place, ((commit, date), log) in enumerate(zip(track.commits, track.logs, strict=True))
    ]
    y = _y("ratio:Q", "time, relative to the first")
    points = (
        alt.Chart(data(values))
        .mark_point(color=FAINT, filled=True, size=14, opacity=0.6)
        .encode(x=_x(), y=y, description="what:N")
    )
    spec = alt.layer(*_rules(track, changes), points).properties(width=WIDTH, height=HEIGHT)
    by = f"{track.tool} on" if track.tool else "On"
    caption = f"{by} {_machine(track)}; {len(track.commits)} commits; {len(track.steps)} changes."
    return Chart(f"runs-{number}", track.case, caption, spec, is_wide=True)


def _machine(track: Track) -> str:
    return track.machine if " " in track.machine else f"machine {track.machine}"


def _rules(track: Track, changes: Sequence[Change]) -> Iterator[alt.Chart]:
    """Changes with their ranges, and where versions or the machine changed."""
    marks = [{"place": place, "what": f"{track.commits[place][0][:12]}: {said}"} for place, said in track.marks.items()]
    if marks:
        rule = alt.Chart(data(marks)).mark_rule(color=FAINT, strokeDash=[2, 3], strokeWidth=1)
        yield rule.encode(x=_x(), description="what:N")
    rows = [
        {
            "place": change.step.at,
            "first": change.step.first - 0.4,
            "last": change.step.last + 0.4,
            "what": f"{track.commits[change.step.at][0][:12]}: {step_ratio(change.step)} of the time before"
            + (f"; acknowledged: {change.why}" if change.why else "")
            + (f"; {change.versions}" if change.versions else ""),
            "kind": change.direction if change.is_open else "known",
        }
        for change in changes
        if change.track is track
    ]
    if rows:
        kinds = alt.Scale(domain=["slower", "faster", "known"], range=[SERIES[0], SERIES[2], FAINT])
        colour = alt.Color("kind:N", scale=kinds, legend=None)
        yield alt.Chart(data(rows)).mark_rect(opacity=0.12, color=FAINT).encode(x=_x("first:Q"), x2="last:Q")
        yield alt.Chart(data(rows)).mark_rule(strokeWidth=1.5).encode(x=_x(), color=colour, description="what:N")


def _figures(models: Sequence[ModelHistory]) -> Iterator[Table | Chart]:
    rows = [(model, name) for model in models for name in model.main]
    columns: list[Column[tuple[ModelHistory, str]]] = [
        words("model", lambda row: row[0].model, axis=True),
        words("figure", lambda row: row[1], axis=True),
        figure("now", lambda row: row[0].figures[-1].get(row[1]), _count),
        figure("at first", lambda row: row[0].figures[0].get(row[1]), _count),
        figure("changes", lambda row: sum(change.figure == row[1] for change in row[0].changes), _count),
    ]
    yield table_of("figures", "Now", "Of the latest commit, and of the first.", rows, columns)
    changes = [(model, change) for model in models for change in model.changes]
    if changes:
        yield _figure_changes(changes)
    for number, model in enumerate(models, start=1):
        changing = {change.figure for change in model.changes}.intersection(model.main)
        if changing:
            yield _figures_chart(number, model, [name for name in model.main if name in changing])


def _figure_changes(changes: Sequence[tuple[ModelHistory, FigureChange]]) -> Table:
    shown = sorted(changes, key=lambda row: row[1].committed, reverse=True)[:MAX_FIGURE_CHANGES]
    columns: list[Column[tuple[ModelHistory, FigureChange]]] = [
        words("model", lambda row: row[0].model, axis=True),
        words("figure", lambda row: row[1].figure, axis=True),
        words("commit", lambda row: row[1].commit[:12]),
        words("of", lambda row: f"{row[1].committed:%Y-%m-%d}"),
        figure("before", lambda row: row[1].before, _count),
        figure("after", lambda row: row[1].after, _count),
        words("other versions", lambda row: row[1].versions or "none"),
    ]
    notes = [f"The latest {MAX_FIGURE_CHANGES} of {len(changes)}."] if len(shown) < len(changes) else []
    caption = "The latest first. What came with other versions is no change of the code."
    return table_of("figure-changes", "Changes of figures", caption, shown, columns, notes=notes)


def _figures_chart(number: int, model: ModelHistory, names: Sequence[str]) -> Chart:
    rows = []
    for name in names:
        first = next(figures[name] for figures in model.figures if figures.get(name))
        rows += [
            {
                "place": place,
                "figure": name,
                "ratio": figures[name] / first,
                "what": f"{commit[:12]} of {date:%Y-%m-%d}: {name} {figures[name]:,}",
            }
            for place, ((commit, date), figures) in enumerate(zip(model.commits, model.figures, strict=True))
            if name in figures
        ]
    base = alt.Chart(data(rows)).encode(
        x=_x(),
        y=_y("ratio:Q", "relative to the first"),
        color=alt.Color("figure:N", title=None, scale=colours(names)),
    )
    line, points = base.mark_line(interpolate="step-after"), base.mark_point(filled=True, size=18, opacity=0.7)
    spec = alt.layer(line, points.encode(description="what:N")).properties(width=WIDTH, height=FIGURES_HEIGHT)
    caption = f"The figures that changed, at {len(model.commits)} commits; the others are as at first."
    return Chart(f"figures-{number}", model.model, caption, spec, is_wide=True)


def _count(value: float) -> str:
    return f"{value:,.0f}"
