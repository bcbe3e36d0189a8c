"""Times of layers: real profilers in real children, every operator in one place, and the join to what layers do."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import psutil
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from cnnbench.analysis.layer_join import join, owner, times_of, typical
from cnnbench.errors import WorkerError
from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.records.layer_profile import ModelProfile, Row, Times
from cnnbench.records.messages import Load, Loaded
from cnnbench.records.run_folder import Run
from cnnbench.records.task_messages import LayerTimes, Profile, Profiled
from cnnbench.report import layer_times
from cnnbench.runner import machine
from cnnbench.runner.tasks.layer_profile import profile_run
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.worker.profilers.eager import ranges
from cnnbench.worker.profilers.onnx_origin import NAME_SCOPES, origins
from tests.conftest import Cli
from tests.records import ENVIRONMENT, case, record

MOBILENET = ModelSpec(model="mobilenet_v2", image_size=(64, 64), classes=10)
CALLS, BATCH = 3, 2

OWN = '''
import torch
from torch import nn


class Block(nn.Module):
    """One activation passed twice, a sum, a function, and an operation that no formula is known for."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(torch.sigmoid(self.conv2(y)).cumsum(3) + x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.block = Block()
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


class NoOnnx(Net):
    def forward(self, x):
        return super().forward(torch.special.bessel_j0(x))
