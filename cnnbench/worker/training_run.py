"""Training for its own sake: epochs over a data set in one of the runtimes, evaluated in both."""

import math
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from cnnbench.errors import InputError
from cnnbench.networks.trainable import ALL
from cnnbench.records import files, training_history
from cnnbench.records.artifact import DRAW
from cnnbench.records.task_messages import Epoch, Evaluated, StartTraining, TrainingStarted
from cnnbench.records.training_history import EpochResult, History, Trained, checkpoint_of, history_of
from cnnbench.worker import checkpoint, models, not_finite
from cnnbench.worker.data.parts import Labels, Part, split
from cnnbench.worker.data.read import read
from cnnbench.worker.data.transforms import Augmentation
from cnnbench.worker.export import inference
from cnnbench.worker.export.training.step import export_step
from cnnbench.worker.reference.parity import Array
from cnnbench.worker.runtimes.eager import EagerTrainer, weights_of
from cnnbench.worker.runtimes.ort import make_session
from cnnbench.worker.runtimes.ort_training import StepSession
from cnnbench.worker.trainable import freeze, survey
from cnnbench.worker.weights import load_weights

EVALUATION_BATCH = 500
COPY_EVERY_S = 20.0
"""How often a copy is kept from which steps are repeated to find where numbers cease to be finite."""


class Copy(NamedTuple):
    """All that a run's next step depends on, at a step of the epoch."""

    step: int
    values: dict[str, Array]
    random: torch.Tensor
    """The state of torch's generator, which eager's dropout draws from."""
    seconds: float


