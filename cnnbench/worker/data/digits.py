"""scikit-learn's handwritten digits, 1x8x8, where it is installed."""

import importlib
from typing import Any

import numpy as np

from cnnbench.worker.data.parts import Part, Parts, in_two


def read() -> Parts:
    """1,797 images of ten classes, with values from 0 to 16."""
    datasets: Any = importlib.import_module("sklearn.datasets")  # optional, so unknown to type checkers
    found = datasets.load_digits()
    whole = Part(found.images.astype(np.uint8)[:, None], found.target.astype(np.int64))
    return in_two(whole, [str(name) for name in found.target_names], "digits")