'''


def ask(spec: ModelSpec, runtime: str, folder: Path, scratch: Path, calls: int = CALLS) -> Profiled:
    case = Case(spec=spec, workload="inference", runtime=runtime, batch=BATCH)
    with Worker(scratch / f"{runtime}.log", 2, 300) as child:
        child.ask(Load(case=case, threads=2), Loaded)
        return child.ask(Profile(case=case, folder=str(folder), scratch=str(scratch), calls=calls), Profiled)


@pytest.fixture(scope="module")
def mobilenet(
    artifact_of: Callable[[ModelSpec], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Profiled]:
    scratch = tmp_path_factory.mktemp("profile")
    folder = artifact_of(MOBILENET)
    return {runtime: ask(MOBILENET, runtime, folder, scratch) for runtime in ("eager", "ort")}


@pytest.mark.parametrize("runtime", ["eager", "ort"])
def test_every_call_is_seen_and_its_operators_do_not_exceed_it(mobilenet: dict[str, Profiled], runtime: str) -> None:
    profiled = mobilenet[runtime]
    everything = [*profiled.layers, *profiled.other]
    assert {len(each.seconds) for each in everything} | {len(profiled.call_s)} == {CALLS}
    for call, whole in enumerate(profiled.call_s):
        assert 0 < sum(each.seconds[call] for each in everything) <= whole
    assert all(each.operators for each in everything)


@pytest.mark.parametrize("runtime", ["eager", "ort"])
def test_layers_run_in_the_order_of_the_network_under_its_names(mobilenet: dict[str, Profiled], runtime: str) -> None:
    network = ARCHITECTURES["mobilenet_v2"].network((64, 64), 10)
    with_macs = [layer.name for layer in network.inference if layer.macs]
    assert [each.name for each in mobilenet[runtime].layers if each.name in with_macs] == with_macs
    assert all(sum(each.seconds) > 0 for each in mobilenet[runtime].layers if each.name in with_macs)


def test_a_table_has_all_the_work_and_no_time_for_what_was_folded_away(mobilenet: dict[str, Profiled]) -> None:
    network = ARCHITECTURES["mobilenet_v2"].network((64, 64), 10)
    rows = join(network, BATCH, mobilenet)
    assert sum(row.macs or 0 for row in rows) == BATCH * network.macs
    assert sum(row.moved_bytes or 0 for row in rows) == network.moved_bytes(BATCH)
    by_name = {row.name: row for row in rows}
    assert len(by_name) == len(rows)
    norm, residual, head = by_name["features.3.conv.3"], by_name["features.3"], by_name[""]
    assert (norm.kind, set(norm.seconds)) == ("BatchNorm", {"eager"})
    assert (residual.kind, set(residual.seconds)) == ("Add", {"eager"})  # part of the convolution in ONNX Runtime
    assert (head.kind, set(head.seconds)) == ("AdaptiveAvgPool, Flatten", {"eager", "ort"})
    order = [row.name for row in rows]
    assert order[0] == "features.0.0"
    assert order.index("features.3.conv.3") < order.index("features.3") < order.index("features.4.conv.0.0")
    for runtime, profiled in mobilenet.items():
        told = sum(typical(each.seconds) for each in profiled.layers)
        assert sum(row.seconds.get(runtime, 0.0) for row in rows) == pytest.approx(told)


def test_changes_of_memory_layout_belong_to_no_layer(mobilenet: dict[str, Profiled]) -> None:
    assert mobilenet["eager"].other == []
    assert {each.name for each in mobilenet["ort"].other} <= {"ReorderInput", "ReorderOutput"}


def test_the_ort_part_imports_no_torch() -> None:
    script = "import sys, cnnbench.worker.session, cnnbench.worker.profilers.ort; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_watching_does_not_change_what_runs() -> None:
    """A transformer's layer leaves its one fused operator when it, or a module in it, has hooks."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with ranges(layer) as entered, torch.inference_mode(), torch.profiler.profile(activities=activities) as profiler:
        layer(torch.zeros(1, 10, 16))
    assert list(entered) == [""]
    assert "aten::_transformer_encoder_layer_fwd" in {event.name for event in profiler.events() or []}
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


def node(kind: str, inputs: list[str], output: str, name: str, module: str | None = None) -> onnx.NodeProto:
    made = helper.make_node(kind, inputs, [output], name=name)
    if module is not None:
        parts = module.split(".")
        scopes = ["", *(".".join(parts[: end + 1]) for end in range(len(parts))), name]
        made.metadata_props.add(key=NAME_SCOPES, value=repr(scopes))
    return made


def graph(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    return helper.make_graph(list(nodes), "g", [x], [])


EXPORTED = graph(
    node("Conv", ["x", "a.conv.weight"], "batch_norm", "native_batch_norm", "a.bn"),
    node("Relu", ["batch_norm"], "relu", "node_relu", "a.relu"),
    node("Conv", ["relu", "b.weight"], "conv", "node_conv", "b"),
    node("Add", ["conv", "relu"], "sum", "node_add", "block"),
    node("Relu", ["sum"], "relu_1", "node_relu_1", "block.relu"),
    node("BatchNormalization", ["relu_1", "s"], "norm", "node_norm", "norm"),
    node("Gemm", ["norm", "fc.weight"], "linear", "node_linear", "fc"),
    node("Gelu", ["linear"], "gelu", "node_gelu", "gelu"),
    node("Split", ["gelu"], "part", "node_split"),
)


@pytest.mark.parametrize(
    ("executed", "module"),
    [
        (node("FusedConv", ["x", "w"], "relu", "whatever"), "a.conv"),  # by what it puts out, back to the convolution
        (node("Conv", ["x", "w"], "r", "relu_nchwc"), "a.conv"),  # named by what it puts out
        (node("Conv", ["r", "w"], "r2", "conv_nchwc_token_3"), "b"),
        (node("Conv", ["r2", "w"], "r3", "norm_bn_nchwc"), "norm"),  # batch normalisation as a convolution
        (node("Conv", ["r", "w", "c", "r"], "r2", "relu_1_nchwc"), "b"),  # with the sum and the activation
        (node("Relu", ["sum"], "relu_1", "node_relu_1"), "block.relu"),
        (node("FusedGemm", ["norm"], "f", "fused node_linear"), "fc"),
        (node("FusedGemm", ["norm"], "gelu", "node_linear/Fusion/"), "fc"),
        (node("ReorderOutput", ["r"], "relu", "ReorderOutput"), None),
        (node("Split", ["gelu"], "part", "node_split"), None),  # the exporter says nothing of it
        (node("Transpose", ["q"], "p", "Transpose_token_1"), None),
    ],
)
def test_a_rewritten_node_is_found_again(executed: onnx.NodeProto, module: str | None) -> None:
    before = node("FusedConv", ["x", "w"], "relu", "first")
    others = [] if executed.op_type == "ReorderOutput" or module == "a.conv" else [before]
    assert origins(EXPORTED, graph(*others, executed))[executed.name] == module


def test_a_layer_that_is_no_module_belongs_to_the_one_around_it() -> None:
    modules = {"", "block", "block.relu", "block.conv1"}
    assert owner("block.conv1", modules) == "block.conv1"
    assert owner("block.relu2", modules) == "block.relu"
    assert owner("block.add", modules) == "block"
    assert owner("block.conv1.weight_norm", modules) == "block.conv1"
    assert owner("flatten", modules) == ""


def test_a_disturbed_call_does_not_move_the_typical_one() -> None:
    assert typical([1.0, 2.0, 3.0, 1000.0]) == 2.5
    assert typical([4.0, 2.0]) == 3.0
    assert typical([100.0, 0.0, 3.0, 4.0, 0.0, 5.0, 6.0, 200.0]) == 4.5


def test_a_call_is_layers_other_operators_and_what_is_between() -> None:
    def of(name: str, *seconds: float) -> LayerTimes:
        return LayerTimes(name=name, operators=["Conv"], seconds=list(seconds))

    layers = [of("conv1", 1, 2, 3, 4), of("conv1", 1, 1, 1, 9), of("odd", 2, 2, 2, 2)]
    modules = ["", "conv1", "conv2", "fc1", "fc2", "fc3"]
    found = Profiled(modules=modules, layers=layers, other=[of("copy", 1, 1, 1, 5)], call_s=[10, 14, 12, 30])
    rows = join(ARCHITECTURES["lenet5"].network(), 3, {"eager": found})
    first, *_ = rows
    assert (first.name, first.kind, first.work) == ("conv1", "Conv", "convolutions")
    assert (first.macs, first.seconds) == (3 * 24 * 24 * 6 * 25, {"eager": 3.5})  # of 2, 3, 4 and 13
    assert first.moved_bytes == 4 * (3 * (28 * 28 + 6 * 24 * 24) + 6 * 25 + 6)
    of_call = times_of("eager", found, rows)
    assert (of_call.layers_s, of_call.other, of_call.quartiles_s) == (5.5, {"copy": 1.0}, (12.0, 14.0))
    assert of_call.outside_s == 6.5  # of 5, 8, 5 and 10
    assert times_of("ort", found, rows).layers_s == 0.0


def test_operators_without_a_known_layer_get_a_row_in_their_place() -> None:
    def times(*names: str) -> list[LayerTimes]:
        return [LayerTimes(name=name, operators=["aten"], seconds=[1.0]) for name in names]

    network = ARCHITECTURES["lenet5"].network()
    eager = Profiled(
        modules=["", "conv1", "odd", "conv2", "fc1", "fc2", "fc3"],
        layers=times("conv1", "odd", "conv2", "fc1", "fc2", "fc3"),
        other=[],
        call_s=[9.0],
    )
    rows = join(network, 1, {"eager": eager})
    assert [row.name for row in rows] == ["conv1", "odd", "", "conv2", "fc1", "fc2", "fc3"]
    assert rows[1] == Row(
        name="odd", kind="aten", work="other operators", macs=None, moved_bytes=None, seconds={"eager": 1.0}
    )
    assert rows[2].seconds == {}


def test_slow_for_its_work_is_who_has_the_fewest_macs_per_second_and_a_percent_of_the_time() -> None:
    def row(name: str, macs: int | None, seconds: float) -> Row:
        return Row(name=name, kind="Conv", work="convolutions", macs=macs, moved_bytes=100, seconds={"eager": seconds})

    rows = (row("slow", 10, 1.0), row("fast", 1000, 6.0), row("tiny", 1, 0.01), row("add", None, 2.0))
    times = Times(layers_s=9.01, other={}, outside_s=0.99, quartiles_s=(9.0, 11.0))
    profile = ModelProfile(
        model="m", input_shape=(3, 8, 8), batch=2, calls=4, threads=1, rows=rows, times={"eager": times}
    )
    assert [each.name for each in profile.slowest("eager")] == ["fast", "add", "slow", "tiny"]
    assert [each.name for each in profile.slow_for_work("eager")] == ["slow", "fast"]
    assert profile.share(rows[0], "eager") == 0.1
    said = "\n".join(layer_times.text(profile))
    assert "not for comparison" in said
    assert "10000.000 ms a call = 9010.000 ms (90.1 %) in layers" in said
    assert "990.000 ms (9.9 %) framework overhead" in said
    assert "interference" not in said
    shaken = profile.model_copy(update={"times": {"eager": times.model_copy(update={"quartiles_s": (13.0, 20.0)})}})
    said = "\n".join(layer_times.text(shaken))
    assert "took 13000.000 to 20000.000 ms; interference was detected, repeat the profile" in said


def test_profile_in_words_and_for_programs(cli: Cli) -> None:
    words = ("profile", "lenet5", "--calls", "4", "--batch", "2")
    done = cli(*words, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["input_shape"], shown["calls"], shown["failures"]) == ([2, 1, 28, 28], 4, {})
    assert [layer["name"] for layer in shown["layers"]] == ["conv1", "", "conv2", "fc1", "fc2", "fc3"]
    assert sum(layer["macs"] for layer in shown["layers"]) == 2 * 281_640
    for runtime, times in shown["runtimes"].items():
        parts = times["layers_s"], *times["other_s"].values(), times["outside_s"]
        assert times["call_s"] == pytest.approx(sum(parts))
        assert min(parts) >= 0
        assert sum(layer["seconds"][runtime] for layer in shown["layers"]) == pytest.approx(times["layers_s"])
        shares = [layer["share"][runtime] for layer in shown["layers"]]
        assert sum(shares) == pytest.approx(times["layers_s"] / times["call_s"])
        assert set(times["slow_for_work"]) <= {"conv1", "conv2", "fc1", "fc2", "fc3"}
    said = cli(*words).stdout
    assert "lenet5 itself  4 Activation, 2 MaxPool, Flatten" in said
    assert "not for comparison with each other or with `cnnbench run`" in said
    assert said.count("least efficient") == len(shown["runtimes"])


@pytest.fixture
def own(home: Path) -> Path:
    (home / "own_nets.py").write_text(OWN)
    return home


@pytest.mark.slow
def test_a_users_own_model_is_read_and_what_has_no_formula_is_said(own: Path, cli: Cli, cache: Path) -> None:
    done = cli("profile", "own_nets:Net", "--image-size", "16", "--calls", "3", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    layers = {layer["name"]: layer for layer in shown["layers"]}
    assert shown["left_out"] == ["1 x cumsum (first in block.cumsum)"]
    assert layers["block.relu"]["kind"] == "2 Activation"
    assert layers["block"]["kind"] == "Activation, Opaque, Add"
    assert layers["block.conv1"]["macs"] == 14 * 14 * 8 * 8 * 9
    assert layers["block.bn1"]["seconds"]["ort"] is None  # folded into the convolution
    for name in ("stem", "block.conv1", "block.conv2", "block"):
        assert all(seconds > 0 for seconds in layers[name]["seconds"].values()), name
    assert None not in layers["fc"]["seconds"].values()  # less than ONNX Runtime's profiler can tell from 0
    assert not list((cache / "artifacts").glob("own_nets*"))


@pytest.mark.slow
def test_a_model_that_cannot_be_exported_is_profiled_in_torch_alone(own: Path, cli: Cli) -> None:
    done = cli("profile", "own_nets:NoOnnx", "--image-size", "16", "--calls", "2", "--json")
    assert done.returncode == 3, done.stderr
    shown = json.loads(done.stdout)
    assert "ONNX export failed" in shown["failures"]["ort"]
    assert list(shown["runtimes"]) == ["eager"]
    assert all(set(layer["seconds"]) == {"eager"} for layer in shown["layers"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("resnet81",), 2, "did you mean 'resnet18'"),
        (("lenet5", "--image-size", "8"), 2, "image of 8x8 is too small for lenet5"),
        (("own_models:raises",), 2, "raises when it is built: RuntimeError"),
        (("own_models:Crashes", "--image-size", "16", "--batch", "7"), 3, "killed by SIGKILL"),
    ],
)
def test_a_mistake_is_one_clear_message(cli: Cli, words: tuple[str, ...], code: int, message: str) -> None:
    done = cli("profile", *words)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_case_without_an_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="no finished artifact"):
        ask(MOBILENET, "ort", tmp_path, tmp_path)


def test_a_model_that_a_runs_records_name_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is its module imported, though the run says that it is of this machine."""
    monkeypatch.setattr(machine, "check_is_this", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('imported', 'w')\ndef build(): ...\n")
    named = record(case(model="evil:build"), [0.01] * 7)

    def go_on(model: str, number: int, count: int) -> bool:
        raise AssertionError(f"{model} is profiled")

    (line,) = profile_run(Run(tmp_path, "t", "?", ENVIRONMENT, {named.id: named}), go_on)
    assert line.startswith("evil:build/k10: not profiled: a run's own code is not run")
    assert not (tmp_path / "imported").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_no_child_and_no_file(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    process = subprocess.Popen(
        [sys.executable, "-m", "cnnbench", "profile", "lenet5", "--calls", "1000000"],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    children: list[psutil.Process] = []
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(temporary.glob("cnnbench-*/eager.log")):
        time.sleep(0.05)
    while time.monotonic() < deadline and not children:
        children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert not list(temporary.glob("cnnbench-*"))
