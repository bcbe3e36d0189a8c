"""A table to be read: columns turn typed rows into words, and keep the numbers behind them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cnnbench.analysis.stats import Estimate
from cnnbench.records.record import Status
from cnnbench.report.format import significant

if TYPE_CHECKING:
    import pandas as pd

NONE = "–"
"""Where there is nothing to tell."""
UNKNOWN = "unknown"
"""Where there is something that was not measured."""

R = TypeVar("R")
Value = float | int | str | bool | None


@dataclass(frozen=True, kw_only=True)
class Column(Generic[R]):
    """How a table shows one property of its rows. A column without a heading is in the files alone."""

    heading: str = ""
    value: Callable[[R], Value]
    """What the table's file holds, and what a column of figures is sorted by."""
    text: Callable[[R], str]
    key: str = ""
    """The column's name in the table's file, where the file is made from columns."""
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
    is_axis: bool = False,
) -> Column[R]:
    """A column of words; one that is absent is unknown."""

    def text(row: R) -> str:
        word = value(row)
        return UNKNOWN if word is None else show(word)

    key = key or heading.replace(" ", "_")
    return Column(heading=heading, value=value, text=text, key=key, is_figure=False, is_axis=is_axis)


def figure(
    heading: str,
    value: Callable[[R], float | None],
    show: Callable[[float], str] = significant,
    *,
    key: str = "",
    absent: str = NONE,
    is_axis: bool = False,
) -> Column[R]:
    """A column of figures, with the words for one that is absent."""

    def text(row: R) -> str:
        number = value(row)
        return absent if number is None else show(number)

    return Column(heading=heading, value=value, text=text, key=key, is_axis=is_axis)


def hidden(key: str, value: Callable[[R], Value]) -> Column[R]:
    """A column of the table's file alone."""
    return Column(value=value, text=lambda _: "", key=key)


@dataclass(frozen=True)
class Heading:
    """A column as a renderer sees it."""

    text: str
    is_figure: bool
    is_axis: bool


@dataclass(frozen=True)
class Cell:
    """One cell: its words, and the number to sort by where there is one."""

    text: str
    number: float | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Title, caption, words in rows, notes below. `data` has the numbers behind it."""

    name: str
    title: str
    caption: str
    headings: Sequence[Heading]
    rows: Sequence[Sequence[Cell]]
    statuses: Sequence[Status | None]
    """Of each row, where it is a case."""
    data: "pd.DataFrame"
    notes: Sequence[str] = ()

    @property
    def texts(self) -> list[list[str]]:
        """The words of every cell, by row."""
        return [[cell.text for cell in row] for row in self.rows]

    @cached_property
    def cells(self) -> "pd.DataFrame":
        """The same as a data frame."""
        import pandas as pd

        return pd.DataFrame(self.texts, columns=[heading.text for heading in self.headings], dtype=object)


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
    """A table of rows; its file holds the columns that have a key, if it is not given."""
    import pandas as pd

    shown = [column for column in columns if column.heading]
    if data is None:
        data = pd.DataFrame({each.key: _series([each.value(row) for row in rows]) for each in columns if each.key})
    return Table(
        name=name,
        title=title,
        caption=caption,
        headings=[Heading(each.heading, each.is_figure, each.is_axis) for each in shown],
        rows=[[Cell(each.text(row), _number(each, row)) for each in shown] for row in rows],
        statuses=[status(row) for row in rows],
        data=data,
        notes=notes,
    )


def _series(values: list[Value]) -> "pd.Series[Any]":
    """Integers stay integers where some are missing."""
    import pandas as pd

    known = [value for value in values if value is not None]
    is_integer = bool(known) and all(isinstance(value, int) and not isinstance(value, bool) for value in known)
    return pd.Series(values, dtype="Int64" if is_integer and len(known) < len(values) else None)


def _number(column: Column[R], row: R) -> float | None:
    value = column.value(row) if column.is_figure else None
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None


def interval_text(estimate: Estimate | None) -> str:
    """`12.3 [12.1, 12.6]`, with digits down to about a tenth of the interval's width, two to four of them."""
    if estimate is None:
        return NONE
    value, low, high = estimate.value, estimate.low, estimate.high
    if low is None or high is None:
        return f"{significant(value, 2)} [?]"
    width = high - low
    digits = 4 if width <= 0 else math.ceil(math.log10(value / width)) + 1
    decimals = min(max(digits, 2), 4) - 1 - math.floor(math.log10(value))
    return "{} [{}, {}]".format(*(f"{round(v, decimals):,.{max(decimals, 0)}f}" for v in (value, low, high)))


def ratio_text(ratio: Estimate | None) -> str:
    """`×1.83 [1.79, 1.90]`."""
    if ratio is None:
        return NONE
    if ratio.low is None or ratio.high is None:
        return f"×{ratio.value:.1f} [?]"
    return f"×{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
