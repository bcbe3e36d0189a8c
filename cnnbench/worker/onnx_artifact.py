"""An ONNX file made into an artifact: the file itself, reference inputs, and its outputs in float64. No torch."""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from safetensors.numpy import save_file

from cnnbench.errors import InputError, ModelError
from cnnbench.networks import registry
from cnnbench.records.artifact import CONSTANT, FACTS, GOLDEN, GRAPH, KERNELS, WEIGHTS
from cnnbench.records.messages import Build, Count, Trace, Traced
from cnnbench.records.record import ArtifactFacts, CounterResults
from cnnbench.records.toolchain import library_versions
from cnnbench.suite.case import ModelSpec
from cnnbench.worker.counters import onnx as counter
from cnnbench.worker.counters.onnx_trace import trace
from cnnbench.worker.profilers.onnx_origin import name_of
from cnnbench.worker.reference.onnx_float64 import Float64
from cnnbench.worker.reference.parity import (
    LEAST_OF_FILE,
    MAX_LIMIT,
    Array,
    compare_all,
    limit_for,
    numbered,
    output_rms_of,
    scales_of,
)
from cnnbench.worker.runtimes.ort import make_session

Shape = tuple[int, ...]
Feeds = Mapping[str, Array]
IMAGES, MANY_IMAGES, FEW_VALUES = 3, 8, 8
"""Reference inputs of a graph that takes them one by one: batches of 1 and 2; and where it puts out fewer values than
these for each, since the largest error of a few values of float32 says little of those of another engine."""
IMAGE_AXES = 4
COARSE_SIDE = 4
ASSUMED_ERROR = 1e-5
"""Of float32, in units of the output RMS, where there is no float64 to measure it by."""


class GraphInput(NamedTuple):
    """An input of a graph that must be fed."""

    name: str
    shape: Shape
    """Without the batch, where it has one; else whole."""
    dtype: np.dtype[np.generic]
    value: int | None
    """Of a scalar, which is given."""
    is_batched: bool
    """Whether its first axis is the batch."""


class Reference(NamedTuple):
    """What a graph's outputs are compared with."""

    by: str
    run: Callable[[Feeds], list[Array]]
    is_float64: bool


def fill(request: Build, folder: Path) -> ArtifactFacts:
    """Read the file, count it, run it in float64, and copy it. Raises ModelError for a file that cannot be used."""
    spec, started = request.spec, time.perf_counter()
    model = _read(spec)
    inputs, batch = inputs_of(model.graph, spec)
    counters = _counted(model, inputs)
    unit, drawn = batch or 1, np.random.default_rng(spec.seed)
    most = max(unit, MANY_IMAGES)
    images = {each.name: _draw(drawn, (most, *each.shape), each) for each in inputs if each.is_batched}
    constants = {each.name: _draw(drawn, each.shape, each) for each in inputs if not each.is_batched}
    feeds = [
        {**constants, **{name: x[start : start + unit] for name, x in images.items()}}
        for start in range(0, most - unit + 1, unit)
    ]
    graph = _copied(model, registry.file_of(spec.model), folder / GRAPH)
    reference = _reference(model, feeds[0], graph)
    runs = [reference.run(feeds[0])]
    if sum(y.size for y in runs[0]) >= FEW_VALUES * unit:
        feeds = feeds[: max(1, IMAGES // unit)]
    runs += [reference.run(feed) for feed in feeds[1:]]
    images = {name: x[: unit * len(feeds)] for name, x in images.items()}
    whole = [place for place, y in enumerate(runs[0]) if not y.ndim or y.shape[0] != unit]
    outputs = _joined(runs, whole)
    if not all(np.isfinite(y).all() for y in outputs):
        raise ModelError(f"model {spec.model!r}: expected finite outputs; got others ({reference.by})")
    error = _float32_error(graph, feeds, whole, outputs) if reference.is_float64 else ASSUMED_ERROR
    save_file({}, folder / WEIGHTS)
    golden = {**numbered("images", list(images.values())), **numbered("reference", outputs)}
    golden |= {CONSTANT + name: np.asarray(value) for name, value in constants.items()}
    fixed = {tensor.name: tensor for tensor in onnx_ir.to_proto(_with_weights(model)).graph.initializer}
    kernels = next((node.input[1] for node in model.graph.node if node.op_type == "Conv"), "")
    if kernels in fixed:
        golden[KERNELS] = numpy_helper.to_array(fixed[kernels])
    save_file({name: np.ascontiguousarray(value) for name, value in golden.items()}, folder / GOLDEN)
    shapes = {each.name: each.shape for each in inputs}
    out_shapes = [y.shape[1:] for y in outputs]
    facts = ArtifactFacts(
        key=request.key,
        input_shape=next(each.shape for each in inputs if each.is_batched),
        classes=out_shapes[0][0] if out_shapes[0] else 1,
        inputs=shapes if len(shapes) > 1 else {},
        outputs=out_shapes if [len(shape) for shape in out_shapes] != [1] else [],
        constants=list(constants),
        whole_outputs=whole,
        batch=unit if batch or whole else None,
        reference_by=reference.by,
        weight_bytes=sum(numpy_helper.to_array(tensor).nbytes for tensor in fixed.values()),
        onnx_bytes=sum(file.stat().st_size for file in folder.glob(f"{GRAPH}*")),
        opset=next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), None),
        output_rms=max(map(output_rms_of, outputs)),
        eager_error=error,
        parity_limit=limit_for(error),
        seconds={"reference": time.perf_counter() - started},
        counters=counters,
        versions=dict(library_versions()),
    )
    (folder / FACTS).write_text(json.dumps(facts.model_dump(), indent=1))
    return facts


