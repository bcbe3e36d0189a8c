"""A node's program: it starts the ordinary command, alone on its host, and sends on what that writes.

`python -P -m cnnbench.fleet.node` takes a `Job` in one line and gives messages, one a line; it ends when its input
does, and the command with it. What the command writes is kept for a week, so that nothing finished is lost.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Queue

from filelock import FileLock, Timeout

from cnnbench.errors import CnnbenchError
from cnnbench.fleet import artifacts, own_models
from cnnbench.fleet.alone import WAITING, end_with_input
from cnnbench.fleet.messages import LINES, WHOLE, Doing, Ended, FileName, Hello, Job, Message, Note, Wants, Wrote
from cnnbench.records import files
from cnnbench.records.cache import private_folder
from cnnbench.runner import machine

FINGERPRINT = "CNNBENCH_FINGERPRINT"
"""The environment variable that stands for the machine's fingerprint, for several nodes on one host in a test."""
KEPT_S = 7 * 24 * 3600.0
LOOK_EACH_S = 0.25
LAST_WORDS = 3
COMMAND = (sys.executable, "-P", "-m", "cnnbench.fleet.alone")
_PROGRESS = re.compile(r"\[\d+/\d+\] ")

Send = Callable[[Message], None]


def main() -> None:
    """Take a job from standard input, and send messages to standard output."""
    job = Job.model_validate_json(sys.stdin.buffer.readline())
    pieces: Queue[bytes] = Queue(maxsize=8)
    end_with_input(pieces.put)

    def send(message: Message | Wants) -> None:
        sys.stdout.buffer.write(message.model_dump_json().encode() + b"\n")
        sys.stdout.buffer.flush()

    def ask(digest: str) -> Iterator[bytes]:
        send(Wants(sha256=digest))
        return _unframed(pieces)

    try:
        serve(job, send, ask=ask)
    except OSError as error:
        send(Ended(code=None, reason=f"{error.filename or 'the node'}: {error.strerror}"))
    except CnnbenchError as error:
        send(Ended(code=None, reason=str(error)))


def _unframed(pieces: "Queue[bytes]") -> Iterator[bytes]:
    """The content of a file that comes in frames."""
    waiting = bytearray()

    def taken(size: int) -> bytes:
        while len(waiting) < size:
            waiting.extend(pieces.get())
        found = bytes(waiting[:size])
        del waiting[:size]
        return found

    while size := int.from_bytes(taken(8), "big"):
        yield taken(size)


def _nothing(digest: str) -> Iterator[bytes]:
    return iter(())


def serve(
    job: Job, send: Send, command: Sequence[str] = COMMAND, ask: Callable[[str], Iterator[bytes]] = _nothing
) -> None:
    """Do a job; `ask` gives a file that is offered.

    Raises OSError, CnnbenchError where its files have no place, or something that it needs is not here.
    """
    fingerprint = os.environ.get(FINGERPRINT) or machine.environment([], Path.cwd()).fingerprint
    send(Hello(fingerprint=fingerprint))
    place = private_folder("fleet") / f"{job.fleet}-{job.machine}-{fingerprint}"
    lock = Path(tempfile.gettempdir()) / f"cnnbench-fleet-{os.geteuid() if hasattr(os, 'geteuid') else 'user'}.lock"
    run = place / "run"
    with _holding(lock, send):  # a command that was left alone ends first
        _sweep(place.parent, place)
        place.mkdir(exist_ok=True)
        os.utime(place)
        sent = _synchronised(run, job.known.get(fingerprint, {}))
        files.write(place / job.file, job.suite)
        if job.toolchain == artifacts.toolchain_digest():
            for fault in artifacts.take(job.offers, ask):
                send(Note(text=fault))
        start, environment = own_models.variables(own_models.take(job.own, place, ask))
    words = [*command, str(lock), "run", str(place / job.file), "--out", str(run), "--resume", *job.options]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=start, env=environment
        ) as child,
    ):
        printed: deque[str] = deque(maxlen=100)
        reader = threading.Thread(target=_read, args=(child, printed), daemon=True)
        reader.start()
        followed = [_Lines(run / name, sent[name]) for name in LINES]
        seen = dict.fromkeys(WHOLE, "")
        is_running = True
        while is_running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(LOOK_EACH_S)
            is_running = child.returncode is None
            if not is_running:
                reader.join(LOOK_EACH_S)
            while printed:
                send(Doing(text=printed.popleft()[:2000]))
            for message in _news(run, followed, seen):
                send(message)
        errors.seek(0)
        last = errors.read()[-4000:].decode(errors="replace").strip().splitlines()[-LAST_WORDS:]
    send(Ended(code=child.returncode, reason=" | ".join(last)[:2000] if child.returncode else ""))


class _Lines:
    """A file that grows by lines: those that are whole and JSON, after the first few."""

    def __init__(self, file: Path, known: int) -> None:
        self.file, self._known, self._offset = file, known, 0

    def new(self) -> list[str]:
        """The lines since the last call."""
        try:
            with self.file.open("rb") as stream:
                stream.seek(self._offset)
                whole = stream.read().rpartition(b"\n")[0]
        except OSError:
            return []
        self._offset += len(whole) + bool(whole)
        lines = _whole_lines(whole)
        skipped = min(self._known, len(lines))
        self._known -= skipped
        return lines[skipped:]


def _whole_lines(text: bytes) -> list[str]:
    """The lines that are JSON; a crash may have cut one short."""
    found = []
    for line in text.split(b"\n"):
        with contextlib.suppress(ValueError):
            json.loads(line)
            found.append(line.decode())
    return found


def _news(run: Path, followed: Sequence[_Lines], seen: dict[FileName, str]) -> Iterator[Message]:
    """What was written since the last call; what a record refers to is sent before it."""
    lines = {each.file.name: each.new() for each in reversed(followed)}  # records are read first, for they come last
    for name in WHOLE:
        text = _text(run / name)
        if text not in ("", seen[name]):
            seen[name] = text
            yield Wrote(file=name, text=text)
    for name in LINES:
        yield from (Wrote(file=name, text=line) for line in lines[name])


def _synchronised(run: Path, known: Mapping[FileName, str]) -> dict[FileName, int]:
    """Have the folder go on where the driver's does; gives how many lines of each file the driver has.

    What is here and continues what the driver has, stays; else the driver's is put in its place.
    """
    theirs = {name: _whole_lines(known.get(name, "").encode()) for name in LINES}
    ours = {name: _Lines(run / name, 0).new() for name in LINES}
    if any(ours[name][: len(theirs[name])] != theirs[name] for name in LINES):
        shutil.rmtree(run, ignore_errors=True)
    if not run.exists() and known:
        run.mkdir(parents=True)
        for name, text in known.items():
            files.write(run / name, text)
    return {name: len(lines) for name, lines in theirs.items()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _read(child: "subprocess.Popen[bytes]", printed: deque[str]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        if _PROGRESS.match(text := line.decode(errors="replace").rstrip()):
            printed.append(text)


@contextlib.contextmanager
def _holding(lock: Path, send: Send) -> Iterator[None]:
    """Hold the host's lock."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        send(Doing(text=WAITING))
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _sweep(folder: Path, but: Path) -> None:
    """Delete what was written for fleets a week ago."""
    for old in folder.iterdir():
        with contextlib.suppress(OSError):  # another machine with the same home deletes it just now
            if old != but and time.time() - old.stat().st_mtime > KEPT_S:
                shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    main()
