"""A model's training step exported from its artifact, and proved against torch in float64."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.torch import load_file
from torch import nn

from cnnbench.errors import WorkerError
from cnnbench.records import files
from cnnbench.records.artifact import GOLDEN, STEP, STEP_FACTS, WEIGHTS, locked, read_facts, read_step
from cnnbench.records.messages import BuildStep
from cnnbench.records.record import Parity, StepFacts
from cnnbench.suite.optimizer import TIMED_LEARNING_RATE, Optimizer
from cnnbench.worker import models
from cnnbench.worker.export.training.step import CannotExport, export_step
from cnnbench.worker.reference.labels import PROOF_IMAGES, labels_for, proof_images
from cnnbench.worker.reference.parity import MIN_LIMIT, ROOM, compare_losses
from cnnbench.worker.runtimes.step_session import StepSession
from cnnbench.worker.trainers import EagerTrainer, Images, Labels, OrtTrainer, Trainer, Values

PROOF_STEPS, FURTHER_STEPS = 1, 2
"""Steps after which tensors are compared, and those after them of which the losses alone are: in deep networks the
second step amplifies the first update's rounding errors, in float32 everywhere, until gradients mean nothing."""
MIN_TYPICAL_LIMIT, MIN_WORST_LIMIT = 2e-3, 2e-2
"""Of a tensor's change: the median of all tensors, and the worst of them. Where rounding moves the input of a rectifier
across zero, gradients of a few tensors change by much more than rounding, in torch's float32 as in ours: up to 1.6 %
was seen in DenseNet-121, in other tensors at each run."""

NOTHING = 1e-6
"""A tensor that changes by less than this share of the one that changes most has a gradient of zero but for rounding,
such as a bias before batch normalisation; it is judged by that share."""


@dataclass(frozen=True)
class Trained:
    """Where some steps have led."""

    losses: list[float]
    values: Values
    """In float64, before the further steps."""


def build_step(request: BuildStep) -> StepFacts:
    """Export the step with the artifact's weights, have onnx check it, prove it, and write it to `out`.

    That a step cannot be exported, or is wrong, is in the facts; they are written beside the graph where that is the
    artifact's own. One process builds an artifact's step; others that want it meanwhile wait, and take it.
    """
    folder, out = Path(request.folder), Path(request.out)
    if out != folder / STEP:
        return _build(request, folder, out)
    with locked(folder):
        known = read_step(folder)
        if known is not None and known.error is None:
            return known
        facts = _build(request, folder, out)
        files.write(folder / STEP_FACTS, facts.model_dump_json(indent=1))
    return facts


def _build(request: BuildStep, folder: Path, out: Path) -> StepFacts:
    known = read_facts(folder)
    if known is None:
        raise WorkerError(f"no finished artifact in {folder}")
    module, _ = models.build(request.spec)
    module.load_state_dict(load_file(folder / WEIGHTS))
    reference_inputs = load_file(folder / GOLDEN)["images"].numpy()
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    try:
        model = export_step(module, torch.from_numpy(reference_inputs[:2]), request.optimizer)
        seconds["export"] = time.perf_counter() - start
        with files.replacing(out) as file:
            onnx.save(model, str(file))
            start = time.perf_counter()
            labels = labels_for(PROOF_IMAGES, known.classes, request.spec.seed)
            session = StepSession.of(str(file), torch.get_num_threads())
            facts = first_that_passes(
                prove(
                    module,
                    session,
                    proof_images(reference_inputs, first),
                    labels,
                    request.optimizer,
                    further=FURTHER_STEPS,
                ).model_copy(update={"first_image": first})
                for first in range(len(reference_inputs) - PROOF_IMAGES + 1)
            )
        seconds["prove"] = time.perf_counter() - start
        size = {"onnx_bytes": out.stat().st_size, "nodes": len(model.graph.node)}
        facts = facts.model_copy(update={**size, "seconds": seconds})
    except CannotExport as error:
        facts = StepFacts(error=str(error), seconds=seconds)
    return facts


