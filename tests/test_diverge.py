"""Where two runs part, layer by layer: faults in exported graphs are found, and right ones are accused of nothing."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cnnbench.analysis.divergence import LayerErrors
from cnnbench.errors import InputError, WorkerError
from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.records import artifact, layer_values
from cnnbench.records.artifact import GRAPH
from cnnbench.records.task_messages import OpenLayers, OpenReference, ReadLayers, ReadReference, Value
from cnnbench.report.divergence_page import page
from cnnbench.runner.artifacts import Artifacts
from cnnbench.runner.tasks import diverge as diverging
from cnnbench.runner.tasks.annotate import NO_NUMBER, export_errors
from cnnbench.runner.tasks.diverge import (
    Comparison,
    Contender,
    Divergence,
    LayerRun,
    diverge,
    diverge_artifact,
    members,
    open_graphs,
    parse_contender,
    where_it_begins,
)
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.worker.layerwise.names import Origin, places_of
from cnnbench.worker.layerwise.serve import Reading
from cnnbench.worker.profilers.onnx_origin import values
from tests.conftest import Cli
from tests.faults import FAULTS, broken, fill
from tests.records import facts as records_facts

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
        assert run.asked is not None
        assert run.asked <= (1e-6 if run.name == "compile:freezing" else 0.0)  # constants are folded in another order
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


# --- what is made of layers, from numbers by hand ---


def layer(place: int, excess: float = 0.0, error: float | None = 0.0, added: float | None = 0.5) -> LayerErrors:
    return LayerErrors(place, None, None, None, 0, 0, error, added, 0.0, 1e-6, excess)


def layer_run(name: str, *layers: LayerErrors, **about: Any) -> LayerRun:
    operators = {each.place: f"Op{each.place}" for each in layers}
    usual: dict[str, Any] = {"nodes": {}, "members": {each.place: [] for each in layers}, "causes": {}, "asked": 0.0}
    return LayerRun(name, list(layers), operators, **{**usual, **about})


def test_the_run_without_optimisation_is_shown_where_it_tells_the_layer_at_least_as_closely() -> None:
    right, wrong = layer(1, 1.0), layer(2, 1.5)
    plain = layer_run("ort", right, layer(3, 2.0), members={3: [2]})
    assert layer_run("ort", right).accused is None
    assert plain.accused == (plain, plain.layers[1])
    for inside, is_unfused in (([], True), ([1], True), ([0, 1], False)):
        unfused = layer_run("ort", wrong, members={2: inside})
        run = replace(plain, unfused=unfused)
        assert run.accused == ((unfused, wrong) if is_unfused else (run, plain.layers[1]))
    found = replace(plain, unfused=layer_run("ort", right))
    assert found.accused == (found, plain.layers[1]), "without optimisation nothing is wrong"
    assert layer_run("ort", right, unfused=layer_run("ort", wrong)).accused is None


def comparison(folder: Path, memory_bytes: int, *sizes: tuple[int, ...]) -> Comparison:
    found = Comparison(SIGNALS, folder, 2, memory_bytes, folder)
    found.values = [
        Value(module="a", name=f"v{n}", operator="x", shape=size, inputs=[]) for n, size in enumerate(sizes)
    ]
    return found


@pytest.mark.parametrize(
    ("memory_bytes", "at_once", "ends"),
    [
        (10**6, [], [4]),
        (7 * 240, [], [2, 3, 4]),
        (7 * 240 - 1, [], [1, 2, 3, 4]),
        (7 * 280, [], [2, 4]),
        (7 * 200, [], [1, 2, 3, 4]),
        (7 * 240 + 240, [[0, 1]], [2, 3, 4]),
        (7 * 240 + 400, [[0, 1], [1]], [2, 3, 4]),
        (7 * 240 + 239, [[0, 1]], [1, 2, 3, 4]),
    ],
)
def test_groups_of_layers_take_no_more_than_the_memory(
    tmp_path: Path, memory_bytes: int, at_once: list[list[int]], ends: list[int]
) -> None:
    """In float64, three numbers in each of two runs and one of the reference for each value of 80 to 200 bytes."""
    opened: Any = [SimpleNamespace(opened=SimpleNamespace(places=places)) for places in at_once]
    assert comparison(tmp_path, memory_bytes, (10,), (4, 5), (5, 5), (2, 5))._groups(2, opened) == ends


def test_a_layer_that_the_memory_does_not_hold_is_named_with_what_it_needs(tmp_path: Path) -> None:
    found = comparison(tmp_path, 10**9, (10,), (10**3, 10**4), (5,))
    message = r"at least 0\.56 GB for the values of layer 'a'; got 0\.5 GB; give more"
    found._memory_bytes = 5 * 10**8
    with pytest.raises(InputError, match=message):
        found._groups(2, [])
    opened: Any = [SimpleNamespace(opened=SimpleNamespace(places=[0, 1]))]
    with pytest.raises(InputError, match=r"at least 0\.64 GB .*'a' and all that torch\.compile puts out; got"):
        found._groups(2, opened)


def test_maps_are_kept_of_the_first_wrong_layer_and_of_the_three_worst_beside_it() -> None:
    def kept(*excesses: float) -> tuple[list[int], dict[int, diverging.Maps]]:
        run = diverging._Open(Contender("ort", "ort"), "0", None, None)  # type: ignore[arg-type]
        for place, excess in enumerate(excesses):
            exact = np.zeros((2, 10, 2, 2))
            made = exact + np.arange(10.0)[::-1].reshape(10, 1, 1) * [[0.0, -1.0], [0.5, 0.0]]
            made[1] = 99.0  # of the second image
            run.layers.append(layer(place, excess))
            run.keep(run.layers[-1], exact, made)
        return sorted(run.maps), run.maps

    assert kept(0.5, 0.2, 0.9)[0] == [0, 1, 2]
    assert kept(0.5, 0.2, 0.9, 0.3)[0] == [0, 2, 3]
    assert kept(0.5, 0.4, 0.9, 0.3)[0] == [0, 1, 2]
    assert kept(0.5, 0.4, 0.9, 2.0, 3.0, 4.0)[0] == [2, 3, 4, 5], "the first wrong one is kept whatever comes later"
    places, maps = kept(5.0)
    assert (places, maps[0].channels) == ([0], [0, 1, 2, 3, 4, 5, 6, 7])
    assert (maps[0].made.shape, str(maps[0].made.dtype)) == ((8, 2, 2), "float32")
    assert not maps[0].exact.any()
    assert maps[0].made[1].tolist() == [[0.0, -8.0], [4.0, 0.0]]
    run = diverging._Open(Contender("ort", "ort"), "0", None, None)  # type: ignore[arg-type]
    run.keep(layer(0), np.zeros((2, 10)), np.zeros((2, 10)))
    run.keep(layer(0), np.zeros((2, 10, 4)), np.zeros((2, 10, 5)))
    assert run.maps == {}
    broken = np.zeros((1, 10, 4))
    broken[0, 9] = np.nan
    run.keep(layer(0), np.zeros((1, 10, 4)), broken)
    assert run.maps[0].channels == [0, 1, 2, 3, 4, 5, 6, 9], "a map without numbers differs most"


def divergence(run: LayerRun, off: float | None = None) -> Divergence:
    names = ("conv", "relu", "add", "fc")
    return Divergence("cnn1d", 2, [value(f"m{n}" * (n != 2), name) for n, name in enumerate(names)], [run], off)


def inference(**changes: Any) -> Case:
    usual = {"spec": SIGNALS, "workload": "inference", "runtime": "ort", "batch": 8}
    return Case.model_validate({**usual, **changes})


@pytest.mark.parametrize(
    ("found", "begins"),
    [
        (divergence(layer_run("x", layer(0)), 1e-6), None),
        (divergence(layer_run("x", layer(0)), 1.1e-6), f"{diverging.OTHER_PROGRAM}, error 1.1e-06"),
        (
            divergence(layer_run("x", layer(0, error=0.05), layer(1, error=0.2))),
            "no layer adds more than rounding explains; error 1% at m0 conv, 10% at m1 relu",
        ),
        (divergence(layer_run("x", layer(1, 2.0))), "begins at m1 relu (Op1): adds 5.0e-01, rounding 1.0e-06"),
        (
            divergence(layer_run("x", layer(2, 2.0, added=None), causes={2: "bias"})),
            "begins at add (Op2): adds no numbers, rounding 1.0e-06, bias",
        ),
    ],
)
def test_where_outputs_part_is_told_in_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Divergence, begins: str | None
) -> None:
    monkeypatch.setattr(diverging, "diverge_artifact", lambda *_: found)
    assert where_it_begins(inference(), tmp_path, tmp_path) == begins


def test_a_case_is_compared_as_it_ran_on_two_images_at_most_where_its_layers_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def compared(*words: Any) -> Divergence:
        asked.append(words)
        return divergence(layer_run("x", layer(0)))

    monkeypatch.setattr(diverging, "diverge_artifact", compared)
    one = inference(runtime="eager", batch=1, precision="bf16", layout="channels_last")
    for each in (one, inference(batch=2), inference(batch=3)):
        assert where_it_begins(each, tmp_path, tmp_path / "logs") is None
    assert [words[3] for words in asked] == [1, 2, 2]
    spec, folder, (run,), _, memory_bytes, logs, golden = asked[0]
    assert (spec, folder, memory_bytes, logs, golden) == (SIGNALS, tmp_path, GB, tmp_path / "logs", artifact.GOLDEN)
    assert (run.name, run.runtime, run.precision, run.layout) == (one.id, "eager", "bf16", "channels_last")
    trained = inference(workload="training", runtime="eager")
    for each in (trained, inference(device="cuda"), inference(runtime="folded"), inference(workload="serving")):
        assert where_it_begins(each, tmp_path, tmp_path) is None
    assert len(asked) == 3


def test_graphs_with_a_wrong_layer_are_run_again_without_optimisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Contender]] = []

    class Fake:
        values, off = [value("a", "conv")], 0.25

        def __init__(self, *words: Any, **about: Any) -> None:
            assert (words, about) == ((SIGNALS, tmp_path, 2, GB, tmp_path), {"golden": "g"})

        def __enter__(self) -> "Fake":
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing to end."""

        def run(self, contenders: list[Contender]) -> list[LayerRun]:
            asked.append(list(contenders))
            return [layer_run(each.name, layer(0, 2.0 * (each.name != "right"))) for each in contenders]

    monkeypatch.setattr(diverging, "Comparison", Fake)
    runs = [Contender(name, name) for name in ("eager", "ort", "ort:disabled")]
    found = diverge_artifact(SIGNALS, tmp_path, [*runs, Contender("right", "ort")], 2, GB, tmp_path, "g")
    assert asked[1:] == [[replace(runs[1], runtime="ort:disabled")]]
    assert [run.unfused and run.unfused.name for run in found.runs] == [None, "ort", None, None]
    assert (found.model, found.batch, found.off, found.is_other_program) == (SIGNALS.label, 2, 0.25, True)
    asked.clear()
    assert diverge_artifact(SIGNALS, tmp_path, runs[:1], 2, GB, tmp_path, "g").runs[0].unfused is None
    assert len(asked) == 1


