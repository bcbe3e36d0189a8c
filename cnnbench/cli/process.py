"""This process among others: its output, which ends no command, and the signals that end it in good order."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from errno import EIO, EPIPE
from types import FrameType

from cnnbench.records.printable import without_commands


class _Descriptor(io.FileIO):
    """What cannot be written is dropped: a run goes on and a verdict stands whether or not somebody can read on."""

    fault = ""
    """Why something was dropped, unless the reader is gone."""

    def write(self, data: object, /) -> int:
        """Write or drop."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            drop(self.fileno())
            if error.errno not in (EPIPE, EIO):
                self.fault = str(error.strerror)
            return len(memoryview(data))  # type: ignore[arg-type]


class _Text(io.TextIOWrapper):
    """Text that cannot command the terminal; a character that its encoding lacks is shown by its number."""

    def write(self, text: str, /) -> int:
        """Write."""
        super().write(without_commands(text))
        return len(text)


def drop(descriptor: int) -> None:
    """Have what is written there go nowhere from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def set_up_output() -> None:
    """Make both standard streams such."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed; whatever is opened next would take its place
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            if isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
                buffer = io.BufferedWriter(_Descriptor(stream.fileno(), "wb", closefd=False))
                made = _Text(buffer, stream.encoding, "backslashreplace", line_buffering=stream.line_buffering)
                setattr(sys, name, made)


def flush_output() -> str:
    """Have all that was printed go out; gives why some of it did not, if so."""
    try:
        sys.stdout.flush()
    except OSError as error:
        drop(sys.stdout.fileno())
        return str(error.strerror)
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.fault if isinstance(raw, _Descriptor) else ""


@contextlib.contextmanager
def ending_signals() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP end what is done as Ctrl-C does, with all that is cleaned up then; gives those that came."""
    received: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_IGN)  # cleaning up is not to be interrupted
        raise KeyboardInterrupt

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # as under nohup, which ignores one
            before[number] = signal.signal(number, end)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
