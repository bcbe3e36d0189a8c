"""A run's report as files beside its records: a page and Markdown to read, tables to compute with and to typeset.

report.html        everything, for a browser
report.md          the tables, and pictures of the charts
tables/NAME.csv    every number of a table; NAME.parquet the same with its types; NAME.tex its words for LaTeX
charts/NAME.svg    each chart; NAME.png the same as a picture
"""

from collections.abc import Sequence
from pathlib import Path

from cnnbench.errors import RunFolderError
from cnnbench.records import files
from cnnbench.records.run_folder import Run
from cnnbench.report import escape
from cnnbench.report.charts import Chart
from cnnbench.report.html import Page, html
from cnnbench.report.tables import WORDS, Table

PAGE, MARKDOWN, TABLES, CHARTS = "report.html", "report.md", "tables", "charts"


def write_report(run: Run, tables: Sequence[Table], page: Page) -> Path:
    """All files of a run's report; gives the page's path. Raises RunFolderError, OSError."""
    write_tables(run.folder / TABLES, tables)
    write_charts(run.folder / CHARTS, page.charts)
    files.write(run.folder / MARKDOWN, markdown(run, tables, page.charts))
    file = run.folder / PAGE
    files.write(file, html(page))
    return file


def write_comparison(folder: Path, tables: Sequence[Table], page: Page) -> Path:
    """The same files for several runs side by side, in a folder of their own. Raises RunFolderError, OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _make(folder)
    write_tables(folder / TABLES, tables)
    write_charts(folder / CHARTS, page.charts)
    text = [f"# {escape.markdown(page.title)}", escape.markdown(page.subtitle), *_tables_markdown(tables, page.charts)]
    files.write(folder / MARKDOWN, ("\n\n".join(text) + "\n"))
    file = folder / PAGE
    files.write(file, html(page))
    return file


def write_tables(folder: Path, tables: Sequence[Table]) -> None:
    """Each table as CSV, Parquet and LaTeX."""
    _make(folder)
    for table in tables:
        files.write(folder / f"{table.name}.csv", escape.spreadsheet(table.data))
        files.write(folder / f"{table.name}.parquet", table.data.to_parquet(index=False))
        files.write(folder / f"{table.name}.tex", table_latex(table))


def write_charts(folder: Path, charts: Sequence[Chart]) -> None:
    """Each chart as SVG and PNG."""
    _make(folder)
    for chart in charts:
        files.write(folder / f"{chart.name}.svg", chart.svg)
        files.write(folder / f"{chart.name}.png", chart.png)


def _make(folder: Path) -> None:
    """The folder, in its place: a run's folder may be a stranger's, and a link in it may lead anywhere."""
    if folder.is_symlink():
        raise RunFolderError(f"{folder}: expected a folder to write into; got a link to another place; remove it")
    folder.mkdir(exist_ok=True)


def markdown(run: Run, tables: Sequence[Table], charts: Sequence[Chart] = ()) -> str:
    """The whole report as Markdown; charts by the names of their files."""
    parts = [f"# {escape.markdown(run.suite)}", *map(escape.markdown, _header(run)), *_tables_markdown(tables, charts)]
    return "\n\n".join(parts) + "\n"


def _tables_markdown(tables: Sequence[Table], charts: Sequence[Chart]) -> list[str]:
    parts: list[str] = []
    for table in tables:
        parts += [
            f"## {table.title}",
            table_markdown(table),
            table.caption,
            *map(escape.markdown, table.notes),
        ]
    for chart in charts:
        parts += [f"## {chart.title}", f"![{chart.title}]({CHARTS}/{chart.name}.svg)", chart.caption]
    return parts


def table_markdown(table: Table) -> str:
    """One table; what stands in cells is data, so Markdown's own marks in it are escaped."""
    cells = table.cells.map(escape.markdown)
    return cells.to_markdown(index=False, disable_numparse=True)


def table_latex(table: Table) -> str:
    """One table as a `tabular` of the package booktabs, with its caption and notes as comments above it."""
    comments = [f"% {' '.join(line.split())}" for line in (table.title, table.caption, *table.notes)]
    columns = "".join("l" if column in WORDS else "r" for column in table.cells.columns)
    tabular = table.cells.astype(str).to_latex(index=False, escape=True, column_format=columns)
    return "\n".join([*comments, tabular])


def _header(run: Run) -> list[str]:
    if run.environment is None:
        return [f"Started {run.started}."]
    facts, software = run.environment.machine, run.environment.software
    versions = ", ".join(
        f"{name} {software[name]}"
        for name in ("python", "torch", "torchvision", "onnxruntime-gpu", "onnxruntime")
        if name in software
    )
    memory_gib = facts.memory_bytes / 2**30
    lines = [
        f"{run.environment.label}; {facts.affinity_cores} cores allowed, {memory_gib:.0f} GiB, "
        f"{facts.system}. "
        f"{versions}. Started {run.started}."
    ]
    if software.get("git_commit"):
        lines.append(f"Commit {software['git_commit']}.")
    return lines
