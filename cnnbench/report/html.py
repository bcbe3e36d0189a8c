"""A page: sections with prose, tables and charts in one HTML file that needs nothing else.

Names, reasons and texts come from records, so they are data: the templates escape all of them, and the page's policy
lets no script run but its own and no request leave.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from cnnbench import __version__
from cnnbench.records.record import MEASURED
from cnnbench.report import charts
from cnnbench.report.columns import NONE
from cnnbench.report.escape import strict_json
from cnnbench.report.samples import Samples
from cnnbench.report.table import Table

TEMPLATES = Path(__file__).parent / "templates"
MAX_CHOICES = 30
"""A column with more different words has no list to choose from."""

Part = Table | charts.Chart | Samples


@dataclass(frozen=True)
class Section:
    """One section of a page: a heading, paragraphs of plain text, then tables and charts in order."""

    id: str
    """Of letters and hyphens: the address within the page."""
    heading: str
    prose: Sequence[str] = ()
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Page:
    """An HTML report from top to bottom."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    warnings: Sequence[str] = ()
    """What could not be read, one line each."""

    @property
    def charts(self) -> list[charts.Chart]:
        """All charts of the page."""
        return [part for section in self.sections for part in section.parts if isinstance(part, charts.Chart)]


def html(page: Page) -> str:
    """The page as one self-contained file: styles, charts and scripts are inside, and nothing is fetched."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    return _render(
        "page.html.j2",
        page=page,
        part_html=part_html,
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8") + charts.dark_style()),
        script=Markup(script),
        script_digest=base64.b64encode(sha256(script.encode()).digest()).decode(),
        version=__version__,
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
    choices = {
        column.heading: list(dict.fromkeys(texts[place] for texts in table.texts if texts[place] != NONE))
        for place, column in enumerate(table.columns)
        if column.is_axis
    }
    return _render(
        "table.html.j2",
        table=table,
        choices={name: words for name, words in choices.items() if 1 < len(words) <= MAX_CHOICES},
        measured=MEASURED,
    )


def summary_html(title: str, subtitle: str, warnings: Sequence[str], tables: Sequence[Table]) -> str:
    """Tables under a heading, as a piece of HTML for a notebook: no script, styles that touch nothing else."""
    return _render("summary.html.j2", title=title, subtitle=subtitle, warnings=warnings, tables=map(table_html, tables))


def _render(template: str, **values: object) -> Markup:
    return Markup(_templates().get_template(template).render(**values))


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("cnnbench.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_function"] = lambda content, **_: strict_json(content)
    return environment
