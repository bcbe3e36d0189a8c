"""A table to be read: columns turn typed rows into words, and keep the numbers behind them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from cnnbench.analysis.stats import Estimate
from cnnbench.records.record import Status
from cnnbench.report.format import significant

if TYPE_CHECKING:
    import pandas as pd

NONE = "–"
"""Where there is nothing to measure."""
UNKNOWN = "unknown"
"""Where something was not measured."""

R = TypeVar("R")
Value = float | int | str | bool | None


@dataclass(frozen=True)
class Column(Generic[R]):
    """How a table shows one property of its rows. A column without a heading is in the table's files alone."""

    heading: str
    value: Callable[[R], Value]
    """What the file holds, and what a column of figures is sorted by."""
    text: Callable[[R], str]
    key: str = ""
    """The column's name in the file, where the file is made from columns."""
    is_figure: bool = True
    """Figures are set to the right, words to the left."""
    is_axis: bool = False
    """Whether rows are filtered by it; it is never wrapped."""


def words(
    heading: str,
    value: Callable[[R], str | None],
    show: Callable[[str], str] = str,
    *,
    key: str = "",
    axis: bool = False,
) -> Column[R]:
    """A column of words; one that is absent is unknown."""

    def text(row: R) -> str:
        return UNKNOWN if (word := value(row)) is None else show(word)

    return Column(heading, value, text, key or heading.replace(" ", "_"), is_figure=False, is_axis=axis)


def figure(
    heading: str,
    value: Callable[[R], float | None],
    show: Callable[[float], str] = significant,
    key: str = "",
    *,
    absent: str = NONE,
    axis: bool = False,
) -> Column[R]:
    """A column of figures, with the words for one that is absent."""

    def text(row: R) -> str:
        return absent if (number := value(row)) is None else show(number)

    return Column(heading, value, text, key or heading.replace(" ", "_"), is_axis=axis)


def measure(
    heading: str, value: Callable[[R], float | None], show: Callable[[float], str] = significant, key: str = ""
) -> Column[R]:
    """A column of figures of which an absent one is unknown."""
    return figure(heading, value, show, key, absent=UNKNOWN)


def estimate(
    heading: str, value: Callable[[R], Estimate | None], show: Callable[[Estimate | None], str], key: str = ""
) -> Column[R]:
    """A column of figures with their intervals."""
    return Column(heading, lambda row: of.value if (of := value(row)) else None, lambda row: show(value(row)), key)


def bounds(key: str, value: Callable[[R], Estimate | None]) -> list[Column[R]]:
    """The ends of intervals, for the files."""
    return [
        hidden(f"{key}_low", lambda row: of.low if (of := value(row)) else None),
        hidden(f"{key}_high", lambda row: of.high if (of := value(row)) else None),
    ]


def hidden(key: str, value: Callable[[R], Value]) -> Column[R]:
    """A column of the table's files alone."""
    return Column("", value, str, key)


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

    @property
    def headings(self) -> list[str]:
        """Of the columns."""
        return [column.heading for column in self.columns]

    @property
    def texts(self) -> list[list[str]]:
        """The words of every cell, by row."""
        return [[cell.text for cell in row] for row in self.rows]

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
) -> Table:
    """A table of rows; its files hold the values of all columns, if nothing else is given."""
    import pandas as pd

    if data is None:
        data = pd.DataFrame({column.key: _series([column.value(row) for row in rows]) for column in columns})
    shown = [column for column in columns if column.heading]
    cells = [[Cell(column.text(row), _number(column, row)) for column in shown] for row in rows]
    return Table(name, title, caption, shown, cells, [status(row) for row in rows], data, notes)


def _series(values: list[Value]) -> "pd.Series[Any]":
    """Integers stay integers where some are missing."""
    import pandas as pd

    kinds = {type(value) for value in values}
    return pd.Series(values, dtype="Int64" if kinds == {int, type(None)} else None)


def _number(column: Column[R], row: R) -> float | None:
    value = column.value(row) if column.is_figure else None
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None


def interval_text(of: Estimate | None) -> str:
    """`12.3 [12.1, 12.6]`, with digits down to about a tenth of the interval's width, two to four of them."""
    if of is None:
        return NONE
    if of.low is None or of.high is None:
        return f"{significant(of.value, 2)} [?]"
    width = of.high - of.low
    digits = 4 if width <= 0 else math.ceil(math.log10(of.value / width)) + 1
    decimals = min(max(digits, 2), 4) - 1 - math.floor(math.log10(of.value))
    return "{} [{}, {}]".format(*(f"{round(v, decimals):,.{max(decimals, 0)}f}" for v in (of.value, of.low, of.high)))


def ratio_text(of: Estimate | None) -> str:
    """`×1.83 [1.79, 1.90]`."""
    if of is None:
        return NONE
    if of.low is None or of.high is None:
        return f"×{of.value:.1f} [?]"
    return f"×{of.value:.2f} [{of.low:.2f}, {of.high:.2f}]"
