"""The reference inputs and labels that a training step is proved on, the same with and without torch."""

import numpy as np
from numpy.typing import NDArray

PROOF_IMAGES = 4
"""On how many reference inputs a training step is proved."""


def proof_images(reference_inputs: NDArray[np.float32], first: int) -> NDArray[np.float32]:
    """Those of the reference inputs (N, C, H, W) that a step is proved on, from the given one on."""
    return reference_inputs[first : first + PROOF_IMAGES]


def labels_for(count: int, classes: int, seed: int) -> NDArray[np.int64]:
    """(count,) int64 class numbers."""
    return np.random.default_rng(seed).integers(classes, size=count)
