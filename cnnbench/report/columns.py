"""Columns of tables: how each turns typed rows into words, and the numbers behind them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cnnbench.analysis.stats import Estimate
from cnnbench.report.format import significant

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
