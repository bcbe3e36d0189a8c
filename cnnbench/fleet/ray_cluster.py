"""Ray as a fleet's cluster: a task that takes all of one node, on which no task of Ray's is repeated or moved."""

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from cnnbench.errors import InputError
from cnnbench.fleet import task
from cnnbench.fleet.transport import Event, Node

LOCAL = "local"
MACHINE = "cnnbench.io/machine"
"""The label that names a node's machine; without it, its host's name does."""
NODE_ID = "ray.io/node-id"
CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""The variable that lets Ray have nodes on other machines; without them it listens on the loopback address alone. To
`_node_ip_address="127.0.0.1"` it gives an address that can be reached from outside."""
MAX_DRAINED = 500
"""Messages of one node that are taken before another's turn."""
STORE_BYTES = 100 * 2**20
"""For what tasks give each other; messages are small."""


class RayCluster:
    """A cluster that this process joins, or one of this machine alone."""

    def __init__(self, address: str) -> None:
        """Connect to an address, or start Ray here. Raises InputError where Ray is not there, or cannot be reached."""
        options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if address == LOCAL:  # Ray reads these when it is imported
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
            os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
            os.environ[CLUSTERS] = "0"
            options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        try:
            import ray
        except ImportError:
            raise InputError("--fleet: expected Ray; it is not installed: pip install 'cnnbench[fleet]'") from None
        self._ray: Any = ray
        ends_it = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**options)
        except Exception as error:  # of many kinds, none of which they promise
            why = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise InputError(f"--fleet {address}: expected a Ray cluster of this version; {why}") from None
        signal.signal(signal.SIGTERM, ends_it)  # Ray has put its own in its place
        self._ray.cloudpickle.register_pickle_by_value(task)  # so that a node needs no package to say that it has none
        self._measure: Any = ray.remote(task.measure)
        self._streams: dict[str, Any] = {}
        self._files: Any = None

    def nodes(self) -> Sequence[Node]:
        """Those that live and have CPUs to give."""
        found = []
        for each in self._ray.nodes():
            resources, labels = each["Resources"], each["Labels"]
            if each["Alive"] and resources.get("CPU"):
                name = labels.get(MACHINE) or each["NodeManagerHostname"]
                sizes = resources["CPU"], resources.get("GPU", 0.0)
                found.append(Node(each["NodeID"], name, each["NodeManagerAddress"], *sizes, labels))
        return found

    def offer(self, files: Mapping[str, Path]) -> None:
        """Have nodes read these files, by SHA-256, from a process on this node."""
        here = {NODE_ID: self._ray.get_runtime_context().get_node_id()}
        reader = self._ray.remote(task.Files).options(num_cpus=0, label_selector=here)
        self._files = reader.remote({digest: str(file) for digest, file in files.items()})

    def start(self, node: Node, job: bytes) -> None:
        """Start a job there; it waits until the node is free."""
        chosen = self._measure.options(
            num_cpus=node.cpus,
            num_gpus=node.gpus,
            label_selector={NODE_ID: node.id},
            num_returns="streaming",
            max_retries=0,
        )
        self._streams[node.id] = chosen.remote(job, self._files)

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """What came since the last call; waits so long for the first."""
        if not self._streams:
            time.sleep(timeout_s)
            return []
        streams = list(self._streams.values())
        ready, _ = self._ray.wait(streams, num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = self._ray.wait(streams, num_returns=len(streams), timeout=0)
        speaking = [(id_, stream) for id_, stream in self._streams.items() if stream in ready]
        return [event for id_, stream in speaking for event in self._drain(id_, stream)]

    def _drain(self, id_: str, stream: Any) -> Iterator[Event]:
        for _ in range(MAX_DRAINED):
            message, lost = None, "it sent what is no text"
            try:
                message = self._ray.get(next(stream))
            except StopIteration:
                lost = "its task ended"
            except self._ray.exceptions.RayError as error:
                lost = _why(error)
            if not isinstance(message, bytes):
                self._streams.pop(id_, None)
                yield Event(id_, lost=lost)
                return
            yield Event(id_, message)
            if not (stream.next_ready() or stream.is_finished()):
                return

    def stop(self, node: Node) -> None:
        """End its job; the command there ends as by SIGTERM."""
        if (stream := self._streams.pop(node.id, None)) is not None:
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.cancel(stream, force=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster, or end that of this machine alone."""
        self._ray.shutdown()


def _why(error: Exception) -> str:
    """Ray's error in a few words."""
    known = {
        "NodeDiedError": "its node died",
        "WorkerCrashedError": "Ray's worker there died",
        "OutOfMemoryError": "Ray ended it because the node's memory ran out",
        "TaskUnschedulableError": "its node died before it began",
        "TaskCancelledError": "it was cancelled",
        "RuntimeEnvSetupError": "Ray could not set up its worker there",
    }
    name = type(error).__name__
    return known.get(name) or f"{name}: {(str(error).strip().splitlines() or ['no reason given'])[-1][:200]}"
