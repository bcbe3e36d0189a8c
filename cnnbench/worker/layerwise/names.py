"""Which value of a graph is which of the model's: by the module and the operation that it comes from. No torch."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import onnx

from cnnbench.records.task_messages import Value
from cnnbench.worker.profilers.onnx_origin import scopes_of

_NUMBER = re.compile(r"_*(\d*)$")
OPERATORS = {"_native_batch_norm_legit_no_training": "batch_norm"}
"""What some operations of torch.export are called elsewhere."""


SEQUENCES = ("SplitToSequence", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SequenceEmpty")
"""Operators that put out several tensors as one value."""


class Origin(NamedTuple):
    """Where a value comes from."""

    module: str
    name: str
    output: int


def operator_of(name: str) -> str:
    """`relu` of the operation `relu_1`."""
    stem = _NUMBER.sub("", name)
    return OPERATORS.get(stem, stem)


def origins_of(graph: onnx.GraphProto) -> dict[str, Origin]:
    """By name of each value that torch's exporter tells the origin of, that origin.

    An operation of several nodes puts out what the last of them does; sequences of tensors are left out.
    """
    last = {tuple(scopes): node for node in graph.node if len(scopes := scopes_of(node)) > 1}
    return {
        value: Origin(scopes[-2], scopes[-1], output)
        for scopes, node in last.items()
        for output, value in enumerate(node.output)
        if value and node.op_type not in SEQUENCES
    }


def places_of(values: Sequence[Value], found: Mapping[str, Origin]) -> dict[str, int]:
    """By name of each found value, its place among the model's.

    Operations of one kind in one module are numbered on through the whole model, and other numbers mean another way of
    exporting: there they are taken in order, where they are as many.
    """
    own, others = defaultdict(list), defaultdict(list)
    for place, value in enumerate(values):
        own[value.module, operator_of(value.name), value.output].append((value.name, place))
    for name, origin in found.items():
        others[origin.module, operator_of(origin.name), origin.output].append((origin.name, name))
    joined: dict[str, int] = {}
    for key, same in others.items():
        known = dict(own[key])
        if all(operation in known for operation, _ in same):
            joined |= {name: known[operation] for operation, name in same}
        elif len(same) == len(known):
            ordered = sorted(same, key=lambda each: _number(each[0]))
            joined |= {name: place for (_, name), (_, place) in zip(ordered, own[key], strict=True)}
    return joined


def _number(operation: str) -> int:
    match = _NUMBER.search(operation)
    return int(match[1]) if match and match[1] else 0
