"""int8 by PyTorch's own recipe: what is made, what ran of it in int8, and what is said where torchao is missing."""

import importlib.util
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from torch import fx

from cnnbench.errors import WorkerError
from cnnbench.records import artifact
from cnnbench.records.record import GraphFacts, Ran
from cnnbench.runner.artifacts import Built
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.worker import exported_program, quantised_program
from cnnbench.worker.runtimes.lowered import LoweredGraph
from tests.test_precision import made
from tests.test_runtimes import SMALL, case_of, launch

TORCHAO = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
PT2E = case_of(runtime="compile:freezing", precision="int8-pt2e")


@pytest.fixture(scope="module")
def quantised(
    artifact_of: Callable[[ModelSpec], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, GraphFacts]:
    """The small ResNet's artifact, with its program in int8."""
    folder = artifact_of(SMALL)
    return folder, made(PT2E, folder, tmp_path_factory.mktemp("logs"))


@pytest.mark.slow
@TORCHAO
def test_the_program_is_part_of_the_artifact_and_no_larger_than_int8_needs(
    quantised: tuple[Path, GraphFacts],
) -> None:
    folder, facts = quantised
    assert facts.error is None
    file = folder / artifact.graph_file(PT2E)
    assert facts.graph_bytes == file.stat().st_size < 0.6 * (folder / artifact.WEIGHTS).stat().st_size
    assert artifact.fault_of(folder) is None
    network = SMALL.closed_form
    assert network is not None
    assert sum(facts.macs.values()) == network.macs
    assert facts.own_error is not None
    assert facts.own_error < 0.4
    assert (facts.calibration_images, len(facts.calibration_digest)) == (200, 16)
    assert Built(folder, artifact.read_facts(folder)).made_for(PT2E) == facts


@pytest.mark.slow
@TORCHAO
@pytest.mark.parametrize("settings", [{}, {"batch": 1, "layout": "channels_last"}])
def test_all_of_it_runs_in_int8_and_the_proof_holds(
    quantised: tuple[Path, GraphFacts], tmp_path: Path, settings: dict[str, object]
) -> None:
    opened, closed = launch(PT2E.model_copy(update=settings), quantised[0], tmp_path)
    parity = [*opened.parity, *closed.parity]
    assert all(each.passed for each in parity), parity
    assert closed.faults == []
    assert closed.ran.shares == {"int8": pytest.approx(1)}
    assert closed.ran.elsewhere == []
    assert closed.ran.operators["qlinear_pointwise"] == 1
    assert str(closed.ran.facts["quantised_by"]).startswith("torchao ")
    assert closed.ran.facts["calibrated_on"] == "noise (seeded random images)"


@pytest.mark.slow
@TORCHAO
def test_a_wrong_program_fails_the_proof(quantised: tuple[Path, GraphFacts], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(quantised[0], wrong)
    file = wrong / artifact.graph_file(PT2E)
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the operators
    program = torch.export.load(file)
    filters = next(value for value in program.state_dict.values() if value.dtype is torch.int8)
    filters.copy_(filters.flip(0))  # each filter in another's place
    torch.export.save(program, file)
    opened, closed = launch(PT2E, wrong, tmp_path)
    assert not any(each.passed for each in [*opened.parity, *closed.parity])


def test_where_torchao_is_missing_the_case_is_unavailable_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(exported_program, "version", missing)
    facts = quantised_program.make(PT2E, tmp_path)
    said = "int8 in PyTorch needs torchao, which is not installed: pip install 'cnnbench[torchao]'"
    assert facts == GraphFacts(error=said)
    problem = Built(tmp_path).with_made(PT2E, facts).problem(PT2E)
    assert problem is not None
    assert (problem.status, str(problem.reason)) == ("unavailable", f"no-graph: {said}")
    with pytest.raises(WorkerError, match="pip install"):
        exported_program.load_quantised(tmp_path / "none.pt2")


def test_nobody_takes_it_for_the_graph_in_int8() -> None:
    graph = case_of(runtime="ort", precision="int8")
    assert PT2E.id == "resnet_cifar@16x16/inference/compile:freezing/cpu/int8-pt2e/b2"
    assert Case.from_id(PT2E.id) == PT2E
    assert (PT2E.format, PT2E.has_own_graph, PT2E.is_exported) == ("int8", True, False)
    assert (artifact.graph_file(PT2E), artifact.graph_file(graph)) == ("model.int8-pt2e.pt2", "model.int8.onnx")
    assert PT2E.work_key != graph.work_key
    assert not case_of(runtime="compile:freezing").has_own_graph


def graph_of(*layers: str) -> fx.Graph:
    """A lowered graph on two images: 3 -> 8 channels by 3x3 on 4x4 pixels in int8, and the given float layers."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    filters, matrix = graph.placeholder("filters"), graph.placeholder("matrix")
    filters.meta["val"] = torch.empty(8, 3, 3, 3, device="meta")
    matrix.meta["val"] = torch.empty(8, 10, device="meta")
    for layer in layers:
        x = graph.call_function(torch.ops.aten.convolution.default, (x, filters))
        x.meta["nn_module_stack"] = {"0": ("", "Model"), "1": (layer, "Conv2d")}
    x = graph.call_function(torch.ops.onednn.qconv_pointwise.default, (x, 1.0, 0, filters))
    x.meta["val"] = torch.empty(2, 8, 4, 4, device="meta")
    x = graph.call_function(torch.ops.onednn.qlinear_pointwise.default, (x, 1.0, 0, matrix))
    x.meta["val"] = torch.empty(2, 10, device="meta")
    graph.output(x)
    return graph


CONV, LINEAR = 8 * 16 * 27, 80


@pytest.mark.parametrize(
    ("layers", "others", "shares"),
    [
        ((), {}, {"int8": 1.0}),
        (("layer1.conv2",), {"conv2d_1": CONV + LINEAR}, {"int8": 0.5, "fp32": 0.5}),
        ((), {"conv2d_1": CONV + LINEAR}, {"int8": 0.5, "unknown": 0.5}),
    ],
)
def test_what_int8_kernels_do_not_do_counts_as_float32_and_is_named(
    layers: tuple[str, ...], others: dict[str, int], shares: dict[str, float]
) -> None:
    lowered = LoweredGraph()
    for _ in range(2):  # compiled again, it counts once
        lowered(graph_of(*layers))
    found = lowered.shares({"conv2d": CONV, "linear": LINEAR, **others}, 2, "int8")
    assert found["shares"] == pytest.approx(shares)
    assert found["elsewhere"] == [f"{layer} (convolution)" for layer in layers]
    assert lowered.operators["qconv_pointwise"] == 1
    assert lowered.uuid() is None  # so that no cache hides it


def test_float_kernels_in_place_of_int8_make_the_case_invalid() -> None:
    lowered = LoweredGraph()
    lowered(graph_of("layer1.conv2"))
    found = lowered.shares({"conv2d": CONV, "linear": LINEAR, "conv2d_1": 2 * CONV}, 2, "int8")
    ran = Ran(device="cpu", device_name="", threads=2, precision="fp32", torch_in_process=True, **found)
    (fault,) = ran.faults(PT2E)
    assert str(fault) == "precision: asked int8; 66% of MACs ran in fp32: layer1.conv2 (convolution)"
