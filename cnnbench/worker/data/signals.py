"""Waveforms of ten classes with noise, 1x512."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.worker.data.parts import Part, Parts

LENGTH = 512
TRAIN_SIGNALS, TEST_SIGNALS = 10_000, 2_000
TRAIN_SEED, TEST_SEED = 1, 2
PERIODS, AMPLITUDES, NOISES = (6.0, 20.0), (0.5, 1.5), (0.05, 0.25)
"""Of the data set's signals: the least and the most, the noise as a share of the amplitude."""

Values = NDArray[np.float64]


def _sawtooth(turns: Values) -> Values:
    return 2 * (turns % 1) - 1


WAVEFORMS: Mapping[str, Callable[[Values, Values], Values]] = {
    "sine": lambda turns, time: np.sin(2 * math.pi * turns),
    "triangle": lambda turns, time: 2 * np.abs(_sawtooth(turns)) - 1,
    "square": lambda turns, time: np.where(turns % 1 < 0.5, 1.0, -1.0),
    "sawtooth": lambda turns, time: _sawtooth(turns),
    "pulses": lambda turns, time: np.where(turns % 1 < 0.12, 1.5, -0.2),
    "rectified": lambda turns, time: 2 * np.abs(np.sin(math.pi * turns)) - 1.27,
    "chirp": lambda turns, time: np.sin(2 * math.pi * turns * (0.5 + time)),
    "decay": lambda turns, time: 2 * np.exp(-4 * time) * np.sin(2 * math.pi * turns),
    "beat": lambda turns, time: np.sin(2 * math.pi * turns) * np.sin(6 * math.pi * time),
    "bursts": lambda turns, time: np.where(turns / 3 % 1 < 0.34, 1.5, 0.0) * np.sin(6 * math.pi * turns),
}
"""By class: the value after so many periods, at a time from 0 to 1."""
CLASSES = tuple(WAVEFORMS)


class Wave(NamedTuple):
    """All that a signal consists of."""

    waveform: str
    periods: float
    """In the whole signal."""
    phase: float
    """In periods."""
    amplitude: float
    noise: float
    """Standard deviation, as a share of the amplitude."""
    seed: int
    """Of the noise."""


def sample(wave: Wave) -> NDArray[np.float32]:
    """(1, LENGTH): the waveform with its noise."""
    time = np.arange(LENGTH) / LENGTH
    values = WAVEFORMS[wave.waveform](wave.periods * time + wave.phase, time)
    noise = np.random.default_rng(wave.seed).standard_normal(LENGTH)
    return (wave.amplitude * (values + wave.noise * noise)).astype(np.float32)[None]


def waves(count: int, seed: int) -> Iterator[Wave]:
    """So many, of each class in turn, with everything else drawn at random within the data set's bounds."""
    random = np.random.default_rng(seed)
    for number in range(count):
        periods, phase, amplitude, noise = (random.uniform(*each) for each in (PERIODS, (0.0, 1.0), AMPLITUDES, NOISES))
        yield Wave(CLASSES[number % len(CLASSES)], periods, phase, amplitude, noise, int(random.integers(2**63)))


def read() -> Parts:
    """The data set: the same signals whenever and wherever it is made."""
    train, test = (_part(*each) for each in ((TRAIN_SIGNALS, TRAIN_SEED), (TEST_SIGNALS, TEST_SEED)))
    return Parts(train, test, CLASSES)


def _part(count: int, seed: int) -> Part:
    return Part(
        np.stack([sample(each) for each in waves(count, seed)]), np.arange(count, dtype=np.int64) % len(CLASSES)
    )
