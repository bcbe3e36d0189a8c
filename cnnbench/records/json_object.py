"""JSON that a stranger may have written: bounded in depth, without what a terminal or a page would obey."""

import re
from collections.abc import Callable
from errno import EFBIG
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from cnnbench.errors import RunFolderError, first_fault
from cnnbench.records import files

M = TypeVar("M", bound=BaseModel)

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufffe\uffff]")
"""Control characters, line separators and overrides of the writing direction, which terminals and pages obey; and what
is no character, which no chart or XML may hold (XML 1.0, section 2.2)."""
_MAY_BE_UNSAFE = re.compile(rb"\\[ubf]|[\x7f-\xff]")
MAX_FAULTS, MAX_FAULT = 10, 200
"""Kinds of faults that are named of one file, and characters of each."""
MAX_LINES, MAX_BAD_LINES = 1_000_000, 10_000
"""Of one file, and those of them that cannot be read; what follows is not read."""


def parse_object(text: bytes, errors: str = "strict") -> dict[str, Any]:
    """A JSON object, without characters that a terminal obeys; `errors` is what becomes of bytes that are no UTF-8.

    Raises ValueError, for NaN and deep nesting too.
    """
    try:
        content = from_json(text.decode(errors=errors), allow_inf_nan=False)
    except ValueError:
        raise ValueError("it is cut short or is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    return _cleaned(content) if _MAY_BE_UNSAFE.search(text) else content


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_cleaned(each) for each in value]
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(each) for key, each in value.items()}
    return value


def read_model(file: Path, model: type[M], remedy: str = "") -> M | None:
    """A file's one object; None if there is no file. Raises RunFolderError, with the remedy, if it cannot be read."""
    found = _read(file, remedy)
    try:
        return None if found is None else model.model_validate(found)
    except ValidationError as error:
        raise _not_read(file, error, remedy) from None


def read_known(file: Path, model: type[M], remedy: str = "") -> tuple[M, list[str]] | None:
    """As `read_model`, but fields that cannot be read have their defaults, and one line says so."""
    found = _read(file, remedy)
    if found is None:
        return None
    try:
        return model.model_validate(found), []
    except ValidationError as error:
        bad = {fault["loc"][0] for fault in error.errors()}
        known = model.model_validate({key: value for key, value in found.items() if key not in bad})
        return known, [str(_not_read(file, error))]


def _read(file: Path, remedy: str) -> dict[str, Any] | None:
    try:
        return parse_object(files.read(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _not_read(file, error, remedy) from None


def _not_read(file: Path, error: Exception, remedy: str = "") -> RunFolderError:
    return RunFolderError(f"{file}: not read: {_why(error)}{remedy and f'; {remedy}'}")


def read_each(file: Path, take: Callable[[dict[str, Any]], None]) -> list[str]:
    """Hand over the objects of a file, one a line; gives at most one line, about all that could not be read."""
    faults: dict[str, list[int]] = {}
    number = bad = 0
    rest = []
    try:
        for line in files.read_lines(file):
            if number == MAX_LINES or bad == MAX_BAD_LINES:
                raise OSError(EFBIG, f"more than {MAX_LINES:,} lines, or {MAX_BAD_LINES:,} that cannot be read")
            number += 1
            try:
                if line.strip():
                    take(parse_object(line, errors="replace"))
            except ValueError as error:
                faults.setdefault(_why(error), []).append(number)
                bad += 1
    except OSError as error:
        rest = [f"what follows line {number}: {_why(error)}" if number else _why(error)]
    kinds = [f"line{'s' * (len(lines) > 1)} {_ranges(lines)}: {why}" for why, lines in faults.items()]
    more = [f"and {len(kinds) - MAX_FAULTS} more kinds of fault"] if len(kinds) > MAX_FAULTS else []
    found = [*kinds[:MAX_FAULTS], *more, *rest]
    return [f"{file}: not read: {'; '.join(found)}"] if found else []


def _ranges(numbers: list[int]) -> str:
    """`3, 7-9` for 3, 7, 8 and 9."""
    runs = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    ends = [(found[0][1], found[-1][1]) for found in (list(run) for _, run in runs)]
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in ends]
    return ", ".join([*shown[:MAX_FAULTS], *(["..."] if len(shown) > MAX_FAULTS else [])])


def _why(error: Exception) -> str:
    """In a few words, whatever stands in the file."""
    if isinstance(error, ValidationError):
        return first_fault(error)[:MAX_FAULT]
    return str(error.strerror if isinstance(error, OSError) else error)[:MAX_FAULT]
