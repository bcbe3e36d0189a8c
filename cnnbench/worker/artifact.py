"""A model made into an artifact: weights, reference inputs and outputs, and graph in one folder."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cnnbench.errors import ModelError
from cnnbench.records.artifact import (
    BUILDING,
    FACTS,
    GOLDEN,
    GRAPH,
    WEIGHTS,
    library_versions,
    locked,
    read_facts,
)
from cnnbench.records.messages import Build
from cnnbench.records.record import ArtifactFacts
from cnnbench.worker import models
from cnnbench.worker.counters import collect as counters
from cnnbench.worker.export import inference
from cnnbench.worker.reference import inputs as reference_inputs
from cnnbench.worker.reference.parity import MAX_LIMIT, compare, limit_for, output_rms_of


def build_artifact(request: Build) -> ArtifactFacts:
    """Build the model, count it, randomise degenerate parameters, compute its reference, export and check its graph.

    The folder appears at once, complete. Why a graph cannot be exported is in the facts; the rest is of use
    without it. One process builds an artifact; others that want it meanwhile wait, and take it. Raises ModelError for a
    model that cannot be built or run.
    """
    folder = Path(request.folder)
    with locked(folder):
        known = read_facts(folder)
        return known if known is not None and known.onnx_error is None else _build(request, folder)


def _build(request: Build, folder: Path) -> ArtifactFacts:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{BUILDING}{os.getpid()}-"))
    try:
        facts = _fill(request, temporary)
        if folder.exists():  # an older attempt, whose export failed
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return facts


def _fill(request: Build, folder: Path) -> ArtifactFacts:
    spec = request.spec
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    with stage("instantiate"):
        module, image = models.build(spec)
        classes = models.try_out(module, image, spec)
    with stage("count"):
        collected = counters.collect(module, image, spec)
    with stage("randomise"):
        if request.weights is None or not _take(module, load_file(request.weights)):
            reference_inputs.randomise_degenerate(module, image, spec.seed)
    with stage("reference"):
        images = reference_inputs.images(reference_inputs.GOLDEN_IMAGES, image, spec.seed)
        reference = reference_inputs.reference(module, images)
        with torch.inference_mode():
            in_float32 = module(images)
    output_rms = output_rms_of(reference.numpy())
    eager_error = compare("eager", in_float32.numpy(), reference.numpy(), output_rms, MAX_LIMIT).error
    if eager_error is None:
        raise ModelError(f"model {spec.model!r}: expected finite outputs that depend on the image; got others")
    state = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    save_file({"images": images, "reference": reference}, folder / GOLDEN)
    graph, opset, problem = folder / GRAPH, None, None
    try:
        with stage("export"):
            program = inference.trace(module, images[: inference.EXPORT_BATCH])
            collected = counters.collect_graph(collected, program)
            opset = inference.save(program, module, graph)
        with stage("check"):
            inference.check(graph)
    except Exception as error:
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        graph.unlink(missing_ok=True)
    facts = ArtifactFacts(
        key=request.key,
        input_shape=image,
        classes=classes,
        weight_bytes=sum(t.numel() * t.element_size() for t in state.values()),
        onnx_bytes=sum(f.stat().st_size for f in folder.glob(f"{GRAPH}*")) if graph.exists() else None,
        onnx_error=problem,
        opset=opset,
        output_rms=output_rms,
        eager_error=eager_error,
        parity_limit=limit_for(eager_error),
        denormal_share=reference_inputs.denormal_share(module, images),
        seconds=seconds,
        counters=collected,
        versions={**library_versions(), "torch_threads": str(torch.get_num_threads())},
    )
    (folder / FACTS).write_text(json.dumps(facts.model_dump(), indent=1))
    return facts


def _take(module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    """Put weights into a module in evaluation mode; False, and nothing is changed, where they are another network's."""
    own = module.state_dict()
    if {name: tensor.shape for name, tensor in own.items()} != {name: t.shape for name, t in weights.items()}:
        return False
    module.load_state_dict(weights)
    module.eval()
    return True
