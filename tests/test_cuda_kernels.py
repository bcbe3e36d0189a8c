"""Every node of every graph that is made, against the published table of ONNX Runtime's CUDA kernels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from cnnbench.records import artifact
from cnnbench.records.messages import BuildGraph, BuildStep
from cnnbench.records.record import GraphFacts, StepFacts
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.optimizer import TIMED_OPTIMIZER
from cnnbench.worker.cuda_kernels import kernels, without_kernel

ON_THE_CPU = {"BitShift"}
"""In training steps with dropout: the random numbers' generator, on a few integers."""


def graph(operator: str, dtype: int, opset: int = 18, **attributes: Any) -> onnx.ModelProto:
    """Of one node."""
    x, y = (helper.make_tensor_value_info(name, dtype, [2, 3]) for name in "xy")
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    return helper.make_model(
        helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", opset)], ir_version=10
    )


@pytest.mark.parametrize(
    ("model", "without"),
    [
        (graph("Relu", TensorProto.FLOAT16), {}),
        (graph("Relu", TensorProto.INT32), {"Relu-14 (int32)": 1}),
        (graph("Atan", TensorProto.FLOAT), {"Atan-7 (float)": 1}),
        (graph("LeakyRelu", TensorProto.BFLOAT16), {"LeakyRelu-16 (bfloat16)": 1}),
        (graph("ReduceMean", TensorProto.FLOAT, 18), {}),
        (graph("AveragePool", TensorProto.FLOAT, 18, kernel_shape=[1]), {}),  # version 11, within a range
        (graph("HardSwish", TensorProto.BFLOAT16, 18), {"HardSwish-14 (bfloat16)": 1}),  # in version 22 alone
    ],
)
def test_a_kernel_is_for_versions_and_types(model: onnx.ModelProto, without: dict[str, int]) -> None:
    assert without_kernel(model) == without


def test_operators_of_another_domain_and_inside_a_branch_are_looked_at() -> None:
    inner = graph("Atan", TensorProto.FLOAT).graph
    branch = helper.make_graph([helper.make_node("Atan", ["x"], ["y"])], "b", [], list(inner.output))
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("QLinearAdd", ["y"], ["z"], domain="com.microsoft"),
    ]
    made = helper.make_graph(nodes, "g", [condition, *inner.input], list(inner.output))
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    )
    assert without_kernel(model) == {"Atan-7 (float)": 2, "com.microsoft.QLinearAdd": 1}


def test_the_table_is_read_whole() -> None:
    found = kernels()
    assert len(found) == 125
    (newest, older) = found["Conv"]
    assert (newest.first, newest.last, older.first, older.last) == (22, None, 11, 21)
    assert TensorProto.BFLOAT16 in newest.types["T"]
    assert TensorProto.BFLOAT16 not in older.types["T"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["simple_cnn", "resnet_cifar", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "densenet121"]
)
def test_inference_runs_on_cuda_whole_and_a_step_but_for_its_random_numbers(
    artifact_of: Callable[[ModelSpec], Path], tmp_path: Path, name: str
) -> None:
    spec = ModelSpec(model=name, image_size=(28, 28) if name == "simple_cnn" else (64, 64), classes=10)
    folder = artifact_of(spec)
    assert without_kernel(onnx.load(folder / artifact.GRAPH)) == {}
    half = Case(spec=spec, workload="inference", runtime="ort", device="cuda", precision="fp16", batch=1)
    with Worker(tmp_path / "step.log", 2, 300) as worker:
        assert worker.ask(BuildGraph(case=half, folder=str(folder)), GraphFacts).error is None
        assert without_kernel(onnx.load(folder / artifact.graph_file(half))) == {}
        out = str(tmp_path / "step.onnx")
        asked = BuildStep(spec=spec, folder=str(folder), out=out, optimizer=TIMED_OPTIMIZER)
        assert worker.ask(asked, StepFacts).error is None
    without = without_kernel(onnx.load(out))
    assert {operator.partition("-")[0] for operator in without} <= ON_THE_CPU
