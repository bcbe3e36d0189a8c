"""What runs in Ray's worker on a node; it needs no package of the node's but Ray, which sends it there by its code."""

from collections.abc import Iterator
from typing import Any

CHUNK_BYTES = 4 * 2**20


class Files:
    """Reads the driver's files, by SHA-256; Ray has it live on the driver's node."""

    def __init__(self, paths: dict[str, str]) -> None:
        self.paths = paths

    def read(self, digest: str, offset: int) -> bytes:
        """A piece of a file; empty at its end, and where there is no such file."""
        try:
            with open(self.paths[digest], "rb") as file:
                file.seek(offset)
                return file.read(CHUNK_BYTES)
        except (KeyError, OSError):
            return b""


def frames(digest: str, files: Any) -> Iterator[bytes]:
    """A file as the node's program takes it: pieces behind their lengths, and an empty one."""
    import ray

    offset = 0
    while True:
        try:
            piece = ray.get(files.read.remote(digest, offset))
        except ray.exceptions.RayError:  # whoever takes it sees that it is not whole
            piece = b""
        yield len(piece).to_bytes(8, "big") + piece
        offset += len(piece)
        if not piece:
            return


def measure(job: bytes, files: Any = None) -> Iterator[bytes]:
    """Start the node's program in the node's own environment with a job, and give each line that it sends.

    Ray's worker is a child of the node's daemon, whose environment, folder and priority are those in which somebody
    started the node; Ray gives its worker others (OMP_NUM_THREADS, CUDA_VISIBLE_DEVICES, a lower priority).
    """
    import contextlib
    import json
    import os
    import subprocess
    import sys
    import tempfile

    def message(**content: object) -> bytes:
        return json.dumps(content).encode()

    daemon, environment, folder = os.getppid(), dict(os.environ), None
    with contextlib.suppress(OSError):  # there is no /proc: undo what is known
        with open(f"/proc/{daemon}/environ", "rb") as file:
            pairs = [os.fsdecode(entry).partition("=") for entry in file.read().split(b"\0") if entry]
        environment = {name: value for name, _, value in pairs}
        folder = os.readlink(f"/proc/{daemon}/cwd")
    if folder is None:
        for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
            environment.pop(name, None)
    if "RAY_LD_PRELOAD_ON_WORKERS" in environment:  # Ray gave its daemon an allocator of its own, where it had none
        for name in ("LD_PRELOAD", "MALLOC_CONF"):
            environment.pop(name, None)
    environment = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    python = environment.get("CNNBENCH_PYTHON") or sys.executable
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [python, "-P", "-m", "cnnbench.fleet.node"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            yield message(kind="ended", code=None, reason=f"{python}: {error.strerror}")
            return
        with process:
            with contextlib.suppress(OSError), open(f"/proc/{daemon}/oom_score_adj") as own:
                score = own.read()
                with open(f"/proc/{process.pid}/oom_score_adj", "w") as ours:
                    ours.write(score)
            nice = os.getpriority(os.PRIO_PROCESS, daemon)
            if os.getpriority(os.PRIO_PROCESS, process.pid) != nice:
                try:
                    os.setpriority(os.PRIO_PROCESS, process.pid, nice)
                except OSError:
                    got = os.getpriority(os.PRIO_PROCESS, process.pid)
                    advice = "start the node with RAY_worker_niceness=0 in its environment"
                    yield message(kind="note", text=f"Ray lets it run at niceness {got} instead of {nice}; {advice}")
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it ended at once, and says why below
                process.stdin.write(job + b"\n")
                process.stdin.flush()
            for line in process.stdout:
                if not line.startswith(b'{"kind":"wants"'):
                    yield line
                    continue
                with contextlib.suppress(BrokenPipeError):
                    for frame in frames(json.loads(line)["sha256"], files):
                        process.stdin.write(frame)
                    process.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            code = process.wait()
        errors.seek(0)
        words = errors.read()[-2000:].decode(errors="replace").strip().splitlines()
        if code:
            reason = words[-1] if words else f"it ended with code {code}"
            yield message(kind="ended", code=code if code < 0 else None, reason=f"{python}: {reason}")
