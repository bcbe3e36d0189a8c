"""What a person sees: tables in the terminal, and progress while something is measured."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from cnnbench.analysis.serving import service_of
from cnnbench.analysis.times import call_time
from cnnbench.records.record import Record, Status
from cnnbench.report.answer import Line
from cnnbench.report.format import format_seconds, significant
from cnnbench.report.live import SoFar
from cnnbench.report.reasons import reason_text
from cnnbench.report.serving import rate_text
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
        text += f", {significant(record.case.images / time.value)} images/s"
    if (service := service_of(record.launches)) is not None:
        text += f", {rate_text(service)} queries/s with p99 within {significant(service.bound_s * 1e3)} ms"
    if record.reasons:
        text += f" ({reason_text(record.reasons[0])})"
    return text


def can_redraw(console: Console) -> bool:
    """Whether the cursor can be moved: not in a log, which may be coloured, nor on a terminal without such controls."""
    return console.file.isatty() and not console.is_dumb_terminal


class Progress:
    """Watches work: what is being measured, what came out, and the time left.

    On a terminal one block, drawn only when something begins or ends, so that drawing never runs beside a measurement.
    Elsewhere a line for each subject and each finished case; a further launch has one only if the status changes.
    """

    def __init__(self, console: Console, total: int | None = None, finished: int = 0, title: str = "") -> None:
        self._console, self._title, self._total, self._finished = console, title, total, finished
        self._live = Live(console=console, auto_refresh=False, transient=True) if can_redraw(console) else None
        self._so_far, self._now, self._subject = SoFar(), "starting", ""
        self._statuses: dict[str, Status] = {}
        self._subjects: set[str] = set()
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        elif self._title:
            self._print(self._title)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        self._tell_left_out()

    def doing(self, what: str, left_s: float) -> None:
        """Something begins."""
        left = f"about {format_seconds(left_s)} left"
        self._now = f"{what}, {left}"
        subject = what.partition(": ")[0]
        if self._live:
            self._draw()
        elif subject != self._subject:
            self._tell_left_out()
            self._print(self._counted(f"{subject}: again, {left}" if subject in self._subjects else self._now))
        self._subject = subject
        self._subjects.add(subject)

    def done(self, record: Record) -> None:
        """A case is on disk; again, after each further launch of it."""
        self._finished += record.id not in self._statuses and len(record.launches) <= 1
        is_news = self._statuses.get(record.id) != record.status
        self._statuses[record.id] = record.status
        self._so_far.add(record)
        if self._live and self._total is not None:
            self._draw()
        elif is_news and record.status != "unavailable":
            self._tell_left_out()
            self._print(self._counted(line_of(record)), STYLES[record.status])

    def _draw(self) -> None:
        assert self._live is not None
        now: RenderableType = Text(self._now, overflow="ellipsis", no_wrap=True)
        if self._total is not None:
            now = self._so_far.block(self._title, self._now, self._finished, self._total, self._console.height)
        self._live.update(now, refresh=True)

    def _tell_left_out(self) -> None:
        """In a log: what is missing here, once."""
        for line in [] if self._live else self._so_far.left_out():
            if line not in self._told:
                self._told.add(line)
                self._print(line)

    def _counted(self, text: str) -> str:
        return text if self._total is None or self._live else f"[{self._finished}/{self._total}] {text}"

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(escape(text), style=style, soft_wrap=True, highlight=False)
