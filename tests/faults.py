"""Faults that exporters and tools make, put into a graph that torch's exporter wrote, each at a random node."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cnnbench.suite.case import ModelSpec
from cnnbench.worker.profilers.onnx_origin import scopes_of

ACTIVATIONS = {
    "Relu": ("LeakyRelu", {"alpha": 0.1}),
    "Sigmoid": ("HardSigmoid", {}),
    "HardSwish": ("Relu", {}),
    "Gelu": ("Relu", {}),
    "Clip": ("Relu", {}),
}
NORMS = ("BatchNormalization", "LayerNormalization")

Put = Callable[[onnx.ModelProto, random.Random], Iterator[onnx.NodeProto]]
"""Gives the node that it has broken, or nothing where the network has none that it can break."""


def fill(spec: ModelSpec, folder: Path) -> Path:
    """Write what a comparison reads of an artifact, and give the graph as torch's exporter writes it.

    Its norms are not yet folded; the artifact's own is made of the same export. Nothing is counted.
    """
    from safetensors.torch import save_file

    from cnnbench.records.artifact import FACTS, GOLDEN, GRAPH, WEIGHTS
    from cnnbench.worker import models
    from cnnbench.worker.export import inference
    from cnnbench.worker.reference import inputs as reference_inputs
    from cnnbench.worker.signature import shapes_of
    from tests.records import facts

    folder.mkdir()
    module, inputs = models.build(spec)
    reference_inputs.randomise_degenerate(module, inputs, spec.seed)
    (images,) = reference_inputs.draw(2, inputs, spec.seed)
    (reference,) = reference_inputs.reference(module, (images,))
    save_file({name: tensor.clone().contiguous() for name, tensor in module.state_dict().items()}, folder / WEIGHTS)
    save_file({"images": images, "reference": reference}, folder / GOLDEN)
    known = {"input_shape": shapes_of(inputs)[0], "classes": reference.shape[1]}
    (folder / FACTS).write_text(facts().model_copy(update=known).model_dump_json())
    program = inference.trace(module, images)
    program.save(str(folder / "right.onnx"))
    inference.save(program, module, folder / GRAPH)
    return folder / "right.onnx"


def broken(source: Path, kind: str, seed: int, out: Path) -> str:
    """Write the graph with one fault, and give the module of the node that has it."""
    model, drawn = onnx.load(str(source)), random.Random(seed)
    node = next(FAULTS[kind](model, drawn))
    onnx.save(model, str(out))
    return scopes_of(node)[-2]


def _some(model: onnx.ModelProto, drawn: random.Random, *operators: str) -> list[onnx.NodeProto]:
    """The graph's nodes of these operators, in random order."""
    found = [node for node in model.graph.node if node.op_type in operators and len(scopes_of(node)) > 1]
    return drawn.sample(found, len(found))


def _weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _set(model: onnx.ModelProto, node: onnx.NodeProto, place: int, values: np.ndarray) -> None:
    """Give one node, and no other, another constant."""
    name = f"{node.input[place]}.of.{node.name}"
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    node.input[place] = name


def _constant(model: onnx.ModelProto, drawn: random.Random) -> Iterator[onnx.NodeProto]:
    """One number of a weight is another."""
    for node in _some(model, drawn, "Conv", "Gemm", "MatMul"):
        if node.input[1] in _weights(model):
            values = numpy_helper.to_array(_weights(model)[node.input[1]]).copy()
            values.flat[drawn.randrange(values.size)] += 3 * values.std() + 0.01
            _set(model, node, 1, values)
            yield node


def _padding(model: onnx.ModelProto, drawn: random.Random) -> Iterator[onnx.NodeProto]:
    """All padding on one side."""
    for node in _some(model, drawn, "Conv", "MaxPool", "AveragePool"):
        for attribute in node.attribute:
            if attribute.name == "pads" and any(attribute.ints):
                half = len(attribute.ints) // 2
                begins, ends = attribute.ints[:half], attribute.ints[half:]
                attribute.ints[:] = [*(0 for _ in begins), *(a + b for a, b in zip(begins, ends, strict=True))]
                yield node


def _activation(model: onnx.ModelProto, drawn: random.Random) -> Iterator[onnx.NodeProto]:
    """Another activation."""
    for node in _some(model, drawn, *ACTIVATIONS):
        node.op_type, attributes = ACTIVATIONS[node.op_type]
        del node.attribute[:], node.input[1:]
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        yield node


def _transposed(model: onnx.ModelProto, drawn: random.Random) -> Iterator[onnx.NodeProto]:
    """A weight whose last two axes, first two, or all are exchanged."""
    for node in _some(model, drawn, "Conv", "Gemm", "MatMul"):
        if node.input[1] in _weights(model):
            values = numpy_helper.to_array(_weights(model)[node.input[1]])
            turned = (np.swapaxes(values, -1, -2), np.swapaxes(values, 0, 1), values.T.reshape(values.shape))
            fitting = (x for x in turned if x.shape == values.shape and not np.array_equal(x, values))
            if (other := next(fitting, None)) is not None:
                _set(model, node, 1, other)
                yield node


def _bias(model: onnx.ModelProto, drawn: random.Random) -> Iterator[onnx.NodeProto]:
    """No bias."""
    for node in _some(model, drawn, "Conv", "Gemm", *NORMS):
        weights = _weights(model)
        if len(node.input) > 2 and node.input[2] in weights:
            values = numpy_helper.to_array(weights[node.input[2]])
            if values.any():
                _set(model, node, 2, np.zeros_like(values))
                yield node


def _epsilon(model: onnx.ModelProto, drawn: random.Random) -> Iterator[onnx.NodeProto]:
    """The epsilon of another framework."""
    for node in _some(model, drawn, *NORMS):
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1e-3 if attribute.f < 5e-4 else 1e-5
                yield node


FAULTS: dict[str, Put] = {
    "constant": _constant,
    "padding": _padding,
    "activation": _activation,
    "transposed weight": _transposed,
    "dropped bias": _bias,
    "epsilon": _epsilon,
}