class TrainingRun:
    """Epochs over the training images in an order that seed and epoch settle, the same in every runtime."""

    def __init__(self, request: StartTraining) -> None:
        """Read the data and build the model. Raises InputError for files or a model that do not fit."""
        torch.set_num_threads(request.threads)
        self.request, self.out = request, Path(request.out)
        self.module, image = models.build(request.spec)
        if isinstance(image, Mapping):
            raise InputError(f"{request.spec.label}: expected a model of one input; it takes {', '.join(image)}")
        if request.label_smoothing:
            self.module.__dict__[models.LABEL_SMOOTHING] = request.label_smoothing
        heads: list[str] = []
        if request.spec.weights or request.trainable != ALL:
            how = survey(self.module, torch.zeros(1, *image))
            heads = how.heads
            freeze(self.module, how, request.trainable, request.spec.label)
        if request.spec.weights:
            load_weights(self.module, request.spec, heads)
        self.data = read(request.data, image, models.try_out(self.module, image, request.spec).classes)
        run = checkpoint.run_of(request, (*self.data.train, *self.data.test))
        self.train, self.held_out = self.data.train, None
        if request.patience is not None:
            self.train, self.held_out = split(self.train, request.held_out, request.spec.seed, "--held-out")
        self.augmentation = None
        if request.transforms:
            self.augmentation = Augmentation(request.transforms, self.train.images[0], request.data.name)
            self.data.prepare.check(self.augmentation.shape)
        if request.batch > (count := len(self.train.labels)):
            raise InputError(f"--batch: expected at most the {count:,} training images; got {request.batch:,}")
        self.example = torch.zeros(inference.EXPORT_BATCH, *image)
        self.folder = Path(tempfile.mkdtemp(prefix="cnnbench-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.steps_per_epoch = count // request.batch
        """Complete batches; the images left over, others in each epoch, are left out."""
        self.state = checkpoint.State(run=run, history=[])
        found = None
        if request.resume and (file := checkpoint_of(self.out)).exists():
            shapes = {name: tuple(tensor.shape) for name, tensor in self.module.state_dict().items()}
            self.state, found = checkpoint.load(file, run, shapes)
        self.trainer = self._trainer(found)
        self.losses: list[float] = []
        """Of the epoch's steps so far."""
        self.seconds = self.state.history[-1].seconds if self.state.history else 0.0
        self._steps = self._epoch()
        self._copy: Copy | None = None
        """Of this epoch."""

    @property
    def epoch(self) -> int:
        """Epochs that are over."""
        return len(self.state.history)

    @property
    def is_over(self) -> bool:
        """Whether early stopping ends the run."""
        return self.request.patience is not None and self.state.stale >= self.request.patience

    def _trainer(self, found: Mapping[str, Array] | None) -> EagerTrainer | StepSession:
        request, module = self.request, self.module
        if request.runtime == "eager":
            trainer = EagerTrainer(module, request.optimizer, request.rate)
            if found is not None:
                trainer.resume(found, self.epoch * self.steps_per_epoch)
            return trainer
        file = str(self.folder / "step.onnx")
        onnx.save(export_step(module, self.example, request.optimizer), file)
        session = StepSession.of(file, request.threads)
        draw = np.asarray(request.spec.seed % 2**30 << 32, np.int64)
        session.begin(found or {**weights_of(module), DRAW: draw}, request.rate, drop=True)
        return session

    def started(self) -> TrainingStarted:
        """How much there is to do."""
        return TrainingStarted(
            train_images=len(self.train.labels),
            test_images=len(self.data.test.labels),
            parameters=sum(parameter.numel() for parameter in self.module.parameters()),
            steps_per_epoch=self.steps_per_epoch,
            done=self.state.history,
            over=self.is_over,
        )

    def advance(self, seconds: float) -> Epoch:
        """Steps for about so long, or until the epoch is over; `evaluate` ends it.

        Raises InputError where the loss is not a finite number.
        """
        self._keep_copy()
        begun, first, over = time.monotonic(), len(self.losses), False
        for loss in self._steps:
            self.losses.append(loss)
            if not math.isfinite(loss):
                raise InputError(self._diverged(f"the loss is {loss}", self._where()))
            if time.monotonic() >= begun + seconds:
                break
        else:
            over = True
        took = time.monotonic() - begun
        self.seconds += took
        mean = float(np.mean(self.losses[first:])) if len(self.losses) > first else None
        return Epoch(steps=len(self.losses) - first, loss=mean, seconds=took, over=over)

    def evaluate(self) -> Evaluated:
        """End the epoch: write weights, history and checkpoint, with the share of images that are put into their class.

        Raises InputError for what cannot be written, and for weights that are not finite numbers.
        """
        values = self.trainer.values()
        weights = {name: torch.from_numpy(values[name].copy()) for name in self.module.state_dict()}
        if wrong := next((name for name, tensor in weights.items() if not tensor.isfinite().all()), None):
            raise InputError(self._diverged(f"{wrong} is not finite"))
        self.evaluated.load_state_dict(weights)
        held_out, accuracy = self._accuracies()
        is_best = held_out is None or self.state.best is None or held_out > self.state.best
        result = EpochResult(
            epoch=self.epoch + 1,
            seconds=self.seconds,
            loss=float(np.mean(self.losses)),
            rate=self._rate(len(self.losses) - 1),
            accuracy=accuracy,
            held_out=held_out,
        )
        best, stale = (held_out, 0) if is_best else (self.state.best, self.state.stale + 1)
        history = [*self.state.history, result]
        self.state = self.state.model_copy(update={"history": history, "best": best, "stale": stale})
        trained = Trained(model=self.request.spec.label, runtime=self.request.runtime, data=self.request.data.name)
        try:
            if is_best:
                with files.replacing(self.out) as file:
                    save_file(weights, file)
            training_history.write(history_of(self.out), History(run=trained, epochs=history))
            checkpoint.save(checkpoint_of(self.out), values, self.state)
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be written: {error.strerror}") from None
        self.losses, self._steps, self._copy = [], self._epoch(), None
        return Evaluated(result=result, over=self.is_over)

    @cached_property
    def evaluated(self) -> nn.Module:
        """The model in evaluation mode, with weights of its own."""
        return models.build(self.request.spec)[0].eval()

    @cached_property
    def program(self) -> torch.onnx.ONNXProgram:
        """Its graph, which shares its weights."""
        return inference.trace(self.evaluated, self.example)

    def _accuracies(self) -> tuple[float | None, dict[str, float]]:
        """The shares of held-out images, in the runtime that trains, and of test images in both."""
        evaluated, graph = self.evaluated, self.folder / "model.onnx"
        inference.save(self.program, evaluated, graph, optimize=False)
        session = make_session(str(graph), "cpu", self.request.threads)
        runtimes: dict[str, Callable[[Array], Array]] = {
            "eager": lambda images: evaluated(torch.from_numpy(images)).numpy(),
            "ort": lambda images: session.run(None, {inference.INPUT: images})[0],
        }
        if self.request.compare == "last epoch" and self.epoch + 1 < self.request.epochs:
            runtimes = {self.request.runtime: runtimes[self.request.runtime]}
        with torch.inference_mode():
            own = runtimes[self.request.runtime]
            held_out = None if self.held_out is None else self._accuracy(own, self.held_out)
            return held_out, {name: self._accuracy(each, self.data.test) for name, each in runtimes.items()}

    def _accuracy(self, predict: Callable[[Array], Array], part: Part) -> float:
        images, labels = part
        chosen = [slice(start, start + EVALUATION_BATCH) for start in range(0, len(images), EVALUATION_BATCH)]
        right = (predict(self.data.prepare(images[each])).argmax(1) == labels[each] for each in chosen)
        return sum(int(each.sum()) for each in right) / len(images)

    def _epoch(self, start: int = 0) -> Iterator[float]:
        """Losses of the next epoch's steps; what is random depends on seed and epoch alone.

        From a later step on, torch's generator must be in the state that it had there.
        """
        if start == 0:
            torch.manual_seed(int(self._random()[1].integers(2**62)))
        order = self._random()[0].permutation(len(self.train.labels))
        for step in range(start, self.steps_per_epoch):
            self.trainer.set_rate(self._rate(step))
            yield self.trainer.train(*self._batch(order, step))

    def _random(self) -> list[np.random.Generator]:
        """Generators of the epoch's order and of its dropout."""
        return np.random.default_rng([self.request.spec.seed, self.epoch]).spawn(2)

    def _batch(self, order: NDArray[np.intp], step: int) -> tuple[NDArray[np.float32], Labels]:
        """Images as the model takes them, and labels."""
        images, labels = self.train.chosen(order[step * self.request.batch : (step + 1) * self.request.batch])
        if self.augmentation is not None:
            seeds = np.random.SeedSequence([self.request.spec.seed, self.epoch], spawn_key=(2, step))
            images = self.augmentation(images, int(seeds.generate_state(1)[0]))
        return self.data.prepare(images), labels

    def _keep_copy(self) -> None:
        """Copy what the next step depends on, where there is no recent copy of this epoch."""
        if self._copy is None or self.seconds >= self._copy.seconds + COPY_EVERY_S:
            values = {name: value.copy() for name, value in self.trainer.values().items()}
            self._copy = Copy(len(self.losses), values, torch.get_rng_state(), self.seconds)

    def _where(self) -> str:
        """The layer where the last step's numbers cease to be finite, found by repeating the steps before it."""
        if (copy := self._copy) is None:
            return ""
        last = len(self.losses) - 1
        if isinstance(self.trainer, StepSession):
            self.trainer.begin(copy.values, self.request.rate, drop=True)
        else:
            self.trainer = EagerTrainer(self.module, self.request.optimizer, self.request.rate)
            self.trainer.resume(copy.values, self.epoch * self.steps_per_epoch + copy.step)
            torch.set_rng_state(copy.random)
        for _ in zip(range(last - copy.step), self._epoch(copy.step), strict=False):
            pass
        values = self.trainer.values()
        self.module.load_state_dict({name: torch.from_numpy(values[name].copy()) for name in self.module.state_dict()})
        images, _ = self._batch(self._random()[0].permutation(len(self.train.labels)), last)
        return not_finite.first_layer(self.module, torch.from_numpy(images))

    def _rate(self, step: int) -> float:
        """The learning rate at a step of the epoch, from 0."""
        request = self.request
        at = self.epoch * self.steps_per_epoch + step
        return request.rate * request.schedule.factor(at, self.steps_per_epoch, request.epochs)

    def _diverged(self, what: str, where: str = "") -> str:
        """Where the run has diverged and what can be changed."""
        request, step = self.request, len(self.losses)
        at = f"step {step:,} of epoch {self.epoch + 1} (of {self.steps_per_epoch:,} steps each)"
        advice = [f"a lower --lr than {request.rate:g}"]
        advice += ["a --warmup"] * (not request.schedule.warmup)
        advice += ["a --clip"] * (request.optimizer.max_norm is None)
        return f"the training diverged: {what} at {at}{where and f'; {where}'}; try {' or '.join(advice)}"
