"""What is made for a precision, once: the exported graph in half precision, or quantised to int8 by static calibration.

Both are made of the graph after constants and batch normalisation are folded, which is the same on any machine.
"""

import pkgutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    create_calibrator,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from cnnbench.errors import ModelError
from cnnbench.records import dataset, files
from cnnbench.records.artifact import CONSTANT, GOLDEN, GRAPH, graph_facts_file, graph_file, read_graph, seal
from cnnbench.records.cache import locked
from cnnbench.records.messages import BuildGraph
from cnnbench.records.record import ArtifactFacts, GraphFacts
from cnnbench.suite.case import Case
from cnnbench.worker.calibration_images import digest_of, images_for
from cnnbench.worker.counters.onnx import inferred_shapes, macs_of
from cnnbench.worker.profilers.onnx_origin import name_of
from cnnbench.worker.reference.onnx_float64 import modern
from cnnbench.worker.reference.parity import (
    LEAST_OF_FILE,
    RESOLVED,
    Array,
    Golden,
    open_artifact,
    own_error_of,
    part,
    several,
)
from cnnbench.worker.runtimes.ort import OrtInference

PROGRAM = "cnnbench.worker.quantised_program:make"
"""Quantises for PyTorch, which does not run the exported graph."""
CALIBRATION_BATCH = 10
MAX_HALF, MIN_HALF = 65504.0, 2.0**-24
"""The largest finite number in half precision, and the smallest above 0."""
SIGNED = {"ActivationSymmetric": True}
UNSIGNED = {"ActivationRestrictedAsymmetric": True}
"""Zero is the smallest number where values are never negative, else the middle one."""


class Recipe(NamedTuple):
    """How a graph is quantised."""

    activations: QuantType
    options: Mapping[str, bool]
    reduce_range: bool = False
    """Whether weights have 7 bits."""


RECIPES: Mapping[str, Recipe] = {
    "int8": Recipe(QuantType.QUInt8, UNSIGNED),
    "int8-7bit": Recipe(QuantType.QUInt8, UNSIGNED, reduce_range=True),
    "int8-signed": Recipe(QuantType.QInt8, SIGNED),
}


def build_graph(request: BuildGraph) -> GraphFacts:
    """Make a case's graph of its artifact's, beside it; others wait meanwhile.

    Why there is none is in the facts. Raises InputError for calibration data that cannot be read or do not fit.
    """
    folder, case = Path(request.folder), request.case
    source = dataset.fingerprint(case.calibration)
    with locked(folder):
        known = read_graph(folder, case)
        if known is not None and known.error is None and known.source == source:
            return known
        make = _build if case.is_exported else pkgutil.resolve_name(PROGRAM)
        facts = make(case, folder).model_copy(update={"source": source})
        files.write(folder / graph_facts_file(case), facts.model_dump_json(indent=1))
        seal(folder, open_artifact(folder)[0].key)
    return facts


def _build(case: Case, folder: Path) -> GraphFacts:
    facts, golden = open_artifact(folder)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="cnnbench-") as scratch:
        prepared = Path(scratch) / GRAPH
        if case.format == "bf16":  # the engine's own work
            prepared = folder / GRAPH
        else:
            quant_pre_process(str(_modern(folder / GRAPH, Path(scratch))), str(prepared), skip_symbolic_shape=True)
        seconds["prepare"] = time.perf_counter() - start
        try:
            macs = _macs(onnx.load(prepared), facts, golden)
        except ModelError as error:
            return GraphFacts(error=f"its MACs cannot be counted: {error}")
        if case.format == "bf16":
            return GraphFacts(macs=macs, seconds=seconds)
        start, about = time.perf_counter(), {}
        images = several(golden.images)
        if case.is_quantised:
            images, golden, reference_digest = images_for(case, facts, folder, golden)
            about = {"calibration_images": len(images[0]), "calibration_digest": digest_of(*images)}
            about |= {"reference_digest": reference_digest}
        feeds = Feeds(prepared, facts, folder, images)
        if not case.is_quantised and (too_large := _too_large(prepared, feeds)):
            return GraphFacts(error=f"half precision overflows above 65,504: {too_large}")
        with files.replacing(folder / graph_file(case)) as file:
            if case.is_quantised:
                _quantise(case, prepared, file, feeds)
            else:
                _halve(prepared, file)
        seconds["make"] = time.perf_counter() - start
    start = time.perf_counter()
    own_error, agreement = _own_error(case, facts, golden, folder)
    seconds["check"] = time.perf_counter() - start
    return GraphFacts(
        graph_bytes=(folder / graph_file(case)).stat().st_size,
        macs=macs,
        own_error=own_error,
        agreement=agreement,
        seconds=seconds,
        **about,
    )


