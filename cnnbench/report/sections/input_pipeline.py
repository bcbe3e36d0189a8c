"""How fast stored images become batches, and what the transforms make of one."""

import numpy as np

from cnnbench.records.input_times import CHANNELS, Draw, InputTimes
from cnnbench.report import pictures
from cnnbench.report.html import Part, Section
from cnnbench.report.pictures import Picture, Pixels
from cnnbench.report.sections.sources import Sources

COLUMNS = 4


def section(sources: Sources) -> Section:
    """Stages and workers, with a sentence for each training case; then draws of one image."""
    times = sources.run.input
    prose = [f"The input could not be measured: {times.failure}"] if times and times.failure else []
    parts: list[Part] = [*sources.table("input", "input_workers")]
    if times and times.draws:
        parts.append(_draws(times))
    return Section("input", "Input", prose, parts)


def _draws(times: InputTimes) -> Picture:
    calls = ", ".join(times.plan.transforms) or "no transform"
    caption = f"The first image of {times.plan.data}, drawn {len(times.draws)} times through {calls}."
    size = tuple(max(getattr(draw, side) for draw in times.draws) for side in ("height", "width"))
    tiles = np.stack([_pixels(draw, *size) for draw in times.draws])
    return Picture("draws", "Draws of one image", caption, pictures.grid(tiles, COLUMNS))


def _pixels(draw: Draw, height: int, width: int) -> Pixels:
    """The draw in the upper left of an area of this size."""
    area = np.empty((height, width, CHANNELS), np.uint8)
    area[:] = pictures.BACKGROUND
    found = np.frombuffer(draw.content, np.uint8).reshape(draw.height, draw.width, CHANNELS)
    area[: draw.height, : draw.width] = found
    return area
