"""A training step's graph as ONNX Runtime optimises it for the CPU, its nodes in the order of the step.

ONNX Runtime gives nodes that its optimisers put in numbers behind all others, and runs nodes by number: the gradients
of weights would come last of all, and what they read would be kept until then (docs/training.md).
"""

from collections.abc import Iterable
from pathlib import Path

import onnx

from cnnbench.worker.runtimes.ort import optimised_model

LEVEL = "extended"
"""Beyond it are layouts for one processor, of weights that are constants."""


def ordered(file: Path) -> bytes:
    """The optimised graph of a step's, to be loaded without further optimisation."""
    model = optimised_model(str(file), "cpu", 1, LEVEL)
    as_written = onnx.load(file, load_external_data=False).graph
    nodes = in_order(model.graph.node, [name for node in as_written.node for name in node.output])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def in_order(nodes: Iterable[onnx.NodeProto], values: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that put out these values, in their order, each preceded by those that only it needs."""
    makers = {name: node for node in nodes for name in node.output if name}
    found: list[onnx.NodeProto] = []
    placed: set[str] = set()
    wanted = [name for name in values if name in makers][::-1]
    while wanted:
        maker = makers[wanted[-1]]
        missing = [name for name in maker.input if name in makers and name not in placed]
        if wanted[-1] in placed or not missing:
            if wanted.pop() not in placed:
                found.append(maker)
                placed.update(maker.output)
        else:
            wanted += missing
    return found
