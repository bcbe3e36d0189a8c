"""OpenVINO and AOTInductor: what they compute, what really ran, and what is said where they are not there."""

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from onnx import helper, numpy_helper

from cnnbench.analysis.times import starts
from cnnbench.errors import WorkerError
from cnnbench.records import artifact
from cnnbench.records.layer_profile import read_profiles
from cnnbench.records.messages import BuildPackage
from cnnbench.records.record import PackageFacts
from cnnbench.records.run_folder import read_run
from cnnbench.records.task_messages import Probe, Probed
from cnnbench.runner import plan
from cnnbench.runner.fork_server import ForkServers
from cnnbench.runner.tasks.layer_profile import profile_artifact
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.parse import parse_inputs
from cnnbench.worker.profilers.onnx_origin import origins_by_name
from tests.conftest import Cli, write_suite
from tests.test_onnx_file import built, model, stateful
from tests.test_runtimes import SMALL, case_of, launch

HAS_OPENVINO = find_spec("openvino") is not None
OPENVINO = pytest.mark.skipif(not HAS_OPENVINO, reason="OpenVINO is not installed: pip install 'cnnbench[openvino]'")

CONVOLUTIONS = 15
"""Of the small ResNet: the stem, two in each of six blocks, and two shortcuts."""


@pytest.fixture(scope="module")
def small(artifact_of: Callable[[ModelSpec], Path]) -> Path:
    return artifact_of(SMALL)


@OPENVINO
@pytest.mark.parametrize(
    ("runtime", "batch", "hint", "requests"),
    [("openvino", 2, "LATENCY", 1), ("openvino:throughput", 4, "THROUGHPUT", 2), ("openvino:throughput", 1, "", 1)],
)
def test_openvino_computes_the_same_and_says_what_ran(
    small: Path, tmp_path: Path, runtime: str, batch: int, hint: str, requests: int
) -> None:
    opened, closed = launch(case_of(runtime=runtime, batch=batch), small, tmp_path)
    assert [parity.what for parity in opened.parity] == [f"{runtime} b{batch}"]  # each batch is compiled for itself
    assert all(parity.passed for parity in [*opened.parity, *closed.parity])
    assert closed.faults == []
    ran = closed.ran
    assert (ran.device, ran.precision, ran.threads, ran.torch_in_process) == ("cpu", "fp32", 2, False)
    assert ran.operators["Convolution"] == CONVOLUTIONS
    assert sum(ran.operators.values()) == ran.nodes["CPU"]
    assert ran.facts["streams"] == ran.facts["requests"]
    assert ran.facts["requests"] in range(1, requests + 1)  # how many run at once is OpenVINO's choice
    assert not hint or ran.facts["hint"] == hint
    assert ran.facts["pinning"] is False
    assert ran.facts["onnxruntime_in_process"] is False


@OPENVINO
def test_a_wrong_graph_fails_the_proof_in_openvino(small: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(small, wrong)
    model = onnx.load(wrong / artifact.GRAPH)
    weight = next(each for each in model.graph.initializer if each.name == "conv1.weight")
    filters = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(filters[::-1].copy(), weight.name))  # each filter in another's place
    onnx.save(model, wrong / artifact.GRAPH)
    opened, _ = launch(case_of(runtime="openvino"), wrong, tmp_path)
    assert not all(parity.passed for parity in opened.parity)


@OPENVINO
@pytest.mark.parametrize("runtime", ["openvino", "openvino:throughput"])
def test_an_onnx_file_of_a_fixed_batch_or_with_a_state_runs_in_openvino(tmp_path: Path, runtime: str) -> None:
    for made, batch, given in ((model(4), 4, {}), (stateful(), 1, {"inputs": parse_inputs(["rate=3"])})):
        folder = tmp_path / f"batch{batch}"
        folder.mkdir()
        spec, _, built_in = built(made, folder, **given)
        opened, closed = launch(case_of(spec, runtime=runtime, batch=batch), built_in, folder)
        assert all(parity.passed for parity in [*opened.parity, *closed.parity])
        assert closed.faults == []


