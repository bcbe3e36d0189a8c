"""A Ray cluster of several fake nodes on this machine, whose workers follow a script; nodes can be killed and started.

The cluster is a process of its own, which is told on its standard input: `add NAME` and `kill NAME`, one a line.
"""

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parent.parent
SITE = """
import sys
if "cnnbench.fleet.alone" in " ".join(sys.orig_argv):
    from cnnbench.runner.worker_process import Interpreter
    Interpreter.command = {command!r}
"""
"""Has every command of a node start workers that follow the script."""


class FakeCluster:
    """A head without CPUs, and nodes by name."""

    def __init__(self, folder: Path, variables: Mapping[str, Mapping[str, str]], command: tuple[str, ...] = ()) -> None:
        """Start it; `variables` are those of each node, and `command` starts a scripted worker."""
        (folder / "site").mkdir()
        if command:
            (folder / "site" / "sitecustomize.py").write_text(SITE.format(command=command))
        path = os.pathsep.join([str(folder / "site"), str(ROOT)])
        common = {"PYTHONPATH": path, "CNNBENCH_CACHE": str(folder / "cache"), "PYTHONWARNINGS": "default"}
        nodes = {name: {**common, **own} for name, own in variables.items()}
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_server_port_wait_time_s": "200",
        }
        with (folder / "cluster.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fake_cluster", json.dumps(nodes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                cwd=ROOT,
                env=self.environment,
            )
        self.pid = self._process.pid
        self.address = self._answer()

    def tell(self, what: str) -> None:
        """`add NAME` or `kill NAME`; returns when it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise AssertionError("the cluster ended; see cluster.log")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(300)
        self._process.stdout.close()


def main() -> None:
    """Be the cluster."""
    from ray.cluster_utils import Cluster

    variables = json.loads(sys.argv[1])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes: dict[str, Any] = {}

    def add(name: str) -> None:
        labels = {"cnnbench.io/machine": name}
        while name not in nodes:
            with contextlib.suppress(Exception):  # on a busy machine it takes longer than Ray waits
                nodes[name] = cluster.add_node(num_cpus=1, labels=labels, env_vars={**os.environ, **variables[name]})

    for name in variables:
        add(name)
    print(f"> {cluster.address}", flush=True)
    for line in sys.stdin:
        what, name = line.split()
        if what == "add":
            add(name)
        else:
            cluster.remove_node(nodes.pop(name), allow_graceful=False)
        print("> done", flush=True)
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
