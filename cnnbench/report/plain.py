"""Rows as aligned text, and JSON for programs; the standard library alone, so that commands answer at once."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cnnbench.report.escape import strict_json


def print_json(content: object) -> None:
    """Anything that JSON can hold, indented."""
    print(strict_json(content, 1))


def print_frames(frames: dict[str, Any]) -> None:
    """Data frames as JSON, missing numbers as null."""
    print_json({name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()})


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Rows as aligned columns, cut nowhere."""
    for line in lines_of(rows):
        print(line)


def lines_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines that rows make, headings first; no line for no rows."""
    if not rows:
        return []
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


def _cell(value: object) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
