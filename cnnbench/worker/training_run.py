"""Training for its own sake: epochs over a data set in one of the runtimes, evaluated in both.

The data set's files are in MNIST's format (LeCun, "The MNIST database", section "File formats").
"""

import gzip
import io
import math
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from cnnbench.errors import InputError
from cnnbench.records import files
from cnnbench.records.task_messages import Epoch, Evaluated, StartTraining, TrainingStarted
from cnnbench.worker import models
from cnnbench.worker.export import inference
from cnnbench.worker.export.training.step import export_step
from cnnbench.worker.reference.parity import Array
from cnnbench.worker.runtimes.eager import EagerTrainer, weights_of
from cnnbench.worker.runtimes.ort import make_session
from cnnbench.worker.runtimes.ort_training import StepSession

EVALUATION_BATCH = 500
UNSIGNED_BYTES = 8
"""The type of all values, in the third byte of a file; the fourth is the number of dimensions, 4 bytes each."""
BYTES_PER_SIZE = 4
MAX_BYTES = 2**30
"""Of a file, also of what is compressed in it; EMNIST's largest has 547 MB."""


class TrainingRun:
    """Epochs over the training images in an order that the seed settles, the same in every runtime."""

    def __init__(self, request: StartTraining) -> None:
        """Read the data and build the model. Raises InputError for files or a model that do not fit."""
        torch.set_num_threads(request.threads)
        self.request = request
        self.module, image = models.build(request.spec)
        if isinstance(image, Mapping):
            raise InputError(f"{request.spec.label}: expected a model of one input; it takes {', '.join(image)}")
        data = request.data
        raw = {"train": read_idx(data.train_images), "test": read_idx(data.test_images)}
        mean, deviation = float(raw["train"].mean()), float(raw["train"].std())
        self.images = {part: prepared(pixels, mean, deviation, image) for part, pixels in raw.items()}
        labels = {"train": read_idx(data.train_labels), "test": read_idx(data.test_labels)}
        self.labels = {part: each.astype(np.int64) for part, each in labels.items()}
        self._check_fit(models.try_out(self.module, image, request.spec).classes)
        self._folder = tempfile.TemporaryDirectory(prefix="cnnbench-")
        self.folder = Path(self._folder.name)
        self.trainer = self._trainer()
        self.random = np.random.default_rng(request.spec.seed)
        self.steps_per_epoch = len(self.images["train"]) // request.batch
        """Complete batches; the images left over, others in each epoch, are left out."""
        self._steps = self._epoch()

    def _check_fit(self, classes: int) -> None:
        """Raises InputError for labels that are no classes of the model's, or fewer images than a batch."""
        for part, labels in self.labels.items():
            if len(labels) != len(self.images[part]):
                raise InputError(f"expected a label for each image; got {len(labels):,} for {len(self.images[part]):,}")
            if labels.max(initial=0) >= classes:
                raise InputError(f"expected labels below the model's {classes} classes; got {labels.max()}")
        count = len(self.images["train"])
        if self.request.batch > count:
            raise InputError(f"--batch: expected at most the {count:,} training images; got {self.request.batch:,}")

    def _trainer(self) -> EagerTrainer | StepSession:
        request, module = self.request, self.module
        if request.runtime == "eager":
            return EagerTrainer(module, request.optimizer, request.rate)
        file = str(self.folder / "step.onnx")
        onnx.save(export_step(module, torch.from_numpy(self.images["train"][:2]), request.optimizer), file)
        session = StepSession.of(file, request.threads)
        session.begin(weights_of(module), request.rate, drop=True)
        return session

    def started(self) -> TrainingStarted:
        """How much there is to do."""
        counts = {f"{part}_images": len(images) for part, images in self.images.items()}
        return TrainingStarted(steps_per_epoch=self.steps_per_epoch, **counts)

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
        inference.save(inference.trace(evaluated, torch.from_numpy(self.images["test"][:2])), evaluated, graph)
        session = make_session(str(graph), "cpu", self.request.threads)
        with torch.inference_mode():
            return Evaluated(
                accuracy={
                    "eager": self._accuracy(lambda images: evaluated(torch.from_numpy(images)).numpy()),
                    "ort": self._accuracy(lambda images: session.run(None, {inference.INPUT: images})[0]),
                }
            )

    def _accuracy(self, predict: Callable[[Array], Array]) -> float:
        images, labels = self.images["test"], self.labels["test"]
        chosen = [slice(start, start + EVALUATION_BATCH) for start in range(0, len(images), EVALUATION_BATCH)]
        return sum(int((predict(images[each]).argmax(1) == labels[each]).sum()) for each in chosen) / len(images)

    def _epoch(self) -> Iterator[float]:
        order = self.random.permutation(len(self.images["train"]))
        for step in range(self.steps_per_epoch):
            chosen = order[step * self.request.batch : (step + 1) * self.request.batch]
            yield self.trainer.train(self.images["train"][chosen], self.labels["train"][chosen])


def read_idx(file: str) -> NDArray[np.uint8]:
    """The array in a file, compressed by gzip or not. Raises InputError if it is something else."""
    try:
        content = files.read(Path(file), MAX_BYTES)
        if file.endswith(".gz"):
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{file}: expected at most {MAX_BYTES:,} bytes of values; there are more")
    if len(content) < BYTES_PER_SIZE or content[:3] != bytes([0, 0, UNSIGNED_BYTES]):
        raise InputError(f"{file}: expected a file of unsigned bytes in MNIST's format; it begins otherwise")
    dimensions = content[3]
    start = BYTES_PER_SIZE * (1 + dimensions)
    shape = struct.unpack_from(f">{dimensions}I", content.ljust(start, b"\0"), BYTES_PER_SIZE)
    if len(content) - start != math.prod(shape):
        raise InputError(f"{file}: expected {math.prod(shape):,} bytes of values; got {len(content) - start:,}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def prepared(raw: NDArray[np.uint8], mean: float, deviation: float, image: tuple[int, ...]) -> NDArray[np.float32]:
    """(N, H, W) bytes as (N, C, H', W') float32: normalised, in the middle of zeros, the same in each channel.

    Raises InputError if the model's images (C, H', W') are smaller.
    """
    channels, *size = image
    if len(size) != 2 or any(side < own for side, own in zip(size, raw.shape[1:], strict=True)):
        shape = "x".join(map(str, raw.shape[1:]))
        raise InputError(f"expected a model for images of at least {shape}; its images are {'x'.join(map(str, image))}")
    left_over = [side - own for side, own in zip(size, raw.shape[1:], strict=True)]
    normal = (raw.astype(np.float32) - np.float32(mean)) / np.float32(deviation)
    padded = np.pad(normal, [(0, 0), *((each // 2, each - each // 2) for each in left_over)])
    return np.ascontiguousarray(np.repeat(padded[:, None], channels, axis=1))
