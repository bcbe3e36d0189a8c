"""What an ONNX file holds, apart from where and by which build of a library it was written. No torch."""

from collections import Counter
from itertools import chain
from pathlib import Path

import onnx

from cnnbench.records.messages import Describe, Described
from cnnbench.records.task_messages import Annotate, Annotated
from cnnbench.worker.profilers.onnx_origin import name_of

UNBOUND = {"doc_string", "metadata_props"}
"""Fields for people and tools: torch's exporter writes the paths of source files into them."""


def describe(request: Describe) -> Described:
    """Operators by type, and the size without what names where it was written.

    Weights in a second file count by their length. The producer's version is left out too, because builds of one
    release for other devices have longer ones.
    """
    model = onnx.load(request.file, load_external_data=False)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    operators = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in nodes)
    graph = model.graph
    values = chain(graph.input, graph.output, graph.value_info, graph.initializer)
    for message in (model, graph, *nodes, *model.functions, *values):
        for name in UNBOUND.intersection(message.DESCRIPTOR.fields_by_name):
            message.ClearField(name)
    model.ClearField("producer_version")
    external = sum(
        int(entry.value) for tensor in graph.initializer for entry in tensor.external_data if entry.key == "length"
    )
    return Described(operators=dict(operators), content_bytes=model.ByteSize() + external)


def annotate(request: Annotate) -> Annotated:
    """Copy a graph with notes in its nodes' metadata, each node named; a second file of weights stays a second file."""
    is_apart = any(
        tensor.external_data for tensor in onnx.load(request.file, load_external_data=False).graph.initializer
    )
    model = onnx.load(request.file)
    for node in model.graph.node:
        node.name = name_of(node)
        for key, value in request.notes.get(name_of(node), {}).items():
            node.metadata_props.add(key=key, value=value)
    onnx.save(model, request.out, save_as_external_data=is_apart, location=f"{Path(request.out).name}.data")
    return Annotated(graph=model.graph.name)
