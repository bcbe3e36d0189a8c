"""Right graphs pass and wrong ones fail: real exports, broken on purpose, in real ONNX Runtime workers."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import GRAPH
from cnnbench.records.messages import Load, Loaded, Open, Opened
from cnnbench.records.record import GraphFacts
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, ModelSpec, Precision
from cnnbench.worker.reference.parity import (
    MAX_QUANTISED_LIMIT,
    batches,
    centres_of,
    compare,
    compare_all,
    compare_angles,
    compare_losses,
    labels_for,
    limit_for,
    numbered,
    open_artifact,
    output_rms_of,
    own_error_of,
    part,
    same_class,
    scales_of,
    several,
    tiled,
)

SPEC = ModelSpec(model="mobilenet_v2", image_size=(64, 64), classes=10)
CASE = Case(spec=SPEC, workload="inference", runtime="ort", batch=4)  # so that all is proved before timing


@pytest.fixture(scope="module")
def built(artifact_of: Callable[[ModelSpec], Path]) -> Path:
    """The artifact of a MobileNetV2 for small images: depthwise layers, batch norms, ReLU6, residuals."""
    return artifact_of(SPEC)


@pytest.fixture(scope="module")
def prover(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Opened]]:
    with Worker(tmp_path_factory.mktemp("logs") / "prove.log", 2, 300) as worker:
        worker.ask(Load(case=CASE, threads=2), Loaded)
        yield lambda folder: worker.ask(Open(case=CASE, folder=str(folder)), Opened)


def test_the_exported_graph_is_proved_at_batches_that_it_was_not_exported_at(
    built: Path, prover: Callable[[Path], Opened]
) -> None:
    opened = prover(built)
    assert [parity.what for parity in opened.parity] == ["ort b1", "ort b2", "ort b3"]
    assert all(parity.passed for parity in opened.parity)


def initializer(model: onnx.ModelProto, rank: int) -> onnx.TensorProto:
    """The largest constant of so many axes."""
    tensors = [tensor for tensor in model.graph.initializer if len(tensor.dims) == rank]
    largest: onnx.TensorProto = max(tensors, key=lambda tensor: int(np.prod(tensor.dims)))
    return largest


def change(tensor: onnx.TensorProto, how: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(how(numpy_helper.to_array(tensor).copy()), tensor.name))


def drop_a_bias(model: onnx.ModelProto) -> None:
    change(initializer(model, 1), np.zeros_like)


def swap_two_filters(model: onnx.ModelProto) -> None:
    change(initializer(model, 4), lambda w: w[[1, 0, *range(2, len(w))]])


def scale_one_weight(model: onnx.ModelProto) -> None:
    def tenfold(w: np.ndarray) -> np.ndarray:
        w.flat[np.abs(w).argmax()] *= 10
        return w

    change(initializer(model, 2), tenfold)


def forget_a_residual(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Add")
    node.op_type = "Identity"
    del node.input[1:]


def ignore_the_image(model: onnx.ModelProto) -> None:
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    model.graph.initializer.append(zero)
    model.graph.node.insert(0, onnx.helper.make_node("Mul", [first.input[0], "zero"], ["nothing"]))
    first.input[0] = "nothing"


def put_out_not_a_number(model: onnx.ModelProto) -> None:
    change(initializer(model, 1), lambda b: b * np.nan)


@pytest.mark.parametrize(
    "break_it",
    [
        drop_a_bias,
        swap_two_filters,
        scale_one_weight,
        forget_a_residual,
        ignore_the_image,
        put_out_not_a_number,
    ],
)
def test_a_broken_graph_fails(
    built: Path, prover: Callable[[Path], Opened], tmp_path: Path, break_it: Callable[[onnx.ModelProto], None]
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(built, folder)
    model = onnx.load(folder / GRAPH)
    break_it(model)
    onnx.save(model, folder / GRAPH)
    onnx.checker.check_model(str(folder / GRAPH))  # a valid graph that computes something else
    parity = prover(folder).parity
    assert not all(one.passed for one in parity), [one.error for one in parity]


PRECISIONS: list[Precision] = ["fp32", "amp-bf16", "bf16", "fp16"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_wrong_outputs_fail_at_every_precision_however_deep_the_network_and_small_the_outputs(
    precision: Precision,
) -> None:
    reference = 1e-12 * np.random.default_rng(0).standard_normal((6, 1000))
    rms, limit = output_rms_of(reference), limit_for(1.0, precision)
    wrong = {
        "ignores its input": np.broadcast_to(reference.mean(axis=0), reference.shape),
        "is zero": np.zeros_like(reference),
        "is of other images": np.roll(reference, 1, axis=0),
        "is of other classes": np.roll(reference, 1, axis=1),
        "has the other sign": -reference,
        "is not finite": np.full_like(reference, np.inf),
    }
    for name, y in wrong.items():
        proofs = [compare(name, y[batch], reference[batch], rms, limit, precision) for batch in batches(6)]
        assert not any(proof.passed for proof in proofs), name


@pytest.mark.parametrize(("precision", "error"), [("fp32", 2e-4), ("bf16", 0.43), ("fp16", 0.09)])
def test_the_rounding_of_a_deep_network_passes(precision: Precision, error: float) -> None:
    """ResNet-50's, whose float32 run is off by 2e-4 at most."""
    random = np.random.default_rng(0)
    reference = random.standard_normal((6, 1000))
    rounding = error * (
        random.uniform(-1, 1, reference.shape) if precision == "fp32" else random.normal(size=(6, 1000))
    )
    limit = limit_for(2e-4, precision)
    assert compare("x", reference + rounding, reference, output_rms_of(reference), limit, precision).passed


