"""A model's training step exported from its artifact, and compared with torch in float64."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from safetensors.torch import load_file
from torch import nn

from cnnbench.records import files
from cnnbench.records.artifact import IMAGES, WEIGHTS, ordered_file, read_step, seal, step_files
from cnnbench.records.cache import locked
from cnnbench.records.messages import BuildStep
from cnnbench.records.record import ArtifactFacts, Parity, StepFacts
from cnnbench.suite.optimizer import TIMED_LEARNING_RATE, Optimizer
from cnnbench.worker import models
from cnnbench.worker.copies import casts_to_double, copied, nothing_dropped
from cnnbench.worker.export.training.step import CannotExport, export_step
from cnnbench.worker.hooks import hooked
from cnnbench.worker.reference import parity
from cnnbench.worker.reference.parity import PROOF_IMAGES, ROOM, Array, Tensors, compare_losses, part, several
from cnnbench.worker.runtimes.eager import EagerTrainer, weights_of
from cnnbench.worker.runtimes.ordered import ordered
from cnnbench.worker.runtimes.ort_training import StepSession
from cnnbench.worker.trainable import freeze

PROOF_STEPS, FURTHER_STEPS = 1, 2
"""Steps after which tensors are compared, and those after them of which the losses alone are: in deep networks the
second step amplifies the first update's rounding errors, in float32 everywhere, until gradients mean nothing."""
MIN_TYPICAL_LIMIT, MIN_WORST_LIMIT, MAX_LIMIT = 2e-3, 2e-2, 0.4
"""Of a tensor's change: the median of all tensors, the worst of them, and any. Where rounding moves the input of a
rectifier across zero, gradients of a few tensors change by much more than rounding, in torch's float32 as in ours: up
to 1.6 % was seen in DenseNet-121, in other tensors at each run, and 32 % of one in Inception-v4 at 96x96, whose last
maps are single pixels. A tensor without its gradient is off by 1, with half of it by 0.5."""
LOSS_SHARE = 0.5
"""A loss after a step is compared if rounding may move it by at most this share of what the step changes it by. With
random weights, some networks amplify rounding a million times within two steps."""
NOTHING = 1e-6
"""A tensor that changes by less than this share of the one that changes most has a gradient of zero but for rounding,
such as a bias before batch normalisation; it is judged by that share."""
RESOLUTION = 2.0**-20
"""A tensor that changes by less than this share of itself is judged by that share: float32 rounds each of its values by
up to 2**-24, whatever the gradient is, which the optimizer's states still show."""


class Deviation(NamedTuple):
    """How far a tensor is from float64's after some steps, as a share of its change."""

    name: str
    own: float
    torchs: float
    """In float32."""
    least: float
    """Of limits."""

    @property
    def limit(self) -> float:
        """Of its own error."""
        return min(max(ROOM * self.torchs, self.least), MAX_LIMIT)

    @property
    def is_unclear(self) -> bool:
        """Whether it is beyond the bound, and torch may be as well, so that these images show nothing."""
        return self.limit < self.own <= ROOM * self.torchs

    @property
    def is_wrong(self) -> bool:
        """Whether rounding does not explain it."""
        return self.own > self.limit and not self.is_unclear

    def parity(self, what: str) -> Parity:
        """As it is recorded."""
        return Parity(
            what=f"{what}, {self.name}", error=self.own if math.isfinite(self.own) else None, limit=self.limit
        )

    def unclear(self, what: str) -> str:
        """Why nothing is shown."""
        return (
            f"nothing shows whether it is right ({what}, {self.name}): PyTorch's own step in float32 "
            f"differs from float64's by {self.torchs:.1%} of its change, so that an error of {self.own:.1%} may be "
            "rounding; larger images or other weights may show it"
        )


class Trained(NamedTuple):
    """Where some steps have led."""

    losses: list[float]
    values: dict[str, Array]
    """Before the further steps."""


def build_step(request: BuildStep) -> StepFacts:
    """Export the step with the artifact's weights, have onnx check it, compare it with float64, and write it to `out`.

    That a step cannot be exported, or is wrong, is in the facts; they are written beside the graph where that is the
    artifact's own, and others that want it meanwhile wait.
    """
    folder, out = Path(request.folder), Path(request.out)
    graph, written = step_files(request.trainable)
    if out != folder / graph:
        return _build(request, folder, out)
    with locked(folder):
        known = read_step(folder, request.trainable)
        if known is not None and known.error is None:
            return known
        facts = _build(request, folder, out)
        files.write(folder / written, facts.model_dump_json(indent=1))
        seal(folder, parity.open_artifact(folder)[0].key)
    return facts


def _build(request: BuildStep, folder: Path, out: Path) -> StepFacts:
    known, reference = parity.open_artifact(folder)
    module, images = models.rebuild(request.spec, known), reference.images
    module.load_state_dict(load_file(folder / WEIGHTS))
    freeze(module, known, request.trainable, request.spec.label)
    try:
        return _exported(module, request, known, images, out)
    except CannotExport as error:
        return StepFacts(error=str(error))


