"""What is quantised with data: on which images of these it is calibrated and compared, and what fails the proof."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from cnnbench.errors import InputError
from cnnbench.records import artifact, dataset
from cnnbench.records.messages import Open
from cnnbench.records.record import GraphFacts, Parity
from cnnbench.runner.tasks.diverge import Comparison, Contender, where_it_begins
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.worker.calibration_images import digest_of, drawn
from cnnbench.worker.data.read import read
from cnnbench.worker.reference.parity import (
    batches,
    centres_of,
    compare,
    compare_angles,
    open_artifact,
    scales_of,
    several,
)
from cnnbench.worker.runtimes.ort import make_session
from cnnbench.worker.session import Session
from tests.test_data import write_idx
from tests.test_engines import OPENVINO
from tests.test_onnx_file import built
from tests.test_parity import change
from tests.test_precision import made
from tests.test_runtimes import SMALL, case_of, launch


def write_blocks(folder: Path, count: int) -> str:
    """A data set of pictures 16x16 of grey blocks, so many of them to train with."""
    random = np.random.default_rng(0)
    images = np.kron(random.integers(256, size=(count, 4, 4)), np.ones((4, 4))).astype(np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    folder.mkdir()
    write_idx(folder, train_images=images, train_labels=labels, test_images=images[:10], test_labels=labels[:10])
    return str(folder)


@pytest.fixture(scope="module")
def on_data(
    artifact_of: Callable[[ModelSpec], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Case, Path, GraphFacts]:
    """The small ResNet in int8, calibrated on blocks: its case, artifact and graph."""
    scratch = tmp_path_factory.mktemp("blocks")
    folder = scratch / "artifact"
    shutil.copytree(artifact_of(SMALL), folder)
    asked = case_of(runtime="ort", precision="int8", calibration=write_blocks(scratch / "data", 230))
    return asked, folder, made(asked, folder, scratch)


def test_a_graph_that_is_calibrated_on_data_is_compared_on_held_out_images_of_these(
    on_data: tuple[Case, Path, GraphFacts], tmp_path: Path
) -> None:
    asked, folder, facts = on_data
    data = read(dataset.find(asked.calibration), (3, 16, 16), 10)
    calibrating, held_out = drawn(asked, 230, 6)
    images = data.prepare(data.train.images[held_out])
    assert facts.calibration_digest == digest_of(data.prepare(data.train.images[calibrating]))
    assert facts.reference_digest == digest_of(images)
    _, golden = open_artifact(folder, artifact.golden_of(folder, asked))
    assert np.array_equal(golden.images, images)
    plain = make_session(str(folder / artifact.graph_file(asked)), "cpu", 1, "disabled")
    (own,) = plain.run(None, {plain.get_inputs()[0].name: images})
    (reference,), centres = several(golden.reference), centres_of(golden.reference)
    errors = [compare_angles("", own[each], reference[each], centres, 1.0).error or 0.0 for each in batches(6)]
    assert facts.own_error == pytest.approx(max(errors))
    exported = make_session(str(folder / artifact.GRAPH), "cpu", 1)
    (outputs,) = exported.run(None, {exported.get_inputs()[0].name: images})
    assert compare("fp32", outputs, several(golden.reference)[0], scales_of(golden.reference)[0], 1e-4).passed
    for other in (case_of(runtime="ort"), case_of(runtime="openvino", precision="bf16")):
        assert artifact.golden_of(folder, other) == artifact.GOLDEN
    assert artifact.golden_file(facts.reference_digest) in json.loads((folder / "seal.json").read_text())["files"]


def test_no_draw_calibrates_with_an_image_that_is_held_out() -> None:
    asked = case_of(runtime="ort", precision="int8", calibration="shapes")
    draws = [drawn(asked.model_copy(update={"draw": draw}), 210, 6) for draw in range(3)]
    calibrating, held_out = draws[0]
    for other in draws:
        assert len(other[0]) == 200
        assert set(other[1]) == set(held_out)
        assert not set(other[0]) & set(held_out)
    assert not np.array_equal(draws[1][0], calibrating)
    assert len(drawn(asked, 7, 6)[0]) == 1
    with pytest.raises(InputError, match=r"at least 14 training images, 6 of which are held out .+; got 13"):
        drawn(asked, 13, 6, at_least=8)


@pytest.mark.parametrize("runtime", ["ort", pytest.param("openvino", marks=OPENVINO)])
def test_a_right_engine_passes_on_data_where_noise_would_be_out_of_range(
    on_data: tuple[Case, Path, GraphFacts], tmp_path: Path, runtime: str
) -> None:
    asked, folder, facts = on_data
    opened, closed = launch(asked.model_copy(update={"runtime": runtime}), folder, tmp_path)
    parity = [*opened.parity, *closed.parity]
    assert all(each.passed for each in parity), parity
    assert facts.own_error is not None
    assert {each.limit for each in parity} == {2 * facts.own_error}
    on_noise = tmp_path / "artifact"
    shutil.copytree(folder, on_noise)
    write_facts(on_noise, asked, facts.model_copy(update={"reference_digest": ""}))
    assert not all(each.passed for each in proofs_of(asked, on_noise))


def write_facts(folder: Path, asked: Case, facts: GraphFacts) -> None:
    (folder / artifact.graph_facts_file(asked)).write_text(facts.model_dump_json())


def proofs_of(asked: Case, folder: Path) -> list[Parity]:
    """Those before timing, at batches of 1 and 2."""
    return Session(Open(case=asked, folder=str(folder)), 1, 0).open().parity


def halved_scale(model: onnx.ModelProto) -> None:
    """Of one layer's weights."""
    change(constant(model, "layer2.3.conv2.weight_scale"), lambda scales: scales / 2)


