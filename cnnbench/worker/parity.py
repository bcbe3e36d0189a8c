"""Outputs against the float64 reference, relative to the part that depends on the input. No torch here."""

import numpy as np
from numpy.typing import NDArray

from cnnbench.record import Parity

Array = NDArray[np.floating]

ROOM = 10.0
"""A correct runtime may be so many times as far from float64 as eager float32 was when the artifact was built: other
orders of summation differ by small factors, wrong graphs by far larger ones."""
LEAST_LIMIT, LARGEST_LIMIT = 1e-5, 1e-2


def limit_for(eager_error: float) -> float:
    """The largest error, in units of the signal, that float32 runs of a model may show."""
    return min(max(ROOM * eager_error, LEAST_LIMIT), LARGEST_LIMIT)


def signal_of(reference: Array) -> float:
    """Root mean square of the reference (N, classes) minus its mean over the images: what the input decides.

    An output that ignores its input has an error of about one signal, however small the outputs are.
    """
    return float(np.sqrt(np.mean(np.square(reference - reference.mean(axis=0, keepdims=True)))))


def compare(what: str, y: Array, reference: Array, signal: float, limit: float) -> Parity:
    """The largest error of y (N, classes) in units of the signal; None where y is not finite or misshapen."""
    if y.shape != reference.shape or not np.isfinite(y).all() or not signal > 0:
        return Parity(what=what, error=None, limit=limit)
    error = float(np.abs(y.astype(np.float64) - reference).max()) / signal
    return Parity(what=what, error=error, limit=limit)


def batches(count: int) -> list[slice]:
    """Consecutive batches of 1, 2, 3, ... images that use up `count` of them."""
    slices, start, size = [], 0, 1
    while start < count:
        slices.append(slice(start, min(start + size, count)))
        start, size = start + size, size + 1
    return slices


def size(batch: slice) -> int:
    """How many images a slice has."""
    return int(batch.stop - batch.start)


def tiled(images: Array, batch: int) -> Array:
    """`batch` images, the given ones over and over."""
    return np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))
