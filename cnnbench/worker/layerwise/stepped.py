"""Walks through a network value by value, and what float32 makes of each layer beside float64. No torch."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from cnnbench.records import layer_values
from cnnbench.records.task_messages import ReadReference, ReferenceRead, Rounding, Value
from cnnbench.worker.reference.parity import Array

Walk = Generator[tuple[int, Array], Array | None, None]
"""Gives each value with its place, in order, and takes what to go on with instead, if anything."""


class Program(Protocol):
    """A network that can be run value by value, from the inputs that it was made with."""

    values: list[Value]

    @property
    def images(self) -> Sequence[Array]:
        """The batch (N, ...) of each input."""

    def walk(self, *, wide: bool = False) -> Walk:
        """Run it, in float64 where `wide`."""


class Stepped:
    """A walk that is asked for one value at a time."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._instead: Array | None = None

    def value(self) -> Array:
        """The next value."""
        _, found = self._walk.send(self._instead)
        self._instead = None
        return found

    def go_on_with(self, values: Array) -> None:
        """Have what follows read these numbers instead of the value."""
        self._instead = values


class Reference:
    """A network in float64, into files, with the rounding of float32 in the layers between the values of each run."""

    def __init__(self, program: Program, expected: Mapping[int, Array]) -> None:
        """`expected` are values (N, ...) that the model itself puts out in float64, by place."""
        self.program, self.expected = program, expected
        self._exact, self._at = Stepped(program.walk(wide=True)), 0
        self._off = 0.0
        self._rounded: dict[tuple[int, ...], Stepped] = {}
        """Runs that have the same values share one."""

    def read(self, request: ReadReference) -> ReferenceRead:
        """The values up to a place. The cuts of the runs must be the same each time."""
        all_cuts = [tuple(places) for places in request.cuts]
        if not self._at:
            layer_values.save(request.folder, layer_values.IMAGE, 0, self.program.images[0][0])
            self._rounded = {places: Stepped(self.program.walk()) for places in all_cuts}
        rounding: dict[tuple[int, ...], dict[int, Rounding]] = {places: {} for places in all_cuts}
        walks = [(walk, set(places), rounding[places]) for places, walk in self._rounded.items()]
        for place in range(self._at, request.until):
            exact = self._exact.value()
            layer_values.save(request.folder, layer_values.REFERENCE, place, exact)
            if place in self.expected:
                self._off = max(self._off, _distance(exact, self.expected[place]))
            for walk, cut, found in walks:
                rounded = walk.value()
                if place in cut:
                    found[place] = rounding_of(rounded, exact)
                    walk.go_on_with(exact)
        self._at = request.until
        is_whole = self.expected and request.until == len(self.program.values)
        return ReferenceRead(rounding=[rounding[places] for places in all_cuts], off=self._off if is_whole else None)


def _distance(values: Array, expected: Array) -> float:
    """The RMS of the difference over that of what is expected; the largest number there is where that is none."""
    if values.shape != expected.shape:
        return float(np.finfo(np.float64).max)
    with np.errstate(all="ignore"):
        distance = np.sqrt(np.mean(np.square(values - expected)) / (np.mean(np.square(expected)) or 1.0))
    return float(np.nan_to_num(distance, nan=np.finfo(np.float64).max))


def rounding_of(rounded: Array, exact: Array) -> Rounding:
    """How far float32 is from float64; nothing where it is not finite, which no rounding explains."""
    with np.errstate(all="ignore"):
        error = np.abs(rounded.astype(np.float64) - exact)
    error = error[np.isfinite(error)]
    if not error.size:
        return Rounding(rms=0.0, largest=0.0)
    return Rounding(rms=float(np.sqrt(np.mean(np.square(error)))), largest=float(error.max()))


def largest_difference(ones: Iterable[Array], others: Sequence[Array]) -> float:
    """Between two sets of outputs; 0 where all bits are the same."""
    differences = [
        0.0 if np.array_equal(one, other, equal_nan=True) else float(np.abs(one.astype(np.float64) - other).max())
        for one, other in zip(ones, others, strict=True)
    ]
    return float(np.nan_to_num(max(differences, default=0.0), nan=np.finfo(np.float64).max))
