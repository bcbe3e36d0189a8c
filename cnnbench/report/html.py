"""A page: sections with prose, tables and charts in one HTML file that needs nothing else.

Names, reasons and texts come from records, so they are data: the templates escape all of them, and the page's policy
lets no script run but its own and no request leave.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cnnbench import __version__
from cnnbench.records.record import MEASURED
from cnnbench.report.answer import Figure, Line
from cnnbench.report.charts import Chart, dark_style
from cnnbench.report.chooser import Chooser
from cnnbench.report.escape import strict_json
from cnnbench.report.format import NONE
from cnnbench.report.pictures import Picture
from cnnbench.report.samples import Samples
from cnnbench.report.table import Table

TEMPLATES = Path(__file__).parent / "templates"
LONG = 40
"""Characters of a cell: longer ones are wrapped."""
UNBROKEN = 24
"""Characters of a word in a table: a longer one may be broken behind its punctuation."""
MAX_CHOICES = 30
"""A column with more different words has no list to choose from."""

_JINJA = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_JINJA.filters["breakable"] = lambda text: _breakable(text)
_JINJA.policies["json.dumps_function"] = lambda content, **_: strict_json(content)

Part = Table | Chart | Samples | Picture | Chooser


@dataclass(frozen=True)
class Section:
    """One section of a page: a heading, paragraphs of plain text, then tables and charts in order."""

    id: str
    """Of letters and hyphens: the address within the page."""
    heading: str
    prose: Sequence[str] = ()
    parts: Sequence[Part] = ()
    in_nav: bool = True
    """Whether the list of sections has it."""


@dataclass(frozen=True)
class Lead:
    """What a page says first: a few figures, the one chart that decides, and how far to trust them."""

    figures: Sequence[Figure]
    lines: Sequence[Line]
    chart: Chart | None


@dataclass(frozen=True)
class Page:
    """An HTML report from top to bottom."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    warnings: Sequence[str] = ()
    """What could not be read, one line each."""
    origin: str = "from the records beside this file. Statistics are computed from raw samples"
    """What it was written from, at its end."""
    lead: Lead | None = None
    """Where there is one, it stands first, and the sections below it are closed until they are opened."""

    @property
    def charts(self) -> list[Chart]:
        """All charts of the page."""
        first = [self.lead.chart] if self.lead and self.lead.chart else []
        return first + [part for section in self.sections for part in section.parts if isinstance(part, Chart)]


def html(page: Page) -> str:
    """The page as one self-contained file: styles, charts and scripts are inside, and nothing is fetched."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return _render(
        "page.html.j2",
        page=page,
        part_html=_part_html,
        style=Markup(style + dark_style()),
        script=Markup(script),
        script_digest=base64.b64encode(sha256(script.encode()).digest()).decode(),
        version=__version__,
    )


def summary_html(page: Page, tables: Sequence[Table]) -> str:
    """The lead and tables under a heading, as HTML for a notebook: no script, styles that touch nothing else."""
    return _render("summary.html.j2", page=page, tables=list(map(_part_html, tables)))


def _part_html(part: Part) -> Markup:
    """A table, a chart, a picture or the raw samples; a table's rows without a measurement are marked by status."""
    if isinstance(part, Chart):
        return _render("chart.html.j2", chart=part, svg=Markup(part.svg))
    if isinstance(part, Picture):
        return _render("picture.html.j2", picture=part)
    if isinstance(part, Chooser):
        return _render("chooser.html.j2", chooser=part)
    if isinstance(part, Samples):
        return _render("samples.html.j2", samples=part)
    choices = {}
    for place, column in enumerate(part.columns):
        words = dict.fromkeys(row[place].text for row in part.rows if row[place].text != NONE)
        if column.is_axis and 1 < len(words) <= MAX_CHOICES:
            choices[column.heading] = list(words)
    return _render("table.html.j2", table=part, choices=choices, measured=MEASURED, long=LONG)


def _breakable(text: str) -> Markup:
    """The text; its longest words, such as names with paths, may be broken behind punctuation, and only there."""
    parts = (re.split(r"(?<=[/_@:,.-])", word) if len(word) > UNBROKEN else [word] for word in text.split(" "))
    return Markup(" ").join(Markup("<wbr>").join(filter(None, part)) for part in parts)


def _render(template: str, **values: object) -> Markup:
    return Markup(_JINJA.get_template(template).render(**values))
