"""A training step in elementary operators, for execution providers other than the CPU's.

A step is written for the CPU provider: batch normalisation as one operator, which the CUDA provider has for inference
only, numbers for each channel as a depthwise convolution, for which it has no fast kernel, and shifts of unsigned
integers, which it does not have.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import inliner, numpy_helper, parser

AFFINE = "Affine"
"""In the names of depthwise convolutions that stand for numbers of each channel."""
OPSET = 18
"""Of the functions, and at most that of the step."""
DOMAIN = "cnnbench"
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
    """The same step, in which means, products, sums and quotients stand for these three."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
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