def test_graphs_that_runs_need_are_made_for_the_batch_that_the_file_takes(tmp_path: Path) -> None:
    asked: list[Any] = []
    facts = records_facts().model_copy(update={"batch": 4})

    class Found:
        folder = tmp_path

        def require(self) -> Any:
            return facts

        def problem(self, case: Case) -> Any:
            asked.append((case.runtime, case.precision, case.batch))
            return SimpleNamespace(reason="gone") if case.precision == "int8-7bit" else None

    artifacts: Any = SimpleNamespace(
        wanted=lambda spec, ahead: [each.precision for each in ahead], build=asked.append, find=lambda wanted: Found()
    )
    runs = [Contender("a", "ort", "int8"), Contender("b", "eager"), Contender("c", "ort", file="x.onnx")]
    assert open_graphs(artifacts, SIGNALS, runs, 2) == (facts, tmp_path)
    assert asked == [[["int8"]], ("ort", "int8", 4), ("eager", "fp32", 4)]
    with pytest.raises(WorkerError, match="ort/cpu/int8-7bit: gone"):
        open_graphs(artifacts, SIGNALS, [Contender("d", "ort", "int8-7bit")], 2)


def test_a_run_is_read_from_its_runtime_with_a_precision_or_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.onnx"
    file.touch()
    for text, expected in (
        ("ort", Contender("ort", "ort")),
        ("ort:disabled/int8", Contender("ort:disabled/int8", "ort:disabled", "int8")),
        ("eager/amp-bf16", Contender("eager/amp-bf16", "eager", "amp-bf16")),
        (str(file), Contender(str(file), "ort", file=str(file))),
    ):
        assert parse_contender(text) == expected
    assert [parse_contender(text).in_torch for text in ("eager", "compile", "ort", str(file))] == [
        True,
        True,
        False,
        False,
    ]
    assert not Contender("x", "eager", file="x.onnx").in_torch
    for text, reason in (("eager/amp-fp16", "on a CPU is amp-bf16"), ("ort/fp16", "it would run float32")):
        with pytest.raises(ValueError, match=f"'{text}': .*{reason}"):
            parse_contender(text)


