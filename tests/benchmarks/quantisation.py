"""What spoils int8, and what it costs: variants of quantisation of trained networks, on the test images of shapes.

    cnnbench train-suite suites/precision.yaml
    python -m tests.benchmarks.quantisation [--model mobilenet_v2] [--images 2000] [--rounds 30]

Each graph is quantised as `cnnbench` does it but for what its row says, and run by ONNX Runtime on the CPU. Printed are
top-1 in percent, its difference from float32 on the same images with its 95 % interval (Newcombe), the outputs' error
against float32 (the sine of the angle between them, docs/precision.md), the share of MACs in int8, the conversions left
in the executed graph, and the median time of a batch of one. Times are measured in turn, round by round, in one
process. Above each table stands what one scale for a depthwise layer has to cover: the range of the channel with the
largest weights, as a multiple of the median channel's.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from cnnbench.analysis.evaluation import paired_difference
from cnnbench.records import artifact, dataset
from cnnbench.records.record import ArtifactFacts
from cnnbench.report.precision import CONVERSIONS
from cnnbench.runner import machine
from cnnbench.runner.artifacts import Artifacts
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.load import bundled_suites, load_suite
from cnnbench.worker.calibration_images import CALIBRATION_IMAGES, NOISE_SEED, drawn
from cnnbench.worker.data.parts import limited
from cnnbench.worker.data.read import Data, read
from cnnbench.worker.precision_graph import RECIPES, Feeds, _macs
from cnnbench.worker.reference.inputs import images as noise
from cnnbench.worker.reference.parity import (
    MAX_QUANTISED_LIMIT,
    Array,
    centres_of,
    compare_angles,
    open_artifact,
    several,
)
from cnnbench.worker.runtimes.ort import make_session
from cnnbench.worker.runtimes.shares import formats_in, shares

BATCH = 50
OUTLIER = 20.0
"""What one calibration image is multiplied by."""
DRAWS = ("data", "draw 1", "draw 2")
"""Of calibration images, by number."""
Choose = Callable[[onnx.NodeProto], bool]


class Variant(NamedTuple):
    """How a graph is quantised, where that is not as usual."""

    name: str
    per_tensor: Choose | None = None
    """Nodes whose weights have one scale, where others have one for each output channel."""
    calibration: str = "data"
    """Or noise, outlier, or another draw of the data."""
    in_float32: Choose | None = None
    """Nodes that are left as they are."""


def is_no_product(node: onnx.NodeProto) -> bool:
    """Neither a convolution nor a matrix product."""
    return node.op_type not in ("Conv", "Gemm", "MatMul")


def has_weights(node: onnx.NodeProto) -> bool:
    """Whether it is a convolution or a matrix product."""
    return not is_no_product(node)


def is_depthwise(node: onnx.NodeProto) -> bool:
    """Whether it is a convolution with groups, which in these networks have one channel each."""
    return node.op_type == "Conv" and any(each.name == "group" and each.i > 1 for each in node.attribute)


VARIANTS = (
    Variant("as usual: weights per channel, calibrated on data"),
    Variant("as usual, a second draw of images", calibration="draw 1"),
    Variant("as usual, a third draw of images", calibration="draw 2"),
    Variant("weights of depthwise layers alone per tensor", per_tensor=is_depthwise),
    Variant("weights of all layers per tensor", per_tensor=has_weights),
    Variant("only convolutions and matrix products in int8", in_float32=is_no_product),
    Variant("calibrated on noise", calibration="noise"),
    Variant(f"one of {CALIBRATION_IMAGES} calibration images times {OUTLIER:g}", calibration="outlier"),
)


class Row(NamedTuple):
    """What came of a variant."""

    name: str
    session: ort.InferenceSession
    logits: Array
    """(N, classes)."""
    right: Array
    """(N) bool."""
    in_int8: float
    conversions: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    suite = load_suite(str(bundled_suites()["precision"]))
    specs = {case.spec.model: case.spec for case in suite.cases}
    for model in given.model or ["mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"]:
        print("\n".join(rows_of(specs[model], given.images, given.rounds)), flush=True)


def rows_of(spec: ModelSpec, count: int, rounds: int) -> Iterable[str]:
    """A table of a model."""
    with Artifacts() as artifacts, tempfile.TemporaryDirectory(prefix="cnnbench-") as scratch:
        folder = artifact.folder_of(spec, artifacts.get(spec).key)
        facts, golden = open_artifact(folder)
        data = read(dataset.find("shapes"), facts.input_shape, facts.classes)
        held_out = len(several(golden.images)[0])
        calibrations = {name: _drawn(data, spec, draw, held_out) for draw, name in enumerate(DRAWS)}
        spoiled = calibrations["data"].copy()
        spoiled[0] *= OUTLIER
        calibrations |= {
            "noise": noise(CALIBRATION_IMAGES, facts.input_shape, spec.seed + NOISE_SEED).numpy(),
            "outlier": spoiled,
        }
        test = limited(data.test, count, seed=0)
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(folder / artifact.GRAPH), str(prepared), skip_symbolic_shape=True)
        macs, spreads = _macs(onnx.load(prepared), facts, golden), _spreads(onnx.load(prepared).graph)
        files = {"float32": folder / artifact.GRAPH}
        for number, each in enumerate(VARIANTS):
            files[each.name] = Path(scratch) / f"{number}.onnx"
            _quantise(
                each, prepared, files[each.name], Feeds(prepared, facts, folder, (calibrations[each.calibration],))
            )
        rows = [_row(name, file, macs, data.prepare, test.images, test.labels) for name, file in files.items()]
        times = _times([row.session for row in rows], facts, rounds)
    ranges = ", ".join(f"{ratio:.1f}" for ratio in spreads)
    yield f"{spec.model}, {len(test.labels):,} images; largest range by median range of depthwise layers: {ranges}"
    yield "| quantisation | top-1 % | difference | error | MACs in int8 | conversions | ms |"
    yield "|---|---|---|---|---|---|---|"
    centres = centres_of(rows[0].logits)
    for row, ms in zip(rows, times, strict=True):
        pairs = [int((row.right == a)[rows[0].right == b].sum()) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))]
        change = paired_difference(*pairs)
        shown = f"{100 * change.value:+.1f} [{100 * (change.low or 0):+.1f}, {100 * (change.high or 0):+.1f}]"
        shown = "" if row is rows[0] else shown
        top1 = f"{100 * row.right.mean():.1f}"
        error = compare_angles("", row.logits, rows[0].logits, centres, MAX_QUANTISED_LIMIT).error or 0.0
        yield f"| {row.name} | {top1} | {shown} | {error:.3f} | {row.in_int8:.0%} | {row.conversions} | {ms:.2f} |"


def _drawn(data: Data, spec: ModelSpec, draw: int, held_out: int) -> Array:
    """Training images as `cnnbench` draws them."""
    settings = {"runtime": "ort", "precision": "int8", "calibration": "shapes", "draw": draw}
    case = Case.model_validate({"spec": spec, "workload": "inference", "batch": 1, **settings})
    return data.prepare(data.train.images[drawn(case, len(data.train.labels), held_out)[0]])


def _spreads(graph: onnx.GraphProto) -> list[float]:
    """Of each depthwise layer, the largest range of a channel's weights as a multiple of the median one."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    found = [numpy_helper.to_array(weights[node.input[1]]) for node in graph.node if is_depthwise(node)]
    ranges = [np.abs(values).max(tuple(range(1, values.ndim))) for values in found]
    return [float(each.max() / np.median(each)) for each in ranges]


