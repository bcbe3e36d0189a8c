"""What a model's layers put out for an image: maps, histograms, dead units, kernels and receptive fields."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.activations import Activations, activations_of, channel_axes
from cnnbench.errors import CnnbenchError, InputError
from cnnbench.networks.network import Network
from cnnbench.networks.receptive import Field, joined, receptive_fields
from cnnbench.records import artifact
from cnnbench.records.dataset import DataSet
from cnnbench.records.record import ArtifactFacts
from cnnbench.records.task_messages import OwnInput, PrepareTest, TestPrepared, Value
from cnnbench.runner import machine
from cnnbench.runner.artifacts import LIMIT_S, Artifacts
from cnnbench.runner.tasks.diverge import Comparison, Contender, open_graphs
from cnnbench.runner.tasks.trace import read
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import ModelSpec

REFERENCE = "float64"
POINTWISE = {
    *("add", "batch_norm", "cat", "clone", "dropout", "gelu", "hardsigmoid", "hardswish", "hardtanh", "mul"),
    *("permute", "relu", "relu6", "sigmoid", "silu"),
}
"""Operations whose output depends on the same place of their inputs alone; their names are those of torch.export."""
MAX_SHOWN = 5
"""Layers that a message names."""


@dataclass(frozen=True)
class Layer:
    """One layer that has maps."""

    value: Value
    runs: dict[str, Activations]
    """By run; the reference is first."""
    field: tuple[Field, ...] | None
    """Its receptive field along each axis of the image; None where that is the whole image, empty if not known."""


@dataclass(frozen=True)
class Inspection:
    """A model's layers."""

    model: str
    image: NDArray[np.float32]
    """(C, H, W) or (C, L): the first that was put in."""
    source: str
    """Where it is from, in words."""
    images: int
    """How many were put in."""
    kernels: NDArray[np.float32] | None
    """(out, in, height, width) or (out, in, length) of the first convolution."""
    first: str
    """The first convolution's name."""
    layers: list[Layer] = field(default_factory=list)


def inspect_model(
    spec: ModelSpec,
    shown: Path | DataSet | None,
    layers: str,
    contenders: Sequence[Contender],
    batch: int,
    memory_bytes: int,
) -> Inspection:
    """Read the layers whose name matches a pattern, in float64 and in each run.

    They see one image of the user's, `batch` of a data set's test images, or as many reference images.
    Raises InputError for a pattern that nothing matches, a model without maps, and a data set that does not fit it;
    ModelError, WorkerError.
    """
    with Artifacts() as artifacts:
        facts, folder = open_graphs(artifacts, spec, contenders, batch)
        batch = facts.batch or batch
        image, source = None, "a reference image"
        if isinstance(shown, Path):
            image, source = OwnInput(file=str(shown)), str(shown)
        elif shown:
            image, source = _test_images(spec, facts, shown, batch, artifacts.logs)
        chosen: list[int] = []
        found: dict[int, dict[str, Activations]] = {}
        with Comparison(spec, folder, batch, memory_bytes, artifacts.logs, image) as compared:

            def watch(place: int, run: str, values: NDArray[np.float64]) -> None:
                if not chosen:
                    chosen.extend(_chosen(spec, compared.values, layers))
                if place in chosen:
                    axis = channel_axes(compared.values)[place]
                    assert axis is not None
                    found.setdefault(place, {})[run or REFERENCE] = activations_of(np.moveaxis(values, axis, 1))

            compared.run(contenders, watch)
        fields = _fields(spec, compared.values)
        first = next((value for value in compared.values if value.operator.lower().startswith("conv")), None)
        return Inspection(
            model=spec.label,
            image=compared.image.astype(np.float32),
            source=source,
            images=batch,
            kernels=_kernels(spec, folder, first),
            first=first.module if first else "",
            layers=[Layer(compared.values[p], found[p], fields[p]) for p in sorted(found)],
        )


def _test_images(
    spec: ModelSpec, facts: ArtifactFacts, data: DataSet, count: int, folder: Path
) -> tuple[OwnInput, str]:
    """A file of so many, and what the first of them is."""
    if facts.inputs:
        raise InputError(f"{spec.label}: expected a model of one input; it takes {', '.join(facts.inputs)}")
    file = str(folder / "images.npy")
    with Worker(folder / "data.log", machine.usable_threads(), LIMIT_S) as worker:
        request = PrepareTest(data=data, shape=facts.input_shape, classes=None, out=file, count=count)
        found = worker.ask(request, TestPrepared)
    return OwnInput(file=file, is_batch=True), f"{found.classes[found.labels[0]]!r} of {data.name}"


def _chosen(spec: ModelSpec, values: Sequence[Value], pattern: str) -> list[int]:
    axes = channel_axes(values)
    with_maps = [place for place, axis in enumerate(axes) if axis is not None]
    if not with_maps:
        raise InputError(
            f"{spec.label}: none of its layers has feature maps; expected outputs (N, C, H, W) or (N, C, L)"
        )
    found = [place for place in with_maps if fnmatchcase(values[place].module, pattern)]
    if not found:
        names = list(dict.fromkeys(values[place].module for place in with_maps))
        shown = ", ".join(names[:MAX_SHOWN]) + (f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else "")
        raise InputError(f"--layers: no layer of {spec.label} with feature maps matches {pattern!r}; they are {shown}")
    return found


def _fields(spec: ModelSpec, values: Sequence[Value]) -> list[tuple[Field, ...] | None]:
    """Of each value; none are known of a model that cannot be traced."""
    try:
        return fields_of(read(spec).network, values)
    except CnnbenchError:
        return [()] * len(values)


def fields_of(network: Network, values: Sequence[Value]) -> list[tuple[Field, ...] | None]:
    """Of each value: that of the layer of its name and shape, or what its inputs have, where it adds nothing to it."""
    by_name, shapes = receptive_fields(network), {layer.name: layer.output_shape for layer in network.layers}
    found: list[tuple[Field, ...] | None] = []
    for value in values:
        inputs = [found[place] for place in value.inputs]
        sides = {values[place].shape[2:] for place in value.inputs}
        known = [each for each in inputs if each]
        if shapes.get(value.module) == value.shape[1:]:
            found.append(by_name[value.module])
        elif value.operator not in POINTWISE or () in inputs or not inputs:
            found.append(())
        elif len(known) < len(inputs) or len(sides) > 1:  # what one place stands for is spread over all
            found.append(None)
        else:
            whole = joined(known)
            found.append(None if whole is None else tuple(each for each in whole if each is not None))
    return found


def _kernels(spec: ModelSpec, folder: Path, first: Value | None) -> NDArray[np.float32] | None:
    from safetensors.numpy import load_file

    if first is None:
        return None
    if spec.is_onnx_file:
        return load_file(folder / artifact.GOLDEN).get(artifact.KERNELS)
    return load_file(folder / artifact.WEIGHTS).get(f"{first.module}.weight")
