"""Labels for golden images, the same with and without torch."""

import numpy as np
from numpy.typing import NDArray

PROOF_IMAGES = 4
"""Golden images of which a training step is proved."""


def labels_for(count: int, classes: int, seed: int) -> NDArray[np.int64]:
    """(count,) int64 class numbers."""
    return np.random.default_rng(seed).integers(classes, size=count)
