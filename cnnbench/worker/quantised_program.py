"""A module quantised to int8 by PyTorch's own recipe: torch.export, and torchao's static PT2E quantisation for x86.

It differs from the graphs of ONNX Runtime's quantiser in which nodes are quantised and how ranges are found, so that it
is an artifact of its own.
"""

import importlib
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from cnnbench.errors import WorkerError
from cnnbench.records import files
from cnnbench.records.artifact import WEIGHTS, graph_file
from cnnbench.records.record import GraphFacts
from cnnbench.suite.case import Case
from cnnbench.suite.runtimes import QUANTISER
from cnnbench.worker import models
from cnnbench.worker.calibration_images import digest_of, images_for
from cnnbench.worker.export import inference
from cnnbench.worker.exported_program import load_quantised, quantiser
from cnnbench.worker.reference.parity import open_artifact, own_error_of, several
from cnnbench.worker.signature import flat, takes_any_number

FLOW = "torchao.quantization.pt2e.quantize_pt2e"
CALIBRATION_BATCH = 10
FLOP_OF_MAC = 2


def make(case: Case, folder: Path) -> GraphFacts:
    """Quantise the artifact's module, and write it as a program beside it.

    Weights are symmetric with a scale per output channel, activations unsigned with a scale per tensor. Why there is no
    program is in the facts. Raises InputError for calibration data that cannot be read or do not fit.
    """
    try:
        by = quantiser()
    except WorkerError as error:
        return GraphFacts(error=str(error))
    facts, golden = open_artifact(folder)
    images, golden, reference_digest = images_for(case, facts, folder, golden)
    module = models.rebuild(case.spec, facts)
    module.load_state_dict(load_file(folder / WEIGHTS))
    batches = [tuple(map(torch.from_numpy, each)) for each in _batches(images)]
    shapes: tuple[object, ...] = tuple({0: torch.export.Dim("batch", min=1)} for _ in images)
    if takes_any_number(module):  # its one parameter is a tuple
        shapes = (shapes,)
    start = time.perf_counter()
    with torch.no_grad(), warnings.catch_warnings(action="ignore"), inference.out_of_place(module.eval()):
        try:
            # The quantiser finds layers by the source that only strict tracing notes.
            program = torch.export.export(module, batches[0], dynamic_shapes=shapes, strict=True)
            seconds = {"prepare": time.perf_counter() - start}
            quantised = _quantised(program.module(), batches)
            macs = _macs(quantised, tuple(x[:1] for x in batches[0]))
            quantised_program = torch.export.export(quantised, batches[0], dynamic_shapes=shapes, strict=True)
        except Exception as error:
            return GraphFacts(error=inference.said(error, f"{by} cannot quantise it"))
        with files.replacing(folder / graph_file(case)) as file, file.open("wb") as stream:
            torch.export.save(quantised_program, stream)
    made = time.perf_counter()
    own_error, agreement = _own_error(case, folder, several(golden.images), several(golden.reference))
    seconds |= {"make": made - start - seconds["prepare"], "check": time.perf_counter() - made}
    return GraphFacts(
        graph_bytes=(folder / graph_file(case)).stat().st_size,
        macs=macs,
        own_error=own_error,
        agreement=agreement,
        calibration_images=len(images[0]),
        calibration_digest=digest_of(*images),
        reference_digest=reference_digest,
        seconds=seconds,
    )


def _quantised(module: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> fx.GraphModule:
    x86, flow = importlib.import_module(QUANTISER), importlib.import_module(FLOW)
    recipe = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = flow.prepare_pt2e(module, recipe)
    for batch in batches:
        prepared(*batch)
    converted = flow.convert_pt2e(prepared)
    return fx.GraphModule(converted, converted.graph)  # without the weights that it was made of


def _batches(images: Sequence[Any]) -> list[list[Any]]:
    """Of each input; no rest that is smaller, which might be of one image."""
    size = min(CALIBRATION_BATCH, len(images[0]))
    return [[x[at : at + size] for x in images] for at in range(0, len(images[0]) - size + 1, size)]


class _Counter(fx.Interpreter):
    """Runs a module node by node, and counts the multiply-accumulates of each."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.macs: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The node's value."""
        with FlopCounterMode(display=False) as counter:
            value = super().run_node(n)
        if flops := counter.get_total_flops():
            self.macs[n.name] = flops // FLOP_OF_MAC
        return value


def _macs(module: fx.GraphModule, image: tuple[Tensor, ...]) -> dict[str, int]:
    """For one image by the name of the node."""
    counter = _Counter(module)
    counter.run(*image)
    return counter.macs


def _own_error(
    case: Case, folder: Path, images: Sequence[Any], references: tuple[Any, ...]
) -> tuple[float | None, float | None]:
    """The error of the very program, run node by node in float32, and its agreement."""
    module = load_quantised(folder / graph_file(case))
    with torch.inference_mode():
        outputs = tuple(y.numpy() for y in flat(module(*map(torch.from_numpy, images))))
    return own_error_of(case, outputs, references)
