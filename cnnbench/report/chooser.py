"""The question of `cnnbench pick` on a page: sliders for the bounds, and every measured case judged by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cnnbench.analysis.pick import UNITS, Candidate, Metric, pick
from cnnbench.records.run_folder import Run
from cnnbench.report.format import accuracy_source
from cnnbench.report.picked import NAMES, figure_text


class Slider(NamedTuple):
    """A bound: over these figures of the cases."""

    metric: Metric
    label: str
    low: float
    high: float
    is_least: bool
    """Whether figures are to be above it."""


class Choice(NamedTuple):
    """A case with its figures, each as words and as `low,value,high`, empty where it is unknown."""

    model: str
    backend: str
    batch: int
    figures: dict[Metric, tuple[str, str]]


@dataclass(frozen=True)
class Chooser:
    """Sliders and the cases that they judge."""

    sliders: Sequence[Slider]
    batches: Sequence[int]
    choices: Sequence[Choice]


def chooser(run: Run) -> Chooser | None:
    """Of a run's measured inference cases; None where there are fewer than two."""
    picked = pick([run], {})
    candidates = [each for batch in picked.batches for each in pick([run], {}, batch).meets]
    if len(candidates) < 2:
        return None
    sliders = [found for metric in UNITS if (found := _slider(metric, candidates, picked.data)) is not None]
    return Chooser(sliders, picked.batches, [_choice(each) for each in candidates])


def _slider(metric: Metric, candidates: Sequence[Candidate], data: str) -> Slider | None:
    figures = [figure.value for each in candidates if (figure := each.figures[metric]) is not None]
    if len(set(figures)) < 2:
        return None
    of = f", {accuracy_source(data)}" if metric == "accuracy" else ""
    return Slider(metric, f"{NAMES[metric]} {UNITS[metric]}{of}", min(figures), max(figures), metric == "accuracy")


def _choice(each: Candidate) -> Choice:
    case = each.record.case
    figures: dict[Metric, tuple[str, str]] = {}
    for metric, figure in each.figures.items():
        ends = (figure.low, figure.value, figure.high) if figure else ()
        text = figure_text(metric, figure)
        figures[metric] = (text, ",".join("" if end is None else f"{end:.6g}" for end in ends))
    return Choice(case.label, case.backend, case.batch, figures)
