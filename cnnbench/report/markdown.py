"""Tables and charts as Markdown; what comes from records is data, so Markdown's own marks in it are escaped."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tabulate import tabulate

from cnnbench.report import escape
from cnnbench.report.table import Table

if TYPE_CHECKING:
    from cnnbench.report.charts import Chart

CHARTS = "charts"
"""The folder of the charts, beside the Markdown file."""


def table_markdown(table: Table) -> str:
    """One table."""
    rows = [[escape.markdown(text) for text in row] for row in table.texts]
    text: str = tabulate(
        rows,
        headers=table.headings,
        tablefmt="pipe",
        colalign=["right" if column.is_figure else "left" for column in table.columns],
        disable_numparse=True,
    )
    return text


def tables_markdown(tables: Sequence[Table], charts: Sequence["Chart"]) -> Iterator[str]:
    """Tables with their captions and notes, then charts by the names of their files: one paragraph after the other."""
    for table in tables:
        yield from (f"## {table.title}", table_markdown(table), table.caption, *map(escape.markdown, table.notes))
    for chart in charts:
        yield from (f"## {chart.title}", f"![{chart.title}]({CHARTS}/{chart.name}.svg)", chart.caption)
