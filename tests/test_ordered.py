"""The order in which ONNX Runtime computes a training step: gradients of weights when what they read is there."""

import json
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import parser
from torch import nn

from cnnbench.records.artifact import STEP, ordered_file
from cnnbench.records.messages import Build, BuildStep, Open
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.optimizer import TIMED_OPTIMIZER, Optimizer
from cnnbench.worker import building
from cnnbench.worker.export.training.prove import build_step
from cnnbench.worker.export.training.step import export_step
from cnnbench.worker.reference import inputs
from cnnbench.worker.reference.parity import labels_for
from cnnbench.worker.runtimes.ordered import in_order, ordered
from cnnbench.worker.runtimes.ort_training import StepSession, step_options
from cnnbench.worker.session import Session

IMAGES = inputs.images(2, (3, 8, 8), 0)
MOMENTUM = Optimizer(momentum=0.9, weight_decay=1e-4)
PLAIN = Optimizer(weight_decay=0.0, momentum=0.9)


def network() -> nn.Module:
    """1x1 convolutions, whose gradients ONNX Runtime fuses with transpositions, and a head."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(3 if i == 0 else 4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()) for i in range(3)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 5))


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported step of it."""
    file = tmp_path_factory.mktemp("step") / "step.onnx"
    onnx.save(export_step(network(), IMAGES, MOMENTUM), str(file))
    return file


def executed(graph: bytes, options: ort.SessionOptions, folder: Path) -> list[str]:
    """The names of its nodes as ONNX Runtime has executed them."""
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    steps = StepSession(session, "cpu")
    steps.begin({name: value.numpy() for name, value in network().state_dict().items()}, 0.1, drop=True)
    steps.train(IMAGES.numpy(), labels_for(2, 5, 0))
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    return [event["name"].removesuffix("_kernel_time") for event in sorted(kernels, key=lambda event: event["ts"])]


def last_of(layer: int, names: list[str]) -> int:
    return max(i for i, name in enumerate(names) if name.startswith(f"{layer}.0.weight/update"))


def test_a_weight_is_updated_before_the_gradients_of_the_layers_before_it(step: Path, tmp_path: Path) -> None:
    names = executed(ordered(step), step_options(is_ordered=True), tmp_path)
    first_of_layer_1 = next(i for i, name in enumerate(names) if name.startswith("1.0/gradient"))
    assert last_of(2, names) < first_of_layer_1
    assert last_of(1, names) < last_of(0, names)
    late = executed(step.read_bytes(), step_options(), tmp_path)
    assert last_of(2, late) > next(i for i, name in enumerate(late) if name.startswith("0.1/gradient"))


def test_the_optimised_graph_has_what_the_optimisers_put_in_and_computes_the_same_step(step: Path) -> None:
    model = onnx.load_from_string(ordered(step))
    onnx.checker.check_model(model)  # among others, that each node follows those that it reads
    assert "FusedMatMul" in {node.op_type for node in model.graph.node}
    values = {name: value.numpy() for name, value in network().state_dict().items()}
    found = []
    for graph, is_ordered in ((ordered(step), True), (step.read_bytes(), False)):
        session = ort.InferenceSession(graph, step_options(is_ordered), providers=["CPUExecutionProvider"])
        steps = StepSession(session, "cpu")
        steps.begin(values, 0.1, drop=True)
        found.append([steps.train(IMAGES.numpy(), labels_for(2, 5, 0)) for _ in range(3)])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_what_a_step_puts_out_is_not_copied(step: Path) -> None:
    assert "Identity" not in {node.op_type for node in onnx.load(step).graph.node}


def test_nodes_stand_in_the_order_of_their_values_and_new_ones_before_the_first_that_reads_them() -> None:
    graph = parser.parse_graph(
        "g (float x) => (float c, float e) { e = Exp(d)  d = Neg(new2)  new2 = Abs(new)  b = Relu(x)  c = Add(b, new)"
        "  new = Sin(b) }"
    )
    order = [node.output[0] for node in in_order(graph.node, ["b", "gone", "d", "e", "c"])]
    assert order == ["b", "new", "new2", "d", "e", "c"]


@pytest.mark.parametrize(
    ("optimizer", "summand"),
    [
        (MOMENTUM, "4.weight/update/Reshape_"),
        (PLAIN, "4.weight.momentum_buffer"),
        (Optimizer(weight_decay=0.1), "4.weight"),
        (Optimizer(), None),
        (MOMENTUM.model_copy(update={"max_norm": 1.0}), None),
    ],
    ids=["momentum and decay", "momentum", "decay", "neither", "of clipped gradients"],
)
def test_a_product_that_is_a_gradient_adds_momentum_and_decay_itself(optimizer: Optimizer, summand: str | None) -> None:
    graph = export_step(network(), IMAGES, optimizer).graph
    (product,) = (
        node
        for node in graph.node
        if node.op_type == "Gemm"
        and node.name.startswith("4/gradient")
        and any(each.name == "transA" and each.i for each in node.attribute)
    )
    assert len(product.input) == (2 if summand is None else 3)
    assert summand is None or product.input[2].startswith(summand)


def test_a_launch_runs_the_ordered_graph_of_the_artifact_and_says_how_it_was_optimised(tmp_path: Path) -> None:
    spec, folder = ModelSpec(model="tests.test_ordered:network", image_size=(8, 8)), tmp_path / "x-key"
    building.build_artifact(Build(spec=spec, key="key", folder=str(folder)))
    request = BuildStep(spec=spec, folder=str(folder), out=str(folder / STEP), optimizer=TIMED_OPTIMIZER)
    facts = build_step(request)
    assert facts.error is None
    assert build_step(request) == facts, "made once: its seconds are the same"
    assert ordered_file(folder / STEP).read_bytes() == ordered(folder / STEP)
    said, fused = {}, {}
    for runtime in ("ort", "ort:basic"):
        session = Session(
            Open(case=Case(spec=spec, workload="training", runtime=runtime, batch=2), folder=str(folder)), 1, 0
        )
        assert all(each.passed for each in session.open().parity)
        session.phases["step"]()
        closed = session.close()
        assert closed.faults == []
        said[runtime], fused[runtime] = closed.ran.graph_optimization, "FusedMatMul" in closed.ran.operators
    assert said == {"ort": "ORT_ENABLE_EXTENDED", "ort:basic": "ORT_ENABLE_BASIC"}
    assert fused == {"ort": True, "ort:basic": False}
