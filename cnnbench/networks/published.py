"""Figures that papers and their authors' repositories print (published.yaml), beside the formulas' exact counts.

A printed figure is rounded, so it agrees if the exact count rounds to it; nothing else is tolerated. A figure that
differs has a reason, wherever possible a computation: the count of what the authors counted, or of the network that
they had, must give the printed digits. "FLOPs" are multiply-accumulates in all of these papers.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from cnnbench.networks.architecture import Architecture
from cnnbench.networks.layers import BatchNorm, Linear
from cnnbench.networks.network import Layer

What = Literal["params", "MACs"]

UNITS = {"": 1, "M": 10**6, "G": 10**9}
NOT_KNOWN = "the reason is not known"
CUT = "its digits are cut off, not rounded"

REASONS: dict[str, dict[str, Any]] = {
    "unknown": {"reason": NOT_KNOWN},
    "cut": {"reason": CUT, "cut": True},
    "no fully connected layers": {
        "reason": "it leaves out the fully connected layers",
        "without": lambda layer: isinstance(layer.op, Linear),
    },
    "no auxiliary head": {"reason": "it leaves out the auxiliary head", "without": lambda layer: layer.training_only},
    "no projections": {
        "reason": "it counts shortcuts without projections (option A)",
        "without": lambda layer: ".downsample." in layer.name,
    },
    "no batch normalisation": {
        "reason": "the count without batch normalisation's parameters rounds to it",
        "without": lambda layer: isinstance(layer.op, BatchNorm),
    },
    "stride on the first 1x1": {
        "reason": "the paper's network has its stride on the first 1x1 of a bottleneck",
        "had": {"stride_on_first": True},
    },
    "stem channels kept": {
        "reason": "the authors' first block of stage 2 keeps the stem's channels in its projection",
        "had": {"projection_keeps_stem": True},
    },
    "nearest width": {
        "reason": "the authors round stage widths to whole groups in another way than torchvision",
        "had": {"nearest_width": True},
    },
}
"""By key, the reason in words, and as the fields of `Figure` that compute it."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a paper prints of a network."""

    model: str
    what: What
    printed: str
    """Its digits."""
    unit: Literal["", "M", "G"]
    source: str
    image_size: int | None = None
    """Side of the square images that it is for, where it is not the network's default."""
    without: Callable[[Layer], bool] | None = None
    """Layers that the authors did not count."""
    had: dict[str, Any] | None = None
    """Settings of the network that the authors had, where it is not torchvision's."""
    cut: bool = False
    """Whether its digits are cut off rather than rounded."""
    reason: str = ""
    """Why it differs from the formulas' count of torchvision's network; empty if it agrees."""

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.printed}{unit} {'parameters' if self.what == 'params' else self.what}"

    def agrees(self, architecture: Architecture) -> bool:
        """Whether the exact count rounds to what is printed."""
        return self._printed_of(self.counted(architecture), ROUND_HALF_UP) == Decimal(self.printed)

    def is_explained(self, architecture: Architecture) -> bool:
        """Whether there is a reason, and what it says gives the printed digits. A reason may be that none is known."""
        if not self.reason or self.reason == NOT_KNOWN:
            return bool(self.reason)
        rounding = ROUND_DOWN if self.cut else ROUND_HALF_UP
        return self._printed_of(self.authors_count(architecture), rounding) == Decimal(self.printed)

    def counted(self, architecture: Architecture) -> int:
        """The exact count of the network as torchvision has it."""
        return self._count(architecture)

    def authors_count(self, architecture: Architecture) -> int:
        """The exact count of what the authors counted."""
        if self.had:
            had: Any = dataclasses.replace(cast(Any, architecture.describe), **self.had)
            architecture = dataclasses.replace(architecture, describe=had)
        return self._count(architecture, self.without)

    def _count(self, architecture: Architecture, without: Callable[[Layer], bool] | None = None) -> int:
        network = architecture.network((self.image_size,) if self.image_size else None)
        layers = [layer for layer in network.layers if not (without and without(layer))]
        if self.what == "params":
            return sum(layer.params for layer in layers)
        return sum(layer.macs for layer in layers if not layer.training_only)

    def _printed_of(self, count: int, rounding: str) -> Decimal:
        return (Decimal(count) / UNITS[self.unit]).quantize(Decimal(self.printed), rounding)


def _read() -> Iterator[Figure]:
    tables = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    for source, by_figure in tables.items():
        for heading, by_model in by_figure.items():
            what, _, unit = heading.partition(" ")
            for model, entry in by_model.items():
                settings = {"printed": entry} if isinstance(entry, str) else dict(entry)
                reasons = [REASONS[key] for key in settings.pop("why", ())]
                for reason in reasons:
                    settings |= reason
                settings["reason"] = "; ".join(reason["reason"] for reason in reasons)
                yield Figure(model=model, what=what, unit=unit, source=source, **settings)


FIGURES = tuple(_read())


def figures_of(model: str) -> list[Figure]:
    """All printed figures of one network."""
    return [figure for figure in FIGURES if figure.model == model]
