"""A history's page: the changes of all cases, then the index of each with its band."""

from collections.abc import Sequence
from typing import NamedTuple

import altair as alt

from cnnbench.analysis.chain import Step
from cnnbench.analysis.stats import Estimate
from cnnbench.history.index import CaseIndex, relative
from cnnbench.report.charts import FAINT, SERIES, Chart, data
from cnnbench.report.history import probability_text
from cnnbench.report.html import Page, Section
from cnnbench.report.table import Column, Table, estimate, figure, table_of, words

WIDTH, HEIGHT = 760, 220
CAPTION = (
    "Time relative to the first commit, from chained gates, with its 95 % interval. Rules are changes: the commit that "
    "is likeliest; the interval is the commits that hold it with 95 %. Where gates do not connect commits, the index "
    "begins at 1 again."
)


class _Change(NamedTuple):
    case: CaseIndex
    step: Step

    @property
    def ratio(self) -> Estimate:
        return Estimate(*relative(self.step.log, self.step.error))

    def commit(self, place: int) -> str:
        return self.case.commits[place][0][:12]


def page_of(folder: str, cases: Sequence[CaseIndex], warnings: Sequence[str]) -> Page:
    """A page without anything from elsewhere."""
    changes = [_Change(case, step) for case in cases for step in case.steps]
    changes.sort(key=lambda change: change.case.commits[change.step.at][1], reverse=True)
    gates = sum(case.gates for case in cases)
    sections = [Section("changes", "Changes", () if changes else ["No change."], [_table(changes)] if changes else [])]
    if cases:
        charts = [_chart(number, case) for number, case in enumerate(cases, start=1)]
        sections.append(Section("index", "Index", [CAPTION], charts))
    return Page(f"History in {folder}", f"{len(cases)} cases by machine, {gates} gates", sections, warnings)


def _table(changes: Sequence[_Change]) -> Table:
    columns: list[Column[_Change]] = [
        words("case", lambda change: change.case.case, axis=True),
        words("machine", lambda change: change.case.machine, axis=True),
        words("commit", lambda change: change.commit(change.step.at)),
        words("of", lambda change: f"{change.case.commits[change.step.at][1]:%Y-%m-%d}"),
        words("from", lambda change: change.commit(change.step.first)),
        words("to", lambda change: change.commit(change.step.last)),
        *estimate("time over before", lambda change: change.ratio, _interval, "ratio"),
        figure("probability", lambda change: change.step.probability, probability_text),
        words("other versions", lambda change: change.case.versions_of(change.step) or "none"),
    ]
    caption = "The latest first. What came with other versions may be theirs and not the commit's."
    return table_of("changes", "Changes", caption, changes, columns)


def _interval(ratio: Estimate) -> str:
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def _chart(number: int, case: CaseIndex) -> Chart:
    values = []
    for place, (commit, date) in enumerate(case.commits):
        ratio, low, high = relative(float(case.index.logs[place]), float(case.index.errors[place]))
        what = f"{commit[:12]} of {date:%Y-%m-%d}: {ratio:.3f} [{low:.3f}, {high:.3f}]"
        part = int(case.index.parts[place])
        values.append({"place": place, "ratio": ratio, "low": low, "high": high, "part": part, "what": what})
    x = alt.X("place:Q", title="commit, by date", scale=alt.Scale(nice=False), axis=alt.Axis(tickMinStep=1))
    y = alt.Y("ratio:Q", title="time, relative to the first", scale=alt.Scale(zero=False))
    base = alt.Chart(data(values)).encode(x=x, detail="part:N")
    band = base.mark_area(color=SERIES[1], opacity=0.2).encode(
        y=alt.Y("low:Q", title="time, relative to the first", scale=alt.Scale(zero=False)), y2="high:Q"
    )
    line = base.mark_line(color=SERIES[1]).encode(y=y)
    points = base.mark_point(color=SERIES[1], filled=True, size=18).encode(y=y, description="what:N")
    steps = [
        {
            "place": step.at,
            "first": step.first - 0.4,
            "last": step.last + 0.4,
            "what": f"{case.commits[step.at][0][:12]}: {_interval(_Change(case, step).ratio)} of the time before",
            "slower": step.log > 0,
        }
        for step in case.steps
    ]
    colour = alt.condition("datum.slower", alt.value(SERIES[0]), alt.value(SERIES[2]))
    ranges = alt.Chart(data(steps)).mark_rect(opacity=0.12, color=FAINT).encode(x=alt.X("first:Q"), x2="last:Q")
    rules = alt.Chart(data(steps)).mark_rule(strokeWidth=1.5).encode(x="place:Q", color=colour, description="what:N")
    drawn = [ranges, rules, band, line, points] if steps else [band, line, points]
    spec = alt.layer(*drawn).properties(width=WIDTH, height=HEIGHT)
    caption = (
        f"On machine {case.machine}; {case.gates} gates of {len(case.commits)} commits; {len(case.steps)} changes."
    )
    return Chart(f"history-{number}", case.case, caption, spec)
