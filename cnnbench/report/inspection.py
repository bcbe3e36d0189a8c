"""What a model's layers put out for an image, as a page and as pictures."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cnnbench.analysis.activations import MAX_MAPS, Activations
from cnnbench.networks.receptive import Field
from cnnbench.report import pictures
from cnnbench.report.format import NONE, percent, significant
from cnnbench.report.html import Page, Part, Section, html
from cnnbench.report.pictures import Picture, Pixels
from cnnbench.report.table import Column, figure, table_of, words
from cnnbench.runner.tasks.inspect import Inspection, Layer

BAR_HEIGHT, BAR_WIDTH = 40, 4
FIELD_COLOUR = (230, 60, 30)
INK, PAPER = (43, 108, 176), (255, 255, 255)


def name_of(layer: Layer) -> str:
    """`layer1.0.relu`, with the operation: a module may put out several values."""
    return f"{layer.value.module or layer.value.name} ({layer.value.operator})"


def page(found: Inspection) -> str:
    """One HTML file that needs nothing else."""
    names = ", ".join(dict.fromkeys(run for layer in found.layers for run in layer.runs))
    sections = [
        Section("input", "Input and first kernels", (), _input(found)),
        Section("layers", "Layers", [CAPTION], [_table(found.layers)]),
        *(
            Section(f"layer-{number}", name_of(layer), (), list(_parts(found, number, layer)), in_nav=False)
            for number, layer in enumerate(found.layers)
        ),
    ]
    images = f"{found.images} images, with the maps of the first" if found.images > 1 else "one image"
    subtitle = f"what its layers put out for {images}, in {names}"
    return html(Page(found.model, subtitle, sections, origin="by cnnbench inspect"))


CAPTION = (
    "A unit is a channel. A dead one puts out one and the same number everywhere, on all images, if it puts out more "
    "than one. Receptive fields are "
    "in closed form: the pixels that one place of the output depends on."
)


def all_pictures(found: Inspection) -> list[Picture]:
    """Every picture of the page, for files of their own."""
    parts = [
        *_input(found),
        *(part for number, layer in enumerate(found.layers) for part in _parts(found, number, layer)),
    ]
    return [part for part in parts if isinstance(part, Picture)]


def as_json(found: Inspection) -> dict[str, Any]:
    """The figures, for programs."""
    return {
        "model": found.model,
        "image": found.source,
        "images": found.images,
        "layers": [
            {
                "layer": layer.value.module,
                "operator": layer.value.operator,
                "shape": list(layer.value.shape),
                "receptive_field": None if layer.field is None else [axis.size for axis in layer.field],
                "runs": {
                    run: {
                        "units": of.units,
                        "dead": of.dead,
                        "zeros": of.zeros,
                        "mean": of.mean,
                        "deviation": of.deviation,
                        "low": of.low,
                        "high": of.high,
                        "not_finite": of.not_finite,
                        "histogram": of.counts,
                    }
                    for run, of in layer.runs.items()
                },
            }
            for layer in found.layers
        ],
    }


def _input(found: Inspection) -> list[Part]:
    caption = f"What was put in: {found.source}, normalised as the model takes it."
    made: list[Part] = [Picture("input", "Input", caption, _image(found))]
    if found.kernels is not None:
        kernels = found.kernels[:MAX_MAPS]
        if kernels.ndim == 5:  # of volumes, the middle slice
            kernels = kernels[:, :, kernels.shape[2] // 2]
        is_colour = kernels.ndim == 4 and kernels.shape[1] == 3
        tiles = pictures.colour(kernels) if is_colour else pictures.grey(kernels[:, 0] if kernels.ndim > 2 else kernels)
        tiles = tiles if tiles.ndim > 3 else tiles[:, None]  # of signals, each one line of squares
        caption = f"The first {len(kernels)} of {len(found.kernels)} kernels, each in shades of its own"
        caption += "." if is_colour or found.kernels.shape[1] == 1 else "; their first input channel alone."
        made.append(Picture("kernels", f"Kernels of {found.first}", caption, pictures.grid(tiles)))
    return made


def _image(found: Inspection) -> Pixels:
    image = found.image[:, found.image.shape[1] // 2] if found.image.ndim > 3 else found.image
    if image.ndim < 3:
        return pictures.curve(image)
    if len(image) == 3:
        return pictures.grid(pictures.colour(image[None]))
    return pictures.grid(pictures.grey(image), columns=1)


def _parts(found: Inspection, number: int, layer: Layer) -> Iterator[Part]:
    """Of each run the maps and the histogram; then the receptive field on the image."""
    for run, of in layer.runs.items():
        slug = f"{number}-{''.join(c if c.isalnum() else '-' for c in run)}"
        shown = f"The first {len(of.maps)} of {of.units} maps" if of.units > len(of.maps) else f"All {of.units} maps"
        caption = f"{shown}, each in shades of its own, from its least number in black to its largest in white."
        yield Picture(f"maps-{slug}", f"Feature maps, {run}", caption, pictures.grid(pictures.grey(of.maps)))
        yield Picture(f"histogram-{slug}", f"Numbers, {run}", _numbers(of), _histogram(of))
    if layer.field and found.image.ndim <= 3:
        caption = f"What the middle place of each map depends on: {_size(layer.field)} pixels."
        yield Picture(f"field-{number}", "Receptive field", caption, _with_field(found, layer))


def _numbers(of: Activations) -> str:
    others = f"; {of.not_finite} are none" if of.not_finite else ""
    dead = "" if of.dead is None else f", {percent(of.dead)} of the units are dead"
    return (
        f"From {significant(of.low)} to {significant(of.high)}, mean {significant(of.mean)}, deviation "
        f"{significant(of.deviation)}; {percent(of.zeros)} are 0{dead}{others}. "
        "Heights are logarithmic."
    )


def _histogram(of: Activations) -> Pixels:
    """A bar for each bin, as high as the logarithm of its count."""
    heights = [math.log1p(count) for count in of.counts]
    whole = np.full((BAR_HEIGHT, BAR_WIDTH * len(heights), 3), PAPER, np.uint8)
    for place, height in enumerate(heights):
        pixels = round(BAR_HEIGHT * height / (max(heights) or 1.0))
        whole[BAR_HEIGHT - pixels :, place * BAR_WIDTH : (place + 1) * BAR_WIDTH - 1] = INK
    return whole


def _with_field(found: Inspection, layer: Layer) -> Pixels:
    whole = _image(found).copy()
    assert layer.field is not None
    sides = found.image.shape[1:]
    *rows, (left, right) = (
        axis.at(side // 2, pixels)
        for axis, side, pixels in zip(layer.field, layer.value.shape[-len(sides) :], sides, strict=True)
    )
    top, bottom = rows[0] if rows else (0, len(whole))
    for lines, columns in (((top, bottom - 1), slice(left, right)), (slice(top, bottom), (left, right - 1))):
        whole[lines, columns] = FIELD_COLOUR
    return whole


def _size(fields: Sequence[Field]) -> str:
    return "x".join(str(axis.size) for axis in fields)


def _table(layers: Sequence[Layer]) -> Part:
    rows = [(layer, run, of) for layer in layers for run, of in layer.runs.items()]
    Row = tuple[Layer, str, Activations]
    columns: list[Column[Row]] = [
        words("layer", lambda row: name_of(row[0]), axis=True),
        words("run", lambda row: row[1], axis=True),
        words("shape", lambda row: "x".join(map(str, row[0].value.shape[1:]))),
        words("receptive field", lambda row: "whole image" if row[0].field is None else _size(row[0].field) or NONE),
        figure("dead units", lambda row: row[2].dead, percent),
        figure("zeros", lambda row: row[2].zeros, percent),
        figure("mean", lambda row: row[2].mean),
        figure("deviation", lambda row: row[2].deviation),
        figure("least", lambda row: row[2].low),
        figure("largest", lambda row: row[2].high),
    ]
    return table_of("activations", "Figures", "Of all numbers that a layer puts out.", rows, columns)
