"""A training run on disk: one file with all that it needs to go on, written whole after each epoch."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cnnbench.errors import InputError
from cnnbench.records import files
from cnnbench.records.task_messages import StartTraining
from cnnbench.records.training_history import EpochResult
from cnnbench.suite.case import Frozen
from cnnbench.worker.reference.parity import Array

METADATA = "cnnbench.training_run"
NOT_OF_THE_RUN = {"op", "threads", "out", "resume", "epochs", "data", "compare"}
"""Of a request: what may differ where a run goes on. The data are compared by their content."""


class State(Frozen):
    """What is known of a run besides its tensors; the schedule's place and the data's order follow from the epoch."""

    run: dict[str, Any]
    """What may not differ where it goes on."""
    history: list[EpochResult]
    best: float | None = None
    """The highest share of held-out images in the right class."""
    stale: int = 0
    """Epochs since then."""


def run_of(request: StartTraining, data: Iterable[NDArray[Any]]) -> dict[str, Any]:
    """What makes two runs one: the request, and a digest of the data, images and labels as they are stored."""
    digest = sha256()
    for array in data:
        digest.update(repr((array.shape, str(array.dtype))).encode())
        digest.update(np.ascontiguousarray(array).data)
    epochs = {"epochs": request.epochs} if request.schedule.depends_on_epochs else {}
    about = {**epochs, "data": digest.hexdigest()[:16], **({"resized": True} if request.data.resize else {})}
    about |= {"scale": request.data.scale} if request.data.scale else {}
    return {**request.model_dump(mode="json", exclude=NOT_OF_THE_RUN), **about}


def save(file: Path, values: Mapping[str, Array], state: State) -> None:
    """Write parameters, buffers and states by their names in the exported step. Raises OSError."""
    with files.replacing(file) as temporary:
        tensors = {name: np.array(value, order="C") for name, value in values.items()}
        save_file(tensors, temporary, {METADATA: state.model_dump_json()})


def load(file: Path, run: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> tuple[State, dict[str, Array]]:
    """The state and the values of this run, whose parameters and buffers have these shapes.

    Raises InputError for a file that is no checkpoint, or another run's.
    """
    try:
        with safe_open(file, framework="numpy") as stored:
            state = State.model_validate_json((stored.metadata() or {}).get(METADATA, ""))
            values = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, ValidationError):
        raise InputError(f"{file}: expected a checkpoint that `cnnbench train` wrote; it is something else") from None
    anew = "give what that run was given, or begin anew without --resume"
    for key in sorted({*run, *state.run}):
        before, now = state.run.get(key), run.get(key)
        if before != now:
            raise InputError(f"{file}: is of another run, with {_difference(key, before, now)}; {anew}")
    for name, shape in shapes.items():
        found = values[name].shape if name in values else None
        if found != shape:
            raise InputError(f"{file}: is of another model: {name} is {shape}, there {found}; {anew}")
    return state, values


def _difference(key: str, before: object, now: object) -> str:
    """What differs: the innermost value of nested ones."""
    if isinstance(before, dict) and isinstance(now, dict):
        inner = next(each for each in sorted({*before, *now}) if before.get(each) != now.get(each))
        return _difference(f"{key} {inner}", before.get(inner), now.get(inner))
    return f"other {key}" if key == "data" else f"{key} {before}, not {now}"
