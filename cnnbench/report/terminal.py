"""What a person sees: tables in the terminal, and a run's progress while it goes on."""

from collections.abc import Sequence
from typing import Self

from rich import box
from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from cnnbench.analysis.stats import launch_estimate
from cnnbench.records.record import Record, Status
from cnnbench.report.format import format_seconds, significant
from cnnbench.report.reasons import reason_text
from cnnbench.report.tables import WORDS, Table

STYLES: dict[Status, str] = {
    "ok": "green",
    "noisy": "yellow",
    "invalid": "red",
    "failed": "red",
    "unavailable": "dim",
}
NEVER_CUT = ("model", "runtime", "status")
RECENT = 12
"""Finished cases that stay in view while a run goes on."""


def print_tables(console: Console, tables: Sequence[Table]) -> None:
    """Each table with its caption and notes."""
    for table in tables:
        grid = RichTable(
            title=escape(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for column in table.cells.columns:
            justify: JustifyMethod = "left" if column in WORDS else "right"
            grid.add_column(escape(str(column)), justify=justify, no_wrap=column in NEVER_CUT)
        for _, row in table.cells.iterrows():
            grid.add_row(*(escape(str(cell)) for cell in row), style=_style(row.get("status")))
        console.print(grid)
        console.print(escape(table.caption), style="dim", highlight=False)
        for note in table.notes:
            console.print(escape(note), highlight=False)
        console.print()


def _style(status: object) -> str:
    return "dim" if str(status).startswith("unavailable") else ""


def line_of(record: Record) -> str:
    """A finished case in one line."""
    text = f"{record.id}: {record.status}"
    if record.measurement is not None and any(record.measurement.times()):
        time = launch_estimate(record.measurement.times())
        text += f", {significant(time.value * 1e3)} ms"
        text += f" ± {time.half_width:.1%}" if time.low is not None else ""
        text += f", {significant(record.case.batch / time.value)} images/s"
    if record.reasons:
        text += f" ({reason_text(record.reasons[0])})"
    return text


class Ticker:
    """Watches work: what is being done, and how long it all still takes.

    On a terminal one live view, drawn when something begins; elsewhere a line for each new thing.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._said = ""

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def doing(self, what: str, left_s: float) -> None:
        """Something begins."""
        line = f"{what}, about {format_seconds(left_s)} left"
        if self._live:
            self._live.update(Text(line), refresh=True)
        elif what != self._said:
            self._said = what
            self._print(line)

    def _print(self, text: str) -> None:
        self._console.print(escape(text), soft_wrap=True, highlight=False)


class Progress(Ticker):
    """Watches a run: which case is measured, what has come out, how long it still takes.

    On a terminal one live view, drawn only between turns, when nothing is being measured; elsewhere one line for each
    finished case and each new race.
    """

    def __init__(self, console: Console, total: int, finished: int = 0) -> None:
        super().__init__(console)
        self._total = total
        self._count = finished
        self._recent: list[tuple[str, Status]] = []
        self._now = ("starting", 0.0)

    def doing(self, what: str, left_s: float) -> None:
        """Something begins."""
        self._now = (what, left_s)
        if self._live:
            self._show()
            return
        subject = what.partition(": ")[0]
        if subject != self._said:
            self._said = subject
            self._print(f"[{self._count}/{self._total}] {what}, about {format_seconds(left_s)} left")

    def done(self, record: Record) -> None:
        """A case is on disk; again, after each further launch of it."""
        launches = len(record.measurement.launches) if record.measurement else 0
        self._count += launches <= 1
        self._recent = [*self._recent, (line_of(record), record.status)][-RECENT:]
        if self._live:
            self._show()
        elif record.status != "unavailable":  # told in the tables, with the reason
            self._print(f"[{self._count}/{self._total}] {line_of(record)}")

    def _show(self) -> None:
        assert self._live is not None
        view = Text()
        for line, status in self._recent:
            view.append(line + "\n", style=STYLES[status])
        what, left_s = self._now
        width = 30
        filled = round(width * self._count / max(self._total, 1))
        view.append("━" * filled, style="green")
        view.append("━" * (width - filled), style="dim")
        view.append(f" {self._count}/{self._total} cases, about {format_seconds(left_s)} left\n")
        view.append(what)
        self._live.update(view, refresh=True)