def other_zero_point(model: onnx.ModelProto) -> None:
    """Of one layer's output, where it is dequantised."""
    node = next(
        each for each in model.graph.node if each.op_type == "DequantizeLinear" and each.input[0].startswith("relu_3_")
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(64, np.uint8), "other"))
    node.input[2] = "other"


def weights_of_another_layer(model: onnx.ModelProto) -> None:
    other = numpy_helper.to_array(constant(model, "layer1.1.conv2.weight_quantized"))
    change(constant(model, "layer1.0.conv2.weight_quantized"), lambda _: other)


def ignored_input(model: onnx.ModelProto) -> None:
    change(constant(model, "images_scale"), lambda scale: scale * np.float32(1e-9))


def constant(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto = next(each for each in model.graph.initializer if each.name == name)
    return found


@pytest.mark.parametrize("break_it", [halved_scale, other_zero_point, weights_of_another_layer, ignored_input])
def test_a_wrong_graph_that_is_calibrated_on_data_fails_the_proof(
    on_data: tuple[Case, Path, GraphFacts], tmp_path: Path, break_it: Callable[[onnx.ModelProto], None]
) -> None:
    asked, folder, _ = on_data
    wrong = tmp_path / "wrong"
    shutil.copytree(folder, wrong)
    model = onnx.load(wrong / artifact.graph_file(asked))
    break_it(model)
    onnx.save(model, wrong / artifact.graph_file(asked))
    found = proofs_of(asked, wrong)
    assert not all(each.passed for each in found), found


def test_outputs_of_other_images_of_the_data_fail_the_proof(
    on_data: tuple[Case, Path, GraphFacts], tmp_path: Path
) -> None:
    asked, folder, _ = on_data
    swapped = tmp_path / "swapped"
    shutil.copytree(folder, swapped)
    _, golden = open_artifact(folder, file := artifact.golden_of(folder, asked))
    images, reference = (several(each)[0] for each in golden)
    save_file({"images": np.roll(images, 1, 0), "reference": reference}, swapped / file)
    assert not any(each.passed for each in proofs_of(asked, swapped))


def test_an_onnx_file_is_compared_on_held_out_images_by_its_own_float64(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv", strides=[4, 4]),
        helper.make_node("Relu", ["y"], ["positive"], name="relu"),
        helper.make_node("Flatten", ["positive"], ["out"], name="flatten"),
    ]
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 16, 16])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 10 * 16])
    weights = numpy_helper.from_array(random.standard_normal((10, 1, 4, 4)).astype(np.float32), "w")
    graph = helper.make_graph(nodes, "g", [images], [out], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    spec, _, folder = built(model, tmp_path)
    asked = case_of(spec, runtime="ort", precision="int8", calibration=write_blocks(tmp_path / "data", 30))
    facts = made(asked, folder, tmp_path)
    assert (facts.error, facts.calibration_images) == (None, 27)
    _, golden = open_artifact(folder, artifact.golden_of(folder, asked))
    assert len(several(golden.images)[0]) == 3
    assert several(golden.reference)[0].dtype == np.float64
    assert all(each.passed for each in proofs_of(asked, folder))


@pytest.mark.slow
def test_of_a_wrong_graph_that_is_calibrated_on_data_the_layer_is_found_on_images_of_these(
    on_data: tuple[Case, Path, GraphFacts], tmp_path: Path
) -> None:
    asked, folder, _ = on_data
    wrong = tmp_path / "wrong"
    shutil.copytree(folder, wrong)
    assert str(where_it_begins(asked, wrong, tmp_path)).startswith("no layer adds more than rounding explains")
    model = onnx.load(wrong / artifact.graph_file(asked))
    weights_of_another_layer(model)
    onnx.save(model, wrong / artifact.graph_file(asked))
    begins = where_it_begins(asked, wrong, tmp_path)
    assert begins is not None
    assert begins.startswith("begins at layer1.0")


@pytest.mark.slow
def test_layers_are_read_on_the_images_that_outputs_are_compared_on(
    on_data: tuple[Case, Path, GraphFacts], tmp_path: Path
) -> None:
    asked, folder, _ = on_data
    golden = artifact.golden_of(folder, asked)
    images = several(open_artifact(folder, golden)[1].images)[0]
    with Comparison(asked.spec, folder, 2, 10**9, tmp_path, golden=golden) as compared:
        (run,) = compared.run([Contender("int8", "ort", "int8", calibration=asked.calibration)])
        assert np.array_equal(compared.image, images[0])
    assert compared.off is not None
    assert compared.off < 1e-6
    assert run.asked == 0.0
