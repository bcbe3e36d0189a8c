"""What a fleet's driver needs of a cluster: its nodes, and a job started on each, whose messages arrive one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Node:
    """A node as the cluster describes it."""

    id: str
    """Of this start of the node: another after a restart."""
    name: str
    """Of the machine: the same after a restart."""
    address: str = ""
    cpus: float = 1.0
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Event:
    """What came of a node's job: a message, or that no more will come."""

    node: str
    """Its id."""
    message: bytes | None = None
    lost: str = ""
    """Why no message will come any more, where the node did not say so itself."""


class Transport(Protocol):
    """A cluster."""

    def nodes(self) -> Sequence[Node]:
        """Those that live now and can be taken."""

    def offer(self, files: Mapping[str, Path]) -> None:
        """Have nodes read these files, by SHA-256, when jobs that are started from now on want them."""

    def start(self, node: Node, job: bytes) -> None:
        """Start a job that takes the whole node, on this node and no other."""

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """What came since the last call; waits so long for the first."""

    def stop(self, node: Node) -> None:
        """End a node's job; nothing of it comes any more."""


def named_apart(nodes: Sequence[Node]) -> list[Node]:
    """The nodes, with numbers behind the names that several have."""
    found: dict[str, Node] = {}
    for node in sorted(nodes, key=lambda each: (each.name, each.id)):
        name, number = node.name, 1
        while name in found:
            number += 1
            name = f"{node.name}-{number}"
        found[name] = Node(node.id, name, node.address, node.cpus, node.gpus, node.labels)
    return list(found.values())


def chosen(nodes: Sequence[Node], names: Sequence[str], labels: Mapping[str, str]) -> list[Node]:
    """The nodes whose name fits one of the shell patterns, all if there are none, and that have all the labels."""
    return [
        node
        for node in nodes
        if is_named(node.name, names) and all(node.labels.get(key) == value for key, value in labels.items())
    ]


def is_named(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the patterns, or there are none."""
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
