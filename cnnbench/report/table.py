"""A table to be read, with the numbers behind it: columns turn typed rows into words."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from cnnbench.analysis.stats import Estimate
from cnnbench.records.record import Status
from cnnbench.report import escape
from cnnbench.report.format import NONE, UNKNOWN, significant

if TYPE_CHECKING:
    import pandas as pd

R = TypeVar("R")
V = TypeVar("V")
Value = float | int | str | bool | None
Show = Callable[[float], str]


@dataclass(frozen=True)
class Column(Generic[R]):
    """How a table shows one property of its rows. A column without a heading is in the table's files alone."""

    heading: str
    value: Callable[[R], Value]
    """What the file holds, and what a column of figures is sorted by."""
    text: Callable[[R], str]
    key: str = ""
    """The column's name in the file, where the file is made from columns; the heading's words if not given."""
    is_figure: bool = True
    """Figures are set to the right, words to the left."""
    is_axis: bool = False
    """Whether rows are filtered by it; it is never wrapped."""


def words(
    heading: str, value: Callable[[R], str | None], show: Callable[[str], str] = str, *, axis: bool = False
) -> Column[R]:
    """A column of words; one that is absent is unknown."""
    return Column(heading, value, _shown(value, show, UNKNOWN), is_figure=False, is_axis=axis)


def figure(
    heading: str, value: Callable[[R], float | None], show: Show = significant, key: str = "", *, axis: bool = False
) -> Column[R]:
    """A column of figures; there is nothing to measure where one is absent."""
    return Column(heading, value, _shown(value, show, NONE), key, is_axis=axis)


def measure(heading: str, value: Callable[[R], float | None], show: Show = significant, key: str = "") -> Column[R]:
    """A column of figures of which an absent one is unknown."""
    return Column(heading, value, _shown(value, show, UNKNOWN), key)


def _shown(value: Callable[[R], V | None], show: Callable[[V], str], absent: str) -> Callable[[R], str]:
    return lambda row: absent if (known := value(row)) is None else show(known)


def hidden(key: str, value: Callable[[R], Value]) -> Column[R]:
    """A column of the table's files alone."""
    return Column("", value, str, key)


def estimate(
    heading: str,
    value: Callable[[R], Estimate | None],
    show: Callable[[Estimate], str],
    key: str = "",
    absent: str = NONE,
) -> list[Column[R]]:
    """A column of figures with their intervals, whose ends have columns in the files."""
    return [
        Column(heading, lambda row: of.value if (of := value(row)) else None, _shown(value, show, absent), key),
        hidden(f"{key}_low", lambda row: of.low if (of := value(row)) else None),
        hidden(f"{key}_high", lambda row: of.high if (of := value(row)) else None),
    ]


class Cell(NamedTuple):
    """One cell: its words, and the number to sort by where there is one."""

    text: str
    number: float | None


@dataclass(frozen=True)
class Table:
    """Title, caption, words in rows, notes below. `data` has the numbers behind it."""

    name: str
    title: str
    caption: str
    columns: Sequence[Column[Any]]
    """Those that are shown."""
    rows: Sequence[Sequence[Cell]]
    statuses: Sequence[Status | None]
    """Of each row, where it is a case."""
    data: "pd.DataFrame"
    notes: Sequence[str]
    is_shown: bool = True
    """Whether it is to be read; else it has no rows, and its numbers stand in files alone."""

    @property
    def headings(self) -> list[str]:
        """Of the columns."""
        return [column.heading for column in self.columns]

    @property
    def texts(self) -> list[list[str]]:
        """The words of every cell, by row."""
        return [[cell.text for cell in row] for row in self.rows]

    @property
    def markdown(self) -> str:
        """Headings and words in Markdown, in which what comes from records is data: its own marks are escaped."""
        return self.tabulated("pipe", escape.markdown)

    @property
    def paragraphs(self) -> list[str]:
        """The same with caption and notes."""
        return [self.markdown, *map(escape.markdown, (self.caption, *self.notes))]

    def tabulated(self, format_name: str, escaped: Callable[[str], str]) -> str:
        """Headings and words in a format of tabulate's."""
        from tabulate import tabulate

        headings, *rows = [[escaped(text) for text in row] for row in (self.headings, *self.texts)]
        align = ["right" if column.is_figure else "left" for column in self.columns]
        return str(tabulate(rows, headings, format_name, colalign=align, disable_numparse=True))

    @cached_property
    def cells(self) -> "pd.DataFrame":
        """The same as a data frame."""
        import pandas as pd

        return pd.DataFrame(self.texts, columns=self.headings, dtype=object)


def table_of(
    name: str,
    title: str,
    caption: str,
    rows: Sequence[R],
    columns: Sequence[Column[R]],
    *,
    data: "pd.DataFrame | None" = None,
    status: Callable[[R], Status | None] = lambda _: None,
    notes: Sequence[str] = (),
    is_shown: bool = True,
) -> Table:
    """A table of rows; its files hold the values of all columns, if nothing else is given."""
    import pandas as pd

    if data is None:
        keys = [column.key or column.heading.replace(" ", "_") for column in columns]
        data = pd.DataFrame({k: _series([c.value(row) for row in rows]) for k, c in zip(keys, columns, strict=True)})
    shown = [column for column in columns if column.heading]
    read = rows if is_shown else ()
    cells = [[Cell(column.text(row), _number(column, row)) for column in shown] for row in read]
    return Table(name, title, caption, shown, cells, [status(row) for row in read], data, notes, is_shown)


def _series(values: list[Value]) -> "pd.Series[Any]":
    """Integers stay integers where some are missing, unless they are too large for 64 bits."""
    import pandas as pd

    if any(isinstance(value, int) and abs(value) >= 2**63 for value in values):
        values = [float(value) if isinstance(value, int) else value for value in values]
    kinds = {type(value) for value in values}
    return pd.Series(values, dtype="Int64" if kinds == {int, type(None)} else None)


def _number(column: Column[R], row: R) -> float | None:
    value = column.value(row) if column.is_figure else None
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None