def test_angles_tell_a_noisy_output_from_a_wrong_one() -> None:
    random = np.random.default_rng(0)
    shared, reference = 5 * random.standard_normal((1, 10)), random.standard_normal((6, 10))
    reference, centres = reference + shared, centres_of(reference + shared)
    noisy = reference + random.standard_normal((6, 10))
    assert compare_angles("x", noisy, reference, centres, MAX_QUANTISED_LIMIT).passed
    scaled = 2 * (reference - centres[0]) + centres[0]
    assert compare_angles("x", scaled, reference, centres, 1.0).error == pytest.approx(0, abs=1e-6)
    wrong = {
        "ignores its input": np.broadcast_to(reference.mean(axis=0), reference.shape),
        "is zero": np.zeros_like(reference),
        "is of other images": np.roll(reference, 1, axis=0),
        "is of other classes": np.roll(reference, 1, axis=1),
        "has the other sign": 2 * centres[0] - reference,
        "is not finite": np.full_like(reference, np.nan),
    }
    for name, y in wrong.items():
        parities = [compare_angles(name, y[b], reference[b], centres, MAX_QUANTISED_LIMIT) for b in batches(6)]
        assert not all(parity.passed for parity in parities), name
    assert limit_for(1e-6, "int8", GraphFacts(own_error=0.1)) == 0.2
    assert [limit_for(1e-6, "int8", GraphFacts(own_error=error)) for error in (1e-3, 0.7)] == [0.05, 0.85]


def test_a_reference_that_does_not_depend_on_the_image_proves_nothing() -> None:
    same = np.ones((6, 10))
    assert not compare("x", same, same, output_rms_of(same), 1e-2).passed


def test_the_limit_follows_eagers_own_error_within_bounds() -> None:
    assert [limit_for(error) for error in (1e-9, 1e-4, 1.0)] == [1e-5, pytest.approx(1e-3), 1e-2]
    assert [limit_for(error, "bf16") for error in (1e-9, 1e-6, 1.0)] == [1e-2, pytest.approx(0.065536), 0.6]
    assert limit_for(1e-6, "fp16") == 1e-2
    assert limit_for(1e-5, "amp-fp16") == limit_for(1e-5, "fp16") == pytest.approx(0.08192)
    assert [limit_for(1e-4, "int8", graph) for graph in (None, GraphFacts(own_error=None))] == [0.85, 0.85]
    assert limit_for(1e-4, "fp32", GraphFacts(own_error=0.1)) == pytest.approx(1e-3), "its own graph's is not fp32's"


