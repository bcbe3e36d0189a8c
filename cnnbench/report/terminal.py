"""What a person sees: tables in the terminal, and progress while something is measured."""

from collections.abc import Sequence
from typing import Self

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table as RichTable

from cnnbench.analysis.times import call_time
from cnnbench.records.record import Record, Status
from cnnbench.report.format import format_seconds, significant
from cnnbench.report.reasons import reason_text
from cnnbench.report.table import Table

STYLES: dict[Status, str] = {"ok": "green", "noisy": "yellow", "invalid": "red", "failed": "red", "unavailable": "dim"}


def print_tables(console: Console, tables: Sequence[Table]) -> None:
    """Each table with its caption and notes."""
    for table in tables:
        grid = RichTable(
            title=escape(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for column in table.columns:
            justify = "right" if column.is_figure else "left"
            grid.add_column(escape(column.heading), justify=justify, no_wrap=column.is_axis)  # type: ignore[arg-type]
        for texts, status in zip(table.texts, table.statuses, strict=True):
            grid.add_row(*map(escape, texts), style="dim" if status == "unavailable" else "")
        console.print(grid)
        console.print(escape(table.caption), style="dim", highlight=False)
        for note in table.notes:
            console.print(escape(note), highlight=False)
        console.print()


def line_of(record: Record) -> str:
    """A finished case in one line."""
    text = f"{record.id}: {record.status}"
    if (time := call_time(record)) is not None:
        text += f", {significant(time.value * 1e3)} ms"
        text += f" ± {time.half_width:.1%}" if time.low is not None else ""
        text += f", {significant(record.case.images / time.value)} images/s"
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
