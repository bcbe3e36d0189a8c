"""The order in which ONNX Runtime computes a training step: gradients of weights when what they read is there."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper, parser
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import INPUT, METADATA, STEP, ordered_file
from cnnbench.records.messages import Build, BuildStep, Open
from cnnbench.records.record import Parity, StepFacts
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.optimizer import TIMED_OPTIMIZER, Optimizer
from cnnbench.worker import building
from cnnbench.worker.export.training.prove import build_step
from cnnbench.worker.export.training.step import export_step
from cnnbench.worker.reference import inputs
from cnnbench.worker.reference.parity import labels_for
from cnnbench.worker.runtimes.ordered import in_order, ordered
from cnnbench.worker.runtimes.ort import make_session
from cnnbench.worker.runtimes.ort_training import OrtTraining, StepSession, _Stored, step_graph, step_options
from cnnbench.worker.session import Session
from tests.records import facts as artifact_facts

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


def test_a_value_without_a_name_is_made_by_no_node() -> None:
    largest = helper.make_node("TopK", ["c", "one"], ["", "places"])
    limited = helper.make_node("Clip", ["x", "", "high"], ["c"])
    assert in_order([largest, limited], ["c", "places"]) == [limited, largest]


def by_hand() -> onnx.ModelProto:
    """loss = sum of (a w - b) k, and drop; each step takes the rate times k from w, and counts."""
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 17]>
        step (float[N] b, float[N] a, int64[N] labels, float learning_rate, float drop, float[2] k, float[2] w,
              int64 count) => (float loss, float[2] w_new, int64 count_new) {
            one = Constant<value_int = 1>()
            first = ReduceSum<keepdims = 0>(a)
            second = ReduceSum<keepdims = 0>(b)
            scaled = Mul(first, w)
            differ = Sub(scaled, second)
            each = Mul(differ, k)
            sum = ReduceSum<keepdims = 0>(each)
            loss = Add(sum, drop)
            change = Mul(learning_rate, k)
            w_new = Sub(w, change)
            count_new = Add(count, one)
        }"""
    )
    for value in model.graph.output:
        value.name = value.name.replace("_", ".")
    for node in model.graph.node:
        node.output[0] = node.output[0].replace("_", ".")
    described = {"inputs": {"a": INPUT, "b": INPUT, "k": "parameter"}, "same": {"v": "w"}}
    model.metadata_props.add(key=METADATA, value=json.dumps(described))
    return model


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ["w", "v"])
def test_what_a_step_puts_out_the_next_takes_in(name: str, in_place: bool) -> None:
    """Sums of a and b are 3 and 1, w is (2, 1) and k (3, 5): (6 - 1) 3 + (3 - 1) 5 = 25; the next w is (1.7, 0.5)."""
    steps = StepSession(make_session(by_hand().SerializeToString(), "cpu", 1, options=step_options()), "cpu")
    given = np.asarray([[2.0, 1.0], [9.0, 9.0]], np.float32, order="F")[0]
    values = {name: given, "k": np.asarray([3, 5], np.float32), "unread": np.ones(2, np.float32)}
    x, labels = (np.asarray([1, 2], np.float32), np.asarray([0.5, 0.5], np.float32)), np.zeros(2, np.int64)
    steps.begin(values, 0.1, drop=False, in_place=in_place)
    assert [steps.train(x, labels) for _ in range(2)] == pytest.approx([25.0, (5.1 - 1) * 3 + (1.5 - 1) * 5])
    for rate, after in ((None, [1.1, -0.5]), (0.2, [0.5, -1.5])):
        if rate:
            steps.set_rate(rate)
        steps.train(x, labels)
        found = steps.values()
        assert found.keys() == {"w", "v", "k", "unread", "count"}
        assert found["w"].tolist() == found["v"].tolist() == pytest.approx(after)
    assert (found["count"].tolist(), str(found["count"].dtype), found["k"].tolist()) == (4, "int64", [3.0, 5.0])
    assert (given.tolist(), values["k"].tolist()) == ([2.0, 1.0], [3.0, 5.0]), "they are copied"
    steps.begin({**values, "count": np.asarray(7)}, 0.1, drop=True, in_place=in_place)
    assert steps.values()["count"] == 7
    assert steps.train(x, labels) == pytest.approx(26.0)
    steps.bind(x, labels)
    for loss in (15.8, 5.6):
        steps.step()
        assert steps.loss == pytest.approx(loss)
    assert steps.values()["count"] == 10