def first_that_passes(proofs: Iterable[StepFacts]) -> StepFacts:
    """Of proofs of one step on different images, the first that passes; the first of all where none does.

    A wrong gradient is wrong on all images. A rectifier's input that rounding moves across zero in one runtime alone
    moves every gradient before it, in networks with small last maps by a percent, but only on some images, and on
    other ones with another processor: MobileNetV2's step at 96x96 passed with AVX-512 and not with AVX2.
    """
    found: StepFacts | None = None
    for proof in proofs:
        if all(parity.passed for parity in proof.parity):
            return proof
        found = found or proof
    assert found is not None
    return found


def prove(
    module: nn.Module,
    session: StepSession,
    images: Images,
    labels: Labels,
    optimizer: Optimizer,
    steps: int = PROOF_STEPS,
    rate: float = TIMED_LEARNING_RATE,
    further: int = 0,
) -> StepFacts:
    """Steps in ONNX Runtime from the module's weights against torch's in float64, with nothing dropped.

    For each tensor the error is the norm of its difference from float64's, over the norm of float64's change. It may be
    ROOM times what torch itself is off in float32, and so may the median of all tensors.
    """
    double, single = (
        train(EagerTrainer(without_dropping(module).to(dtype), optimizer, rate), images, labels, steps, further)
        for dtype in (torch.float64, torch.float32)
    )
    ours = train(OrtTrainer(module, session, rate, drop=False), images, labels, steps, further)
    before = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    limit = max(ROOM * (compare_losses("", single.losses, double.losses, 1.0).error or 0.0), MIN_LIMIT)
    found = [compare_losses(f"ort, losses of {steps + further} steps", ours.losses, double.losses, limit)]
    changes = {name: float(np.linalg.norm(after - before.get(name, 0.0))) for name, after in double.values.items()}
    least = NOTHING * max(changes.values())
    groups: dict[str, Callable[[str], bool]] = {
        "parameters": {name for name, _ in module.named_parameters()}.__contains__,
        "buffers": {name for name, _ in module.named_buffers()}.__contains__,
        "optimizer's states": lambda name: name not in before,
    }
    for group, belongs in groups.items():
        names = [name for name in double.values if belongs(name)]
        errors = {name: _errors(name, max(changes[name], least), double, ours, single) for name in names}
        if errors:
            found += _judged(f"ort, {group} after {steps} step{'s' * (steps > 1)}", errors)
    return StepFacts(losses=double.losses, loss_limit=limit, parity=found)


def _errors(name: str, scale: float, double: Trained, *others: Trained) -> list[float]:
    """Of a tensor, for each of the others: how far it is from float64's, over the scale."""
    distances = [float(np.linalg.norm(other.values[name] - double.values[name])) / scale for other in others]
    return [distance if np.isfinite(distance) else math.inf for distance in distances]


def _judged(what: str, errors: Mapping[str, list[float]]) -> list[Parity]:
    """The worst tensor and the median, from each tensor's own error and torch's."""
    limits = {name: max(ROOM * torchs, MIN_WORST_LIMIT) for name, (_, torchs) in errors.items()}
    worst = max(errors, key=lambda name: errors[name][0] / limits[name])
    own, torchs = (float(np.median([each[i] for each in errors.values()])) for i in range(2))
    return [
        Parity(what=f"{what}, worst {worst}", error=_known(errors[worst][0]), limit=limits[worst]),
        Parity(what=f"{what}, median of {len(errors)}", error=_known(own), limit=max(ROOM * torchs, MIN_TYPICAL_LIMIT)),
    ]


def _known(error: float) -> float | None:
    return error if math.isfinite(error) else None


def train(trainer: Trainer, images: Images, labels: Labels, steps: int, further: int = 0) -> Trained:
    """Steps on the same images, and the values after the first `steps` of them."""
    losses = [trainer.step(images, labels) for _ in range(steps)]
    values = {name: value.astype(np.float64) for name, value in trainer.values().items()}
    return Trained([*losses, *(trainer.step(images, labels) for _ in range(further))], values)


def without_dropping(module: nn.Module) -> nn.Module:
    """A copy whose dropout and stochastic depth have a rate of zero."""
    copied = copy.deepcopy(module)
    for child in copied.modules():
        if isinstance(child, nn.modules.dropout._DropoutNd) or type(child).__name__ == "StochasticDepth":
            child.p = 0.0  # type: ignore[assignment]
    return copied