def _exported(module: nn.Module, request: BuildStep, known: ArtifactFacts, images: Tensors, out: Path) -> StepFacts:
    start = time.perf_counter()
    examples = map(torch.from_numpy, several(part(images, slice(2))))
    given = dict(zip(known.inputs or (IMAGES,), examples, strict=True))
    model = export_step(module, given, request.optimizer, known.places)
    exported = time.perf_counter()
    with files.replacing(out) as file:
        onnx.save(model, str(file))
        begun = time.perf_counter()
        labels = parity.labels_for(PROOF_IMAGES, known.classes, request.spec.seed, known.places)
        runs = ordered(file)
        session = StepSession.of_ordered(runs, torch.get_num_threads())

        def proof(first: int) -> StepFacts:
            chosen = part(images, slice(first, first + PROOF_IMAGES))
            found = prove(module, session, chosen, labels, request.optimizer, further=FURTHER_STEPS)
            return found.model_copy(update={"first_image": first})

        facts = first_that_passes(map(proof, range(len(several(images)[0]) - PROOF_IMAGES + 1)))
        if facts.error is not None:
            raise CannotExport(facts.error)
        files.write(ordered_file(out), runs)
    seconds = {"export": exported - start, "prove": time.perf_counter() - begun}
    size = {"onnx_bytes": out.stat().st_size, "nodes": len(model.graph.node)}
    return facts.model_copy(update={**size, "seconds": seconds})


def first_that_passes(proofs: Iterable[StepFacts]) -> StepFacts:
    """Of proofs of one step on different images, the first that passes; the first that shows an error where none does.

    A wrong gradient is wrong on all images. Rounding that moves a rectifier's input across zero in one runtime moves
    every gradient before it, by a percent in networks with small last maps, but only on some images: MobileNetV2's step
    at 96x96 passed with AVX-512 and not with AVX2.
    """
    failed = []
    for proof in proofs:
        if all(each.passed for each in proof.parity):
            return proof
        failed.append(proof)
    return next((proof for proof in failed if proof.error is None), failed[0])


def prove(
    module: nn.Module,
    session: StepSession,
    images: Tensors,
    labels: Array,
    optimizer: Optimizer,
    steps: int = PROOF_STEPS,
    rate: float = TIMED_LEARNING_RATE,
    further: int = 0,
) -> StepFacts:
    """Steps in ONNX Runtime from the module's weights against torch's in float64, with nothing dropped.

    For each tensor the error is the norm of its difference from float64's, over the norm of float64's change. It may be
    ROOM times what torch itself is off in float32, within bounds, and so may the median of all tensors. Where torch is
    off by so much that an error beyond the bound proves nothing, the facts have an `error` that says so. Losses are
    compared as far as they say something. Raises CannotExport where torch's own step gives what is not a number.
    """
    # Copied outside: in these modes each copied parameter would be seen with, and convert, all that were copied before.
    trainers = [EagerTrainer(each, optimizer, rate) for each in (copied(module).double(), copied(module))]
    with nothing_dropped():
        with casts_to_double():
            double = train(trainers.pop(0), images, labels, steps, further)
        single = train(trainers.pop(0), images, labels, steps, further)
    _check_finite(double)
    session.begin(weights_of(module), rate, drop=False)
    ours = train(session, images, labels, steps, further)
    if left_out := [name for name in double.values if name not in ours.values]:
        raise CannotExport(
            f"PyTorch's own step changes {left_out[0]}, and the exported one does not: a gradient that no trace of the "
            "forward pass shows goes there, such as past a value that is written over under `no_grad`"
        )
    before = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    count, limit = _comparable(single.losses, double.losses)
    losses = double.losses[:count]
    what = f"ort, losses of {_steps(count)}"
    found = [compare_losses(what, ours.losses[:count], losses, limit)]
    unclear: list[str] = []
    changes = {name: _distance(after, before.get(name, 0.0)) for name, after in double.values.items()}
    least = {name: RESOLUTION * _distance(value, 0.0) for name, value in before.items()}
    nothing = NOTHING * max(changes.values())

    def errors_of(name: str) -> tuple[float, float]:
        """How far a tensor is from float64's, ours and torch's in float32, as a share of its change."""
        scale = max(changes[name], nothing, least.get(name, 0.0))
        distances = (_distance(each.values[name], double.values[name]) / scale for each in (ours, single))
        own, torchs = (distance if math.isfinite(distance) else math.inf for distance in distances)
        return own, torchs

    groups = {
        "parameters": {name for name, _ in module.named_parameters()},
        "buffers": {name for name, _ in module.named_buffers()},
        "optimizer's states": double.values.keys() - before.keys(),
    }
    for group, names in groups.items():
        found_errors = {name: errors_of(name) for name in double.values if name in names}
        # One that changes in neither, because nothing of it is trained, says nothing of how right the others are.
        errors = {name: error for name, error in found_errors.items() if changes[name] or any(error)}
        if errors:
            judged, of_these = _judged(f"ort, {group} after {_steps(steps)}", errors)
            found, unclear = found + judged, unclear + of_these
    failed = sum(not each.passed for each in found)
    if failed > len(unclear):
        forward = compare_losses("ort, loss before any gradient", ours.losses[:1], double.losses[:1], limit)
        errors = {name: errors_of(name) for name in groups["parameters"] & double.values.keys()}
        found += _where_it_begins(module, images, errors) if forward.passed else [forward]
    session.begin(weights_of(module), rate, drop=False, in_place=True)
    in_place = _same_bits(ours, train(session, images, labels, steps, further))
    error = unclear[0] if failed == len(unclear) > 0 else None
    return StepFacts(error=error, losses=losses, loss_limit=limit, parity=found, in_place=in_place)


