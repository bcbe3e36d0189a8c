"""What runs in Ray's worker on a node; it needs no package of the node's but Ray, which sends it there by its code."""

from collections.abc import Iterator

NODE = "cnnbench.fleet.node"


def measure(job: bytes) -> Iterator[bytes]:
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
            for line in process.stdout:  # noqa: UP028 - Ray sends into a generator, which `yield from` hands on
                yield line
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            code = process.wait()
        errors.seek(0)
        words = errors.read()[-2000:].decode(errors="replace").strip().splitlines()
        if code:
            reason = words[-1] if words else f"it ended with code {code}"
            yield message(kind="ended", code=code if code < 0 else None, reason=f"{python}: {reason}")
