"""A training run of the user's: epochs over a data set, weights on disk after each."""

import math
from collections.abc import Iterator
from pathlib import Path

from cnnbench.errors import InputError
from cnnbench.records.task_messages import Advance, Epoch, Evaluate, Evaluated, StartTraining, TrainingStarted
from cnnbench.runner.worker_process import one_worker
from cnnbench.suite.case import Frozen

LIMIT_S = 600.0
"""The longest that reading the data, exporting a step or evaluating may take."""
TURN_S = 0.5
"""How often it is told how far the run is."""


class Report(Frozen):
    """How far a run is."""

    epoch: int
    """From 1."""
    step: int
    """Within the epoch."""
    steps: int
    """Of an epoch."""
    loss: float | None
    """Mean of the last steps, at an epoch's end of all its steps; None where it is not finite."""
    accuracy: dict[str, float] | None = None
    """At an epoch's end: the share of the test images in the right class, by the runtime that was asked."""


def train(plan: StartTraining, epochs: int, out: Path) -> Iterator[Report]:
    """Train, and report after every half second and each epoch, when the weights are on disk.

    Raises InputError for what cannot be read or written, ModelError for a model that does not fit, and WorkerError.
    """
    if not out.parent.is_dir():
        raise InputError(f"{out}: expected a file in a folder that exists; there is no {out.parent}")
    with one_worker("train", plan.threads, LIMIT_S) as worker:
        steps = worker.ask(plan, TrainingStarted).steps_per_epoch
        for epoch in range(1, epochs + 1):
            step, over, total = 0, False, 0.0
            while not over:
                done = worker.ask(Advance(seconds=TURN_S), Epoch)
                step, over = step + done.steps, done.over
                total += done.steps * (math.nan if done.loss is None else done.loss) if done.steps else 0.0
                yield Report(epoch=epoch, step=step, steps=steps, loss=done.loss)
            accuracy = worker.ask(Evaluate(out=str(out.absolute())), Evaluated).accuracy
            mean = total / step if step and math.isfinite(total) else None
            yield Report(epoch=epoch, step=step, steps=steps, loss=mean, accuracy=accuracy)
