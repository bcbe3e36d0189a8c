"""What a graph ran in: the share of its MACs by number format, from the nodes of the executed graph. No torch."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnbench.records.record import GraphFacts
from cnnbench.records.toolchain import int8_instructions
from cnnbench.suite.case import NOISE, Case

if TYPE_CHECKING:
    import onnx

INT8_KERNELS = {
    *("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"),
    "DynamicQuantizeMatMul",
}
"""ONNX Runtime's operators that multiply integers."""
FLOAT_KERNELS = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
FORMATS = {1: "fp32", 10: "fp16", 16: "bf16"}
"""By onnx.TensorProto's number of a type."""
CAST = "Cast"
MAX_NAMED = 3


class Executed(NamedTuple):
    """A node that does arithmetic."""

    names: list[str]
    """Its own, or those of the nodes whose work it does."""
    format: str
    kind: str


def formats_in(graph: "onnx.GraphProto") -> list[Executed]:
    """The nodes of a graph that ONNX Runtime has optimised; one that is no int8 kernel has the type of its weight."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {
        output: attribute.i
        for node in graph.node
        if node.op_type == CAST
        for output in node.output
        for attribute in node.attribute
        if attribute.name == "to"
    }
    return [
        Executed(
            [node.name, *node.output],
            "int8" if node.op_type in INT8_KERNELS else FORMATS.get(types.get(node.input[1], 1), "fp32"),
            node.op_type,
        )
        for node in graph.node
        if node.op_type in INT8_KERNELS | FLOAT_KERNELS
    ]


def shares(executed: Iterable[Executed], macs: Mapping[str, int], asked: str) -> dict[str, Any]:
    """`Ran`'s `shares` and `elsewhere`, from the nodes that ran and the MACs by node of the graph that was given.

    What is left of the MACs ran in the nodes that are named after none: in their format where they have one in common,
    else in `unknown`.
    """
    found: Counter[str] = Counter()
    others: dict[str, int] = {}
    left, unnamed = dict(macs), set[str]()
    for node in executed:
        names = {name for each in node.names if (name := named_after(each, left)) is not None}
        count = sum(left.pop(name) for name in names)
        found[node.format] += count
        if not count:
            unnamed.add(node.format)
        if node.format != asked:
            others[f"{min(names, default=node.names[0])} ({node.kind})"] = count
    found[unnamed.pop() if len(unnamed) == 1 else "unknown"] += sum(left.values())
    total = sum(found.values())
    largest = sorted(others, key=lambda name: -others[name])
    more = [f"and {len(largest) - MAX_NAMED} more"] if len(largest) > MAX_NAMED else []
    return {
        "shares": {name: count / total for name, count in found.items() if count},
        "elsewhere": [*largest[:MAX_NAMED], *more],
    }


def named_after(name: str, known: Mapping[str, int]) -> str | None:
    """The longest of the known names that a name begins with, up to what an engine has put behind it."""
    name = name.removeprefix("fused ")
    ends = [match.start() for match in re.finditer(r"[/_]|$", name)]
    return next((name[:end] for end in reversed(ends) if name[:end] in known), None)


def precision_facts(case: Case, graph: GraphFacts) -> dict[str, bool | int | float | str | None]:
    """What else is to be known of a case in a precision of its own."""
    if not case.is_quantised:
        return {}
    data = "noise (seeded random images)" if case.calibration == NOISE else case.calibration
    return {
        "calibrated_on": data,
        "calibration_images": graph.calibration_images,
        "calibration_digest": graph.calibration_digest,
        "int8_instructions": ", ".join(int8_instructions()) or "none",
    }