def _quantise(variant: Variant, prepared: Path, file: Path, feeds: Feeds) -> None:
    recipe, graph = RECIPES["int8"], onnx.load(prepared).graph
    left = [node.name for node in graph.node if variant.in_float32 and variant.in_float32(node)]
    constants = {tensor.name for tensor in graph.initializer}
    weights = [node.input[1] for node in graph.node if variant.per_tensor and variant.per_tensor(node)]
    one_scale = {name: [{"symmetric": True}] for name in weights if name in constants}
    quantize_static(
        str(prepared),
        str(file),
        feeds,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=recipe.activations,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        nodes_to_exclude=left,
        extra_options={"WeightSymmetric": True, **recipe.options, "TensorQuantOverrides": one_scale},
    )


def _row(name: str, file: Path, macs: dict[str, int], prepare: Any, images: Array, labels: Array) -> Row:
    with tempfile.TemporaryDirectory(prefix="cnnbench-") as scratch:
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(Path(scratch) / "optimised.onnx")
        session = make_session(str(file), "cpu", machine.usable_threads(), options=options)
        executed = onnx.load(options.optimized_model_filepath).graph
    given = session.get_inputs()[0].name
    logits = np.concatenate(
        [
            session.run(None, {given: prepare(images[start : start + BATCH])})[0]
            for start in range(0, len(images), BATCH)
        ]
    )
    in_int8 = shares(formats_in(executed), macs, "int8")["shares"].get("int8", 0.0)
    conversions = sum(node.op_type in CONVERSIONS for node in executed.node)
    return Row(name, session, logits, logits.argmax(1) == labels, in_int8, conversions)


def _times(sessions: list[ort.InferenceSession], facts: ArtifactFacts, rounds: int) -> list[float]:
    """Medians of a batch of one, in ms."""
    x = np.random.default_rng(0).standard_normal((1, *facts.input_shape), np.float32)
    found: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for session, times in zip(sessions, found, strict=True):
            for _ in range(3):
                begun = time.perf_counter()
                session.run(None, {session.get_inputs()[0].name: x})
                times.append(1e3 * (time.perf_counter() - begun))
    return [median(times) for times in found]


if __name__ == "__main__":
    main()
