"""A model's training step exported from its artifact, and proved against torch in float64."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import GOLDEN, STEP, STEP_FACTS, WEIGHTS, read_facts
from cnnbench.records.messages import BuildStep
from cnnbench.records.record import Parity, StepFacts
from cnnbench.suite.optimizer import TIMED_LEARNING_RATE, Optimizer
from cnnbench.worker import models
from cnnbench.worker.export.training.step import CannotExport, export_step
from cnnbench.worker.reference.labels import PROOF_IMAGES, labels_for, proof_images
from cnnbench.worker.reference.parity import MIN_LIMIT, ROOM, compare_losses
from cnnbench.worker.runtimes.eager import optimizer_of
from cnnbench.worker.runtimes.step_session import StepSession

PROOF_STEPS, FURTHER_STEPS = 1, 2
"""Steps after which tensors are compared, and those after them of which the losses alone are: in deep networks the
second step amplifies the first update's rounding errors, in float32 everywhere, until gradients tell nothing."""
MIN_TYPICAL_LIMIT, MIN_WORST_LIMIT = 2e-3, 2e-2
"""Of a tensor's change: the median of all tensors, and the worst of them. Where rounding moves the input of a rectifier
across zero, gradients of a few tensors change by much more than rounding, in torch's float32 as in ours: up to 1.6 %
was seen in DenseNet-121, in other tensors at each run."""

NOTHING = 1e-6
"""A tensor that changes by less than this share of the one that changes most has a gradient of zero but for rounding,
such as a bias before batch normalisation; it is judged by that share."""

Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Trained:
    """Where some steps have led."""

    losses: list[float]
    values: Values
    """Parameters, buffers and the optimizer's states, by the names that the exported step has for them, before the
    further steps."""


def build_step(request: BuildStep) -> StepFacts:
    """Export the step with the artifact's weights, have onnx check it, prove it, and write it to `out`.

    A step that cannot be exported, or is wrong, is told in the facts; they are written beside the graph where that is
    the artifact's own.
    """
    folder, out = Path(request.folder), Path(request.out)
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
        onnx.save(model, str(out))
        start = time.perf_counter()
        labels = labels_for(PROOF_IMAGES, known.classes, request.spec.seed)
        session = session_of(out)
        facts = first_that_passes(
            prove(
                module, session, proof_images(reference_inputs, first), labels, request.optimizer, further=FURTHER_STEPS
            ).model_copy(update={"first_image": first})
            for first in range(len(reference_inputs) - PROOF_IMAGES + 1)
        )
        seconds["prove"] = time.perf_counter() - start
        size = {"onnx_bytes": out.stat().st_size, "nodes": len(model.graph.node)}
        facts = facts.model_copy(update={**size, "seconds": seconds})
    except CannotExport as error:
        facts = StepFacts(error=str(error), seconds=seconds)
    if out == folder / STEP:
        (folder / STEP_FACTS).write_text(facts.model_dump_json(indent=1))
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


def session_of(graph: Path) -> StepSession:
    """The step in ONNX Runtime on the CPU, with as many threads as torch has."""
    return StepSession(str(graph), "cpu", torch.get_num_threads())


def prove(
    module: nn.Module,
    session: StepSession,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    optimizer: Optimizer,
    steps: int = PROOF_STEPS,
    rate: float = TIMED_LEARNING_RATE,
    further: int = 0,
) -> StepFacts:
    """Steps in ONNX Runtime from the module's weights against torch's in float64, with nothing dropped.

    For each tensor the error is the norm of its difference from float64's, over the norm of float64's change. It may be
    ROOM times what torch itself is off in float32, and so may the median of all tensors.
    """
    double = train_in_torch(module, images, labels, optimizer, steps, rate, torch.float64, further)
    single = train_in_torch(module, images, labels, optimizer, steps, rate, torch.float32, further)
    ours = train_in_ort(module, session, images, labels, steps, rate, further)
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
            found += _judged(f"ort, {group} after {_steps(steps)}", errors)
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


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _known(error: float) -> float | None:
    return error if math.isfinite(error) else None


def train_in_ort(
    module: nn.Module,
    session: StepSession,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    steps: int,
    rate: float,
    further: int = 0,
) -> Trained:
    """Steps in ONNX Runtime from the module's weights."""
    session.begin({name: tensor.numpy() for name, tensor in module.state_dict().items()}, rate, drop=False)
    session.bind(images, labels)
    losses = []
    values: Values = {}
    for number in range(steps + further):
        session.step()
        losses.append(session.loss)
        if number == steps - 1:
            values = {name: value.astype(np.float64) for name, value in session.values().items()}
    return Trained(losses, values)


def train_in_torch(
    module: nn.Module,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    optimizer: Optimizer,
    steps: int,
    rate: float,
    dtype: torch.dtype,
    further: int = 0,
) -> Trained:
    """Steps by torch's autograd and optimizer from the module's weights, which stay as they are."""
    module = without_dropping(module).to(dtype).train()
    torchs = optimizer_of(module, optimizer, rate)
    x, y = torch.from_numpy(images).to(dtype), torch.from_numpy(labels)
    losses = []
    values: Values = {}
    for number in range(steps + further):
        torchs.zero_grad()
        loss = models.loss(module(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        torchs.step()
        losses.append(float(loss.detach()))
        if number == steps - 1:
            values = _values(module, torchs, optimizer)
    return Trained(losses, values)


def _values(module: nn.Module, torchs: torch.optim.Optimizer, optimizer: Optimizer) -> Values:
    """Copies of parameters, buffers and the optimizer's states in float64."""
    values = {name: tensor.detach().double().numpy().copy() for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        values |= _states(name, torchs.state[parameter], optimizer.states)
    return values


def _states(name: str, state: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    return {f"{name}.{key}": state[key].double().numpy().copy() for key in wanted if state.get(key) is not None}


def without_dropping(module: nn.Module) -> nn.Module:
    """A copy whose dropout and stochastic depth have a rate of zero."""
    copied = copy.deepcopy(module)
    for child in copied.modules():
        if isinstance(child, nn.modules.dropout._DropoutNd) or type(child).__name__ == "StochasticDepth":
            child.p = 0.0  # type: ignore[assignment]
    return copied
