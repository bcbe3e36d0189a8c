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
from cnnbench.report.answer import Line
from cnnbench.report.html import Page, html
from cnnbench.report.table import Table

PAGE, MARKDOWN, TABLES, CHARTS = "report.html", "report.md", "tables", "charts"


def write_report(run: Run, tables: Sequence[Table], page: Page) -> Path:
    """All files of a run's report; gives the page's path. Raises RunFolderError, OSError."""
    return _write_all(run.folder, tables, page, [run.suite, *_header(run)])


def write_comparison(folder: Path, tables: Sequence[Table], page: Page) -> Path:
    """The same files for several runs side by side, in a folder of their own. Raises RunFolderError, OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _make(folder)
    return _write_all(folder, tables, page, [page.title, page.subtitle])


def _write_all(folder: Path, tables: Sequence[Table], page: Page, header: Sequence[str]) -> Path:
    paragraphs = ["# " + escape.markdown(header[0]), *map(escape.markdown, header[1:])]
    if page.lead:
        paragraphs.append("\n".join(f"- {_marked(line)}" for line in page.lead.lines))
    _make(folder / TABLES)
    for table in tables:
        file = folder / TABLES / table.name
        files.write(file.with_suffix(".csv"), escape.spreadsheet(table.data))
        files.write(file.with_suffix(".parquet"), table.data.to_parquet(index=False))
        if not table.is_shown:
            continue
        files.write(file.with_suffix(".tex"), table_latex(table))
        paragraphs += [f"## {escape.markdown(table.title)}", *table.paragraphs]
    _make(folder / CHARTS)
    for chart in page.charts:
        file = folder / CHARTS / chart.name
        files.write(file.with_suffix(".svg"), chart.svg)
        files.write(file.with_suffix(".png"), chart.png)
        title, caption = escape.markdown(chart.title), escape.markdown(chart.caption)
        paragraphs += [f"## {title}", f"![{title}]({CHARTS}/{chart.name}.svg)", caption]
    files.write(folder / MARKDOWN, "\n\n".join(paragraphs) + "\n")
    files.write(folder / PAGE, html(page))
    return folder / PAGE


def _marked(line: Line) -> str:
    """A line of the answer in Markdown, its label in bold type."""
    text = escape.markdown(line.text)
    return f"**{line.label}** {text}" if line.label else text


def _make(folder: Path) -> None:
    """Make the folder; a link in its place may lead out of the run's folder."""
    if folder.is_symlink():
        raise RunFolderError(f"{folder}: expected a folder to write into; got a link to another place; remove it")
    folder.mkdir(exist_ok=True)


def table_latex(table: Table) -> str:
    """One table as a `tabular` of the package booktabs, with its caption and notes as comments above it."""
    comments = [f"% {_line(text)}" for text in (table.title, table.caption, *table.notes)]
    return "\n".join([*comments, table.tabulated("latex_booktabs", _line), ""])


def _line(text: str) -> str:
    return " ".join(text.split())


def _header(run: Run) -> list[str]:
    if run.environment is None:
        return [f"Started {run.started}."]
    facts, software = run.environment.machine, run.environment.software
    names = ("python", "torch", "torchvision", "onnxruntime-gpu", "onnxruntime")
    versions = ", ".join(f"{name} {software[name]}" for name in names if name in software)
    about = (
        f"{run.environment.label}; {facts.affinity_cores} cores allowed, {facts.memory_bytes / 2**30:.0f} GiB, "
        f"{facts.system}. {versions}. Started {run.started}."
    )
    return [about, f"Commit {software['git_commit']}."] if software.get("git_commit") else [about]
