"""Training for its own sake: epochs over a data set in one of the runtimes, evaluated in both."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.torch import save_file

from cnnbench.errors import InputError
from cnnbench.records import files
from cnnbench.records.task_messages import Epoch, Evaluated, StartTraining, TrainingStarted
from cnnbench.worker import models
from cnnbench.worker.data.read import read
from cnnbench.worker.export import inference
from cnnbench.worker.export.training.step import export_step
from cnnbench.worker.reference.parity import Array
from cnnbench.worker.runtimes.eager import EagerTrainer, weights_of
from cnnbench.worker.runtimes.ort import make_session
from cnnbench.worker.runtimes.ort_training import StepSession

EVALUATION_BATCH = 500


class TrainingRun:
    """Epochs over the training images in an order that the seed settles, the same in every runtime."""

    def __init__(self, request: StartTraining) -> None:
        """Read the data and build the model. Raises InputError for files or a model that do not fit."""
        torch.set_num_threads(request.threads)
        self.request = request
        self.module, image = models.build(request.spec)
        if isinstance(image, Mapping):
            raise InputError(f"{request.spec.label}: expected a model of one input; it takes {', '.join(image)}")
        self.data = read(request.data, image, models.try_out(self.module, image, request.spec).classes)
        if request.batch > (count := len(self.data.train.labels)):
            raise InputError(f"--batch: expected at most the {count:,} training images; got {request.batch:,}")
        self.example = torch.zeros(inference.EXPORT_BATCH, *image)
        self._folder = tempfile.TemporaryDirectory(prefix="cnnbench-")
        self.folder = Path(self._folder.name)
        self.trainer = self._trainer()
        self.random = np.random.default_rng(request.spec.seed)
        self.steps_per_epoch = count // request.batch
        """Complete batches; the images left over, others in each epoch, are left out."""
        self._steps = self._epoch()

    def _trainer(self) -> EagerTrainer | StepSession:
        request, module = self.request, self.module
        if request.runtime == "eager":
            return EagerTrainer(module, request.optimizer, request.rate)
        file = str(self.folder / "step.onnx")
        onnx.save(export_step(module, self.example, request.optimizer), file)
        session = StepSession.of(file, request.threads)
        session.begin(weights_of(module), request.rate, drop=True)
        return session

    def started(self) -> TrainingStarted:
        """How much there is to do."""
        train, test = len(self.data.train.labels), len(self.data.test.labels)
        return TrainingStarted(train_images=train, test_images=test, steps_per_epoch=self.steps_per_epoch)

    def advance(self, seconds: float) -> Epoch:
        """Steps for about so long, or until the epoch is over; the next call then begins another."""
        end, over = time.monotonic() + seconds, False
        losses: list[float] = []
        for loss in self._steps:
            losses.append(loss)
            if time.monotonic() >= end:
                break
        else:
            self._steps, over = self._epoch(), True
        mean = float(np.mean(losses)) if losses and np.isfinite(losses).all() else None
        return Epoch(steps=len(losses), loss=mean, over=over)

    def evaluate(self, out: str) -> Evaluated:
        """Save the weights, and the share of test images that both runtimes put into the right class."""
        values = self.trainer.values()
        weights = {name: torch.from_numpy(values[name].copy()) for name in self.module.state_dict()}
        try:
            with files.replacing(Path(out)) as file:
                save_file(weights, file)
        except OSError as error:
            raise InputError(f"{out}: cannot be written: {error.strerror}") from None
        evaluated, _ = models.build(self.request.spec)
        evaluated.load_state_dict(weights)
        evaluated.eval()
        graph = self.folder / "model.onnx"
        inference.save(inference.trace(evaluated, self.example), evaluated, graph)
        session = make_session(str(graph), "cpu", self.request.threads)
        with torch.inference_mode():
            return Evaluated(
                accuracy={
                    "eager": self._accuracy(lambda images: evaluated(torch.from_numpy(images)).numpy()),
                    "ort": self._accuracy(lambda images: session.run(None, {inference.INPUT: images})[0]),
                }
            )

    def _accuracy(self, predict: Callable[[Array], Array]) -> float:
        images, labels = self.data.test
        chosen = [slice(start, start + EVALUATION_BATCH) for start in range(0, len(images), EVALUATION_BATCH)]
        right = (predict(self.data.prepare(images[each])).argmax(1) == labels[each] for each in chosen)
        return sum(int(each.sum()) for each in right) / len(images)

    def _epoch(self) -> Iterator[float]:
        images, labels = self.data.train
        order = self.random.permutation(len(labels))
        for step in range(self.steps_per_epoch):
            chosen = order[step * self.request.batch : (step + 1) * self.request.batch]
            yield self.trainer.train(self.data.prepare(images[chosen]), labels[chosen])
