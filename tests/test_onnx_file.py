"""An ONNX file as a model: read, proved in float64 without torch, and timed where exported graphs run."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from cnnbench.analysis.layer_join import join
from cnnbench.analysis.replay import replay
from cnnbench.cli.common import spec as spec_of_command
from cnnbench.errors import InputError, ModelError
from cnnbench.networks import registry
from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.records.artifact import GRAPH
from cnnbench.records.messages import Build, BuildGraph, Count, Open, Trace
from cnnbench.records.record import ArtifactFacts
from cnnbench.records.task_messages import Profile
from cnnbench.records.toolchain import source_digest
from cnnbench.runner.tasks.probe import find_unavailable
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.parse import parse_inputs
from cnnbench.worker import building, onnx_artifact
from cnnbench.worker.onnx_artifact import inputs_of
from cnnbench.worker.precision_graph import build_graph
from cnnbench.worker.profilers.ort import profile
from cnnbench.worker.reference.onnx_float64 import AveragePool, Float64, MaxPool, in_float64
from cnnbench.worker.session import Session

MANY = 512
"""Images, which the smallest node takes microseconds for, as profilers count them."""
Dims = list[int | str | None]


def value(name: str, dims: Dims, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def model(batch: int | str | None = "N", opset: int = 17, side: int | str = 8) -> onnx.ModelProto:
    """Convolution, batch normalisation, pooling, a layer, softmax: (batch, 2, side, side) to (batch, 3)."""
    random = np.random.default_rng(0)
    weights = {"w": (4, 2, 3, 3), "scale": (4,), "shift": (4,), "mean": (4,), "fc": (4, 3)}
    tensors = [numpy_helper.from_array(random.standard_normal(s).astype(np.float32), n) for n, s in weights.items()]
    tensors.append(numpy_helper.from_array(np.full(4, 2.0, np.float32), "var"))
    norm: dict[str, Any] = {} if opset >= 14 else {"momentum": 0.9}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "var"], ["b"], **norm),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "fc"], ["g"]),
        helper.make_node("Softmax", ["g"], ["y"], axis=1),
    ]
    graph = helper.make_graph(nodes, "net", [value("x", [batch, 2, side, side])], [value("y", [batch, 3])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def stateful() -> onnx.ModelProto:
    """Adds to a state whose batch is its second axis; a scalar scales it."""
    nodes = [
        helper.make_node("Cast", ["rate"], ["r"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "r"], ["scaled"]),
        helper.make_node("Add", ["scaled", "state"], ["next"]),
        helper.make_node("ReduceSum", ["next"], ["y"], keepdims=0),
        helper.make_node("Reshape", ["y", "shape"], ["out"]),
    ]
    shape = numpy_helper.from_array(np.asarray([1, 1]), "shape")
    inputs = [value("x", ["N", 3]), value("state", [2, "N", 3]), value("rate", [], TensorProto.INT64)]
    outputs = [value("out", ["N", 1]), value("next", [2, "N", 3])]
    graph = helper.make_graph(nodes, "state", inputs, outputs, [shape])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def built(made: onnx.ModelProto, folder: Path, **given: Any) -> tuple[ModelSpec, ArtifactFacts, Path]:
    file = folder / "net.onnx"
    onnx.save(made, str(file))
    spec = ModelSpec(model=str(file), **given)
    artifact = folder / "net-key"
    return spec, building.build_artifact(Build(spec=spec, key="key", folder=str(artifact))), artifact


def proofs(spec: ModelSpec, artifact: Path, batch: int) -> list[bool]:
    case = Case(spec=spec, workload="inference", runtime="ort", batch=batch)
    session = Session(Open(case=case, folder=str(artifact)), 1, 0)
    opened = session.open()
    session.phases["forward"]()
    return [parity.passed for parity in (*opened.parity, *session.close().parity)]


@pytest.mark.parametrize("opset", [9, 17])
def test_a_graph_is_run_in_float64_and_proved_at_every_batch(opset: int, tmp_path: Path) -> None:
    spec, facts, artifact = built(model(opset=opset), tmp_path)
    assert facts.reference_by == "onnx's reference implementation in float64"
    assert (facts.input_shape, facts.classes, facts.batch, facts.opset) == ((2, 8, 8), 3, None, opset)
    assert 0 < facts.eager_error < 1e-5
    assert proofs(spec, artifact, 2) == [True] * 5, "in batches of 1, 2, 3 and 2, since it puts out few values, and 2"


def test_a_broken_copy_of_the_graph_fails_its_proof(tmp_path: Path) -> None:
    spec, _, artifact = built(model(), tmp_path)
    broken = onnx.load(str(artifact / GRAPH))
    (norm,) = (node for node in broken.graph.node if node.op_type == "BatchNormalization")
    norm.attribute.append(helper.make_attribute("epsilon", 0.1))
    onnx.save(broken, str(artifact / GRAPH))
    assert not any(proofs(spec, artifact, 1))


def test_weights_in_nodes_of_an_old_opset_are_counted_and_quantised_by_channel(tmp_path: Path) -> None:
    made = model(opset=11)
    weights = [helper.make_node("Constant", [], [each.name], value=each) for each in made.graph.initializer]
    nodes = [*weights, *made.graph.node]
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend(nodes)
    spec, facts, artifact = built(made, tmp_path)
    (counts,) = facts.counters.counted.values()
    conv, last = 4 * 2 * 9, 4 * 3
    assert tuple(map(sum, zip(*counts.values(), strict=True))) == (conv + 4 + 4 + last, 64 * conv + last)
    assert facts.weight_bytes == 4 * (conv + 4 * 4 + last)
    case = Case(spec=spec, workload="inference", runtime="ort", precision="int8", batch=1)
    graph = build_graph(BuildGraph(case=case, folder=str(artifact)))
    assert (graph.error, sum(graph.macs.values())) == (None, 64 * conv + last)
    assert proofs(spec, artifact, 1) == [True] * 5


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package with a graph, which cannot be imported."""
    folder = tmp_path / "site" / "graphs"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError")
    onnx.save(model(), str(folder / "models" / "net.onnx"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


def test_a_graph_in_an_installed_package_is_found_without_importing_it(package: Path, tmp_path: Path) -> None:
    name, file = "graphs:models/net.onnx", package / "models" / "net.onnx"
    assert registry.file_of(registry.check_name(name)) == file
    spec = ModelSpec(model=name)
    assert (spec.is_onnx_file, spec.depends_on_code) == (True, False)
    assert source_digest(spec) == source_digest(ModelSpec(model=str(file))) != ""
    case = Case(spec=spec, workload="inference", runtime="ort", batch=1)
    assert Case.from_id(case.id) == case
    assert building.build_artifact(Build(spec=spec, key="key", folder=str(tmp_path / "net-key"))).classes == 3


def test_without_its_package_the_cases_of_a_graph_are_unavailable(package: Path, tmp_path: Path) -> None:
    names = ["graphs:models/net.onnx", "no_graphs:net.onnx", "graphs:net.onnx", "__main__:net.onnx"]
    specs = [ModelSpec(model=registry.check_name(name)) for name in names]
    cases = [Case(spec=spec, workload="inference", runtime="ort", batch=1) for spec in specs]
    reasons, _ = find_unavailable(cases, tmp_path)
    assert [reasons[case.id].code for case in cases[1:]] == ["no-package"] * 3
    assert cases[0].id not in reasons
    assert reasons[cases[1].id].detail == (
        "'no_graphs:net.onnx' needs the package no_graphs, which is not installed here: pip install no_graphs"
    )
    assert "the package graphs that is installed here has no such file" in reasons[cases[2].id].detail
    with pytest.raises(InputError, match=r"^'no_graphs:net.onnx' needs .+: pip install no_graphs$"):
        spec_of_command("no_graphs:net.onnx", None, None)


def test_a_fixed_batch_is_the_only_one(tmp_path: Path) -> None:
    spec, facts, artifact = built(model(4), tmp_path)
    assert facts.batch == 4
    assert proofs(spec, artifact, 4) == [True, True]


def test_inputs_and_outputs_without_a_batch_are_fed_and_compared_whole(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"value of its scalar input 'rate'.*--input rate=16000"):
        built(stateful(), tmp_path)
    spec, facts, artifact = built(stateful(), tmp_path, inputs=parse_inputs(["rate=3"]))
    assert (facts.constants, facts.whole_outputs, facts.batch) == (["state", "rate"], [1], 1)
    assert proofs(spec, artifact, 1) == [True, True]


def test_sizes_that_the_file_leaves_open_are_asked_for() -> None:
    graph = model(side="S").graph
    with pytest.raises(ModelError, match=r"leaves sizes of its input 'x' \(2xSxS\) open.*--input x=2x64x64"):
        inputs_of(graph, ModelSpec(model="net.onnx"))
    for given in ({"image_size": (8, 9)}, {"inputs": (("x", (2, 8, 9)),)}):
        (found,), batch = inputs_of(graph, ModelSpec(model="net.onnx", **given))
        assert (found.shape, batch) == ((2, 8, 9), None)
    with pytest.raises(ModelError, match="or has others"):
        inputs_of(graph, ModelSpec(model="net.onnx", inputs=(("x", (3, 8, 8)),)))
    with pytest.raises(ModelError, match="no input 'z'; its inputs are x"):
        inputs_of(graph, ModelSpec(model="net.onnx", inputs=(("z", (3,)),)))


def test_weights_in_a_second_file_come_along(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    file = tmp_path / "given" / "net.onnx"
    onnx.save(model(), str(file), save_as_external_data=True, location="weights.bin", size_threshold=0)
    spec = ModelSpec(model=str(file))
    artifact = tmp_path / "net-key"
    building.build_artifact(Build(spec=spec, key="key", folder=str(artifact)))
    (tmp_path / "given" / "weights.bin").unlink()
    assert all(proofs(spec, artifact, 1))


def test_a_file_cannot_have_its_weights_read_from_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    file = tmp_path / "given" / "net.onnx"
    onnx.save(model(), str(file), save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "given" / "weights.bin").rename(tmp_path / "weights.bin")
    made = onnx.load(str(file), load_external_data=False)
    for tensor in made.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../weights.bin" if entry.key == "location" else entry.value
    file.write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match="onnx refuses it"):
        building.build_artifact(Build(spec=ModelSpec(model=str(file)), key="key", folder=str(tmp_path / "x-key")))


def test_what_is_no_onnx_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("no graph")
    spec = ModelSpec(model=str(tmp_path / "net.onnx"))
    with pytest.raises(ModelError, match="expected an ONNX file"):
        building.build_artifact(Build(spec=spec, key="key", folder=str(tmp_path / "x-key")))


@pytest.mark.parametrize("ours", [MaxPool, AveragePool])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]},
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"kernel_shape": [3], "strides": [2]},
    ],
)
def test_pooling_is_what_onnxs_slow_implementation_computes(ours: Any, settings: dict[str, Any]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 7)[: 2 + len(settings["kernel_shape"])]).astype(np.float32)
    node = helper.make_node(ours.__name__, ["x"], ["y"], **settings)
    graph = helper.make_graph([node], "pool", [value("x", [None] * x.ndim)], [value("y", [None] * x.ndim)])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (expected,) = list(ReferenceEvaluator(made).run(None, {"x": x}))
    (got,) = Float64(made)({"x": x})
    np.testing.assert_allclose(got, np.asarray(expected), rtol=1e-4)
    assert got.dtype == np.float64


