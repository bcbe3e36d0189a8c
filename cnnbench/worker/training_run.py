"""Training for its own sake: epochs over a data set in one of the runtimes, evaluated in both."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from cnnbench.errors import InputError
from cnnbench.records import files
from cnnbench.records.task_messages import Epoch, Evaluated, StartTraining, TrainingStarted
from cnnbench.worker import models
from cnnbench.worker.dataset_files import prepared, read_idx
from cnnbench.worker.export import inference
from cnnbench.worker.export.training.step import export_step
from cnnbench.worker.runtimes.step_session import StepSession
from cnnbench.worker.trainers import EagerTrainer, Images, OrtTrainer, Trainer

EVALUATION_BATCH = 500


class TrainingRun:
    """Epochs over the training images in an order that the seed settles, the same in every runtime."""

    def __init__(self, request: StartTraining) -> None:
        """Read the data and build the model. Raises InputError for files or a model that do not fit."""
        torch.set_num_threads(request.threads)
        self.request = request
        self.module, image = models.build(request.spec)
        data = request.data
        raw = {"train": read_idx(data.train_images), "test": read_idx(data.test_images)}
        mean, deviation = float(raw["train"].mean()), float(raw["train"].std())
        self.images = {part: prepared(pixels, mean, deviation, image) for part, pixels in raw.items()}
        labels = {"train": read_idx(data.train_labels), "test": read_idx(data.test_labels)}
        self.labels = {part: each.astype(np.int64) for part, each in labels.items()}
        self._check_fit(models.try_out(self.module, image, request.spec))
        self._folder = tempfile.TemporaryDirectory(prefix="cnnbench-")
        self.folder = Path(self._folder.name)
        self.trainer = self._trainer()
        self.random = np.random.default_rng(request.spec.seed)
        self._steps = self._epoch()

    def _check_fit(self, classes: int) -> None:
        """Raises InputError for labels that are no classes of the model's, or fewer images than a batch."""
        for part, labels in self.labels.items():
            if len(labels) != len(self.images[part]):
                raise InputError(f"expected a label for each image; got {len(labels):,} for {len(self.images[part]):,}")
            if labels.max(initial=0) >= classes:
                raise InputError(f"expected labels below the model's {classes} classes; got {labels.max()}")
        if self.request.batch > len(self.images["train"]):
            count = len(self.images["train"])
            raise InputError(f"--batch: expected at most the {count:,} training images; got {self.request.batch:,}")

    def _trainer(self) -> Trainer:
        request, module = self.request, self.module
        if request.runtime == "eager":
            return EagerTrainer(module, request.optimizer, request.rate)
        file = str(self.folder / "step.onnx")
        onnx.save(export_step(module, torch.from_numpy(self.images["train"][:2]), request.optimizer), file)
        return OrtTrainer(module, StepSession.of(file, request.threads), request.rate, drop=True)

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches; the images left over, others in each epoch, are left out."""
        return len(self.images["train"]) // self.request.batch

    def started(self) -> TrainingStarted:
        """How much there is to do."""
        return TrainingStarted(
            train_images=len(self.images["train"]),
            test_images=len(self.images["test"]),
            steps_per_epoch=self.steps_per_epoch,
        )

    def advance(self, seconds: float) -> Epoch:
        """Steps for about so long, or until the epoch is over; the next call then begins another."""
        end = time.monotonic() + seconds
        losses = []
        over = True
        for loss in self._steps:
            losses.append(loss)
            if time.monotonic() >= end:
                over = False
                break
        if over:
            self._steps = self._epoch()
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
        inference.save(inference.trace(evaluated, torch.from_numpy(self.images["test"][:2])), evaluated, graph)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.request.threads
        session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

        def eager(images: Images) -> NDArray[Any]:
            with torch.inference_mode():
                logits: NDArray[Any] = evaluated(torch.from_numpy(images)).numpy()
            return logits

        return Evaluated(
            accuracy={
                "eager": self._accuracy(eager),
                "ort": self._accuracy(lambda images: session.run(None, {inference.INPUT: images})[0]),
            }
        )

    def _accuracy(self, predict: Any) -> float:
        images, labels = self.images["test"], self.labels["test"]
        right = 0
        for start in range(0, len(images), EVALUATION_BATCH):
            chosen = slice(start, start + EVALUATION_BATCH)
            right += int((predict(images[chosen]).argmax(1) == labels[chosen]).sum())
        return right / len(images)

    def _epoch(self) -> Iterator[float]:
        order = self.random.permutation(len(self.images["train"]))
        for step in range(self.steps_per_epoch):
            chosen = order[step * self.request.batch : (step + 1) * self.request.batch]
            yield self.trainer.step(self.images["train"][chosen], self.labels["train"][chosen])
