"""Coloured shapes of ten classes, 3x32x32, drawn at an exact position, angle and scale.

A shape is a set of points of the plane, written as a formula; a pixel has the shape's colour by the share of its area
that lies inside, which is counted on a grid of 4x4 points. So a shape can be moved by a fraction of a pixel, and turned
or scaled by any amount, without resampling an image.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.worker.data.parts import Part, Parts

SIZE = 32
"""Of an image's sides, in pixels."""
RADIUS = 8.0
"""Of the circle around a shape of scale 1, in pixels."""
POINTS_PER_SIDE = 4
TRAIN_IMAGES, TEST_IMAGES = 10_000, 2_000
TRAIN_SEED, TEST_SEED = 1, 2
MAX_SHIFT, MAX_ANGLE, SCALES = 3.0, 15.0, (0.8, 1.1)
"""Of the data set's drawings: pixels to each side, degrees to each side, and the least and largest scale."""
MIN_CONTRAST, NOISE = 0.25, 0.08
"""The least distance between the two colours, and the standard deviation of the noise, as shares of full brightness."""

_PIXELS = np.repeat(np.eye(SIZE, dtype=np.float32), POINTS_PER_SIDE, axis=1) / POINTS_PER_SIDE
"""(pixels, points): the mean over each pixel's points."""

Points = NDArray[Any]
Colour = tuple[float, float, float]


def _sides_inside(u: Points, v: Points, count: int, distance: float) -> Points:
    """Within how many of so many lines around the centre, at a distance, each point lies; a corner points upwards."""
    angles = (math.pi + 2 * math.pi * side / count for side in range(count))
    inside = [u * math.sin(angle) + v * math.cos(angle) <= distance for angle in angles]
    found: Points = np.add.reduce(inside, dtype=np.uint8)
    return found


SHAPES: Mapping[str, Callable[[Points, Points], Points]] = {
    "disc": lambda u, v: u**2 + v**2 <= 0.8,
    "ring": lambda u, v: np.abs(u**2 + v**2 - 0.6) <= 0.3,
    "half disc": lambda u, v: (u**2 + (v + 0.4) ** 2 <= 0.9) & (v >= -0.4),
    "crescent": lambda u, v: (u**2 + v**2 <= 0.95) & ((u - 0.4) ** 2 + v**2 >= 0.5),
    "triangle": lambda u, v: _sides_inside(u, v, 3, 0.5) == 3,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 0.7,
    "star": lambda u, v: _sides_inside(u, v, 5, math.cos(2 * math.pi / 5)) >= 4,
    "bar": lambda u, v: (np.abs(u) <= 0.95) & (np.abs(v) <= 0.28),
    "cross": lambda u, v: (np.minimum(np.abs(u), np.abs(v)) <= 0.25) & (np.maximum(np.abs(u), np.abs(v)) <= 0.92),
    "angle": lambda u, v: (np.maximum(np.abs(u), np.abs(v)) <= 0.72) & (np.minimum(u, v) <= -0.25),
}
"""By class: whether a point lies inside, in units of RADIUS to the right and upwards from the shape's centre."""
CLASSES = tuple(SHAPES)


class Drawing(NamedTuple):
    """All that an image shows; `_replace` moves, turns or scales its shape and leaves the rest as it is."""

    shape: str
    x: float
    """Of the centre, in pixels to the right of the image's."""
    y: float
    """Of the centre, in pixels below the image's."""
    angle: float
    """In degrees, anticlockwise."""
    scale: float
    colour: Colour
    """Red, green and blue from 0 to 1."""
    background: Colour
    seed: int
    """Of the noise."""


def coverage(shape: str, x: float, y: float, angle: float, scale: float) -> Points:
    """(SIZE, SIZE) float32: the share of each pixel that lies inside the shape."""
    points = (np.arange(SIZE * POINTS_PER_SIDE, dtype=np.float32) + 0.5) / POINTS_PER_SIDE - SIZE / 2
    right, up = (points - np.float32(x))[None, :], -(points - np.float32(y))[:, None]
    cos, sin = (np.float32(f(math.radians(angle)) / (RADIUS * scale)) for f in (math.cos, math.sin))
    inside = SHAPES[shape](right * cos + up * sin, up * cos - right * sin)
    return _PIXELS @ inside.astype(np.float32) @ _PIXELS.T


def draw(drawing: Drawing) -> NDArray[Any]:
    """(3, SIZE, SIZE) uint8: the shape on its background, with noise that is the same wherever the shape is."""
    share = coverage(drawing.shape, drawing.x, drawing.y, drawing.angle, drawing.scale)
    colour, background = (np.array(each, np.float32)[:, None, None] for each in (drawing.colour, drawing.background))
    noise = np.random.default_rng(drawing.seed).standard_normal((3, SIZE, SIZE), np.float32)
    values = background + share * (colour - background) + np.float32(NOISE) * noise
    found: NDArray[Any] = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return found


def drawings(count: int, seed: int) -> Iterator[Drawing]:
    """So many, of each class in turn, with everything else drawn at random within the data set's bounds."""
    random = np.random.default_rng(seed)
    for number in range(count):
        colour, background = _colours(random)
        x, y = random.uniform(-MAX_SHIFT, MAX_SHIFT, 2)
        angle, scale = random.uniform(-MAX_ANGLE, MAX_ANGLE), random.uniform(*SCALES)
        noise = int(random.integers(2**63))
        yield Drawing(CLASSES[number % len(CLASSES)], float(x), float(y), angle, scale, colour, background, noise)


def read() -> Parts:
    """The data set: the same images whenever and wherever it is made."""
    train, test = (_part(*each) for each in ((TRAIN_IMAGES, TRAIN_SEED), (TEST_IMAGES, TEST_SEED)))
    return Parts(train, test, CLASSES)


def _part(count: int, seed: int) -> Part:
    images = np.stack([draw(each) for each in drawings(count, seed)])
    return Part(images, np.arange(count, dtype=np.int64) % len(CLASSES))


def _colours(random: np.random.Generator) -> tuple[Colour, Colour]:
    while True:
        first, second = random.random((2, 3))
        if np.linalg.norm(first - second) >= MIN_CONTRAST:
            return tuple(map(float, first)), tuple(map(float, second))  # type: ignore[return-value]
