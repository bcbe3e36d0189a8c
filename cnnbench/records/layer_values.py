"""Where workers put the values of layers, and their parent finds them: one file for each, in a folder of one task."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REFERENCE = "reference"
IMAGE = "image"
"""The first image that was put in, as place 0."""
FED = "fed"
"""Behind a run's name, of a layer that was fed with the reference's values."""


def save(folder: str | Path, name: str, place: int, values: NDArray[np.generic]) -> None:
    """Write one value's numbers."""
    np.save(Path(folder) / f"{name}-{place}.npy", values)


def load(folder: str | Path, name: str, place: int) -> NDArray[Any]:
    """Read them."""
    values: NDArray[Any] = np.load(Path(folder) / f"{name}-{place}.npy", allow_pickle=False)
    return values


def fed(name: str) -> str:
    """The name of a run's layers that were fed with the reference's values."""
    return f"{name}-{FED}"
