"""Invented words in the font that Pillow brings, upright or turned by 180 degrees."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.worker.data.parts import Part, Parts
from cnnbench.worker.data.shapes import IMAGE_AXES, LUMA, Colour, painted

CLASSES = ("upright", "turned")
SIZE, MAX_SIDE = (48, 192), 384
"""Height and width of an image in pixels, where nothing is said, and the most of each."""
TRAIN_IMAGES, TEST_IMAGES = 2_000, 2_000
TRAIN_SEED, TEST_SEED = 1, 2
SYLLABLES, HEIGHTS, MAX_ANGLE = (2, 4), (0.6, 0.9), 5.0
"""Of the data set's words: the fewest and the most, the height as a share of the image's, as in the crops that text
detectors make, and degrees to each side."""
MIN_CONTRAST, NOISE, MARGIN = 0.3, 0.04, 0.04
"""The least difference in brightness of the two colours and the standard deviation of the noise, as shares of full
brightness, and what is left free on each side, as a share of the shorter one."""
CONSONANTS, VOWELS = "bcdfghjklmnprstvwyz", "aeiou"
ONE_WAY, MIN_ONE_WAY = frozenset("aefgjkrtvAEFGJKLPRTVY"), 2
"""Letters that look like no other when they are turned, and how many of them a word has: `nodus` turned is `snpou`."""


class Drawing(NamedTuple):
    """All that an image shows."""

    word: str
    is_turned: bool
    height: float
    """Of the word, as a share of the image's; less where it would not fit."""
    x: float
    """Where the word stands in the room that it leaves, from 0 at the left to 1."""
    y: float
    """From 0 above to 1."""
    angle: float
    """In degrees, anticlockwise, beside the 180."""
    colour: Colour
    """Red, green and blue from 0 to 1."""
    background: Colour
    seed: int
    """Of the noise."""


def coverage(drawing: Drawing, size: tuple[int, int]) -> NDArray[Any]:
    """(height, width) float32: the share of each pixel that the upright word covers."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = size
    left, top, right, bottom = ImageFont.load_default(height).getbbox(drawing.word)
    cos, sin = (f(math.radians(abs(drawing.angle))) for f in (math.cos, math.sin))
    box = (right - left) * cos + (bottom - top) * sin, (right - left) * sin + (bottom - top) * cos
    room = [side - 2 * MARGIN * min(size) for side in (width, height)]
    scale = min(drawing.height * height / (bottom - top), *(own / side for own, side in zip(room, box, strict=True)))
    font = ImageFont.load_default(max(height * scale, 1))
    left, top, right, bottom = font.getbbox(drawing.word)
    x = width / 2 + (drawing.x - 0.5) * (room[0] - scale * box[0])
    y = height / 2 + (drawing.y - 0.5) * (room[1] - scale * box[1])
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).text((x - (left + right) / 2, y - (top + bottom) / 2), drawing.word, fill=255, font=font)
    return np.asarray(image.rotate(drawing.angle, Image.Resampling.BILINEAR, center=(x, y)), np.float32) / 255


def draw(drawing: Drawing, size: tuple[int, int]) -> NDArray[Any]:
    """(3, height, width) uint8: the word on its background, with noise."""
    image = painted(coverage(drawing, size), drawing.colour, drawing.background, NOISE, drawing.seed)
    return image[:, ::-1, ::-1] if drawing.is_turned else image


def drawings(count: int, seed: int) -> Iterator[Drawing]:
    """So many, of each class in turn, with everything else drawn at random within the data set's bounds."""
    random = np.random.default_rng(seed)
    for number in range(count):
        height, angle = random.uniform(*HEIGHTS), random.uniform(-MAX_ANGLE, MAX_ANGLE)
        x, y = map(float, random.random(2))
        colour, background = _colours(random)
        noise = int(random.integers(2**63))
        yield Drawing(_word(random), number % 2 == 1, height, x, y, angle, colour, background, noise)


def _word(random: np.random.Generator) -> str:
    """In small letters, in capitals, or with a capital at its beginning."""
    while True:
        count = random.integers(SYLLABLES[0], SYLLABLES[1] + 1)
        letters = "".join(random.choice(list(each)) for _ in range(count) for each in (CONSONANTS, VOWELS))
        word = (letters, letters.upper(), letters.title())[random.integers(3)]
        if sum(letter in ONE_WAY for letter in word) >= MIN_ONE_WAY:
            return word


def size_for(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of the images for a model of images (C, H, W): its own, up to MAX_SIDE."""
    return (min(shape[1], MAX_SIDE), min(shape[2], MAX_SIDE)) if len(shape) == IMAGE_AXES else SIZE


def read(shape: Sequence[int] = ()) -> Parts:
    """The data set for a model of images (C, H, W): the same images whenever it is made with one version of Pillow.

    For one channel they are grey.
    """
    size, is_grey = size_for(shape), tuple(shape[:1]) == (1,)
    train, test = (_part(*each, size, is_grey) for each in ((TRAIN_IMAGES, TRAIN_SEED), (TEST_IMAGES, TEST_SEED)))
    return Parts(train, test, CLASSES)


def _part(count: int, seed: int, size: tuple[int, int], is_grey: bool) -> Part:
    images = np.empty((count, 1 if is_grey else 3, *size), np.uint8)
    for place, each in enumerate(drawings(count, seed)):
        image = draw(each, size)
        images[place] = np.rint(np.tensordot(LUMA, image, 1)) if is_grey else image
    return Part(images, np.arange(count, dtype=np.int64) % len(CLASSES))


def _colours(random: np.random.Generator) -> tuple[Colour, Colour]:
    while True:
        first, second = random.random((2, 3))
        if abs(np.dot(LUMA, first - second)) >= MIN_CONTRAST:
            return tuple(map(float, first)), tuple(map(float, second))  # type: ignore[return-value]
