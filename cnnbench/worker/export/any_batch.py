"""Traces that hold for any number of images, or a refusal that names the line that keeps them from it."""

import builtins
import linecache
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._dynamo import trace_rules
from torch.fx.experimental.sym_node import SymNode

from cnnbench.errors import ModelError

NUMBERS = (*range(1, 10), 64)
"""Of images, for which a condition is tried."""
OWN = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
"""Folders whose code is not the user's."""


class FixedBatch(ModelError):
    """A forward pass that goes another way for another number of images; the message names the line."""


@contextmanager
def any_batch() -> Iterator[None]:
    """Have a trace with a symbolic batch stay right for any.

    `len` of a tensor is its symbolic size, as `shape[0]` is; Python's own asks for a number. Raises FixedBatch where
    the size becomes a number, or decides which way to go: torch's exporters take the number that they trace with, and
    more than one image for granted.
    """
    places: list[str] = []
    trace_rules.is_builtin_callable(len)  # which notes Python's own functions at its first call: `len` has to be one
    length, to_number, to_truth = builtins.len, SymNode.guard_int, torch.SymBool.__bool__

    def symbolic_length(x: Any) -> Any:
        return x.shape[0] if isinstance(x, Tensor) and x.ndim else length(x)

    def as_number(node: SymNode, file: str, line: int) -> int:
        is_of_images, number = _is_of_images(node), to_number(node, file, line)
        if is_of_images:
            places.extend(_place())
        return number

    def as_truth(condition: torch.SymBool) -> bool:
        is_users = not _is_own(sys._getframe(1).f_code.co_filename)
        if is_users and condition.node.has_hint() and _differs(condition.node.expr):  # without one it is of values
            places.extend(_place())
        return to_truth(condition)

    try:
        with (
            patch.object(builtins, "len", symbolic_length),
            patch.object(SymNode, "guard_int", as_number),
            patch.object(torch.SymBool, "__bool__", as_truth),
        ):
            yield
    finally:
        if places:
            raise FixedBatch(
                f"its forward pass goes by the number of images at {places[0]}, so that a graph would hold for that "
                "number alone; compute all images at once, and use x.shape[0] in shapes only, not in `if`, `for` or "
                "`int`"
            ) from None


def _is_own(file: str) -> bool:
    return file.startswith((*OWN, "<"))


def _is_of_images(node: SymNode) -> bool:
    """Whether a size goes by the number of images; those that are known within a loop's body alone have no name."""
    sizes: Any = node.shape_env
    return bool(node.expr.free_symbols and sizes.source_name_to_debug_name)


def _differs(condition: Any) -> bool:
    """Whether a condition on the number of images holds for some numbers and not for others."""
    symbols = condition.free_symbols
    return len({condition.subs(dict.fromkeys(symbols, number)) for number in NUMBERS}) > 1


def traced_line(stack: str) -> str:
    """The innermost line of the user's in a stack that torch.export has noted, as `nets.py:12`; empty if none is."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', stack)
    return next((f"{Path(file).name}:{line}" for file, line in reversed(lines) if not _is_own(file)), "")


def _place() -> Iterator[str]:
    """The innermost line of the user's that runs, as `nets.py:12 (the line)`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_own(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is not None:
        file, line = frame.f_code.co_filename, frame.f_lineno
        yield f"{Path(file).name}:{line} (`{linecache.getline(file, line).strip()}`)"
