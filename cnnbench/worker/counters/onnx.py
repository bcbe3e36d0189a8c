"""Counts from an ONNX graph alone: its initialisers, and its nodes with the shapes that onnx infers."""

import math
from collections import Counter
from collections.abc import Mapping

import onnx
import onnx_ir
import onnxscript.optimizer

from cnnbench.errors import ModelError
from cnnbench.records.record import Counts
from cnnbench.worker.counters.einsum import einsum_macs
from cnnbench.worker.profilers.onnx_origin import scopes_of
from cnnbench.worker.reference.onnx_float64 import modern

STATISTICS = (3, 4)
"""Inputs of BatchNormalization that are not learned: running mean and variance."""
UNCOUNTABLE = {"Attention", "LSTM", "GRU", "RNN", "QLinearConv", "QLinearMatMul", "Col2Im", "If", "Loop", "Scan"}
UNCOUNTABLE |= {"DFT", "STFT", "Det"}
"""Operators that multiply and accumulate, or may have others inside that do, and have no formula here."""

Shape = tuple[int, ...]


def count(
    model: onnx_ir.Model, parameters: Mapping[str, str] | None = None, shapes_of: Mapping[str, Shape] | None = None
) -> Counts:
    """(parameters, MACs) by the module that each initialiser and node comes from, for a batch of one.

    `parameters` are the initialisers that are parameters, with the name that each counts under; if none are given, all
    of floating point are, but running statistics. `shapes_of` are whole shapes of inputs; else the first one's batch is
    one. Raises ModelError for an operator that multiplies and accumulates and cannot be counted.
    """
    graph, shapes = inferred_shapes(model, shapes_of or {})
    statistics = {
        node.input[place] for node in graph.node if node.op_type == "BatchNormalization" for place in STATISTICS
    }
    params: Counter[str] = Counter()
    for name, initializer in model.graph.initializers.items():
        is_learned = initializer.dtype is not None and initializer.dtype.is_floating_point() and name not in statistics
        if parameters is not None:
            is_learned, name = name in parameters, parameters.get(name, name)
        if is_learned:
            params[name.rpartition(".")[0]] += math.prod(initializer.shape.numpy() if initializer.shape else ())
    macs: Counter[str] = Counter()
    for node in graph.node:
        if count := macs_of(node, shapes):
            macs[(scopes_of(node) or ["", ""])[-2]] += count
    return {layer: (params[layer], macs[layer]) for layer in {**params, **macs}}


def inferred_shapes(model: onnx_ir.Model, shapes_of: Mapping[str, Shape]) -> tuple[onnx.GraphProto, dict[str, Shape]]:
    """The graph, and the shape of each value in it that onnx can infer from those of inputs and weights."""
    graph = _inferred(model, shapes_of)
    values = (*graph.input, *graph.value_info, *graph.output)
    return graph, {value.name: _shape(value) for value in values if value.type.tensor_type.HasField("shape")}


def _inferred(model: onnx_ir.Model, shapes_of: Mapping[str, Shape]) -> onnx.GraphProto:
    """The graph for a batch of one, weights left out, every shape inferred by onnx from those of inputs and weights."""
    light = model.clone()
    for name, initializer in list(light.graph.initializers.items()):
        if initializer.dtype is None or not initializer.dtype.is_floating_point():
            continue  # such as a shape, which the shapes of others depend on
        initializer.const_value = None
        del light.graph.initializers[name]
        light.graph.inputs.append(initializer)
    for value in light.graph.inputs:
        if value.name is not None and value.name in shapes_of:
            value.shape = onnx_ir.Shape(shapes_of[value.name])
    images = light.graph.inputs[0]
    if not shapes_of and images.shape is not None:
        images.shape = onnx_ir.Shape([1, *images.shape[1:]])
    for node in light.graph:
        for value in node.outputs:
            value.shape = None  # what the exporter says of shapes is not taken over
    plain = modern(onnx_ir.to_proto(light))
    light = onnx_ir.from_proto(plain)
    try:
        onnxscript.optimizer.fold_constants(light, onnx_shape_inference=True)
        return onnx.shape_inference.infer_shapes(onnx_ir.to_proto(light), strict_mode=True, data_prop=True).graph
    except Exception:  # of the optimizer, or of a graph that it has made
        return onnx.shape_inference.infer_shapes(plain, strict_mode=True, data_prop=True).graph


def _shape(value: onnx.ValueInfoProto) -> Shape:
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)


def macs_of(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Output values, times what each is summed over. Raises ModelError where that is not known."""
    if node.op_type in UNCOUNTABLE:
        raise ModelError(f"no formula for the ONNX operator {node.op_type} ({node.name})")
    if node.op_type in ("Conv", "ConvInteger") or node.op_type == "DeformConv":
        summed_over = shapes[node.input[1]][1:]
    elif node.op_type == "ConvTranspose":  # each value of the input meets one filter
        return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    elif node.op_type == "Einsum":
        (equation,) = (attribute.s.decode() for attribute in node.attribute if attribute.name == "equation")
        return einsum_macs(equation, [shapes[name] for name in node.input])
    elif node.op_type in ("MatMul", "MatMulInteger"):
        summed_over = shapes[node.input[0]][-1:]
    elif node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        summed_over = shapes[node.input[0]][:1] if transposed else shapes[node.input[0]][1:]
    else:
        return 0
    count = math.prod(shapes.get(node.output[0], (0,))) * math.prod(summed_over)
    if not count:
        raise ModelError(f"onnx infers no shape for {node.op_type} {node.name}")
    return count