def test_golden_images_are_read_in_batches_of_growing_size() -> None:
    assert [(s.start, s.stop) for s in batches(6)] == [(0, 1), (1, 3), (3, 6)]
    assert [(s.start, s.stop) for s in batches(4)] == [(0, 1), (1, 3), (3, 4)]
    assert batches(0) == []
    (one,) = several(tiled(np.arange(3, dtype=np.float32)[:, None], 5))
    assert one.ravel().tolist() == [0, 1, 2, 0, 1]
    both = tiled((np.arange(2)[:, None], np.arange(4).reshape(2, 2)), 3)
    assert [each.tolist() for each in both] == [[[0], [1], [0]], [[0, 1], [2, 3], [0, 1]]]
    assert [each.tolist() for each in part(both, slice(1, 2))] == [[[1]], [[2, 3]]]
    assert numbered("images", [7, 8, 9]) == {"images": 7, "images.1": 8, "images.2": 9}


TWO = np.array([[1.0, 2.0], [3.0, 6.0]])
"""Its mean over the images is (2, 4), from which the values are 1 and 2 away: their root mean square is sqrt(2.5)."""


def test_an_error_is_the_largest_in_float32_and_the_root_mean_square_in_sixteen_bits() -> None:
    assert output_rms_of(TWO) == pytest.approx(math.sqrt(2.5))
    off = TWO + np.array([[0.5, 0.0], [0.0, -1.5]])
    found = compare("x", off, TWO, 0.5, 0.25)
    assert (found.what, found.error, found.limit) == ("x", 3.0, 0.25)
    found = compare("x", off, TWO, 0.5, 0.25, "bf16")
    assert (found.what, found.limit) == ("x, root mean square", 0.25)
    assert found.error == pytest.approx(2 * math.sqrt((0.25 + 2.25) / 4))
    for y, rms in ((off[:1], 1.0), (off * [[1, np.nan]], 1.0), (off, 0.0), (off, math.nan)):
        assert compare("x", y, TWO, rms, 0.25).error is None


def test_what_hardly_depends_on_the_image_has_no_centre_and_is_measured_by_its_values() -> None:
    """Of (1, 7) the deviation is 3 and the root mean square 5: a share of 0.6."""
    y, constant = np.array([[1.0], [7.0]]), np.full((2, 1), 4.0)
    assert [each.tolist() for each in centres_of((y, constant))] == [[4.0], [0.0]]
    assert [centres_of(y, least)[0].tolist() for least in (0.59, 0.6)] == [[4.0], [0.0]]
    assert scales_of((y, constant, 0 * y)) == [3.0, 4.0, 1.0]
    assert [scales_of(y, least) for least in (0.59, 0.6)] == [[3.0], [5.0]]


@pytest.mark.parametrize(
    ("ours", "error"),
    [
        ([4.0, 1.0], math.sqrt(0.5)),  # 3 / (3 sqrt(2)) is the cosine
        ([2.0, 2.0], 0.0),
        ([1.0, 2.0], math.sqrt(0.5)),
        ([0.0, 0.0], 1.0),
        ([2.0, 0.0], 1.0),
        ([1.0, 1.0], 1.0),
        ([np.nan, 1.0], None),
        ([4.0], None),
    ],
)
def test_an_angle_is_that_between_what_is_left_without_the_centre(ours: list[float], error: float | None) -> None:
    """Of an output and of the reference (2, 2), with the centre (1, 1)."""
    y, reference, centre = np.array([ours]), np.array([[2.0, 2.0]]), np.ones(2)
    found = compare_angles("x", y, reference, [centre], 0.5)
    assert (found.what, found.limit) == ("x, angle", 0.5)
    assert found.error == pytest.approx(error, abs=1e-7)
    both = compare_angles("x", (reference, y), (reference, reference), [centre, centre], 0.5)
    assert both.error == pytest.approx(error, abs=1e-7), "the worst counts"
    assert compare_angles("x", (reference, y), reference, [centre], 0.5).error is None