@pytest.mark.parametrize(("of_file", "batch"), [(None, 2), (4, 4)])
def test_what_comes_next_gets_the_result_the_graphs_and_a_folder_for_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_file: int | None, batch: int
) -> None:
    asked: list[Any] = []
    then: list[Any] = []
    facts = records_facts().model_copy(update={"batch": of_file})

    class Fake:
        logs = tmp_path / "logs"

        def __enter__(self) -> "Fake":
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing to end."""

    found = divergence(layer_run("x", layer(0)))

    def compared(*words: Any) -> Divergence:
        asked.append(words)
        return found

    def opened(artifacts: Fake, *words: Any) -> tuple[Any, Path]:
        asked.append(words)
        return facts, tmp_path

    monkeypatch.setattr(diverging, "Artifacts", Fake)
    monkeypatch.setattr(diverging, "open_graphs", opened)
    monkeypatch.setattr(diverging, "diverge_artifact", compared)
    runs = [Contender("a", "ort"), Contender("b", "ort", "int8"), Contender("c", "ort", file="c.onnx")]
    assert diverge(SIGNALS, runs, 2, GB, lambda *words: then.append(words)) is found
    assert asked == [(SIGNALS, runs, 2), (SIGNALS, tmp_path, runs, batch, GB, tmp_path / "logs")]
    int8 = artifact.graph_file(inference(precision="int8", batch=2))
    graphs = {"a": tmp_path / GRAPH, "b": tmp_path / int8, "c": Path("c.onnx")}
    assert then == [(found, graphs, tmp_path / "logs")]
