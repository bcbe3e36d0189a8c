"""What a person sees: tables in the terminal, and progress while something is measured."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table as RichTable
from rich.text import Text

from cnnbench.analysis.times import call_time
from cnnbench.records.record import Record, Status
from cnnbench.report.answer import Line
from cnnbench.report.format import format_seconds, significant
from cnnbench.report.reasons import reason_text
from cnnbench.report.table import Column, Table

KEPT = ("ms", "vs eager", "status", "p50 ms", "memory MB", "top-1 %", "size MB", "fails by")
"""Beside the axes, the columns that the narrowest terminal shows; the others are left out from the right."""
STYLES: dict[Status, str] = {"ok": "green", "noisy": "yellow", "invalid": "red", "failed": "red", "unavailable": "dim"}


def print_answer(console: Console, lines: Iterable[Line]) -> None:
    """Labels beside their texts, which are wrapped where the terminal ends."""
    (_, subject), *rest = lines
    console.print(escape(subject), style="bold", highlight=False)
    indent = max((len(line.label) for line in rest), default=0) + 2
    for label, text in rest:
        for place, part in enumerate(Text(text).wrap(console, max(console.width - indent, 20))):
            part.rstrip()
            console.print(Text.assemble((("" if place else label).ljust(indent), "cyan"), part), highlight=False)


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Sentences and commands; a command is never broken, so that it can be pasted."""
    for line in lines:
        console.print(Text(line), soft_wrap=": cnnbench " in line, highlight=False)


def print_tables(console: Console, tables: Sequence[Table]) -> None:
    """Each table with its caption and notes; columns that do not fit the width are left out, and named."""
    for table in tables:
        columns = list(range(len(table.columns)))
        grid = _grid(table, columns)
        while not _fits(console, grid) and (spare := [n for n in columns if not _is_kept(table.columns[n])]):
            columns.remove(spare[-1])
            grid = _grid(table, columns)
        if not _fits(console, grid):
            grid = _grid(table, columns, interval="\n[")
        console.print(grid)
        console.print(escape(table.caption), style="dim", highlight=False)
        if left_out := [column.heading for n, column in enumerate(table.columns) if n not in columns]:
            console.print(escape(f"Not shown at this width: {', '.join(left_out)}."), style="dim", highlight=False)
        for note in table.notes:
            console.print(escape(note), highlight=False)
        console.print()


def _is_kept(column: Column[Any]) -> bool:
    return column.is_axis or column.heading in KEPT


def _fits(console: Console, grid: RichTable) -> bool:
    return grid.__rich_measure__(console, console.options).maximum <= console.width


def _grid(table: Table, columns: Sequence[int], interval: str = " [") -> RichTable:
    """The table with these of its columns; `interval` is how one begins behind its figure."""
    grid = RichTable(
        title=escape(table.title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for place in columns:
        column = table.columns[place]
        grid.add_column(escape(column.heading), justify="right" if column.is_figure else "left", overflow="fold")
    for texts, status in zip(table.texts, table.statuses, strict=True):
        cells = [(texts[place], table.columns[place].is_figure) for place in columns]
        shown = [escape(text.replace(" [", interval) if is_figure else text) for text, is_figure in cells]
        grid.add_row(*shown, style="dim" if status == "unavailable" else "")
    return grid


def line_of(record: Record) -> str:
    """A finished case in one line."""
    text = f"{record.id}: {record.status}"
    if (time := call_time(record)) is not None:
        text += f", {significant(time.value * 1e3)} ms"
        text += f" ± {time.half_width:.1%}" if time.low is not None else ""
        text += f", {significant(record.case.batch / time.value)} images/s"
    if record.reasons:
        text += f" ({reason_text(record.reasons[0])})"
    return text


def can_redraw(console: Console) -> bool:
    """Whether the cursor can be moved: not in a log, which may be coloured, nor on a terminal without such controls."""
    return console.file.isatty() and not console.is_dumb_terminal


class Progress:
    """Watches work: what is being measured, which cases are finished, and the time left.

    On a terminal a bar below the finished cases, drawn only when something begins or ends, so that drawing never runs
    beside a measurement; elsewhere a line for each subject and each finished case.
    """

    def __init__(self, console: Console, total: int | None = None, finished: int = 0) -> None:
        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
        if total is not None:
            columns = [BarColumn(30), MofNCompleteColumn(), *columns]
        self._bar = RichProgress(
            *columns, console=console, auto_refresh=False, transient=True, disable=not can_redraw(console)
        )
        self._task = self._bar.add_task("starting", total=total, completed=finished)
        self._subject = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def doing(self, what: str, left_s: float) -> None:
        """Something begins."""
        line = f"{what}, about {format_seconds(left_s)} left"
        self._bar.update(self._task, description=line, refresh=True)
        subject = what.partition(": ")[0]
        if self._bar.disable and subject != self._subject:
            self._print(line)
        self._subject = subject

    def done(self, record: Record) -> None:
        """A case is on disk; again, after each further launch of it."""
        self._bar.update(self._task, advance=len(record.launches) <= 1)
        if record.status != "unavailable":  # the tables show these, with the reason
            self._print(line_of(record), STYLES[record.status])

    def _print(self, text: str, style: str = "") -> None:
        task = self._bar.tasks[0]
        counted = f"[{task.completed:.0f}/{task.total:.0f}] " if self._bar.disable and task.total is not None else ""
        self._bar.console.print(escape(counted + text), style=style, soft_wrap=True, highlight=False)
