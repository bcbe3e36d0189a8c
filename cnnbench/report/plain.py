"""Rows as aligned text, and JSON for programs."""

import json
from collections.abc import Iterable, Mapping
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


def lines_of(rows: Iterable[Mapping[str, object]], indent: str = "  ") -> list[str]:
    """The lines that rows of the same keys make, headings first; no line for no rows."""
    from tabulate import tabulate

    cells = [{key: _cell(value) for key, value in row.items()} for row in rows]
    lines = tabulate(cells, headers="keys", tablefmt="plain", disable_numparse=True).splitlines()
    return [indent + line.rstrip() for line in lines]


def _cell(value: object) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
