"""A page: sections with prose, tables and charts in one HTML file that needs nothing else.

Names, reasons and texts come from records, so they are data: the templates escape all of them, and the page's policy
lets no script run but its own and no request leave.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from cnnbench import __version__
from cnnbench.records.record import MEASURED
from cnnbench.report import charts
from cnnbench.report.escape import strict_json
from cnnbench.report.samples import Samples
from cnnbench.report.tables import NONE, NUMBERS, WORDS, Table

TEMPLATES = Path(__file__).parent / "templates"
MAX_CHOICES = 30
"""A column of words with more different cells than this has no list to choose from."""
CHOOSABLE = ("model", "workload", "batch", "runtime", "machine", "device", "bound by")
"""Columns that a table can be filtered by, beside its free text."""

Part = Table | charts.Chart | Samples


@dataclass(frozen=True)
class Section:
    """One answer of a page: a heading, paragraphs of plain text, then tables and charts in order."""

    id: str
    """Of letters and hyphens: the address within the page."""
    heading: str
    prose: Sequence[str] = ()
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Page:
    """What an HTML report says, from top to bottom."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    warnings: Sequence[str] = field(default=())
    """What could not be read, one line each."""

    @property
    def charts(self) -> list[charts.Chart]:
        """All charts of the page."""
        return [part for section in self.sections for part in section.parts if isinstance(part, charts.Chart)]


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its words, and the number to sort by where there is one."""

    text: str
    number: float | None


def html(page: Page) -> str:
    """The page as one self-contained file: styles, charts and scripts are inside, and nothing is fetched."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    return (
        _fork_servers()
        .get_template("page.html.j2")
        .render(
            page=page,
            part_html=part_html,
            style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8") + charts.dark_style()),
            script=Markup(script),
            script_digest=digest,
            version=__version__,
        )
    )


def part_html(part: Part) -> Markup:
    """A table, a chart or the raw samples as a piece of HTML."""
    if isinstance(part, Table):
        return table_html(part)
    if isinstance(part, charts.Chart):
        return _render("chart.html.j2", chart=part, svg=Markup(part.svg))
    return _render("samples.html.j2", samples=part)


def table_html(table: Table) -> Markup:
    """A table with its caption and notes; rows that are no measurement are marked by their status."""
    columns = [str(column) for column in table.cells.columns]
    statuses = _column(table, "status", table.data.get("status"))
    return _render(
        "table.html.j2",
        table=table,
        columns=[(column, "words" if column in WORDS else "figure") for column in columns],
        rows=list(zip(statuses, _cells(table, columns), strict=True)),
        choices={name: words for name in columns if (words := _choices(table, name))},
        measured=MEASURED,
    )


def summary_html(title: str, subtitle: str, warnings: Sequence[str], tables: Sequence[Table]) -> str:
    """Tables under a heading, as a piece of HTML for a notebook: no script, styles that touch nothing else."""
    return _render("summary.html.j2", title=title, subtitle=subtitle, warnings=warnings, tables=map(table_html, tables))


def _column(table: Table, name: str, values: Any) -> list[str]:
    """The words of a column of the data, one a row; empty where the table has no such column."""
    return [""] * len(table.cells) if values is None else [str(value) for value in values]


def _cells(table: Table, columns: list[str]) -> list[list[Cell]]:
    by_column = [
        [Cell(str(text), number) for text, number in zip(table.cells[column], _numbers(table, column), strict=True)]
        for column in columns
    ]
    return [list(row) for row in zip(*by_column, strict=True)]


def _numbers(table: Table, column: str) -> list[float | None]:
    """What the cells of a column are sorted by: the numbers behind them, as far as there are any."""
    source = NUMBERS.get(column, column)
    if source not in table.data.columns:
        return [None] * len(table.cells)
    return [_number(value) for value in table.data[source]]


def _number(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _choices(table: Table, column: str) -> list[str]:
    """The different words of a column, to choose from; none where there is no choice."""
    words = list(dict.fromkeys(str(cell) for cell in table.cells[column] if cell != NONE))
    return words if column in CHOOSABLE and 1 < len(words) <= MAX_CHOICES else []


def _render(template: str, **values: object) -> Markup:
    return Markup(_fork_servers().get_template(template).render(**values))


@cache
def _fork_servers() -> Environment:
    environment = Environment(
        loader=PackageLoader("cnnbench.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_function"] = lambda content, **_: strict_json(content)
    return environment