def test_the_worst_of_several_outputs_is_told_and_one_that_is_no_number_is_worse_than_any() -> None:
    lost, off = TWO * np.nan, TWO + 1
    found = [compare_all("x", ys, (TWO, TWO), [1.0, 0.5], 0.1) for ys in ((off, TWO), (off, off), (off, lost))]
    assert [(each.what, each.error) for each in found] == [
        ("x, output 0", 1.0),
        ("x, output 1", 2.0),
        ("x, output 1", None),
    ]
    assert compare_all("x", off, TWO, [0.5], 0.1, "fp16").what == "x, root mean square"
    assert compare_all("x", off, TWO, [0.5], 0.1, "fp16").error == 2.0


def test_losses_are_compared_relative_to_the_first() -> None:
    assert compare_losses("x", [2.0, 1.5, 0.5], [2.0, 1.0, 0.75], 0.1).error == 0.25
    assert compare_losses("x", [-2.0, 1.5], [-2.0, 1.0], 0.1).error == 0.25
    assert compare_losses("x", [1.0], [1.0], 0.1).passed
    for losses, reference in (([], []), ([1.0], [1.0, 2.0]), ([1.0, math.inf], [1.0, 2.0])):
        assert compare_losses("x", losses, reference, 0.1).error is None


def test_the_largest_outputs_are_in_the_same_place_for_a_share_of_the_images() -> None:
    ours, theirs = np.array([[1, 2], [3, 0], [1, 0]]), np.array([[0, 5], [1, 2], [8, 1]])
    assert same_class(ours, theirs) == pytest.approx(2 / 3)
    assert same_class((ours, theirs), (theirs, theirs)) == pytest.approx(2 / 3), "of the first output"
    assert same_class(ours[:2], theirs) is None
    assert same_class(ours[:, None], theirs[:, None]) is None, "no vector of classes"


REFERENCE = np.array([[1.0, 0.0], [-2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
"""Its mean is 0."""


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"precision": "int8"}, math.sqrt(1 - 6**2 / (15 * 6))),
        ({"precision": "int8", "calibration": "/data"}, math.sqrt(1 - 5**2 / (14 * 5))),  # batches of 1 and 2
        ({}, 3 / math.sqrt(6 / 8)),
        ({"precision": "bf16"}, math.sqrt(9 / 6) / math.sqrt(6 / 8)),
    ],
)
def test_a_graphs_own_error_is_found_as_its_runs_are_compared(changed: dict[str, Any], error: float) -> None:
    """Of outputs for the first three of four images; those of data in batches, of which the worst counts."""
    outputs = REFERENCE[:3] + np.array([[0, 0], [0, 0], [0, 3]])
    case = CASE.model_copy(update=changed)
    found, same = own_error_of(case, outputs, REFERENCE)
    assert found == pytest.approx(error)
    assert same == pytest.approx(2 / 3)
    assert own_error_of(case, outputs * np.nan, REFERENCE)[0] is None


def test_labels_are_class_numbers_of_each_image_or_of_each_of_its_places() -> None:
    labels = labels_for(40, 3, 7)
    assert labels.shape == (40,)
    assert labels.dtype == np.int64
    assert set(labels.tolist()) == {0, 1, 2}
    assert labels_for(2, 3, 7, (4, 5)).shape == (2, 4, 5)
    assert (labels == labels_for(40, 3, 7)).all()
    assert (labels != labels_for(40, 3, 8)).any()


def test_an_artifact_that_is_not_finished_is_none(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="no finished artifact"):
        open_artifact(tmp_path)
