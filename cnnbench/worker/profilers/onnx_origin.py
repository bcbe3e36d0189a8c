"""Which module each node of a graph comes from, after an engine has rewritten the graph. No torch.

The exporter writes into each node the module that it comes from; ONNX Runtime keeps only the names of the values that
its nodes put out, or puts these into the names of its nodes.
"""

import ast
import re
from collections.abc import Container, Mapping, Sequence

import onnx

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter writes the modules that a node comes from, outermost first, the node's own name last."""
ROOT = ""
"""The outermost module's name; what the exporter adds by itself lies in none."""
COMPUTING = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators of exported graphs that do a network's arithmetic."""
ONLY_LAYOUT = {"ReorderInput", "ReorderOutput"}
"""Operators that only change how values lie in memory, between the layers."""
NORM, NORM_SUFFIX = "BatchNormalization", "_bn"
BLOCKED_DOMAIN = "com.microsoft.nchwc"
SUMMAND = 3
"""Which input of a convolution in the blocked layout is added to what it computes."""
BLOCKED = re.compile(rf"(?P<value>.+?)(?P<norm>{NORM_SUFFIX})?_nchwc(_token_\d+)?")
"""A node for ONNX Runtime's blocked layout: named by the value that it puts out, `_bn` behind it where batch
normalisation was made a convolution."""


def origins(exported: onnx.GraphProto, executed: onnx.GraphProto, *, by_node: bool = False) -> dict[str, str | None]:
    """By name of each executed node, the module whose work it does; None where that cannot be told.

    With `by_node`, for a graph that knows of no modules, it is the exported node. A node that several were fused into
    does the work of the convolution or matrix product among them.
    """
    graph = _Exported(exported)
    places = [(node, graph.place_of(node)) for node in executed.node]
    ran = {place for _, place in places if place is not None}
    named = graph.name_of if by_node else graph.module_of
    return {
        node.name: None if place is None else named(graph.principal(node, place, ran))
        for node, place in places
        if node.name
    }


def origins_by_name(
    exported: onnx.GraphProto, names: Mapping[str, Sequence[str]], *, by_node: bool = False
) -> dict[str, str | None]:
    """The same for an engine that says of each node that it executes which exported ones it does the work of."""
    graph = _Exported(exported)
    named = graph.name_of if by_node else graph.module_of

    def origin(listed: Sequence[str]) -> str | None:
        places = [place for name in listed if (place := graph.place_named(name)) is not None]
        computing = [place for place in places if graph.nodes[place].op_type in COMPUTING]
        return named(min(computing or places)) if places else None

    return {name: origin(listed) for name, listed in names.items()}


def values(exported: onnx.GraphProto, executed: onnx.GraphProto) -> tuple[dict[str, str], set[str]]:
    """By name of each value of the executed graph that is one of the exported graph's, that; and which are blocked.

    ONNX Runtime keeps the names of values, but for those in its blocked layout.
    """
    graph = _Exported(exported)
    found: dict[str, str] = {}
    blocked: set[str] = set()
    for node in executed.node:
        is_blocked = node.op_type != "ReorderOutput" and (
            node.domain == BLOCKED_DOMAIN or not blocked.isdisjoint(node.input)
        )
        if is_blocked:
            blocked |= set(node.output)
            if (value := graph.value_of(node)) is not None:
                found[node.output[0]] = value
        else:
            found |= {value: value for value in node.output if value in graph.makers}
    return found, blocked


class _Exported:
    """The graph as it was exported, its nodes found by place, by name and by what they put out."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self.by_name = {node.name: place for place, node in enumerate(self.nodes)}
        self.makers = {value: place for place, node in enumerate(self.nodes) for value in node.output}

    def place_of(self, node: onnx.NodeProto) -> int | None:
        """The exported node whose output the executed node puts out, or that it is named after."""
        if node.op_type in ONLY_LAYOUT:
            return None
        stem = node.name.removeprefix("fused ").partition("/")[0]  # `node_matmul/MatMulScaleFusion/`
        blocked = BLOCKED.fullmatch(node.name)
        values = [blocked["value"] + (blocked["norm"] or ""), blocked["value"]] if blocked else []
        places = [*map(self.makers.get, node.output), self.by_name.get(stem), *map(self.makers.get, values)]
        return next((place for place in places if place is not None), None)

    def place_named(self, name: str) -> int | None:
        """The exported node of this name, or of the part of it before what an engine has put behind."""
        while name and name not in self.by_name and name not in self.makers:
            name = name.rpartition("/")[0]
        return self.by_name.get(name, self.makers.get(name)) if name else None

    def value_of(self, node: onnx.NodeProto) -> str | None:
        """The exported value that a node for the blocked layout puts out: with the sum and activation fused into it."""
        match = BLOCKED.fullmatch(node.name)
        if match is None:
            place = self.by_name.get(node.name)
            return None if place is None or node.op_type in ONLY_LAYOUT else str(self.nodes[place].output[0])
        names = (match["value"] + (match["norm"] or ""), match["value"])
        value = next((name for name in names if name in self.makers), None)
        if value is not None and len(node.input) > SUMMAND and node.input[SUMMAND]:
            value = self._through(value, ("Add", "Sum"))
        activation = next((each.s.decode() for each in node.attribute if each.name == "activation"), None)
        if value is not None and activation and self.nodes[self.makers[value]].op_type != activation:
            value = self._through(value, (activation,))
        return value

    def _through(self, value: str, operators: Container[str]) -> str | None:
        """What the only reader of a value makes of it, if it is such an operator."""
        readers = [node for node in self.nodes if value in node.input]
        return str(readers[0].output[0]) if len(readers) == 1 and readers[0].op_type in operators else None

    def principal(self, executed: onnx.NodeProto, place: int, ran: Container[int]) -> int:
        """Of the nodes that were fused into this one, the convolution or matrix product; else the node itself.

        Fused are those before it that no other executed node stands for.
        """
        kind = self.nodes[place].op_type
        if kind == executed.op_type or (kind == NORM and f"{NORM_SUFFIX}_nchwc" in executed.name):
            return place
        computing = []
        waiting, seen = [place], {place}
        while waiting:
            here = waiting.pop()
            node = self.nodes[here]
            if node.op_type in COMPUTING:
                computing.append(here)
                continue
            makers = {self.makers[value] for value in node.input if value in self.makers}
            waiting += [maker for maker in makers - seen if maker not in ran]
            seen |= makers
        return min(computing, default=place)

    def name_of(self, place: int) -> str:
        """The node's own name, or that of what it puts out."""
        return name_of(self.nodes[place])

    def module_of(self, place: int) -> str | None:
        """The module that the exporter says; of a convolution with a batch normalisation folded into it, its own."""
        node = self.nodes[place]
        scopes = scopes_of(node)
        if len(scopes) < 2 or scopes[0] != ROOT:
            return None
        if node.op_type in COMPUTING and "batch_norm" in scopes[-1]:
            return str(node.input[1]).rpartition(".")[0]  # whose weight it is
        return scopes[-2]


def name_of(node: onnx.NodeProto) -> str:
    """What a node of a graph from any exporter is called: by its name, or by that of what it puts out."""
    return str(node.name or node.output[0])


def scopes_of(node: onnx.NodeProto) -> list[str]:
    """The modules that the exporter says a node comes from, then its own name; none where it says nothing."""
    written = next((entry.value for entry in node.metadata_props if entry.key == NAME_SCOPES), "[]")
    return [str(scope) for scope in ast.literal_eval(written)]
