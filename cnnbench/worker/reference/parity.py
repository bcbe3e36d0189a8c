"""An artifact's reference, and outputs against it, relative to the part that depends on the input. No torch here."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import GOLDEN, read_facts
from cnnbench.records.cache import note_use
from cnnbench.records.record import ArtifactFacts, GraphFacts, Parity
from cnnbench.suite.case import AMP, NOISE, QUANTISED, Case, Precision

Array = NDArray[Any]
Tensors = Array | tuple[Array, ...]
"""One array; where a model has several inputs or outputs, one for each, in order."""
Value = TypeVar("Value")
PROOF_IMAGES = 4
"""On how many reference inputs a training step is checked."""

ROOM = 10.0
"""A correct runtime may be so many times as far from float64 as eager float32 was when the artifact was built: other
orders of summation differ by small factors, wrong graphs by far larger ones."""
ROOM_OF_QUANTISED = 2.0
"""Engines round a quantised graph's values at other places, so that some are one step of int8 off: as large an error
again as the graph has by itself is taken for that."""
MIN_QUANTISED_LIMIT, MAX_QUANTISED_LIMIT = 0.05, 0.85
"""Of the sine of the angle to the reference. At 0.85 quantisation has added 1.6 times as much as the input decides;
MobileNetV2 with random weights has 0.7. Outputs that ignore their input, or are of other images, have 0.95 or more."""
MIN_LIMIT, MAX_LIMIT = 1e-5, 1e-2
RESOLVED = 1e-6
"""The least share of an output's values that float32 can tell from rounding."""
LEAST_OF_FILE = 0.1
"""The same for an ONNX file, whose trained network may put out nearly the same for any reference input."""

ROUNDOFF_OF_FP32 = {"bf16": 2.0**16, "fp16": 2.0**13}
"""How many times coarser the 16-bit formats are than float32: 8 and 11 bits of significand against 24."""
VECTOR_AXES = 2
MIN_MIXED_LIMIT, MAX_MIXED_LIMIT = 1e-2, 0.6
"""In output RMS. Deep networks with random weights amplify rounding: in bfloat16 single values of ResNet-50 are off by
1.7, and all of them by 0.43 in the root mean square, the most among ten architectures (`tests/test_parity.py` has an
output that ignores its input: 1, and one of other images: 1.4)."""


def limit_for(eager_error: float, precision: Precision = "fp32", graph: GraphFacts | None = None) -> float:
    """The largest error, in output RMS, that runs of a model may show.

    It comes from eager float32's own error and the significand's length; for a quantised graph from the graph's own
    error, its nodes computed one by one.
    """
    if graph is not None and graph.own_error is not None and precision in QUANTISED:
        return min(max(ROOM_OF_QUANTISED * graph.own_error, MIN_QUANTISED_LIMIT), MAX_QUANTISED_LIMIT)
    if precision in QUANTISED:
        return MAX_QUANTISED_LIMIT
    if precision == "fp32":
        return min(max(ROOM * eager_error, MIN_LIMIT), MAX_LIMIT)
    return min(max(ROUNDOFF_OF_FP32[precision.removeprefix(AMP)] * eager_error, MIN_MIXED_LIMIT), MAX_MIXED_LIMIT)


def output_rms_of(reference: Array) -> float:
    """Root mean square of the reference (N, classes) minus its mean over the images: what the input decides."""
    return float(np.sqrt(np.mean(np.square(reference - reference.mean(axis=0, keepdims=True)))))


def compare(
    what: str, y: Array, reference: Array, output_rms: float, limit: float, precision: Precision = "fp32"
) -> Parity:
    """The error of y (N, classes) in output RMS; None where y is not finite or misshapen.

    In float32 that is the largest of all values, in a 16-bit format their root mean square: the largest is no smaller
    in a right output of a deep network than in a wrong one.
    """
    if y.shape != reference.shape or not np.isfinite(y).all() or not output_rms > 0:
        return Parity(what=what, error=None, limit=limit)
    difference = np.abs(y.astype(np.float64) - reference)
    if precision == "fp32":
        return Parity(what=what, error=float(difference.max()) / output_rms, limit=limit)
    error = float(np.sqrt(np.mean(np.square(difference)))) / output_rms
    return Parity(what=f"{what}, root mean square", error=error, limit=limit)


def centres_of(references: Tensors, least: float = RESOLVED) -> list[Array]:
    """Of each output (N, ...), its mean over the images; zero where less than `least` of it depends on the image."""
    pairs = [(y.mean(axis=0), float(np.sqrt(np.mean(np.square(y))))) for y in several(references)]
    depends = [output_rms_of(y) > least * whole for y, (_, whole) in zip(several(references), pairs, strict=True)]
    return [mean if is_more else np.zeros_like(mean) for (mean, _), is_more in zip(pairs, depends, strict=True)]


def compare_angles(what: str, outputs: Tensors, references: Tensors, centres: Sequence[Array], limit: float) -> Parity:
    """The worst of all outputs, by the sine of the angle between it and its reference, both minus the centre.

    0 for outputs that are equal but for a factor, 1 for unrelated ones; None as in `compare`. Quantisation may add more
    to the outputs of a deep network with random weights than depends on the input, and they still point the same way.
    """
    ys, expected = several(outputs), several(references)
    if len(ys) != len(expected):
        return Parity(what=what, error=None, limit=limit)
    sines = [_sine(y, reference, centre) for y, reference, centre in zip(ys, expected, centres, strict=True)]
    worst = None if None in sines else max(sine for sine in sines if sine is not None)
    return Parity(what=f"{what}, angle", error=worst, limit=limit)


