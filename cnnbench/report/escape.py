"""Data in other formats, where they stay data: Markdown, spreadsheets, JSON that every parser reads."""

import html
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_MARKS = re.compile(r"[\\`*|]|\](?=[(\[:])|~(?=~)|(?<![^\W_])_|_(?![^\W_])|^[-+=#](?=[-+=#\s]|$)|^\d+(?=[.)]\s)")
"""What Markdown would obey: `]` where a link's address may follow, `_` that is not within a word, how a line begins."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What begins a formula in a spreadsheet (OWASP, "CSV Injection")."""


def markdown(text: object) -> str:
    """Text in one line, in which Markdown and HTML see no marks; entities stand for them."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    return _MARKS.sub(lambda found: "".join(f"&#{ord(c)};" for c in found.group()), line)


def code(text: str) -> str:
    """Text as Markdown shows code; nothing in it ends that."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def spreadsheet(frame: "pd.DataFrame") -> str:
    """A frame as CSV in which no word and no name of a column is a formula: a `'` is before what begins like one."""
    return frame.map(_no_formula).rename(columns=_no_formula).to_csv(index=False)


def _no_formula(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def strict_json(content: object, indent: int | None = None, *, ascii_only: bool = True) -> str:
    """JSON in which a number that is none is null: NaN and Infinity are no JSON, and most parsers refuse them."""
    try:
        return json.dumps(content, indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    except ValueError:
        finite = json.loads(json.dumps(content), parse_constant=lambda _: None)
        return json.dumps(finite, indent=indent, ensure_ascii=ascii_only)
