"""What a study has found of one network with one seed: raw values, a line each."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cnnbench.records import files
from cnnbench.records.bounds import Count, PositiveCount, Recorded, Seconds
from cnnbench.records.json_object import read_each

RESULTS = "results.jsonl"
"""In a study's folder."""
Share = Annotated[float, Field(ge=0, le=1)]


class Tried(Recorded):
    """A trained network's answers to test images that were changed."""

    what: str
    amount: float
    runtime: str
    images: PositiveCount
    correct: Count
    """In the right class."""
    same: Count
    """In the class that the same images, unchanged, are put into."""


class StudyResult(Recorded):
    """One training run, and what was looked at before and after it."""

    schema_version: Literal[1] = 1
    arm: str
    seed: int
    digest: str
    """Of all that it depends on; a result with another one is of another study."""
    parameters: PositiveCount
    gradients: dict[str, Annotated[float, Field(ge=0, lt=1e300)]] = {}
    """By layer, in order, before training."""
    accuracy: dict[str, Share] = {}
    """Of test images after the last epoch, by runtime; empty where nothing was trained."""
    test_images: Count = 0
    epochs: Count
    seconds: Seconds = 0.0
    """Of all training steps."""
    wall_s: Seconds = 0.0
    """Of the whole run, with starting workers, evaluation and all that was looked at."""
    tried: list[Tried] = []


def read_results(folder: Path) -> tuple[list[StudyResult], list[str]]:
    """All results of a study's folder, and what could not be read."""
    found: list[StudyResult] = []
    faults = read_each(folder / RESULTS, lambda content: found.append(StudyResult.model_validate(content)))
    return found, faults


def append_result(folder: Path, result: StudyResult) -> None:
    """Add it. Raises OSError."""
    files.append(folder / RESULTS, result.model_dump_json())