def _sine(y: Array, reference: Array, centre: Array) -> float | None:
    if y.shape != reference.shape or not np.isfinite(y).all():
        return None
    ours, theirs = ((each.astype(np.float64) - centre).ravel() for each in (y, reference))
    size = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    cosine = float(ours @ theirs) / size if size else 0.0
    return math.sqrt(max(0.0, 1 - cosine**2)) if cosine > 0 else 1.0


def same_class(y: Tensors, reference: Tensors) -> float | None:
    """The share of images whose largest output is in the same place; None where the first output is no vector."""
    ours, theirs = several(y)[0], several(reference)[0]
    if ours.shape != theirs.shape or ours.ndim != VECTOR_AXES:
        return None
    return float(np.mean(ours.argmax(1) == theirs.argmax(1)))


def own_error_of(
    case: Case, outputs: Tensors, references: Tensors, least: float = RESOLVED
) -> tuple[float | None, float | None]:
    """The error of what is made for a case, by its outputs for the reference images, as its runs are compared; and the
    share of images whose largest output is in the same place."""
    known = min(map(len, several(outputs)))
    reference = part(references, slice(known))
    if case.is_quantised:
        # Random images are alike. Of data, the outputs of some are near the mean, and a small batch may be of these.
        groups = [range(known)] if case.calibration == NOISE else batches(known)
        centres = centres_of(references, least)
        each = [compare_angles("", part(outputs, g), part(reference, g), centres, MAX_QUANTISED_LIMIT) for g in groups]
        found = max(each, key=lambda parity: math.inf if parity.error is None else parity.error)
    else:
        found = compare_all("", outputs, reference, scales_of(references, least), MAX_MIXED_LIMIT, case.precision)
    return found.error, same_class(outputs, reference)


def scales_of(references: Tensors, least: float = RESOLVED) -> list[float]:
    """Of each output (N, ...), the RMS of what depends on the input; of its values where less than `least` does."""
    sizes = [(output_rms_of(y), float(np.sqrt(np.mean(np.square(y))))) for y in several(references)]
    return [part if part > least * whole else whole or 1.0 for part, whole in sizes]


def compare_all(
    what: str,
    outputs: Tensors,
    references: Tensors,
    scales: Sequence[float],
    limit: float,
    precision: Precision = "fp32",
) -> Parity:
    """The worst of all outputs, each in units of its own scale."""
    ys, expected = several(outputs), several(references)
    if len(ys) != len(expected):
        return Parity(what=what, error=None, limit=limit)
    names = [what] if len(expected) == 1 else [f"{what}, output {place}" for place in range(len(expected))]
    found = [compare(*each, limit, precision) for each in zip(names, ys, expected, scales, strict=True)]
    return max(found, key=lambda parity: math.inf if parity.error is None else parity.error)


def compare_losses(what: str, losses: Sequence[float], reference: Sequence[float], limit: float) -> Parity:
    """The largest difference of the losses of consecutive steps, relative to the first."""
    if not reference or len(losses) != len(reference) or not np.isfinite(losses).all():
        return Parity(what=what, error=None, limit=limit)
    error = max(abs(a - b) for a, b in zip(losses, reference, strict=True)) / abs(reference[0])
    return Parity(what=what, error=error, limit=limit)


def batches(count: int) -> list[range]:
    """Consecutive batches of 1, 2, 3, ... images that use up `count` of them."""
    found: list[range] = []
    start = 0
    while start < count:
        found.append(range(start, min(start + len(found) + 1, count)))
        start = found[-1].stop
    return found


def several(tensors: Tensors) -> tuple[Array, ...]:
    """All arrays, also where there is one."""
    return tensors if isinstance(tensors, tuple) else (tensors,)


def each(function: Callable[[Array], Array], tensors: Tensors) -> Tensors:
    """The function of the array, or of each."""
    return tuple(map(function, tensors)) if isinstance(tensors, tuple) else function(tensors)


def part(tensors: Tensors, places: range | slice) -> Tensors:
    """Some images."""
    return each(lambda array: array[places], tensors)


def tiled(images: Tensors, batch: int) -> Tensors:
    """`batch` images, the given ones over and over."""
    return each(lambda array: np.ascontiguousarray(np.resize(array, (batch, *array.shape[1:]))), images)


def numbered(name: str, values: Sequence[Value]) -> dict[str, Value]:
    """The first under the name, the others under the name with their number behind it."""
    return {f"{name}.{place}" if place else name: value for place, value in enumerate(values)}


class Golden(NamedTuple):
    """Reference inputs (N, ...) of an artifact, and outputs in float64."""

    images: Tensors
    reference: Tensors


def open_artifact(folder: Path, golden: str = GOLDEN) -> tuple[ArtifactFacts, Golden]:
    """Facts, and the reference in the file of this name. Raises WorkerError if the artifact is not finished."""
    facts = read_facts(folder)
    if facts is None:
        raise WorkerError(f"no finished artifact in {folder}")
    note_use(folder)
    values = load_file(folder / golden)

    def read(name: str) -> Tensors:
        found = tuple(values[key] for key in numbered(name, range(len(values))) if key in values)
        return found if len(found) > 1 else found[0]

    return facts, Golden(read("images"), read("reference"))


def labels_for(count: int, classes: int, seed: int, places: tuple[int, ...] = ()) -> Array:
    """(count, *places) int64 class numbers: of each image, or of each place of a dense prediction."""
    return np.random.default_rng(seed).integers(classes, size=(count, *places))
