"""The training runs that a suite's weights come from: each once, into the cache."""

from collections.abc import Callable, Sequence

from cnnbench.errors import InputError
from cnnbench.records import cache, dataset, trained
from cnnbench.records.task_messages import StartTraining
from cnnbench.records.trained import TrainedWeights
from cnnbench.records.training_history import checkpoint_of
from cnnbench.runner import machine
from cnnbench.runner.tasks.train import Report, train
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.load import Suite
from cnnbench.suite.optimizer import Optimizer
from cnnbench.suite.recipe import Training
from cnnbench.suite.schedule import Schedule


def check_trained(suite: Suite, specs: Sequence[ModelSpec]) -> None:
    """Raises InputError, with the command that trains them, where the weights of some models are still to be made."""
    wanted = {spec.weights for spec in specs}
    missing = [each.spec.label for each in suite.trained if each.weights in wanted and trained.read(each) is None]
    if missing:
        raise InputError(
            f"{suite.path}: expected trained weights of {', '.join(missing)} in the cache; there are none: make them "
            f"with `cnnbench train-suite {suite.path}`"
        )


def train_weights(training: Training, watch: Callable[[Report], None]) -> TrainedWeights:
    """Train a model of a suite, unless that was done; a run that was interrupted goes on after its last whole epoch.

    Raises as `train` does.
    """
    cache.prepare()
    folder, recipe = trained.folder_of(training.weights), training.recipe
    with cache.locked(folder):
        if (known := trained.read(training)) is not None:
            return known
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        assert recipe.data is not None
        plan = StartTraining(
            spec=training.spec,
            runtime="eager",
            data=dataset.find(recipe.data, recipe.images, training.spec.seed),
            batch=recipe.batch,
            optimizer=Optimizer(name="adam"),
            rate=recipe.rate,
            threads=machine.usable_threads(),
            epochs=recipe.epochs,
            out=str(folder / trained.WEIGHTS),
            resume=True,
            schedule=Schedule(name=recipe.schedule, warmup=recipe.warmup),
            compare="last epoch",
        )
        result = None
        for report in train(plan):
            result = report.result or result
            watch(report)
        assert result is not None
        checkpoint_of(folder / trained.WEIGHTS).unlink(missing_ok=True)
        return trained.write(training, result.accuracy["eager"], result.seconds)
