"""Files that are read and written: whole or not at all, never through a link, never without an end.

A run's folder may be a stranger's: a link in it may lead to any file of the user's, a pipe in it never ends. A disk may
be full, and a machine may lose its power at any moment. All of this is dealt with here, and nowhere else.

All functions raise OSError, whose `filename` is the file and whose `strerror` says what is wrong with it; an `Appender`
raises none.
"""

import contextlib
import os
import secrets
import stat
from collections import deque
from collections.abc import Iterator
from errno import EFBIG, EINVAL
from hashlib import file_digest
from io import BufferedReader
from pathlib import Path

MAX_BYTES = 256 * 2**20
"""Of a file that is read at once, and of one line of a file that is read line by line."""
MAX_LINES_BYTES = 4 * MAX_BYTES
"""Of a whole file that is read line by line."""
LEFT = ".cnnbench-"
"""Begins the name of a file that is being written, and of what a killed process left."""
_NOT_A_FILE = "expected a file; got a folder, a pipe or a device"
_NO_LINK, _NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)  # Windows has neither


def write(file: Path, content: str | bytes) -> None:
    """Write a file, as `replacing` does."""
    with replacing(file) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to, which becomes the file at the end: whole or not at all, in the place of a link.

    Its mode is the umask's, whatever a library that puts another file into this place gave that one.
    """
    with _naming(file):
        if file.exists() and not file.is_file() and not file.is_dir():
            raise OSError(EINVAL, _NOT_A_FILE)  # as /dev/null, which root could replace
        temporary = file.with_name(f"{LEFT}{secrets.token_hex(6)}")
        try:
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
            yield temporary
            if temporary.stat().st_mode != mode:
                temporary.chmod(stat.S_IMODE(mode))
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, file)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def append(file: Path, line: str | bytes) -> None:
    """Add a line, which is on the disk afterwards; a line that a crash cut short is ended first.

    If it cannot be written whole, the file is as before.
    """
    content = (line.encode() if isinstance(line, str) else line) + b"\n"
    with _naming(file):
        descriptor = open_to_append(file)
        with open(descriptor, "rb+", buffering=0) as stream:
            size = stream.seek(0, os.SEEK_END)
            if size:
                stream.seek(-1, os.SEEK_END)
                content = content if stream.read(1) == b"\n" else b"\n" + content
            try:
                while content:
                    content = content[stream.write(content) :]
                os.fsync(descriptor)
            except OSError:  # an interrupt keeps what is written; the next line ends it if it is cut short
                with contextlib.suppress(OSError):
                    stream.truncate(size)
                raise


class Appender:
    """Adds lines to files, in order; those that a full disk refuses wait in memory, and are tried with each further."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Path, str]] = deque()
        self.fault = ""
        """Which file could not be written and why, if lines wait."""

    def append(self, file: Path, line: str) -> None:
        """Add a line, which is on the disk afterwards or waits."""
        self._waiting.append((file, line))
        self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self.fault = ""
        while self._waiting:
            try:
                append(*self._waiting[0])
            except OSError as error:
                self.fault = f"{error.filename}: {error.strerror}"
                return
            self._waiting.popleft()


def open_to_append(file: Path) -> int:
    """The descriptor of a regular file, made if it is not there, at whose end is written whatever is written."""
    with _naming(file):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_LINK | _NO_WAIT, 0o666)
        return _checked(descriptor)


def read(file: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a regular file of at most `max_bytes`."""
    with _naming(file), _opened(file) as stream:
        content = stream.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise OSError(EFBIG, f"is larger than {max_bytes:,} bytes")
        return content


def digest(file: Path) -> str:
    """The SHA-256 of a regular file of any size."""
    with _naming(file), _opened(file) as stream:
        return file_digest(stream, "sha256").hexdigest()


def read_lines(file: Path) -> Iterator[bytes]:
    """The lines of a regular file, without their ends; none if there is no file. Only a line feed ends a line."""
    left = MAX_LINES_BYTES
    try:
        with _naming(file), _opened(file) as stream:
            while line := stream.readline(MAX_BYTES + 1):
                if len(line) > MAX_BYTES:
                    raise OSError(EFBIG, f"has a line of more than {MAX_BYTES:,} bytes")
                left -= len(line)
                if left < 0:
                    raise OSError(EFBIG, f"is larger than {MAX_LINES_BYTES:,} bytes")
                yield line.removesuffix(b"\n")
    except FileNotFoundError:
        return


def _opened(file: Path) -> BufferedReader:
    return open(_checked(os.open(file, os.O_RDONLY | _NO_WAIT)), "rb")


def _checked(descriptor: int) -> int:
    """The descriptor, if it is a regular file's."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(EINVAL, _NOT_A_FILE)
    return descriptor


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Errors of the operating system name the file; those of a write name none by themselves."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
