"""A module made into an artifact: weights, reference inputs and outputs, and graph in one folder."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cnnbench.errors import ModelError
from cnnbench.records.artifact import FACTS, GOLDEN, GRAPH, WEIGHTS
from cnnbench.records.messages import Build
from cnnbench.records.record import ArtifactFacts
from cnnbench.records.toolchain import library_versions
from cnnbench.suite.case import ModelSpec
from cnnbench.worker import models
from cnnbench.worker.counters import collect as counters
from cnnbench.worker.export import failure, inference
from cnnbench.worker.reference import inputs as reference_inputs
from cnnbench.worker.reference.parity import (
    MAX_LIMIT,
    Tensors,
    compare_all,
    limit_for,
    numbered,
    output_rms_of,
    scales_of,
)
from cnnbench.worker.signature import flat, shapes_of, zeros
from cnnbench.worker.trainable import survey
from cnnbench.worker.weights import load_weights


def fill(request: Build, folder: Path) -> ArtifactFacts:
    """Build the model, count it, randomise degenerate parameters, compute its reference, export and check its graph."""
    spec = request.spec
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    with stage("instantiate"):
        module, inputs = models.build(spec)
        trial = models.try_out(module, inputs, spec)
    with stage("count"):
        collected = counters.collect(module, inputs, spec)
        order, heads = survey(module, *zeros(inputs))
    begun_anew: list[str] = []
    with stage("randomise"):
        given = load_file(request.weights) if request.weights else {}
        if spec.weights:
            begun_anew = load_weights(module, spec, heads)
        elif spec.is_program_file:
            pass  # it has its own
        elif _shapes(given) == _shapes(module.state_dict()):
            module.load_state_dict(given)
            module.eval()
        else:  # none, or another network's
            reference_inputs.randomise_degenerate(module, inputs, spec.seed)
    with stage("reference"):
        images = reference_inputs.draw(reference_inputs.GOLDEN_IMAGES, inputs, spec.seed)
        _check_repeats(module, images, spec)
        outputs = reference_inputs.reference(module, images)
        reference = tuple(output.numpy() for output in outputs)
        with torch.inference_mode():
            in_float32 = tuple(output.numpy() for output in flat(module(*images)))
    output_rms = max(map(output_rms_of, reference))
    eager_error = compare_all("eager", in_float32, reference, scales_of(reference), MAX_LIMIT).error
    if eager_error is None or not output_rms > 0:
        raise ModelError(f"model {spec.model!r}: expected finite outputs that depend on the image; got others")
    mixes_images = eager_error > MAX_LIMIT and _mixes_images(module, images, reference)
    state = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    save_file({**numbered("images", images), **numbered("reference", outputs)}, folder / GOLDEN)
    graph, opset, problem = folder / GRAPH, None, None
    try:
        with stage("export"):
            program = inference.trace(module, *(x[: inference.EXPORT_BATCH] for x in images))
            collected = counters.collect_graph(collected, module, images, lambda: program)
            opset = inference.save(program, module, graph)
        with stage("check"):
            onnx.checker.check_model(str(graph), full_check=True)
    except Exception as error:
        problem = failure.reason(error, module, images)
        graph.unlink(missing_ok=True)
    facts = ArtifactFacts(
        key=request.key,
        input_shape=shapes_of(inputs)[0],
        classes=trial.classes,
        inputs={name: tuple(shape) for name, shape in inputs.items()} if isinstance(inputs, Mapping) else {},
        outputs=trial.outputs if [len(shape) for shape in trial.outputs] != [1] else [],
        order=order,
        heads=heads,
        begun_anew=begun_anew,
        writes_input=trial.writes_input,
        mixes_images=mixes_images,
        weight_bytes=inference.weight_bytes(module),
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


def _check_repeats(module: nn.Module, images: Sequence[torch.Tensor], spec: ModelSpec) -> None:
    """Raises ModelError for a model that draws random numbers in inference: it has no reference to compare with."""
    layer = None if spec.closed_form else reference_inputs.random_module(module, [x[:1] for x in images])
    if layer is not None:
        where = f"layer {layer!r} or what it calls" if layer else "the model's own `forward`"
        raise ModelError(
            f"model {spec.model!r}: its outputs differ between two calls on the same images in evaluation mode: "
            f"{where} draws random numbers, or goes by what it kept of an earlier call; make it do so in training mode "
            "alone"
        )


def _mixes_images(module: nn.Module, images: Sequence[torch.Tensor], alone: Tensors) -> bool:
    """Whether outputs in float64 for all images at once are others than for each alone."""
    together = reference_inputs.reference(module, images, at_once=len(images[0]))
    return not compare_all("", tuple(y.numpy() for y in together), alone, scales_of(alone), MAX_LIMIT).passed


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}
