"""Tables and charts as Markdown; what comes from records is data, so Markdown's own marks in it are escaped."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cnnbench.report import escape
from cnnbench.report.table import Table

if TYPE_CHECKING:
    from cnnbench.report.charts import Chart

CHARTS = "charts"
"""The folder of the charts, beside the Markdown file."""


def table_markdown(table: Table) -> str:
    """One table."""
    return table.tabulated("pipe", escape.markdown)


def table_paragraphs(table: Table) -> list[str]:
    """One table with its caption and notes."""
    return [table_markdown(table), table.caption, *map(escape.markdown, table.notes)]


def report_markdown(header: Iterable[str], tables: Sequence[Table], charts: Sequence["Chart"]) -> str:
    """A whole report; `header` is its title and paragraphs. Charts are named by their files."""
    parts = ["# " + "\n\n".join(map(escape.markdown, header))]
    for table in tables:
        parts += [f"## {table.title}", *table_paragraphs(table)]
    for chart in charts:
        parts += [f"## {chart.title}", f"![{chart.title}]({CHARTS}/{chart.name}.svg)", chart.caption]
    return "\n\n".join(parts) + "\n"
