"""Weights that models of a suite were trained to, in the cache.

trained/<weights>/weights.safetensors     the state dict of the last epoch, with a history beside it
trained/<weights>/trained.json            TrainedWeights; written last, so that weights with it are finished
"""

from pathlib import Path

from cnnbench.records import cache, dataset, files
from cnnbench.records.bounds import Figure, Recorded, Seconds
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.recipe import Training, is_trained

WEIGHTS, ABOUT = "weights.safetensors", "trained.json"


class TrainedWeights(Recorded):
    """What a finished training run has left."""

    source: str
    """The fingerprint of the data set's files; empty for one without any."""
    accuracy: Figure
    """On the test images, in PyTorch."""
    seconds: Seconds


def folder_of(weights: str) -> Path:
    """Where weights of this name lie, if they do. Raises InputError where the cache is another user's."""
    return cache.cache_folder() / "trained" / weights


def weights_file(spec: ModelSpec) -> Path:
    """The file of a model's weights: in the cache where a suite trains them, else as it is given."""
    assert spec.weights is not None
    return folder_of(spec.weights) / WEIGHTS if is_trained(spec.weights) else Path(spec.weights)


def read(training: Training) -> TrainedWeights | None:
    """What is known of finished weights; None where there are none, or the files of the data set have changed."""
    folder = folder_of(training.weights)
    try:
        found = TrainedWeights.model_validate_json((folder / ABOUT).read_text())
    except (OSError, ValueError):
        return None
    is_current = found.source == dataset.fingerprint(training.recipe.data or "")
    return found if is_current and (folder / WEIGHTS).is_file() else None


def write(training: Training, accuracy: float, seconds: float) -> TrainedWeights:
    """Declare the weights finished. Raises OSError."""
    found = TrainedWeights(source=dataset.fingerprint(training.recipe.data or ""), accuracy=accuracy, seconds=seconds)
    folder = folder_of(training.weights)
    files.write(folder / ABOUT, found.model_dump_json(indent=1))
    cache.share(folder)
    return found
