"""What a layer puts out for some images, in few numbers: spread, dead units, a histogram, and small maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnbench.records.task_messages import Value

Array = NDArray[np.float64]

BINS = 40
MAX_MAPS, MAX_SIDE = 64, 64
"""Maps of one layer that are kept, and places of one along each axis: of larger ones, means of neighbours."""
MAP_AXES = 3
"""A batch, channels, and places of an image or signal at least."""


@dataclass(frozen=True)
class Activations:
    """Of one layer in one run."""

    units: int
    """Channels."""
    dead: float | None
    """The share of units that put out one and the same number everywhere, on all images; None if each puts out one."""
    zeros: float
    """The share of numbers that are 0."""
    mean: float
    deviation: float
    low: float
    high: float
    not_finite: int
    counts: list[int]
    """Of the numbers from `low` to `high`, in bins of equal width."""
    maps: NDArray[np.float32]
    """(maps, height, width) or (maps, length) of the first image."""


def activations_of(values: Array) -> Activations:
    """Of values (N, C, ...)."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    units = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
    return Activations(
        units=len(units),
        dead=float(np.mean((units == units[:, :1]).all(axis=1))) if units.shape[1] > 1 else None,
        zeros=float(np.mean(values == 0)),
        mean=float(finite.mean()) if finite.size else 0.0,
        deviation=float(finite.std()) if finite.size else 0.0,
        low=low,
        high=high,
        not_finite=int(values.size - finite.size),
        counts=np.histogram(finite, bins=BINS, range=(low, high if high > low else low + 1))[0].tolist(),
        maps=thumbnails(values[0, :MAX_MAPS]),
    )


def thumbnails(maps: Array) -> NDArray[np.float32]:
    """Maps (maps, ...) with at most `MAX_SIDE` places along each axis: of larger ones, means of neighbours."""
    if maps.ndim > MAP_AXES:  # of a volume, the middle slice
        maps = maps[:, maps.shape[1] // 2]
    for axis in range(1, maps.ndim):
        by = -(-maps.shape[axis] // MAX_SIDE)
        if by > 1:
            starts = np.arange(0, maps.shape[axis], by)
            sizes = np.diff([*starts, maps.shape[axis]]).reshape(
                [-1 if each == axis else 1 for each in range(maps.ndim)]
            )
            maps = np.add.reduceat(maps, starts, axis=axis) / sizes
    return maps.astype(np.float32)


def channel_axes(values: Sequence[Value]) -> list[int | None]:
    """For each value of a network, which axis its channels are on; None of one without maps.

    They are on the first behind the batch until a permutation puts them last, and there while the shape stays.
    """
    found: list[int | None] = []
    for value in values:
        shape = value.shape
        before = values[value.inputs[0]] if value.inputs else None
        axis: int | None = 1
        if before is not None and value.inputs and (known := found[value.inputs[0]]) is not None:
            axis = known if len(before.shape) == len(shape) else 1
            if value.operator in ("permute", "transpose") and len(before.shape) == len(shape):
                turned = (before.shape[0], *before.shape[2:], before.shape[1])
                axis = len(shape) - 1 if known == 1 and shape == turned else 1
        found.append(axis if len(shape) >= MAP_AXES else None)
    return found