def _read(spec: ModelSpec) -> onnx.ModelProto:
    """The file with its weights. Raises ModelError."""
    try:
        model = onnx.load(registry.file_of(spec.model))
        onnx.checker.check_model(model)
    except InputError as error:
        raise ModelError(str(error)) from None
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise ModelError(f"model {spec.model!r}: expected an ONNX file; onnx refuses it: {words}") from None
    return model


def inputs_of(graph: onnx.GraphProto, spec: ModelSpec) -> tuple[list[GraphInput], int | None]:
    """What the graph takes, and the only batch that it takes, if it does not take any.

    Sizes that the file leaves open are the spec's. Raises ModelError where they are not given.
    """
    weights = {tensor.name for tensor in graph.initializer}
    fed = [value for value in graph.input if value.name not in weights]
    given = dict(spec.inputs or ())
    if unknown := given.keys() - {value.name for value in fed}:
        names = ", ".join(value.name for value in fed)
        raise ModelError(f"model {spec.model!r}: it has no input {min(unknown)!r}; its inputs are {names}")
    firsts = {dims[0] for value in fed if (dims := _dims(value))}
    symbols: set[int | str] = {first for first in firsts if not isinstance(first, int)}
    sizes = {first for first in firsts if isinstance(first, int)}
    batch = None if symbols and not sizes else 1 if symbols or len(sizes) > 1 else next(iter(sizes), 1)
    inputs = [_input(value, spec, given.get(value.name), symbols, batch) for value in fed]
    if not any(each.is_batched for each in inputs):
        raise ModelError(f"model {spec.model!r}: expected an input whose first axis is the batch; got none")
    return inputs, batch


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    """Sizes, and the names of those that the file leaves open."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims]


def _input(
    value: onnx.ValueInfoProto, spec: ModelSpec, given: Shape | None, symbols: set[int | str], batch: int | None
) -> GraphInput:
    dims, dtype = _dims(value), np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    if not dims:
        if given is None or len(given) != 1:
            raise ModelError(
                f"model {spec.model!r}: the value of its scalar input {value.name!r} ({dtype}) is not known; give it, "
                f"such as --input {value.name}=16000"
            )
        return GraphInput(value.name, (), dtype, given[0], is_batched=False)
    is_batched = dims[0] in symbols or dims[0] == (batch or 1)
    own = dims[1:] if is_batched else dims
    size = list(spec.image_size or ()) if len(dims) == IMAGE_AXES and is_batched else []
    wanted = (
        list(given) if given else [*own[:1], *size] if size else [1 if dim in symbols - {"?"} else dim for dim in own]
    )
    agrees = len(wanted) == len(own) and all(
        dim in (size, *symbols) or not isinstance(dim, int) for dim, size in zip(own, wanted, strict=False)
    )
    if not agrees or not all(isinstance(size, int) for size in wanted):
        shown = "x".join(map(str, own))
        raise ModelError(
            f"model {spec.model!r}: the file leaves sizes of its input {value.name!r} ({shown}) open, or has others; "
            f"give its whole shape{' without the batch' if is_batched else ''}, such as --input {value.name}="
            + "x".join(str(size if isinstance(size, int) else 64) for size in own)
        )
    return GraphInput(value.name, tuple(int(size) for size in wanted), dtype, None, is_batched)


def _draw(random: np.random.Generator, shape: Shape, wanted: GraphInput) -> Array:
    """Values of the shape: with structure at a coarse and a fine scale where they are images; 0 and 1 of integers."""
    if wanted.value is not None:
        return np.asarray(wanted.value, wanted.dtype)
    if wanted.dtype.kind != "f":
        return random.integers(2, size=shape).astype(wanted.dtype)
    fine = random.standard_normal(shape)
    if len(shape) == IMAGE_AXES:
        places = [np.arange(size) * COARSE_SIDE // size for size in shape[2:]]
        coarse = random.standard_normal((*shape[:2], COARSE_SIDE, COARSE_SIDE))
        fine = 0.5 * fine + coarse[:, :, places[0][:, None], places[1][None, :]]
    return fine.astype(wanted.dtype)


def _copied(model: onnx.ModelProto, source: Path, file: Path) -> Path:
    """The graph in the artifact, with weights of the source's second file in one of its own, and all nodes named."""
    nameless = [node for node in model.graph.node if not node.name]
    for node in nameless:  # else a profile could not tell them
        node.name = name_of(node)
    if not _is_whole(source):
        onnx.save(model, str(file), save_as_external_data=True, location=f"{file.name}.data")
    elif nameless:
        onnx.save(model, str(file))
    else:
        shutil.copyfile(source, file)
    return file


