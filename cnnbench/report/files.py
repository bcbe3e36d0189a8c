"""A run's report as files beside its records: a page and Markdown to read, tables to compute with and to typeset.

report.html        everything, for a browser
report.md          the tables, and pictures of the charts
tables/NAME.csv    every number of a table; NAME.parquet the same with its types; NAME.tex its words for LaTeX
charts/NAME.svg    each chart; NAME.png the same as a picture
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from cnnbench.errors import RunFolderError
from cnnbench.records import files
from cnnbench.records.run_folder import Run
from cnnbench.report import escape
from cnnbench.report.charts import Chart
from cnnbench.report.html import Page, html
from cnnbench.report.markdown import CHARTS, tables_markdown
from cnnbench.report.table import Table

PAGE, MARKDOWN, TABLES = "report.html", "report.md", "tables"


def write_report(run: Run, tables: Sequence[Table], page: Page) -> Path:
    """All files of a run's report; gives the page's path. Raises RunFolderError, OSError."""
    return _write_all(run.folder, tables, page, [run.suite, *_header(run)])


def write_comparison(folder: Path, tables: Sequence[Table], page: Page) -> Path:
    """The same files for several runs side by side, in a folder of their own. Raises RunFolderError, OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _make(folder)
    return _write_all(folder, tables, page, [page.title, page.subtitle])


def _write_all(folder: Path, tables: Sequence[Table], page: Page, header: Sequence[str]) -> Path:
    write_tables(folder / TABLES, tables)
    write_charts(folder / CHARTS, page.charts)
    files.write(folder / MARKDOWN, markdown(header, tables, page.charts))
    files.write(folder / PAGE, html(page))
    return folder / PAGE


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
    """Make the folder; a link in its place may lead out of the run's folder."""
    if folder.is_symlink():
        raise RunFolderError(f"{folder}: expected a folder to write into; got a link to another place; remove it")
    folder.mkdir(exist_ok=True)


def markdown(header: Iterable[str], tables: Sequence[Table], charts: Sequence[Chart] = ()) -> str:
    """The whole report; `header` is its title and paragraphs."""
    return "\n\n".join(["# " + "\n\n".join(map(escape.markdown, header)), *tables_markdown(tables, charts)]) + "\n"


def table_latex(table: Table) -> str:
    """One table as a `tabular` of the package booktabs, with its caption and notes as comments above it."""
    comments = [f"% {' '.join(line.split())}" for line in (table.title, table.caption, *table.notes)]
    tabular = tabulate(
        [[" ".join(text.split()) for text in row] for row in table.texts],
        headers=table.headings,
        tablefmt="latex_booktabs",
        colalign=["right" if column.is_figure else "left" for column in table.columns],
        disable_numparse=True,
    )
    return "\n".join([*comments, tabular, ""])


def _header(run: Run) -> list[str]:
    if run.environment is None:
        return [f"Started {run.started}."]
    facts, software = run.environment.machine, run.environment.software
    names = ("python", "torch", "torchvision", "onnxruntime-gpu", "onnxruntime")
    versions = ", ".join(f"{name} {software[name]}" for name in names if name in software)
    lines = [
        f"{run.environment.label}; {facts.affinity_cores} cores allowed, {facts.memory_bytes / 2**30:.0f} GiB, "
        f"{facts.system}. {versions}. Started {run.started}."
    ]
    if software.get("git_commit"):
        lines.append(f"Commit {software['git_commit']}.")
    return lines
