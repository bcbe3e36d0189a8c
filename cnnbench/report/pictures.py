"""Pictures of arrays: PNG without a library, grids of small maps, and colours for signed differences."""

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""(height, width, 3)."""
Maps = NDArray[np.floating]
"""(maps, height, width), or (maps, length) of signals."""

GAP = 1
"""Pixels between the maps of a grid."""
SIGNAL_ROW = 2
"""Pixels that one number of a signal is high."""
CURVE_HEIGHT = 80
"""Of a signal's curve, in pixels; it is as wide as the signal is long."""
MIN_SHOWN = 220
"""The least width that a grid is drawn with on a page, in pixels."""
BACKGROUND = (128, 128, 140)
POSITIVE, NEGATIVE = np.array([178, 24, 43]), np.array([33, 102, 172])
NOT_FINITE = (255, 0, 255)


@dataclass(frozen=True)
class Picture:
    """A picture with what it shows."""

    name: str
    """Of letters, digits and hyphens: the name of its file."""
    title: str
    caption: str
    pixels: Pixels

    @cached_property
    def png(self) -> bytes:
        """The picture as PNG."""
        height, width, _ = self.pixels.shape
        lines = b"".join(b"\x00" + line.tobytes() for line in np.ascontiguousarray(self.pixels))
        parts = (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(lines, 9)),
            (b"IEND", b""),
        )
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in parts
        )

    @property
    def address(self) -> str:
        """The picture itself as an address within a page."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"

    @property
    def shown_width(self) -> int:
        """How wide it is drawn on a page, in pixels: whole multiples of its own, so that each number is a square."""
        width = int(self.pixels.shape[1])
        return width * max(1, math.ceil(MIN_SHOWN / width))


def grey(maps: Maps, low: float | None = None, high: float | None = None) -> Pixels:
    """Each number as a shade, from black for `low` to white for `high`; of each map its own extremes if not given."""
    values = np.asarray(maps, np.float64)
    axes = tuple(range(1, values.ndim))
    known = np.where(np.isfinite(values), values, np.nan)
    with np.errstate(all="ignore"):
        least = np.nanmin(known, axis=axes, keepdims=True) if low is None else np.full((1,) * values.ndim, low)
        most = np.nanmax(known, axis=axes, keepdims=True) if high is None else np.full((1,) * values.ndim, high)
        span = np.where(most > least, most - least, 1)
        shades = np.nan_to_num(np.clip((values - least) / span, 0, 1))
    colours = np.repeat((shades * 255).astype(np.uint8)[..., None], 3, axis=-1)
    colours[~np.isfinite(values)] = NOT_FINITE
    return colours


def colour(tiles: NDArray[np.floating]) -> Pixels:
    """Tiles (tiles, 3, height, width) as colours, each from its least number to its largest."""
    shades = grey(np.asarray(tiles, np.float64).reshape(len(tiles), -1))[..., 0]
    found: Pixels = shades.reshape(tiles.shape).transpose(0, 2, 3, 1)
    return found


def curve(signal: Maps) -> Pixels:
    """A signal (C, L), or one number for each of C channels, as a curve for each channel, each on its own scale."""
    values = np.asarray(signal, np.float64).reshape(len(signal), -1)
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    rows = np.rint((high - values) / np.where(high > low, high - low, 1) * (CURVE_HEIGHT - 1)).astype(int)
    after = np.concatenate([rows[:, 1:], rows[:, -1:]], axis=1)
    top, bottom = np.minimum(rows, after), np.maximum(rows, after)  # a line to the next place
    places = np.arange(CURVE_HEIGHT)[:, None]
    is_ink = (places >= top[:, None]) & (places <= bottom[:, None])
    return grid(np.where(is_ink[..., None], np.uint8(0), np.uint8(255)).repeat(3, axis=-1), columns=1)


def signed(maps: Maps) -> Pixels:
    """Each number as a colour, white for 0, red above and blue below, of full strength at the largest of all."""
    values = np.asarray(maps, np.float64)
    size = np.abs(np.where(np.isfinite(values), values, 0))
    strength = (size / (size.max(initial=0.0) or 1.0))[..., None]
    colours = np.where(values[..., None] > 0, POSITIVE, NEGATIVE) * strength + 255 * (1 - strength)
    found: Pixels = colours.astype(np.uint8)
    found[~np.isfinite(values)] = NOT_FINITE
    return found


def grid(tiles: Pixels, columns: int | None = None) -> Pixels:
    """Tiles (tiles, height, width, 3), or rows (tiles, length, 3) of signals, side by side, about as wide as high."""
    if tiles.ndim == 3:
        tiles = np.repeat(tiles[:, None], SIGNAL_ROW, axis=1)
        columns = columns or 1
    count, height, width, _ = tiles.shape
    across = columns or max(1, min(count, round(math.sqrt(count * height / width))))
    down = math.ceil(count / across)
    whole = np.empty((down * (height + GAP) - GAP, across * (width + GAP) - GAP, 3), np.uint8)
    whole[:] = BACKGROUND
    for place, tile in enumerate(tiles):
        y, x = place // across * (height + GAP), place % across * (width + GAP)
        whole[y : y + height, x : x + width] = tile
    return whole


def beside(pictures: Sequence[Pixels]) -> Pixels:
    """Pictures of one height in a row."""
    gap = np.full((pictures[0].shape[0], 3 * GAP, 3), BACKGROUND, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=1)
