"""Where two runs part, layer by layer: faults in exported graphs are found, and right ones are accused of nothing."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from cnnbench.errors import InputError
from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.records import artifact, layer_values
from cnnbench.records.artifact import GRAPH
from cnnbench.records.task_messages import OpenLayers, OpenReference, ReadLayers, ReadReference, Value
from cnnbench.report.divergence_page import page
from cnnbench.runner.artifacts import Artifacts
from cnnbench.runner.tasks.annotate import NO_NUMBER, export_errors
from cnnbench.runner.tasks.diverge import (
    Contender,
    Divergence,
    LayerRun,
    diverge,
    diverge_artifact,
    members,
    parse_contender,
    where_it_begins,
)
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.worker.layerwise.names import Origin, places_of
from cnnbench.worker.layerwise.serve import Reading
from cnnbench.worker.profilers.onnx_origin import values
from tests.conftest import Cli
from tests.faults import FAULTS, broken, fill

SIGNALS = ModelSpec.checked("cnn1d", (256,), 5)
NETWORKS = ("resnet18", "mobilenet_v2", "shufflenet_v2_x1_0", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf")
RIGHT = ("eager", "ort", "ort:basic", "ort:extended", "ort:disabled")
FEW_FAULTS, FEW_RIGHT = ("padding", "dropped bias", "constant"), ("ort", "ort:disabled")
GB, LITTLE = 10**9, 4 * 10**6
RENAMED = {"images": "images"}

ArtifactOf = Callable[[ModelSpec], Path]


def contenders(
    source: Path, folder: Path, faults: Sequence[str] = tuple(FAULTS), right: Sequence[str] = RIGHT
) -> tuple[dict[str, str], list[Contender]]:
    """The module that is broken in each of some files; these files, their source, and right runs."""
    files = {kind: folder / f"{kind}.onnx" for kind in faults}
    seeds = {kind: seed for seed, kind in enumerate(FAULTS)}
    where = {str(file): broken(source, kind, seeds[kind], file) for kind, file in files.items()}
    return where, [parse_contender(each) for each in (*where, str(source), *right)]


def named(found: Divergence, run: LayerRun) -> str | None:
    """The module that is accused."""
    return None if run.accused is None else found.values[run.accused[1].place].module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def signals(artifact_of: ArtifactOf, folder: Path) -> tuple[dict[str, str], Divergence]:
    """Of groups of layers, since the memory does not hold all."""
    export = partial(export_errors, folder / "errors")
    where, runs = contenders(artifact_of(SIGNALS) / GRAPH, folder, FEW_FAULTS, FEW_RIGHT)
    return where, diverge(SIGNALS, runs, 2, LITTLE, export)


def test_each_fault_is_found_in_the_layer_that_has_it_and_right_runs_are_accused_of_none(
    signals: tuple[dict[str, str], Divergence],
) -> None:
    where, found = signals
    assert {run.name: named(found, run) for run in found.runs} == {run.name: where.get(run.name) for run in found.runs}
    causes = {Path(run.name).stem: run.accused[0].causes.get(run.accused[1].place) for run in found.runs if run.accused}
    assert (causes["padding"], causes["dropped bias"]) == ("shifted", "bias")


def test_errors_are_exported_into_nodes_of_the_graph_and_for_model_explorer(
    signals: tuple[dict[str, str], Divergence], folder: Path
) -> None:
    where, found = signals
    files = {file.name for file in (folder / "errors").iterdir()}
    assert len(files) == 4 * sum(bool(run.nodes) for run in found.runs)
    run = next(run for run in found.runs if Path(run.name).stem == "constant")
    assert run.first is not None
    (annotated,) = (folder / "errors").glob("*constant.errors.onnx")
    graph = onnx.load(str(annotated)).graph
    notes = {node.name: {each.key: each.value for each in node.metadata_props} for node in graph.node}
    wrong = [name for name, of in notes.items() if of.get("cnnbench.wrong") == "true"]
    assert run.nodes[run.first.place] == wrong[0]
    assert notes[wrong[0]]["cnnbench.added"] == f"{run.first.added:.6g}"
    assert where[run.name] in notes[wrong[0]]["pkg.torch.onnx.name_scopes"]
    (data,) = (folder / "errors").glob("*constant.added.json")
    ((name, of),) = json.loads(data.read_text()).items()
    assert name == graph.name
    assert of["results"].keys() <= notes.keys()
    assert of["results"][wrong[0]]["value"] == run.first.added
    assert [each["value"] for each in of["thresholds"]] == sorted(each["value"] for each in of["thresholds"])
    assert of["thresholds"][-1]["value"] == NO_NUMBER


def test_the_page_has_a_heat_map_and_the_maps_of_the_wrong_layer_with_their_difference(
    signals: tuple[dict[str, str], Divergence],
) -> None:
    where, found = signals
    shown = page(found)
    assert "http" not in shown.replace("http-equiv", "").replace("http://www.w3.org", "")
    number = next(n for n, run in enumerate(found.runs) if Path(run.name).stem == "padding")
    run = found.runs[number]
    assert run.first is not None
    assert run.first.place in run.maps
    shift = sum(each.unfused is not None for each in found.runs[:number])
    assert f'id="picture-maps-{number + shift}-{run.first.place}"' in shown
    assert f"begins at {where[run.name]} (" in shown
    assert 'id="chart-heat"' in shown or 'id="heat"' in shown


def test_asking_for_values_changes_no_bit_of_the_outputs_and_undoes_no_fusion(
    signals: tuple[dict[str, str], Divergence],
) -> None:
    _, found = signals
    by_name = {run.name: run for run in found.runs}
    assert [by_name[name].asked for name in FEW_RIGHT] == [0.0] * len(FEW_RIGHT)
    assert len(by_name["ort"].layers) < len(by_name["ort:disabled"].layers)  # activations are fused
    hidden = {found.values[place].operator for inside in by_name["ort"].members.values() for place in inside}
    assert "batch_norm" in hidden or "conv1d" in hidden


@pytest.mark.slow
def test_all_layers_at_once_give_the_same_numbers_as_groups_in_little_memory(
    signals: tuple[dict[str, str], Divergence], artifact_of: ArtifactOf
) -> None:
    _, found = signals
    runs = [Contender("ort", "ort"), Contender("eager/amp-bf16", "eager", "amp-bf16"), Contender("eager", "eager")]
    small = diverge(SIGNALS, runs, batch=2, memory_bytes=GB)
    ort = next(run for run in found.runs if run.name == "ort")
    assert small.runs[0].layers == ort.layers
    assert (small.runs[1].first, small.runs[2].first, small.runs[2].asked) == (None, None, 0.0)
    assert len(small.runs[2].layers) == len(small.values)
    with pytest.raises(InputError, match=r"--memory: expected at least .* for the values of layer 'features.0'"):
        diverge(SIGNALS, runs, batch=2, memory_bytes=1000)


@pytest.mark.slow
def test_a_file_without_metadata_is_read_by_its_names_and_one_of_another_network_is_refused(
    artifact_of: ArtifactOf, tmp_path: Path, cli: Cli
) -> None:
    graph = onnx.load(str(artifact_of(SIGNALS) / "model.onnx"))
    for node in graph.graph.node:
        del node.metadata_props[:]
    onnx.save(graph, "plain.onnx")
    told = cli("diverge", "cnn1d", "--image-size", "256", "--classes", "5", "plain.onnx", "--json")
    assert told.returncode == 0, told.stderr
    run = json.loads(told.stdout)["runs"][0]
    assert run["first_wrong"] is None
    assert run["asking_changed_outputs_by"] == 0.0
    for node in graph.graph.node:
        node.input[:] = [RENAMED.get(name, name and f"own_{name}") for name in node.input]
        node.output[:] = [f"own_{name}" for name in node.output]
    for tensor in graph.graph.initializer:
        tensor.name = f"own_{tensor.name}"
    del graph.graph.value_info[:]
    graph.graph.output[0].name = "own_logits"
    onnx.save(graph, "other.onnx")
    told = cli("diverge", "cnn1d", "--image-size", "256", "--classes", "5", "other.onnx")
    assert told.returncode == 2
    assert told.stderr.startswith("error: other.onnx: none of its values is known in the model;")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "error: RUN: expected a runtime, one of"),
        (["folded"], "error: RUN: expected one of eager, compile, ort, or an ONNX file; the layers of folded are not"),
        (["eager/fp8"], "error: RUN: expected a precision of eager, fp32 or amp-fp16 or amp-bf16"),
        (["ort/amp-bf16"], "error: RUN: expected a precision of ort, fp32 or fp16"),
        (["missing.onnx"], "error: RUN: 'missing.onnx': there is no such file"),
        (["ort", "--memory", "much"], "error: --memory: expected an amount of memory such as 500MB or 2GB; got 'much'"),
        (
            ["ort", "--page", "text.onnx/a.html"],
            "error: --page: expected a file that can be written; got text.onnx/a.html: ",
        ),
        (["ort", "--page", "none/a.html"], "error: --page: expected a file that can be written; got none/a.html: "),
        (["ort", "--page", "."], "error: --page: expected a file that can be written; got .: it is a folder"),
        (["ort", "--export", "text.onnx"], "error: --export: expected a folder that can be written; got text.onnx: "),
        (["eager", "--export", "out"], "error: --export: expected a run of a graph, such as ort or an ONNX file;"),
        pytest.param(["text.onnx"], "error: text.onnx: ONNX Runtime cannot load it:", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(cli: Cli, words: list[str], said: str) -> None:
    Path("text.onnx").write_text("no graph")
    told = cli("diverge", "cnn1d", "--image-size", "256", "--classes", "5", *words)
    assert told.returncode == 2
    assert told.stderr.startswith(said), told.stderr
    assert len(told.stderr.splitlines()) == 1


def value(module: str, name: str, *inputs: int) -> Value:
    return Value(module=module, name=name, operator=name, shape=(1,), inputs=list(inputs))


def test_operations_are_joined_by_name_and_where_numbers_differ_in_order() -> None:
    own = [value("a", "relu"), value("a", "relu_1"), value("b", "add"), value("c", "relu_2")]
    exact = {"x": Origin("a", "relu_1", 0), "y": Origin("b", "add_55", 0), "z": Origin("c", "gelu", 0)}
    assert places_of(own, exact) == {"x": 1, "y": 2}
    shifted = {"x": Origin("a", "relu_7", 0), "y": Origin("a", "relu_6", 0)}
    assert places_of(own, shifted) == {"x": 1, "y": 0}
    assert places_of(own, {"x": Origin("a", "relu_9", 0)}) == {}


def test_a_fused_layer_is_told_with_all_that_is_computed_in_it() -> None:
    network = [value("conv", "conv"), value("bn", "bn", 0), value("relu", "relu", 1), value("add", "add", 0, 2)]
    assert members(network, [0, 2, 3]) == {0: [], 2: [1], 3: []}
    assert members(network, [3]) == {3: [0, 1, 2]}


def test_what_a_blocked_convolution_puts_out_is_the_sum_and_activation_fused_into_it() -> None:
    node = onnx.helper.make_node
    exported_graph = onnx.helper.make_graph(
        [node("Conv", ["x", "w"], ["y"]), node("Add", ["y", "s"], ["sum"]), node("Relu", ["sum"], ["relu"])],
        "g",
        [],
        [],
    )
    convolution = node(
        "Conv", ["x", "w", "", "s"], ["token_0"], "y_nchwc", domain="com.microsoft.nchwc", activation="Relu"
    )
    back = node("ReorderOutput", ["token_0"], ["relu"], "ReorderOutput", domain="com.microsoft.nchwc")
    executed = onnx.helper.make_graph([convolution, back], "g", [], [])
    assert values(exported_graph, executed) == ({"token_0": "relu", "relu": "relu"}, {"token_0"})


def test_layers_of_onnx_runtime_are_read_without_torch() -> None:
    modules = ("serve", "ort_run", "graph_program")
    imports = ", ".join(f"cnnbench.worker.layerwise.{module}" for module in modules)
    code = f"import sys, {imports}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_34_of_36_faults_in_six_networks_are_found_and_none_of_36_right_runs_is_accused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnbench.runner.machine.usable_threads", lambda: 1)  # others only wait, of such small images
    hits, accused, total, right = [], [], 0, 0
    for name in NETWORKS:
        assert name in ARCHITECTURES
        spec, folder = ModelSpec.checked(name, (64, 64), 10), tmp_path / name
        where, runs = contenders(fill(spec, folder), folder)
        found = diverge_artifact(spec, folder, runs, 2, GB, tmp_path)
        for run in found.runs:
            if run.name in where:
                total += 1
                hits += [run.name] if named(found, run) == where[run.name] else []
            else:
                right += 1
                accused += [(name, run.name)] if run.first else []
    assert (total, right) == (36, 36)
    assert len(hits) >= 34
    assert accused == []


@pytest.mark.slow
def test_of_a_case_whose_outputs_differ_the_layer_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    source = fill(SIGNALS, folder)
    case = Case(spec=SIGNALS, workload="inference", runtime="ort", batch=8)
    assert where_it_begins(case, folder, tmp_path) is None
    module = broken(source, "dropped bias", 0, folder / GRAPH)
    begins = where_it_begins(case, folder, tmp_path)
    assert begins is not None
    assert begins.startswith(f"begins at {module} ")
    assert begins.endswith(", bias")


@pytest.mark.slow
def test_quantised_layers_are_compared_as_the_numbers_that_their_integers_stand_for(tmp_path: Path) -> None:
    spec = ModelSpec.checked("resnet_cifar", None, None)
    runs = [parse_contender(each) for each in ("ort/int8", "ort:disabled/int8", "eager/bf16")]
    layouts = [Contender("channels_last", "eager", layout="channels_last")]
    broken_file = tmp_path / "broken.onnx"
    with Artifacts() as artifacts:
        case = Case(spec=spec, workload="inference", runtime="ort", precision="int8", batch=2)
        artifacts.build([wanted := artifacts.wanted(spec, ahead=[case])])
        graph = onnx.load(wanted.folder / artifact.graph_file(case))
        (scale,) = [each for each in graph.graph.initializer if each.name == "layer2.3.conv2.weight_scale"]
        scale.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(scale), scale.name))
        onnx.save(graph, broken_file)
        wrong = Contender("broken", "ort", "int8", file=str(broken_file))
        found = diverge_artifact(spec, wanted.folder, [*runs, *layouts, wrong], 2, GB, artifacts.logs)
    *right, last = found.runs
    assert [run.first for run in right] == [None] * len(right)
    assert [run.asked for run in found.runs] == [0.0] * len(found.runs)
    assert all(run.layers for run in right)
    assert named(found, last) == "layer2.3.bn2"


@pytest.mark.slow
def test_a_model_that_is_another_when_it_is_exported_is_told(cli: Cli, tmp_path: Path) -> None:
    told = cli("diverge", "own_models:OtherWhenExported", "--image-size", "16", "ort", "--json")
    assert told.returncode == 1, told.stderr
    found = json.loads(told.stdout)
    assert found["exported_program_off_by"] > 0.1
    assert found["runs"][0]["first_wrong"] is None
    spec = ModelSpec.checked("own_models:OtherWhenExported", (16, 16), None)
    with Artifacts() as artifacts:
        folder = artifact.folder_of(spec, artifacts.get(spec).key)
        begins = where_it_begins(Case(spec=spec, workload="inference", runtime="ort", batch=8), folder, tmp_path)
    assert begins is not None
    assert begins.startswith("the program that torch.export makes of the model puts out other values than the model")


@pytest.mark.slow
def test_compiled_code_is_asked_for_what_lies_in_memory(artifact_of: ArtifactOf) -> None:
    artifact_of(SIGNALS)
    asked = [Contender(name, name) for name in ("compile", "compile:freezing")]
    found = diverge(SIGNALS, [*asked, Contender("compile/amp-bf16", "compile", "amp-bf16")], 2, GB)
    for run in found.runs:
        assert run.asked == 0.0
        assert run.first is None
        assert 0 < len(run.layers) < len(found.values)


@pytest.mark.slow
def test_a_compiled_run_is_compiled_twice_however_many_groups_its_layers_are_read_in(
    artifact_of: ArtifactOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the runtime's own compilation. What is compiled is run as it is here, which takes no time."""
    import torch

    compiled: list[object] = []

    def as_it_is(module: object, **_: object) -> object:
        compiled.append(module)
        return module

    monkeypatch.setattr(torch, "compile", as_it_is)
    folder, scratch, reading = str(artifact_of(SIGNALS)), str(tmp_path), Reading()
    opened = reading.open_reference(
        OpenReference(spec=SIGNALS, folder=folder, golden=artifact.GOLDEN, batch=2, threads=1)
    )
    case = Case(spec=SIGNALS, workload="inference", runtime="compile", batch=2)
    values = opened.values
    where = {"folder": folder, "golden": artifact.GOLDEN, "file": None, "scratch": scratch}
    request = OpenLayers(name="run", case=case, values=values, threads=1, **where)
    places = reading.open_layers(request).places
    for until in range(1, len(values) + 1):
        reading.read_reference(ReadReference(until=until, folder=scratch, cuts=[places]))
        read = reading.read_layers(ReadLayers(until=until, folder=scratch, name="run"))
    assert read.asked == 0.0
    assert len(compiled) == 3
    for place in places:
        exact = layer_values.load(scratch, layer_values.REFERENCE, place)
        assert layer_values.load(scratch, layer_values.fed("run"), place) == pytest.approx(exact, rel=1e-4, abs=1e-5)