def _distance(one: Array, other: Array | float) -> float:
    """The norm of the difference, in float64, of values of any type."""
    return float(np.linalg.norm(np.subtract(one, other, dtype=np.float64)))


def _same_bits(one: Trained, other: Trained) -> bool:
    """Whether no node reads a value after a step has written over it: the losses after it would be others."""
    values = (np.array_equal(value, other.values[name], equal_nan=True) for name, value in one.values.items())
    return one.losses == other.losses and all(values)


def _comparable(single: Sequence[float], double: Sequence[float]) -> tuple[int, float]:
    """How many of consecutive losses show whether the steps before them are right, and how far they may be off.

    They are torch's in float32 and float64; errors are relative to the first.
    """
    count, limit = 1, min(max(ROOM * abs(single[0] / double[0] - 1), parity.MIN_LIMIT), parity.MAX_LIMIT)
    for before, after, rounded in zip(double, double[1:], single[1:], strict=False):
        needed = max(ROOM * abs((rounded - after) / double[0]), limit)  # the first where that is not a number
        if not needed <= LOSS_SHARE * abs((after - before) / double[0]):
            break
        count, limit = count + 1, needed
    return count, limit


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"


def _judged(what: str, errors: Mapping[str, tuple[float, float]]) -> tuple[list[Parity], list[str]]:
    """The worst tensor and the median, from each tensor's own error and torch's; and which of them shows nothing."""
    tensors = [Deviation(f"worst {name}", *both, MIN_WORST_LIMIT) for name, both in errors.items()]
    own, torchs = map(float, np.median(list(errors.values()), axis=0))
    found = [
        max(tensors, key=lambda each: (each.is_wrong, each.own / each.limit)),
        Deviation(f"median of {len(errors)}", own, torchs, MIN_TYPICAL_LIMIT),
    ]
    return [each.parity(what) for each in found], [each.unclear(what) for each in found if each.is_unclear]


def _where_it_begins(module: nn.Module, images: Tensors, errors: Mapping[str, tuple[float, float]]) -> list[Parity]:
    """The first parameter whose gradient is wrong, going backwards through the modules as they are called."""
    called: list[str] = []
    once = copied(module).train()
    with hooked(once, lambda name, *_: called.append(name)), torch.no_grad(), nothing_dropped():
        once(*map(torch.from_numpy, several(images)))
    places = {name: place for place, name in enumerate(called)}
    backwards = sorted(errors, key=lambda name: places.get(name.rpartition(".")[0], -1), reverse=True)
    tensors = (Deviation(name, *errors[name], MIN_WORST_LIMIT) for name in backwards)
    first = next((tensor for tensor in tensors if tensor.is_wrong), None)
    return [first.parity("ort, the first wrong gradient going backwards")] if first else []


def train(trainer: EagerTrainer | StepSession, images: Tensors, labels: Array, steps: int, further: int = 0) -> Trained:
    """Steps on the same images, and the values after the first `steps` of them."""
    losses = [trainer.train(images, labels) for _ in range(steps)]
    values = {name: value.copy() for name, value in trainer.values().items()}
    return Trained([*losses, *(trainer.train(images, labels) for _ in range(further))], values)


def _check_finite(trained: Trained) -> None:
    """Raises CannotExport where torch itself computes what is not a number."""
    if not math.isfinite(trained.losses[0]):
        raise CannotExport(
            "the loss of PyTorch's own step, in float64, is not a finite number: nothing can be compared"
        )
    worst = next((name for name, value in trained.values.items() if not np.isfinite(value).all()), None)
    if worst is not None:
        raise CannotExport(
            f"after PyTorch's own step, in float64, {worst} is not a number: its gradient is not finite, such as that "
            "of a square root at zero, or the learning rate is too large"
        )