def _modern(graph: Path, scratch: Path) -> Path:
    """The graph, or a copy in a later opset: before 13, what is quantised by channel cannot be written."""
    model = onnx.load(graph)
    if (found := modern(model)) is model:
        return graph
    onnx.save(found, str(file := scratch / "modern.onnx"))
    return file


def _macs(model: onnx.ModelProto, facts: ArtifactFacts, golden: Golden) -> dict[str, int]:
    """MACs for one image by name of the node. Raises ModelError where they cannot be counted."""
    weights = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in {*weights, *facts.constants}]
    shapes = {name: (facts.batch or 1, *x.shape[1:]) for name, x in zip(names, several(golden.images), strict=True)}
    graph, known = inferred_shapes(onnx_ir.from_proto(model), shapes)
    return {name_of(node): count // (facts.batch or 1) for node in graph.node if (count := macs_of(node, known))}


class Feeds(CalibrationDataReader):  # type: ignore[misc]
    """Batches of images by the name of the input."""

    def __init__(self, graph: Path, facts: ArtifactFacts, folder: Path, images: tuple[Array, ...]) -> None:
        proto = onnx.load(graph, load_external_data=False).graph
        weights = {tensor.name for tensor in proto.initializer}
        self.names = [each.name for each in proto.input if each.name not in {*weights, *facts.constants}]
        self.constants: dict[str, Array] = {}
        if facts.constants:
            from safetensors.numpy import load_file

            values = load_file(folder / GOLDEN)
            self.constants = {name: values[CONSTANT + name] for name in facts.constants}
        self.images, self.size = images, facts.batch or min(CALIBRATION_BATCH, len(images[0]))
        self.feeds = self._feeds()

    def _feeds(self) -> Iterator[dict[str, Array]]:
        for start in range(0, len(self.images[0]) - self.size + 1, self.size):
            batch = (x[start : start + self.size] for x in self.images)
            yield {**self.constants, **dict(zip(self.names, batch, strict=True))}

    def get_next(self) -> dict[str, Array] | None:
        """The next batch; None at the end."""
        return next(self.feeds, None)


def _quantise(case: Case, prepared: Path, file: Path, feeds: Feeds) -> None:
    """Weights symmetric by channel, activations by tensor; ranges from the smallest to the largest value."""
    recipe = RECIPES[case.precision]
    quantize_static(
        str(prepared),
        str(file),
        feeds,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=recipe.reduce_range,
        activation_type=recipe.activations,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"WeightSymmetric": True, **recipe.options},
    )


def _too_large(prepared: Path, feeds: Feeds) -> str:
    """Which weights, or values between nodes on these images, are too large for half precision; empty for none."""
    with tempfile.TemporaryDirectory(prefix="cnnbench-") as scratch:
        calibrator = create_calibrator(str(prepared), augmented_model_path=str(Path(scratch) / GRAPH))
        calibrator.collect_data(feeds)
        ranges = calibrator.compute_data().data
    largest = {name: float(np.abs(each.range_value).max()) for name, each in ranges.items()}
    for tensor in onnx.load(prepared).graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and (values := numpy_helper.to_array(tensor)).size:
            largest[tensor.name] = float(np.abs(values).max())
    over = {name: value for name, value in largest.items() if not value <= MAX_HALF}
    if not over:
        return ""
    worst = max(over, key=lambda name: over[name])
    return f"{worst} reaches {over[worst]:.3g}" + (f", and {len(over) - 1} more values" if len(over) > 1 else "")


def _halve(prepared: Path, file: Path) -> None:
    """In half precision, inputs and outputs in float32."""
    half = convert_float_to_float16(
        onnx.load(prepared),
        keep_io_types=True,
        min_positive_val=MIN_HALF,
        max_finite_val=MAX_HALF,
        disable_shape_infer=True,
    )
    onnx.save(half, str(file))


def _own_error(case: Case, facts: ArtifactFacts, golden: Golden, folder: Path) -> tuple[float | None, float | None]:
    """The error against float64, as cases of the precision are compared, of the graph's nodes computed one by one by
    ONNX Runtime on the CPU; and the share of images whose largest output is in the same place."""
    unit, count = facts.batch or len(several(golden.images)[0]), len(several(golden.images)[0])
    plain = case.model_copy(update={"runtime": "ort:disabled", "device": "cpu", "batch": unit})
    runtime = OrtInference(plain, facts, folder, part(golden.images, slice(unit)), 1)
    parts = [
        several(runtime.predict(part(golden.images, slice(start, start + unit))))
        for start in range(0, count - unit + 1, unit)
    ]
    outputs: Any = tuple(np.concatenate(each) for each in zip(*parts, strict=True))
    least = LEAST_OF_FILE if case.spec.is_onnx_file else RESOLVED
    return own_error_of(case, outputs, golden.reference, least)
