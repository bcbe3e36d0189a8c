"""JSON that a stranger may have written: bounded in depth, without what a terminal or a page would obey."""

import re
from typing import Any

from pydantic_core import from_json

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, line separators and overrides of the writing direction, which terminals and pages obey."""
_MAY_BE_UNSAFE = re.compile(rb"\\[ubf]|[\x7f-\xff]")


def parse_object(line: bytes) -> dict[str, Any]:
    """A JSON object, without characters that a terminal obeys.

    Raises ValueError where it is none, is nested too deep, or holds a number that is none.
    """
    try:
        content = from_json(line.decode(errors="replace"), allow_inf_nan=False)
    except ValueError:
        raise ValueError("it is cut short or is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    return _cleaned(content) if _MAY_BE_UNSAFE.search(line) else content


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_cleaned(each) for each in value]
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(each) for key, each in value.items()}
    return value
