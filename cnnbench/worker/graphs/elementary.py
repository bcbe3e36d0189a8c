"""A training step for execution providers other than the CPU's: elementary operators, plain convolutions.

A step is written for the CPU provider: batch normalisation as one operator, which the CUDA provider has for inference
only, numbers for each channel as a depthwise convolution, for which it has no fast kernel, shifts of unsigned
integers, which it does not have, and gradients of weights as convolutions with kernels as large as images, which cuDNN
computes many times slower than matrix products of the same work (docs/training.md).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import inliner, numpy_helper, parser

from cnnbench.records.artifact import METADATA
from cnnbench.worker.graphs.convolution import forward, input_gradient, weight_gradient
from cnnbench.worker.graphs.convolution.forward import Settings, is_depthwise
from cnnbench.worker.graphs.graph import AFFINE, Graph, Tensor

OPSET = 18
"""Of the functions, and at most that of the step."""
DOMAIN = "cnnbench"
ANEW = "anew"
"""In the names of nodes and constants that are written here."""
FUNCTIONS = (
    f"""
<opset_import: ["" : {OPSET}], domain: "{DOMAIN}">
BatchNormalization <epsilon> (x, weight, bias, old_mean, old_variance) => (y, mean, variance)
{{
    axes = Constant <value_ints = [0, 2]> ()
    lines = Constant <value_ints = [0, 0, -1]> ()
    channels = Constant <value_ints = [1, -1, 1]> ()
    vector = Constant <value_ints = [-1]> ()
    small = Constant <value_float: float = @epsilon> ()
    shape = Shape (x)
    flat = Reshape (x, lines)
    centre = ReduceMean <keepdims = 1> (flat, axes)
    centred = Sub (flat, centre)
    square = Mul (centred, centred)
    spread = ReduceMean <keepdims = 1> (square, axes)
    enlarged = Add (spread, small)
    deviation = Sqrt (enlarged)
    inverse = Reciprocal (deviation)
    gain = Reshape (weight, channels)
    scale = Mul (inverse, gain)
    scaled = Mul (centred, scale)
    offset = Reshape (bias, channels)
    moved = Add (scaled, offset)
    y = Reshape (moved, shape)
    mean = Reshape (centre, vector)
    variance = Reshape (spread, vector)
}}
""",
    f"""
<opset_import: ["" : {OPSET}], domain: "{DOMAIN}">
Affine (x, scale, offset) => (y)
{{
    lines = Constant <value_ints = [0, 0, -1]> ()
    channels = Constant <value_ints = [1, -1, 1]> ()
    shape = Shape (x)
    flat = Reshape (x, lines)
    factor = Reshape (scale, channels)
    scaled = Mul (flat, factor)
    summand = Reshape (offset, channels)
    moved = Add (scaled, summand)
    y = Reshape (moved, shape)
}}
""",
)


def elementary(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same step in other operators."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    _write_convolutions_anew(found)
    constants = {constant.name: constant for constant in found.graph.initializer}
    powers: dict[str, onnx.TensorProto] = {}
    for node in found.graph.node:
        if node.op_type == "BitShift":
            bits, power = node.input[1], f"{node.input[1]}/power"
            powers[power] = numpy_helper.from_array(_power(numpy_helper.to_array(constants[bits])), power)
            node.op_type, node.input[1] = "Div", power
            del node.attribute[:]
            continue
        if node.op_type == "BatchNormalization":
            node.domain = DOMAIN
            kept = [attribute for attribute in node.attribute if attribute.name == "epsilon"]
        elif node.op_type == "Conv" and f"/{AFFINE}_" in node.name:
            node.op_type, node.domain, kept = AFFINE, DOMAIN, []
        else:
            continue
        del node.attribute[:]
        node.attribute.extend(kept)
    found.graph.initializer.extend(powers.values())
    found.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    found.functions.extend(parser.parse_function(text) for text in FUNCTIONS)
    return inliner.inline_local_functions(found)


def _power(bits: NDArray[Any]) -> NDArray[Any]:
    """What an unsigned integer is divided by where it is shifted right by so many bits, in its type."""
    return np.asarray(1 << int(bits), bits.dtype)


def _weight_gradient(g: Graph, dy: Tensor, x: Tensor, w: Tensor, s: Settings) -> Tensor:
    """In matrix products, as `python -m tests.benchmarks.formulations --device cuda` found them fastest on an H200."""
    if set(s.kernel) == {1}:
        return weight_gradient.by_products(g, dy, x, w, s)
    if is_depthwise(x, w, s) and s.sides == 2 and max(dy.spatial()) <= weight_gradient.MAX_ROWS:
        return weight_gradient.by_columns(g, dy, x, w, s)
    return weight_gradient.by_windows(g, dy, x, w, s)


FORMULATIONS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "forward": forward.by_images,
        "input gradient": input_gradient.by_transposed_convolution,
        "weight gradient": _weight_gradient,
    }
)
"""What takes a convolution's tensors and settings, by what the step's notes call it."""


def _write_convolutions_anew(model: onnx.ModelProto) -> None:
    """Replace the nodes of each convolution and of its gradients, which the step has notes of, by others."""
    described = {entry.key: entry.value for entry in model.metadata_props}.get(METADATA, "{}")
    g, written = Graph(), dict[str, list[onnx.NodeProto]]()
    for note in json.loads(described).get("notes", []):
        before, g.scope = len(g.nodes), f"{note['output'].rpartition('/')[0]}/{ANEW}"
        given = [each and Tensor(each["name"], tuple(each["shape"])) for each in note["inputs"]]
        result = FORMULATIONS[note["what"]](g, *given, Settings.of(note["settings"]))
        last = onnx.helper.make_node("Identity", [result.name], [note["output"]], name=f"{result.name}/output")
        written[note["output"]] = [*g.nodes[before:], last]
    own = {constant.name: f"{ANEW}/{constant.name}" for constant in g.constants}
    for node in g.nodes:
        node.input[:] = [own.get(name, name) for name in node.input]
    for constant in g.constants:
        constant.name = own[constant.name]
    nodes = [new for node in model.graph.node for new in written.get(node.output[0], [node])]
    nodes, read = _needed(nodes, [output.name for output in model.graph.output])
    constants = [each for each in (*model.graph.initializer, *g.constants) if each.name in read]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that these outputs depend on, in the same order, and what is read."""
    read, kept = set(outputs), list[onnx.NodeProto]()
    for node in reversed(nodes):
        if read & set(node.output):
            kept.append(node)
            read |= set(node.input)
    return kept[::-1], read
