"""What a training run leaves beside its weights: a history that charts are drawn from, and a checkpoint.

X.safetensors      the weights, of the last epoch or, with early stopping, of the best
X.history.jsonl    an EpochResult a line, behind a line that says what was trained
X.checkpoint       all that the run needs to go on (cnnbench.worker.checkpoint)
"""

from pathlib import Path

from pydantic import ValidationError

from cnnbench.errors import InputError
from cnnbench.records import files
from cnnbench.records.dataset import parts_of
from cnnbench.suite.case import Frozen

ENDING = ".history.jsonl"


class EpochResult(Frozen):
    """An epoch that is over."""

    epoch: int
    """From 1."""
    seconds: float
    """Of all training steps so far; evaluation and what is written are left out."""
    loss: float
    """Mean over the epoch's steps, each before its update."""
    rate: float
    """The learning rate of the last step."""
    accuracy: dict[str, float]
    """The share of the test images in the right class, by the runtime that was asked."""
    held_out: float | None = None
    """The share of the held-out images, with early stopping."""


class Trained(Frozen):
    """What a history is of."""

    model: str
    runtime: str
    data: str = ""
    """The data set, as `--data` names it; empty where an older version wrote the history."""


class History(Frozen):
    """A run's epochs, in order."""

    run: Trained
    epochs: list[EpochResult]


def checkpoint_of(weights: Path) -> Path:
    """The checkpoint beside the weights."""
    return weights.with_suffix(".checkpoint")


def history_of(weights: Path) -> Path:
    """The history beside the weights."""
    return weights.with_suffix(ENDING)


def prepared_otherwise(weights: Path, data: str) -> str | None:
    """A sentence where a history beside weights says that they were trained on images that were resized or normalised
    otherwise than those of `data`; None where it does not, or there is none."""
    try:
        trained_on = read(history_of(weights)).run.data
    except InputError:
        return None
    if not trained_on or parts_of(trained_on)[1:] == parts_of(data)[1:]:
        return None
    return f"{weights}: trained on {trained_on}, so expected images of that preparation; got {data} (--data)"


def write(file: Path, history: History) -> None:
    """Write it whole. Raises OSError."""
    files.write(file, "".join(f"{each.model_dump_json()}\n" for each in (history.run, *history.epochs)))


def read(file: Path) -> History:
    """A history. Raises InputError for a file that is none."""
    if not file.is_file():
        raise InputError(f"{file}: expected a history that `cnnbench train` wrote; there is no such file")
    first, *others = [*files.read_lines(file)] or [b""]
    try:
        epochs = [EpochResult.model_validate_json(line) for line in others]
        history = History(run=Trained.model_validate_json(first), epochs=epochs)
    except ValidationError:
        raise InputError(f"{file}: expected a history that `cnnbench train` wrote; it is something else") from None
    if not epochs or any(history.run.runtime not in each.accuracy for each in epochs):
        raise InputError(f"{file}: expected epochs with the accuracy in {history.run.runtime}; they are not there")
    return history
