"""Rows of numbers to pandas data frames."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from cnnbench.analysis.stats import Estimate

if TYPE_CHECKING:
    import pandas as pd


def frame(rows: Sequence[object], of: type) -> "pd.DataFrame":
    """A data frame of rows of one type, a column for each field; an `Estimate` becomes value, `_low` and `_high`.

    Integers stay integers where some are missing.
    """
    import pandas as pd

    columns: dict[str, pd.Series[Any]] = {}
    for name, hint in get_type_hints(of).items():
        values = [getattr(row, name) for row in rows]
        types = set(get_args(hint) or [hint])
        if Estimate in types:
            for end, part in (("", "value"), ("_low", "low"), ("_high", "high")):
                columns[name + end] = pd.Series([getattr(value, part, None) for value in values], dtype="float64")
        else:
            dtype = "float64" if float in types else "Int64" if types == {int, type(None)} else None
            columns[name] = pd.Series(values, dtype=dtype)
    return pd.DataFrame(columns)
