"""What a user can cause, as a tree; every message says where, what was expected, what was got, what to do.

CnnbenchError            exit code 2 unless said otherwise; shown as one line, never as a traceback
├── InputError           a word on the command line or an unknown name
│   ├── SuiteError       a suite file: where it stands, file and line
│   ├── ShapeError       an image that a network cannot take; names the layer
│   │   └── TooSmall     nothing would be left of it
│   └── ModelError       a user's model that raises, or is not a torch module
├── ExpectationError    a file of expected figures that is missing or cannot be read; exit code 3
├── RunFolderError       a run's folder that is missing, busy, damaged, or belongs to another suite
└── WorkerError          a child process that could not do its work: becomes a `failed` record
    ├── WorkerCrashed    it died: the signal or exit code, and its last words
    └── WorkerHung       it did not answer within its limit

What only we can cause is an `assert`.
"""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class CnnbenchError(Exception):
    """Anything a user can cause or must be told about; `exit_code` is what the command line returns."""

    exit_code = 2


class InputError(CnnbenchError):
    """A word on the command line, or a name, that means nothing here."""


class SuiteError(InputError):
    """A suite file that cannot be used; the message begins with file and line."""


class ShapeError(InputError):
    """An image that a network cannot take; the message names the layer."""


class TooSmall(ShapeError):
    """An image of which nothing would be left; the message names the layer."""


class ModelError(InputError):
    """A model that cannot be built or run: its code raises, or what it returns is no torch module."""


class ExpectationError(CnnbenchError):
    """A file of expected figures that is missing or cannot be read: nothing was found right."""

    exit_code = 3


class RunFolderError(CnnbenchError):
    """A run's folder that cannot be read or written."""


class WorkerError(CnnbenchError):
    """A child process that could not do what it was asked; the message is the reason."""

    exit_code = 3


class WorkerCrashed(WorkerError):
    """A child process that died before it answered."""


class WorkerHung(WorkerError):
    """A child process that did not answer within its limit."""


def unknown(what: str, got: str, known: Iterable[str]) -> str:
    """A message for a name that is not known: what was expected, what was got, and the nearest name.

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
