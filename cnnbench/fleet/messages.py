"""What a fleet's driver and its nodes send each other: one JSON object a line."""

from pathlib import PurePosixPath
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, TypeAdapter

from cnnbench.records.artifact import SealedFile
from cnnbench.suite.case import Frozen

FileName = Literal[
    "run.json",
    "environment.json",
    "ceilings.json",
    "input.json",
    "shared.jsonl",
    "records.jsonl",
    "profiles.jsonl",
]
"""The files of a run's folder that are sent, in the order in which one refers to another."""
LINES, WHOLE = (tuple(name for name in get_args(FileName) if name.endswith("l") is ends) for ends in (True, False))
"""Files that grow by lines, and those that are replaced."""


class Offer(Frozen):
    """An artifact that the driver has."""

    entry: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """Its folder's name in a cache."""
    seal: str
    """The text of its seal: its key, and size and digest of each file."""


def _check_below(path: str) -> str:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"expected a path below a folder; got {path!r}")
    return path


class Sent(Frozen):
    """A file of the user's own models, which the driver has."""

    path: Annotated[str, AfterValidator(_check_below)]
    """Below the folder of what is sent: `code/mypackage/nets.py`, `files/net.onnx`."""
    modified_ns: int
    content: SealedFile


class NeededPackage(Frozen):
    """A package of the user's own models that is not sent."""

    name: str
    """Of the module."""
    distribution: str = ""
    """What is installed, where that is known, and its version."""
    version: str = ""
    why: str
    """It is not sent."""


class NeededFile(Frozen):
    """A file of the user's own models that is not sent, because its path is absolute."""

    path: str
    content: SealedFile


class Own(Frozen):
    """What the user's own models consist of."""

    sent: tuple[Sent, ...] = ()
    packages: tuple[NeededPackage, ...] = ()
    files: tuple[NeededFile, ...] = ()


class Job(Frozen):
    """What a node is asked to do."""

    fleet: str
    """Names the fleet's run, so that a node finds again what it wrote for it."""
    machine: str
    file: str
    """The suite file's name."""
    suite: str
    """Its text."""
    options: tuple[str, ...] = ()
    """Of `cnnbench run`, beside the suite and its folder."""
    known: dict[str, dict[FileName, str]] = {}
    """By fingerprint, what the driver has of a machine of this name: the text of each file."""
    toolchain: str = ""
    """Digest of what built the artifacts that are offered."""
    offers: tuple[Offer, ...] = ()
    own: Own = Own()


class Hello(Frozen):
    """The first message: which machine it is."""

    kind: Literal["hello"] = "hello"
    fingerprint: Annotated[str, Field(min_length=1, max_length=100)]


class Wrote(Frozen):
    """A new line of a file, or the whole of it."""

    kind: Literal["wrote"] = "wrote"
    file: FileName
    text: str


class Doing(Frozen):
    """What is measured, and how long that still takes, in the command's own words."""

    kind: Literal["doing"] = "doing"
    text: Annotated[str, Field(max_length=2000)]


class Note(Frozen):
    """What the user should know of the node."""

    kind: Literal["note"] = "note"
    text: Annotated[str, Field(max_length=2000)]


class Wants(Frozen):
    """A file that is to be sent: to the task on the node, which writes it to the program's standard input.

    It comes in frames, each behind its length in 8 bytes; an empty one ends it, whether it is whole or not.
    """

    kind: Literal["wants"] = "wants"
    sha256: str


class Ended(Frozen):
    """The last message."""

    kind: Literal["ended"] = "ended"
    code: int | None
    """The command's exit code, negative for a signal; None where it could not be started."""
    reason: Annotated[str, Field(max_length=2000)] = ""
    """Its last words, where it did not end well."""


Message = Hello | Wrote | Doing | Note | Ended
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def parse_message(line: bytes) -> Message:
    """A node's message. Raises ValueError."""
    return _MESSAGE.validate_json(line)
