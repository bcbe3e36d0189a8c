"""A training run of the user's: epochs over a data set, weights on disk after each."""

from collections.abc import Generator
from pathlib import Path

from cnnbench.errors import InputError
from cnnbench.records.task_messages import Advance, Epoch, Evaluate, Evaluated, StartTraining, TrainingStarted
from cnnbench.records.training_history import EpochResult
from cnnbench.runner.worker_process import Start, one_worker
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
    """Mean of the last steps."""
    images_per_s: float = 0.0
    """Trained on in the last steps."""
    result: EpochResult | None = None
    """At an epoch's end."""
    test_images: int = 0
    """That its accuracies are of."""
    parameters: int = 0

    @property
    def steps_done(self) -> int:
        """In all epochs so far."""
        return (self.epoch - 1) * self.steps + self.step


def train(plan: StartTraining, start: Start | None = None) -> Generator[Report, None, None]:
    """Train, and report after every half second and each epoch, when weights, history and checkpoint are on disk.

    `start` starts the worker; by default it is one that imports for itself. Of a run that goes on, the epochs that it
    has are reported first. Raises InputError for what cannot be read or written and for a run that diverges, ModelError
    for a model that does not fit, and WorkerError.
    """
    out = Path(plan.out)
    if not out.parent.is_dir():
        raise InputError(f"{out}: expected a file in a folder that exists; there is no {out.parent}")
    with one_worker("train", plan.threads, LIMIT_S, start) as worker:
        begun = worker.ask(plan, TrainingStarted)
        steps = begun.steps_per_epoch
        about = {"steps": steps, "test_images": begun.test_images, "parameters": begun.parameters}
        for result in begun.done:
            yield Report(epoch=result.epoch, step=steps, loss=result.loss, result=result, **about)
        if begun.over:
            return
        for epoch in range(len(begun.done) + 1, plan.epochs + 1):
            step, over = 0, False
            while not over:
                done = worker.ask(Advance(seconds=TURN_S), Epoch)
                step, over = step + done.steps, done.over
                speed = done.steps * plan.batch / done.seconds
                yield Report(epoch=epoch, step=step, steps=steps, loss=done.loss, images_per_s=speed)
            evaluated = worker.ask(Evaluate(), Evaluated)
            result = evaluated.result
            yield Report(epoch=epoch, step=step, loss=result.loss, result=result, **about)
            if evaluated.over:
                return
