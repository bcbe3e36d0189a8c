"""An ONNX graph as the layers that it is made of, from its nodes and the shapes that onnx infers. No torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import onnx_ir
from onnx import helper

from cnnbench.records.messages import Step, Traced
from cnnbench.worker.counters.onnx import Shape, inferred_shapes
from cnnbench.worker.profilers.onnx_origin import name_of

Settings = dict[str, Any]
Layer = tuple[str, Settings]
"""A layer's kind, and its settings."""

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
WITH_WEIGHTS = {"Conv", "ConvTranspose", "Linear", "BatchNorm"}
FREE = {"Constant", "Shape", "ConstantOfShape", "Size", "Range", "Identity", "Dropout", "Cast"}
"""Operators that make something out of nothing, or change nothing in inference."""
COPIES = {"Reshape", "Flatten", "Transpose", "Slice", "Pad", "Unsqueeze", "Squeeze", "Gather", "Expand", "Tile"}
COPIES |= {"DepthToSpace", "SpaceToDepth", "Split", "Concat"}
ACTIVATIONS = {
    "Relu",
    "LeakyRelu",
    "PRelu",
    "Elu",
    "Selu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Clip",
    "Erf",
}
ACTIVATIONS |= {"Gelu", "Softplus", "Softmax", "LogSoftmax", "Exp", "Log", "Sqrt", "Pow", "Abs", "Neg", "Mish", "Swish"}
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Sum", "Min", "Max", "Where"}


def trace(model: onnx.ModelProto, shapes_of: Mapping[str, Shape]) -> Traced:
    """Every node that computes something from the inputs, of the whole shapes `shapes_of`, in order.

    One without a formula is of kind `Opaque`, to be listed.
    """
    graph, shapes = inferred_shapes(onnx_ir.from_proto(model), shapes_of)
    floats = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type in FLOATS}
    made_by = {name: -place for place, name in enumerate(shapes_of, 1)}
    """By value, the place of the step that computed it; -1 is the first input, -2 the second."""
    steps: list[Step] = []
    params: dict[str, int] = {}
    for node in graph.node:
        values = [name for name in node.input if name in made_by]
        if values and node.op_type in FREE:
            made_by |= dict.fromkeys(node.output, made_by[values[0]])
        elif values:
            kind, settings = _layer(node, made_by, shapes)
            name = name_of(node)
            learned = [each for each in node.input[1:3] if each not in made_by] if kind in WITH_WEIGHTS else []
            params[name] = sum(math.prod(shapes.get(each, ())) for each in learned)
            floats = {each: size for each, size in floats.items() if each not in node.input}
            inputs = [(made_by[each], _per_image(shapes.get(each, ()))) for each in values]
            made_by |= dict.fromkeys(node.output, len(steps))
            shape = _per_image(shapes.get(node.output[0], ()))
            steps.append(Step(name=name, op=kind, settings=settings, inputs=inputs, shape=shape))
    others = {"": sum(floats.values())} if floats else {}
    return Traced(inputs=list(map(_per_image, shapes_of.values())), steps=steps, params=params | others)


def _layer(node: onnx.NodeProto, made_by: Mapping[str, int], shapes: Mapping[str, Shape]) -> Layer:
    make, values = LAYERS.get(node.op_type), [name for name in node.input if name in made_by]
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    x, out = shapes.get(values[0], ()), shapes.get(node.output[0], ())
    if make and values[0] == node.input[0] and x[:1] == (1,):
        others = [shapes.get(name, ()) for name in node.input[1:]]
        if layer := make(node.op_type, attributes, x, others, out, len(values)):
            return layer
    if node.op_type in COPIES:
        return "Copy", {"to": _per_image(out)}
    if node.op_type in ACTIVATIONS or node.op_type in ELEMENTWISE:
        whole = [name for name in values if shapes.get(name) == out]
        if node.op_type in ("Add", "Sum") and len(whole) == 2:
            return "Add", {}
        if whole and whole[0] == values[0]:
            return "Activation", {"function": node.op_type.lower()}
    return "Opaque", {"function": node.op_type, "to": _per_image(out)}


def _conv(operator: str, given: Settings, x: Shape, others: Sequence[Shape], out: Shape, values: int) -> Layer | None:
    weight, sides = others[0], len(x) - 2
    pads = given.get("pads") or [0] * 2 * sides
    if len(weight) != len(x) or values > 1 or not _is_plain(given, pads, sides):
        return None
    groups, transposed = given.get("group", 1), operator == "ConvTranspose"
    settings = {
        "out_channels": weight[1] * groups if transposed else weight[0],
        "kernel": weight[2:],
        "stride": tuple(given.get("strides") or [1] * sides),
        "padding": tuple(pads[:sides]),
        "dilation": tuple(given.get("dilations") or [1] * sides),
        "groups": groups,
        "bias": len(others) > 1,
    }
    if transposed:
        return operator, {**settings, "output_padding": tuple(given.get("output_padding") or [0] * sides)}
    return operator, settings


def _product(
    operator: str, given: Settings, x: Shape, others: Sequence[Shape], out: Shape, values: int
) -> Layer | None:
    if values > 1:
        return ("MatMul", {}) if operator == "MatMul" and len(x) > 2 else None
    return None if not out or given.get("transA") else ("Linear", {"out_features": out[-1], "bias": len(others) > 1})


def _pool(operator: str, given: Settings, x: Shape, *_: Any) -> Layer | None:
    if operator == "GlobalAveragePool":
        return "AdaptiveAvgPool", {"size": 1}
    sides = len(x) - 2
    pads = given.get("pads") or [0] * 2 * sides
    if not _is_plain(given, pads, sides) or set(given.get("dilations") or [1]) != {1}:
        return None
    settings: Settings = {"kernel": tuple(given["kernel_shape"]), "stride": tuple(given.get("strides") or [1] * sides)}
    settings |= {"padding": tuple(pads[:sides]), "ceil": bool(given.get("ceil_mode"))}
    return operator.replace("Average", "Avg"), settings


def _is_plain(given: Settings, pads: Sequence[int], sides: int) -> bool:
    """Whether a window is padded as much before as behind, as the formulas have it."""
    return given.get("auto_pad", b"NOTSET") == b"NOTSET" and list(pads[:sides]) == list(pads[sides:])


def _concat(operator: str, given: Settings, x: Shape, others: Sequence[Shape], out: Shape, values: int) -> Layer | None:
    return (operator, {}) if given.get("axis") == 1 and len(x) > 2 and values == 1 + len(others) else None


def _resize(operator: str, given: Settings, x: Shape, others: Sequence[Shape], out: Shape, values: int) -> Layer | None:
    mode = given.get("mode", b"nearest")
    if mode == b"nearest":
        return "Copy", {"to": _per_image(out)}
    return (operator, {"size": out[2:]}) if mode == b"linear" and len(x) > 2 else None


LAYERS: Mapping[str, Callable[..., Layer | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gemm": _product,
    "MatMul": _product,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _pool,
    "Concat": _concat,
    "Resize": _resize,
    "BatchNormalization": lambda *_: ("BatchNorm", {"affine": True}),
}
"""By operator: called with its name, its attributes, the whole shapes of its first input, the others and the output,
and how many inputs are computed; gives None where no layer's formulas fit."""


def _per_image(shape: Sequence[int]) -> Shape:
    return tuple(shape[1:] if len(shape) > 1 and shape[0] == 1 else shape)
