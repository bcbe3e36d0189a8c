"""The page of a comparison layer by layer: heat map, the worst layers' maps, and every layer's figures."""

import math

import altair as alt
import numpy as np

from cnnbench.analysis.divergence import LayerErrors
from cnnbench.report import charts, pictures
from cnnbench.report.charts import Chart
from cnnbench.report.divergence import layer_of, other_program, verdict
from cnnbench.report.html import Page, Part, Section, html
from cnnbench.report.pictures import Picture
from cnnbench.report.table import Column, Table, figure, table_of, words
from cnnbench.runner.tasks.diverge import Divergence, LayerRun

LEAST = 1e-9
"""Errors below it have one colour."""


def page(found: Divergence) -> str:
    """One HTML file that needs nothing else."""
    runs = [run for each in found.runs for run in ([each, each.unfused] if each.unfused else [each])]
    names = {id(run): run.name for run in found.runs}
    names |= {id(run.unfused): f"{run.name}, unoptimised" for run in found.runs if run.unfused}
    sections = [
        Section(
            "where",
            "Where they part",
            [f"{line}." for line in other_program(found)]
            + [f"{run.name}: {verdict(found, run)}." for run in found.runs],
            [_heat(found, runs, names)],
        ),
        Section(
            "maps",
            "Feature maps of the worst layers",
            [
                "First image. From left to right: the reference, the run in the same shades, and the run minus the "
                "reference, red above and blue below. Numbers that are none are magenta."
            ],
            [part for number, run in enumerate(runs) for part in _maps(found, run, names[id(run)], number)],
        ),
        *(
            Section(f"layers-{place}", names[id(run)], (), [_table(found, run, place)])
            for place, run in enumerate(runs)
        ),
    ]
    subtitle = f"{found.batch} reference images; errors in units of the root mean square of each layer's reference"
    return html(Page(f"{found.model}, layer by layer", subtitle, sections, origin="by cnnbench diverge"))


def _heat(found: Divergence, runs: list[LayerRun], names: dict[int, str]) -> Chart:
    rows = [
        {
            "run": names[id(run)],
            "layer": layer.place,
            "what": what,
            "value": math.log10(min(max(value, LEAST), 1 / LEAST)),
            "description": f"{names[id(run)]}, {layer_of(found.values[layer.place], found.model)}, "
            f"{found.values[layer.place].operator}: {what} {value:.1e}",
        }
        for run in runs
        for layer in run.layers
        for what, value in (("error", layer.error), ("added", layer.added))
        if value is not None
    ]
    chart = (
        alt.Chart(charts.data(rows))
        .mark_rect()
        .encode(
            x=alt.X("layer:O", title="layer, in the network's order", axis=alt.Axis(labels=False, ticks=False)),
            y=alt.Y("run:N", sort=None, title=None),
            color=alt.Color("value:Q", title="log10 of the error", scale=alt.Scale(scheme="viridis")),
            description="description:N",
        )
        .properties(width=charts.WIDTH * 1.25, height=max(40, charts.ROW * len(runs)))
    )
    header = alt.Header(labelAngle=0, labelOrient="top", labelAnchor="start")
    spec = chart.facet(row=alt.Row("what:N", title=None, sort=["error", "added"], header=header))
    spec = spec.properties(padding={"left": 32, "right": 12, "top": 5, "bottom": 5})  # names of runs are long
    caption = (
        "Each column is a value of the network. Upper rows: its error against float64; lower rows: what the layer "
        "adds, fed with the reference's values. Where a row has a gap, the run has no such value, or it is no number."
    )
    return Chart("heat", "Layers and runs", caption, spec, is_wide=True)


def _maps(found: Divergence, run: LayerRun, name: str, number: int) -> list[Part]:
    layers = {layer.place: layer for layer in run.layers}
    made: list[Part] = []
    for place in sorted(run.maps, key=lambda place: -layers[place].excess):
        maps = run.maps[place]
        low, high = (float(f(np.where(np.isfinite(maps.exact), maps.exact, 0))) for f in (np.min, np.max))
        difference = np.subtract(maps.made, maps.exact, dtype=np.float64)
        parts = [
            pictures.grid(p, columns=1)
            for p in (
                pictures.grey(maps.exact, low, high),
                pictures.grey(maps.made, low, high),
                pictures.signed(difference),
            )
        ]
        value = found.values[place]
        title = f"{name}: {layer_of(value, found.model)}, {value.operator}"
        largest = float(np.abs(np.where(np.isfinite(difference), difference, 0)).max())
        channels = ", ".join(map(str, maps.channels))
        caption = f"Channels {channels}; the largest difference is {largest:.2e}. {_said(layers[place])}"
        made.append(Picture(f"maps-{number}-{place}", title, caption, pictures.beside(parts)))
    return made


def _said(layer: LayerErrors) -> str:
    return "Worse than rounding explains." if layer.is_wrong else "Rounding explains it."


def _table(found: Divergence, run: LayerRun, place: int) -> Table:
    def exponent(value: float) -> str:
        return f"{value:.1e}"

    columns: list[Column[LayerErrors]] = [
        words("layer", lambda layer: layer_of(found.values[layer.place], found.model)),
        words("operation", lambda layer: found.values[layer.place].operator),
        words("computed by", lambda layer: run.operators[layer.place]),
        figure("SNR dB", lambda layer: layer.snr_db),
        figure("cosine", lambda layer: layer.cosine, lambda value: f"{value:.6f}"),
        figure("largest error", lambda layer: layer.largest, exponent),
        figure("inherited", lambda layer: layer.inherited, exponent),
        figure("added", lambda layer: layer.added, exponent),
        figure("rounding", lambda layer: layer.limit, exponent),
        figure("NaN, inf", lambda layer: (layer.nan + layer.infinite) or None, str),
        words("judged", lambda layer: "wrong" if layer.is_wrong else "right"),
    ]
    return table_of(f"layers-{place}", "Each layer", "In the network's order.", run.layers, columns)
