"""Coloured shapes of ten classes, 3x32x32 or at another size, drawn at an exact position, angle and scale.

A shape is a formula: how far a point of the plane lies outside its outline. A pixel has the shape's colour by the share
of its area that lies inside, which is that distance, from half a pixel inside to half a pixel outside. So a shape can
be moved by any fraction of a pixel, and turned or scaled by any amount, without resampling an image.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.worker.data.parts import Part, Parts

SIZE, MAX_SIZE = 32, 128
"""Of an image's sides, in pixels, where nothing is said, and at most; positions and RADIUS are in pixels of SIZE."""
LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue in an image of one channel (ITU-R BT.601)."""
RADIUS = 8.0
"""Of the circle around a shape of scale 1, in pixels."""
TRAIN_IMAGES, TEST_IMAGES = 10_000, 2_000
TRAIN_SEED, TEST_SEED = 1, 2
MAX_SHIFT, MAX_ANGLE, SCALES = 3.0, 15.0, (0.8, 1.1)
"""Of the data set's drawings: pixels to each side, degrees to each side, and the least and largest scale."""
MIN_CONTRAST, NOISE = 0.25, 0.08
"""The least distance between the two colours, and the standard deviation of the noise, as shares of full brightness."""

IMAGE_AXES = 3

Points = NDArray[Any]
Colour = tuple[float, float, float]


def _along_normals(u: Points, v: Points, sides: int) -> list[Points]:
    """The distance from the centre along the normal of each side of a regular polygon with a corner at the top."""
    angles = (math.pi + 2 * math.pi * side / sides for side in range(sides))
    return [u * math.sin(angle) + v * math.cos(angle) for angle in angles]


def _star(u: Points, v: Points) -> Points:
    """Of five points: inside of at least four of the five lines that its edges lie on."""
    largest = second = np.full_like(u, -np.inf)
    for each in _along_normals(u, v, 5):
        largest, second = np.maximum(largest, each), np.maximum(second, np.minimum(largest, each))
    return second - math.cos(2 * math.pi / 5)


def _box(u: Points, v: Points, width: float, height: float) -> Points:
    return np.maximum(np.abs(u) - width, np.abs(v) - height)


SHAPES: Mapping[str, Callable[[Points, Points], Points]] = {
    "disc": lambda u, v: np.hypot(u, v) - 0.9,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.75) - 0.2,
    "half disc": lambda u, v: np.maximum(np.hypot(u, v + 0.4) - 0.95, -0.4 - v),
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 0.95, 0.7 - np.hypot(u - 0.4, v)),
    "triangle": lambda u, v: np.maximum.reduce(_along_normals(u, v, 3)) - 0.5,
    "square": lambda u, v: _box(u, v, 0.7, 0.7),
    "star": _star,
    "bar": lambda u, v: _box(u, v, 0.95, 0.28),
    "cross": lambda u, v: np.minimum(_box(u, v, 0.92, 0.25), _box(u, v, 0.25, 0.92)),
    "angle": lambda u, v: np.maximum(_box(u, v, 0.72, 0.72), np.minimum(u, v) + 0.25),
}
"""By class: how far a point to the right and upwards of its centre lies outside, all in units of RADIUS."""
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


def coverage(shape: str, x: float, y: float, angle: float, scale: float, size: int = SIZE) -> Points:
    """(size, size) float32: the share of each pixel that lies inside the shape."""
    places = np.arange(size, dtype=np.float32) + np.float32(0.5 - size / 2)
    pixels = size / SIZE
    right, up = (places - np.float32(x * pixels))[None, :], -(places - np.float32(y * pixels))[:, None]
    unit = RADIUS * scale * pixels
    cos, sin = (np.float32(f(math.radians(angle)) / unit) for f in (math.cos, math.sin))
    outside = SHAPES[shape](right * cos + up * sin, up * cos - right * sin)
    found: Points = np.clip(0.5 - outside * np.float32(unit), 0, 1)
    return found


def draw(drawing: Drawing, size: int = SIZE) -> NDArray[Any]:
    """(3, size, size) uint8: the shape on its background, with noise that is the same wherever the shape is."""
    share = coverage(drawing.shape, drawing.x, drawing.y, drawing.angle, drawing.scale, size)
    return painted(share, drawing.colour, drawing.background, NOISE, drawing.seed)


def painted(share: Points, colour: Colour, background: Colour, noise: float, seed: int) -> NDArray[Any]:
    """(3, height, width) uint8: one colour on another where `share` (height, width) of a pixel has it, with noise."""
    front, back = (np.array(each, np.float32)[:, None, None] for each in (colour, background))
    drawn = np.random.default_rng(seed).standard_normal((3, *share.shape), np.float32)
    values = back + share * (front - back) + np.float32(noise) * drawn
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


def size_for(shape: Sequence[int]) -> int:
    """The sides of the images for a model of images (C, H, W): its own, up to MAX_SIZE."""
    return min(*shape[1:], MAX_SIZE) if len(shape) == IMAGE_AXES else SIZE


def read(shape: Sequence[int] = ()) -> Parts:
    """The data set for a model of images (C, H, W): the same images whenever and wherever it is made.

    For one channel they are grey.
    """
    size, is_grey = size_for(shape), tuple(shape[:1]) == (1,)
    train, test = (_part(*each, size, is_grey) for each in ((TRAIN_IMAGES, TRAIN_SEED), (TEST_IMAGES, TEST_SEED)))
    return Parts(train, test, CLASSES)


def _part(count: int, seed: int, size: int, is_grey: bool) -> Part:
    images = np.empty((count, 1 if is_grey else 3, size, size), np.uint8)
    for place, each in enumerate(drawings(count, seed)):
        image = draw(each, size)
        images[place] = np.rint(np.tensordot(LUMA, image, 1)) if is_grey else image
    return Part(images, np.arange(count, dtype=np.int64) % len(CLASSES))


def _colours(random: np.random.Generator) -> tuple[Colour, Colour]:
    while True:
        first, second = random.random((2, 3))
        if np.linalg.norm(first - second) >= MIN_CONTRAST:
            return tuple(map(float, first)), tuple(map(float, second))  # type: ignore[return-value]