def test_constants_casts_and_branches_are_made_float64_too() -> None:
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.asarray([0.1], np.float32)))],
        "branch",
        [],
        [value("c", [1])],
    )
    nodes = [
        helper.make_node("If", ["flag"], ["c"], then_branch=branch, else_branch=branch),
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["c", "f"], ["y"]),
    ]
    inputs = [value("flag", [], TensorProto.BOOL), value("n", [1], TensorProto.INT64)]
    made = helper.make_model(helper.make_graph(nodes, "g", inputs, [value("y", [1])]))
    assert in_float64(made).graph.output[0].type.tensor_type.elem_type == TensorProto.DOUBLE
    (y,) = Float64(made)({"flag": np.asarray(True), "n": np.asarray([3])})
    assert y.dtype == np.float64


def test_a_graph_is_counted_and_shown_layer_by_layer(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    onnx.save(model(), str(file))
    spec = ModelSpec(model=str(file))
    counted = onnx_artifact.count(Count(spec=spec)).counted["onnx"]
    macs = 8 * 8 * 4 * 2 * 9 + 12
    assert [sum(column) for column in zip(*counted.values(), strict=True)] == [72 + 8 + 12, macs]
    reading = replay("net", onnx_artifact.trace_file(Trace(spec=spec)))
    assert (reading.network.params, reading.network.macs, reading.left_out) == (72 + 8 + 12, macs, [])
    kinds = [type(layer.op).__name__ for layer in reading.network.layers]
    assert kinds == ["Conv", "BatchNorm", "Activation", "MaxPool", "AdaptiveAvgPool", "Copy", "Linear", "Activation"]


@pytest.mark.parametrize(("mode", "kind", "elementwise"), [("linear", "Resize", 7 * 48), ("nearest", "Copy", 0)])
def test_a_resizing_is_read_as_what_it_computes(mode: str, kind: str, elementwise: int, tmp_path: Path) -> None:
    sizes = numpy_helper.from_array(np.asarray([1, 3, 4, 4]), "sizes")
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode=mode)
    graph = helper.make_graph([node], "net", [value("x", [1, 3, 2, 2])], [value("y", [1, 3, 4, 4])], [sizes])
    file = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(file))
    reading = replay("net", onnx_artifact.trace_file(Trace(spec=ModelSpec(model=str(file)))))
    assert [type(layer.op).__name__ for layer in reading.network.layers] == [kind]
    assert (reading.network.elementwise, reading.left_out) == (elementwise, [])


LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
light = pytest.mark.skipif(not LIGHT.is_dir(), reason=f"this package of onnx has no {LIGHT.name} networks")


@light
@pytest.mark.parametrize(
    ("name", "same_as"),
    [("resnet50", "resnet50"), ("squeezenet", "squeezenet1_1"), ("vgg19", "vgg19"), ("densenet121", "densenet121")],
)
def test_other_exporters_graphs_count_as_the_closed_form_does(name: str, same_as: str) -> None:
    spec = ModelSpec(model=str(LIGHT / f"light_{name}.onnx"))
    network = replay(name, onnx_artifact.trace_file(Trace(spec=spec))).network
    assert network.macs == ARCHITECTURES[same_as].network().macs


OPEN_SIZES = {
    "ch_ppocr_mobile_v2.0_cls_infer": ["x=3x48x96"],
    "ch_PP-OCRv4_det_infer": ["x=3x96x96"],
    "ch_PP-OCRv4_rec_infer": ["x=3x48x96"],
    "nmp": [],
    "silero_vad": ["input=512", "state=2x1x128", "sr=16000"],
    "silero_vad_16k_op15": ["input=512", "sr=16000"],
    "silero_vad_16k_sequence": [],
    "silero_vad_half": ["input=512"],
    "silero_vad_op18_ifless": ["input=512", "sr=16000"],
    "silero_vad_openvino_16k": [],
}
"""Of graphs in other people's packages, the sizes that they leave open."""
FOREIGN = os.environ.get("CNNBENCH_FOREIGN", "")


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Graphs by name: of onnx's own test data, and of wheels in the folder that the environment names."""
    folder = tmp_path_factory.mktemp("foreign")
    found = {file.stem: file for file in LIGHT.glob("*.onnx")}
    for wheel in Path(FOREIGN).glob("*.whl") if FOREIGN else ():
        with zipfile.ZipFile(wheel) as content:
            for name in filter(re.compile(r".*\.onnx").fullmatch, content.namelist()):
                file = folder / Path(name).name
                file.write_bytes(content.read(name))
                found[file.stem] = file
    return found


