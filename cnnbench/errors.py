"""Errors that a user can cause. Each message says where, what was expected, what was found, and what to do.

CnnbenchError            exit code 2 unless stated; shown as a message, never as a traceback
├── InputError           an invalid argument or an unknown name
│   ├── SuiteError       an invalid suite file; names file and line
│   ├── ShapeError       an image that a network cannot take; names the layer
│   │   └── TooSmall     too small for the layer
│   └── ModelError       a user's model that raises, or is not a torch module
├── ExpectationError     an expectation file that is missing or invalid; exit code 3
├── RunFolderError       a run's folder that is missing, busy, damaged, or of another suite
├── HistoryError         a history that is missing, busy or damaged, or that something cannot be added to
└── WorkerError          a child process that failed: becomes a `failed` record; exit code 3
    ├── WorkerCrashed    it died: signal or exit code, and the end of its output
    ├── WorkerHung       it did not answer within its time limit
    └── WorkerOutOfMemory  it got no memory, on the host or on the device

Errors that only cnnbench's own code can cause are assertions.
"""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class CnnbenchError(Exception):
    """An error that a user can cause; `exit_code` is the command line's."""

    exit_code = 2


class InputError(CnnbenchError):
    """An invalid argument, or an unknown name."""


class SuiteError(InputError):
    """An invalid suite file; the message begins with file and line."""


class ShapeError(InputError):
    """An image that a network cannot take; the message names the layer."""


class TooSmall(ShapeError):
    """An image that is too small; the message names the layer."""


class ModelError(InputError):
    """A model that cannot be built or run: its code raises, or it is not a torch module."""


class ExpectationError(CnnbenchError):
    """An expectation file that is missing or invalid."""

    exit_code = 3


class RunFolderError(CnnbenchError):
    """A run's folder that cannot be read or written."""


class HistoryError(CnnbenchError):
    """A history that cannot be read or written, or that something cannot be added to."""


class WorkerError(CnnbenchError):
    """A child process that failed; the message is the reason."""

    exit_code = 3


class WorkerCrashed(WorkerError):
    """A child process that died before it answered."""


class WorkerHung(WorkerError):
    """A child process that did not answer within its time limit."""


class WorkerOutOfMemory(WorkerError):
    """A child process that got no memory, on the host or on the device."""


def unknown(what: str, got: str, known: Iterable[str]) -> str:
    """The message for an unknown name, with the nearest known one.

    >>> unknown("runtime", "onnxrt", ["eager", "ort"])
    "expected a runtime, one of eager, ort; got 'onnxrt' (did you mean 'ort'?)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    shown = ", ".join(names) if len(names) <= 12 else f"{len(names)} known names"
    article = "an" if what[0] in "aeiou" else "a"
    return f"expected {article} {what}, one of {shown}; got {got!r}{hint}"


def first_fault(error: "ValidationError") -> str:
    """The first thing that is wrong with data, and where in them: `machine.cpu: Field required`."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the content'}: {first['msg']}"
