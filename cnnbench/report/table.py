"""A table to be read, with the numbers behind it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnbench.records.record import Status
from cnnbench.report.columns import Column, R, Value

if TYPE_CHECKING:
    import pandas as pd


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