LIGHT_NAMES: tuple[str, ...] = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
)
LIGHT_NAMES += ("vgg19", "zfnet512")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(f"light_{each}" for each in LIGHT_NAMES), *OPEN_SIZES])
def test_other_peoples_graphs_are_proved_and_broken_copies_are_not(
    name: str, foreign: Mapping[str, Path], tmp_path: Path
) -> None:
    if name not in foreign:
        pytest.skip(f"no {name}.onnx: neither in onnx's test data nor in CNNBENCH_FOREIGN={FOREIGN!r}")
    sizes = OPEN_SIZES.get(name)
    spec = ModelSpec(model=str(foreign[name]), inputs=parse_inputs(sizes) if sizes else None)
    artifact = tmp_path / "net-key"
    building.build_artifact(Build(spec=spec, key="key", folder=str(artifact)))
    assert all(proofs(spec, artifact, 1))
    broken = onnx.load(str(artifact / GRAPH))
    output = broken.graph.output[0]
    for node in broken.graph.node:
        node.output[:] = [f"{each}_right" if each == output.name else each for each in node.output]
    ten = numpy_helper.from_array(np.asarray(1.1, np.float32), "a_tenth_more")
    broken.graph.initializer.append(ten)
    broken.graph.node.append(helper.make_node("Mul", [f"{output.name}_right", ten.name], [output.name]))
    onnx.save(broken, str(artifact / GRAPH))
    assert not all(proofs(spec, artifact, 1))


def test_an_onnx_file_is_measured_without_pytorch(tmp_path: Path) -> None:
    onnx.save(model(), str(tmp_path / "net.onnx"))
    program = (
        "import sys; from cnnbench.worker import building; from cnnbench.records.messages import Build;"
        "from cnnbench.suite.case import ModelSpec;"
        "building.build_artifact(Build(spec=ModelSpec(model='net.onnx'), key='key', folder='x-key'));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0


def test_the_time_of_each_node_is_told_beside_its_work(tmp_path: Path) -> None:
    spec, facts, artifact = built(model(), tmp_path)
    case = Case(spec=spec, workload="inference", runtime="ort", batch=MANY)
    images = np.ones((MANY, 2, 8, 8), np.float32)
    request = Profile(case=case, folder=str(artifact), scratch=str(tmp_path), calls=3)
    profiled = profile(request, facts, images, 1)
    network = replay("net", onnx_artifact.trace_file(Trace(spec=spec))).network
    rows = {row.name: row for row in join(network, MANY, {"ort": profiled})}
    assert (rows["a"].macs, rows["g"].macs) == (MANY * 8 * 8 * 4 * 2 * 9, MANY * 4 * 3)
    assert all(rows[name].seconds["ort"] > 0 for name in ("a", "e", "g", "y"))
    assert "ort" not in rows["b"].seconds, "folded into the convolution"