@OPENVINO
def test_a_node_in_bfloat16_is_a_fault(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino as ov

    from cnnbench.worker.reference.parity import open_artifact, tiled
    from cnnbench.worker.runtimes.openvino import OpenVino

    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    case = case_of(runtime="openvino")
    facts, reference = open_artifact(small)
    compile_model = ov.Core.compile_model

    def unforced(core: ov.Core, model: object, device: str, settings: dict[str, object]) -> object:
        assert settings.pop("INFERENCE_PRECISION_HINT") == "f32"
        return compile_model(core, model, device, settings)

    monkeypatch.setattr(ov.Core, "compile_model", unforced)
    ran = OpenVino(case, facts, small, tiled(reference.images, 2), 2).ran()
    assert "requested fp32, got bf16" in " ".join(map(str, ran.faults(case)))


@OPENVINO
def test_openvino_tells_the_time_of_each_layer(small: Path, tmp_path: Path) -> None:
    facts = artifact.read_facts(small)
    assert facts is not None
    with ForkServers(tmp_path, 120) as servers:
        profile = profile_artifact(SMALL, facts, 2, 5, 1, servers, asked=["openvino"])
    assert profile.failures == {}
    assert list(profile.times) == ["eager", "ort", "openvino"]
    convolutions = [row for row in profile.rows if row.kind == "Conv"]
    assert len(convolutions) == CONVOLUTIONS
    assert all(row.seconds["openvino"] > 0 for row in convolutions)
    times = profile.times["openvino"]
    assert set(times.other) <= {"Reorder"}
    assert times.layers_s > sum(times.other.values())


def test_an_engine_is_profiled_only_where_it_is_asked_for(small: Path, tmp_path: Path) -> None:
    facts = artifact.read_facts(small)
    assert facts is not None
    with ForkServers(tmp_path, 120) as servers:
        assert list(profile_artifact(SMALL, facts, 1, 5, 1, servers).times) == ["eager", "ort"]


def test_nodes_are_found_by_what_an_engine_makes_of_their_names() -> None:
    scopes = [("", "conv1", "conv2d"), ("", "relu"), ("", "layer", "add")]
    kinds = [("Conv", ["x", "w"]), ("Relu", ["a"]), ("Add", ["b", "b"])]
    nodes = []
    for (kind, inputs), scope, output in zip(kinds, scopes, "abc", strict=True):
        node = helper.make_node(kind, inputs, [output], name=f"node_{kind}")
        entry = node.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.name_scopes", str(list(scope))
        nodes.append(node)
    graph = helper.make_graph(nodes, "g", [], [])
    names = {
        "fused": ["node_Relu", "node_Conv/WithoutBiases"],  # the convolution's, though it comes second
        "sum": ["c"],  # by what it puts out
        "layout": [""],
        "new": ["Constant_7"],
    }
    assert origins_by_name(graph, names) == {"fused": "conv1", "sum": "layer", "layout": None, "new": None}


@pytest.mark.parametrize(
    "content",
    [
        "raise ModuleNotFoundError(\"No module named 'openvino'\")",
        'raise ImportError("libopenvino.so.2641: cannot open shared object file")',
        "class Core:\n    def __init__(self):\n        raise RuntimeError('Cannot load the CPU plug-in')\n"
        "class opset13:\n    parameter = add = lambda *_: None\nModel = lambda *_: None\n",
    ],
)
def test_an_engine_that_is_missing_or_not_whole_says_what_to_install(
    home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (home / "openvino.py").write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(home) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    suite = write_suite(
        home,
        "name: missing\nlaunches: 1\ndefaults: {workloads: [inference], runtimes: [openvino], batches: [1]}\n"
        "models: [lenet5]\n",
    )
    done = cli("run", suite, "--out", "out")
    (record,) = read_run(home / "out").records.values()
    assert record.status == "unavailable"
    assert record.reasons[0].code == "no-runtime"
    assert "pip install 'cnnbench[openvino]'" in record.reasons[0].detail
    assert "\n" not in record.reasons[0].detail
    assert "Traceback" not in done.stderr + done.stdout


@OPENVINO
def test_an_engine_for_cpus_alone_says_so_of_cuda(tmp_path: Path) -> None:
    with Worker(tmp_path / "probe.log", 1, 120) as worker:
        probed = worker.ask(Probe(runtime="openvino", device="cuda"), Probed)
    assert not probed.works
    assert "CPUs alone" in probed.reason


def test_a_package_needs_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with Worker(tmp_path / "probe.log", 1, 120) as worker:
        probed = worker.ask(Probe(runtime="aot", device="cpu"), Probed)
    assert (probed.works, "AOTInductor needs a C++ compiler such as g++" in probed.reason) == (False, True)


def test_cases_share_a_package_that_differ_in_the_allocator_alone() -> None:
    first = case_of(runtime="aot")
    cases = [
        first,
        case_of(runtime="aot", allocator="keep"),
        case_of(runtime="aot:freezing"),
        case_of(runtime="aot", batch=1),
        case_of(runtime="aot", threads=1),
        case_of(runtime="ort"),
    ]
    ahead = plan.compiled_ahead([cases], SMALL)
    assert len(ahead) == 4
    assert len({artifact.package_name(case, case.threads or 2) for case in ahead}) == 4
    assert artifact.package_name(cases[0], 2) == artifact.package_name(cases[1], 2)
    assert plan.compiled_ahead([cases], ModelSpec(model="lenet5")) == ()


@pytest.mark.slow
def test_a_package_is_compiled_once_and_runs_where_nothing_can_be_compiled(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / small.name
    shutil.copytree(small, folder)
    case, built = case_of(runtime="aot:freezing"), []
    for _ in range(2):
        with Worker(tmp_path / "build.log", 2, 300) as worker:
            built.append(worker.ask(BuildPackage(case=case, folder=str(folder), threads=2), PackageFacts))
    assert built[0] == built[1]
    assert artifact.fault_of(folder) is None
    compiled = tmp_path / "inductor"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(compiled))
    monkeypatch.setenv("PATH", str(tmp_path))
    opened, closed = launch(case, folder, tmp_path)
    assert not compiled.exists()
    assert [parity.what for parity in opened.parity] == ["aot:freezing b2"]
    assert all(parity.passed for parity in [*opened.parity, *closed.parity])
    assert closed.faults == []
    assert (closed.ran.device, closed.ran.precision, closed.ran.facts["freezing"]) == ("cpu", "fp32", True)
    assert closed.ran.facts["compile_s"] == built[0].seconds["compile"]
    other = case_of(runtime="aot:freezing", batch=3)
    with pytest.raises(WorkerError, match="the package that is compiled ahead is not there"):
        launch(other, folder, tmp_path)


@pytest.mark.slow
def test_engines_are_compared_with_eager_in_one_group(program: Cli, home: Path) -> None:
    engines = ["openvino", "aot"] if HAS_OPENVINO else ["aot"]
    suite = write_suite(
        home,
        f"name: engines\nlaunches: 1\nbudget: 5m\ndefaults: {{workloads: [inference], runtimes: [eager, ort,"
        f" {', '.join(engines)}], batches: [2], case_budget: 0.3s}}\n"
        "models: [lenet5, {model: resnet_cifar, image_size: 16}]\n",
    )
    done = program("run", suite, "--out", "out", "--tables")
    assert done.returncode == 0, done.stderr + done.stdout
    records = read_run(home / "out").records
    assert len(records) == 2 * (2 + len(engines))
    assert {record.status for record in records.values()} <= {"ok", "noisy"}
    groups = {record.case.spec: set() for record in records.values()}  # type: ignore[var-annotated]
    for record in records.values():
        groups[record.case.spec].add(record.group)
        assert record.parity
        assert all(parity.passed for parity in record.parity)
    assert all(len(found) == 1 for found in groups.values())
    compiled = {start.case.runtime: start.compile_s for start in starts(list(records.values()))}
    assert compiled.pop("aot")
    assert set(compiled.values()) == {None}
    assert "compile s" in done.stdout
    assert program("report", "out", "--profile").returncode == 0
    profiled = ["eager", "ort", "openvino"] if HAS_OPENVINO else ["eager", "ort"]
    assert [list(profile.times) for profile in read_profiles(home / "out")[0]] == [profiled, profiled]