def test_a_session_of_steps_runs_them_as_they_stand_and_optimises_no_more_than_is_left() -> None:
    plain, after = step_options(), step_options(is_ordered=True)
    for options, level in ((plain, "ORT_ENABLE_ALL"), (after, "ORT_DISABLE_ALL")):
        assert options.graph_optimization_level.name == level
        assert (options.execution_order.name, options.enable_mem_pattern) == ("PRIORITY_BASED", False)


def test_the_cpu_loads_the_ordered_graph_and_other_devices_one_of_elementary_operators(step: Path) -> None:
    assert [step_graph(step, is_ordered, "cpu") for is_ordered in (True, False)] == [ordered_file(step), step]
    elsewhere = step_graph(step, False, "cuda")
    assert isinstance(elsewhere, bytes)
    models = (onnx.load_from_string(elsewhere), onnx.load(step))
    operators = [{node.op_type for node in model.graph.node} for model in models]
    assert ["BatchNormalization" in each for each in operators] == [False, True]


class Proved(OrtTraining):
    """Whose losses are given; what it does is written down."""

    def __init__(self, facts: StepFacts, losses: list[float]) -> None:
        self.case = Case(spec=ModelSpec(model="lenet5", seed=3), workload="training", runtime="ort", batch=2)
        self.facts, self.classes, self.places, self.log = facts, 5, (), list[Any]()
        given = iter(losses)

        def train(images: Any, labels: Any) -> float:
            self.log.append((images[:, 0].tolist(), labels.tolist()))
            return next(given)

        self.steps = cast(StepSession, SimpleNamespace(train=train))

    def _start(self, *, drop: bool) -> None:
        self.log.append(drop)

    def _begin(self) -> None:
        self.log.append("begin")


def test_a_launch_is_proved_on_the_images_of_the_steps_own_proof_and_begins_anew() -> None:
    own = Parity(what="own", error=0.0, limit=1.0)
    facts = StepFacts(first_image=3, losses=[2.0, 1.0], loss_limit=0.1, parity=[own])
    of = Proved(facts, [2.0, 1.1])
    found = of.own_proof(np.arange(20, dtype=np.float32).reshape(10, 2))
    labels = labels_for(4, 5, 3).tolist()
    assert of.log == [False, *[([6.0, 8.0, 10.0, 12.0], labels)] * 2, "begin"]
    assert [(each.what, each.error, each.limit) for each in found] == [
        ("ort losses", pytest.approx(0.05), 0.1),
        ("own", 0.0, 1.0),
    ]


@pytest.mark.parametrize(("facts", "said"), [(None, "it is not there"), (StepFacts(error="no rule"), "no rule")])
def test_a_step_that_is_not_there_is_told(facts: StepFacts | None, said: str, tmp_path: Path) -> None:
    if facts:
        (tmp_path / "step-head.json").write_text(facts.model_dump_json())
    case = Case(spec=ModelSpec(model="lenet5"), workload="training", runtime="ort", batch=2, trainable="head")
    with pytest.raises(WorkerError, match=f"the training step could not be exported: {said}$"):
        OrtTraining(case, artifact_facts(), tmp_path, IMAGES.numpy(), 1)


def test_stored_arrays_are_read_by_name(tmp_path: Path) -> None:
    arrays = {"a": np.ones(3, np.float32), "b": np.zeros((2, 2), np.float32)}
    save_file(arrays, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="np") as file:
        stored = _Stored(file)
        assert (len(stored), sorted(stored)) == (2, ["a", "b"])
        assert all(np.array_equal(stored[name], array) for name, array in arrays.items())


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
