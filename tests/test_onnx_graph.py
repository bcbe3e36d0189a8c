"""Counts from exported graphs alone; what cannot be counted is said."""

import onnx
import onnx_ir
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from cnnbench.errors import ModelError
from cnnbench.worker.counters import onnx as onnx_graph
from cnnbench.worker.export import inference


class Block(nn.Module):
    """A grouped convolution, batch normalisation, and a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, stride=2, groups=2)
        self.bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 5)."""
        logits: Tensor = self.fc(self.bn(self.conv(x)).mean((2, 3)))
        return logits


@pytest.mark.parametrize("dynamic", [False, True])
def test_initialisers_and_nodes_are_counted_by_module_for_one_image(dynamic: bool) -> None:
    program = inference.trace(Block(), torch.zeros(2, 4, 9, 7), dynamic_batch=dynamic)
    assert onnx_graph.count(program.model) == {
        "conv": (6 * 2 * 9 + 6, 4 * 3 * 6 * 2 * 9),
        "bn": (12, 0),  # the running statistics are initialisers too, and not counted
        "fc": (30, 30),
    }


def test_counting_leaves_the_graph_as_it_is() -> None:
    program = inference.trace(Block(), torch.zeros(2, 4, 9, 7))
    before = onnx_ir.to_proto(program.model).SerializeToString(deterministic=True)
    onnx_graph.count(program.model)
    assert onnx_ir.to_proto(program.model).SerializeToString(deterministic=True) == before


def test_an_operator_that_multiplies_and_has_no_formula_is_named() -> None:
    graph = helper.make_graph(
        [helper.make_node("Col2Im", ["x", "w"], ["y"], name="up")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 6, 6])],
        [helper.make_tensor("w", TensorProto.FLOAT, [2, 3, 3, 3], [0.0] * 54)],
    )
    model = onnx_ir.from_proto(onnx.helper.make_model(graph))
    with pytest.raises(ModelError, match="no formula for the ONNX operator Col2Im"):
        onnx_graph.count(model)
