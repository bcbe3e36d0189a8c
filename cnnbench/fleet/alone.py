"""The ordinary command in a process of its own, alone on its host, which ends when its standard input does.

`python -P -m cnnbench.fleet.alone LOCK run SUITE ...` is `python -m cnnbench run SUITE ...` while no other holds LOCK.
"""

import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable

from filelock import FileLock, Timeout

GRACE_S = 30.0
"""For what is finished to be written."""
WAITING = "[0/0] waiting for another node of this host"


def end_with_input(take: Callable[[bytes], object] = lambda piece: None) -> None:
    """End this process, as SIGTERM does, once the other end of its standard input is closed.

    `take` is given what comes before, in another thread.
    """

    def wait() -> None:
        while piece := os.read(0, 2**20):
            take(piece)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(GRACE_S)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Wait for the lock, then run the command line."""
    end_with_input()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # which Ray blocks in all that it starts
    lock = FileLock(sys.argv.pop(1))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(WAITING, flush=True)
        lock.acquire()
    runpy.run_module("cnnbench", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