def _is_whole(source: Path) -> bool:
    graph = onnx.load(str(source), load_external_data=False).graph
    return not any(tensor.external_data for tensor in graph.initializer)


def _reference(model: onnx.ModelProto, feeds: Feeds, graph: Path) -> Reference:
    """The most exact way to run the graph that works."""
    try:
        exact = Float64(model)
        exact(feeds)
        return Reference("onnx's reference implementation in float64", exact, is_float64=True)
    except Exception:  # whatever an operator's implementation raises
        pass
    try:
        plain = ReferenceEvaluator(model)
        plain.run(None, dict(feeds))
        return Reference(
            "onnx's reference implementation in float32",
            lambda feed: list(plain.run(None, dict(feed))),
            is_float64=False,
        )
    except Exception:
        session = _session(graph)
        return Reference(
            "unoptimised ONNX Runtime in float32", lambda feed: list(session.run(None, dict(feed))), is_float64=False
        )


def _session(graph: Path) -> ort.InferenceSession:
    try:
        return make_session(str(graph), "cpu", 1, "disabled")
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise ModelError(f"model {graph.name!r}: ONNX Runtime cannot load it: {words}") from None


def _float32_error(graph: Path, feeds: Sequence[Feeds], whole: list[int], outputs: tuple[Array, ...]) -> float:
    """How far unoptimised float32 is from float64."""
    session = _session(graph)
    runs = [session.run(None, dict(feed)) for feed in feeds]
    return compare_all("", _joined(runs, whole), outputs, scales_of(outputs, LEAST_OF_FILE), MAX_LIMIT).error or 0.0


def _joined(runs: Sequence[Sequence[Array]], whole: Sequence[int]) -> tuple[Array, ...]:
    """Each output of the runs: its images one after the other, or whole along a first axis of its own."""
    outputs = zip(*runs, strict=True)
    return tuple((np.stack if place in whole else np.concatenate)(each) for place, each in enumerate(outputs))


def reference_of_file(facts: ArtifactFacts, folder: Path, images: Array) -> tuple[Array, ...]:
    """The outputs (N, ...) of an artifact's graph of one input for images (N, ...), as exact as its reference."""
    graph, unit = folder / GRAPH, facts.batch or 1
    model = onnx.load(graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    name = next(value.name for value in model.graph.input if value.name not in weights)
    feeds = [{name: images[start : start + unit]} for start in range(0, len(images) - unit + 1, unit)]
    reference = _reference(model, feeds[0], graph)
    return _joined([reference.run(feed) for feed in feeds], facts.whole_outputs)


def count(request: Count) -> CounterResults:
    """The counts of the file's graph. Raises ModelError for a file that cannot be used."""
    model = _read(request.spec)
    return _counted(model, inputs_of(model.graph, request.spec)[0])


def trace_file(request: Trace) -> Traced:
    """The layers of the file's graph. Raises ModelError for a file that cannot be used, or whose shapes are unknown."""
    model = _read(request.spec)
    try:
        return trace(model, _whole_shapes(inputs_of(model.graph, request.spec)[0]))
    except ModelError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise ModelError(f"model {request.spec.model!r}: onnx cannot infer the shapes in its graph: {words}") from None


def _with_weights(model: onnx.ModelProto) -> onnx_ir.Model:
    """The graph with its constants of several values as initialisers, since some exporters write weights as nodes."""
    found = onnx_ir.from_proto(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=2)(found)
    return found


def _whole_shapes(inputs: Sequence[GraphInput]) -> dict[str, Shape]:
    return {each.name: (1, *each.shape) if each.is_batched else each.shape for each in inputs}


def _counted(model: onnx.ModelProto, inputs: Sequence[GraphInput]) -> CounterResults:
    try:
        counts = counter.count(_with_weights(model), shapes_of=_whole_shapes(inputs))
        return CounterResults(closed_form=None, counted={"onnx": counts})
    except Exception as error:
        return CounterResults(closed_form=None, counted={}, failed={"onnx": " ".join(str(error).split())[:300]})
