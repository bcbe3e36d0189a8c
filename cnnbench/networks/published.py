"""Figures that papers and their authors' repositories print, each beside the formulas' exact count.

A printed figure is rounded, so it agrees if the exact count rounds to it; nothing else is tolerated. Where it differs,
the reason stands beside it, and wherever possible as a computation: what the authors counted, or the network that they
had, must give the printed digits. "FLOPs" are multiply-accumulates in all of these papers.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Any, Literal, cast

from cnnbench.networks.architecture import Architecture
from cnnbench.networks.layers import BatchNorm, Linear
from cnnbench.networks.network import Layer, Network

What = Literal["params", "MACs"]

UNITS = {"": 1, "M": 10**6, "G": 10**9}
NOT_KNOWN = "the reason is not known"
CUT = "its digits are cut off, not rounded"


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
    """Side of the square images that it is for, where it is not the catalogue's."""
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
        if self.reason == NOT_KNOWN:
            return True
        rounding = ROUND_DOWN if self.cut else ROUND_HALF_UP
        return bool(self.reason) and self._printed_of(self.authors_count(architecture), rounding) == Decimal(
            self.printed
        )

    def counted(self, architecture: Architecture) -> int:
        """The exact count of the network as torchvision has it."""
        return _total(self._network(architecture).layers, self.what)

    def authors_count(self, architecture: Architecture) -> int:
        """The exact count of what the authors counted."""
        if self.had:
            had: Any = dataclasses.replace(cast(Any, architecture.describe), **self.had)
            architecture = dataclasses.replace(architecture, describe=had)
        layers = self._network(architecture).layers
        return _total([layer for layer in layers if not (self.without and self.without(layer))], self.what)

    def _network(self, architecture: Architecture) -> Network:
        return architecture.network((self.image_size,) if self.image_size else None)

    def _printed_of(self, count: int, rounding: str) -> Decimal:
        return (Decimal(count) / UNITS[self.unit]).quantize(Decimal(self.printed), rounding)


def _total(layers: Any, what: What) -> int:
    if what == "params":
        return sum(layer.params for layer in layers)
    return sum(layer.macs for layer in layers if not layer.training_only)


def _is_auxiliary(layer: Layer) -> bool:
    return layer.training_only


def _is_projection(layer: Layer) -> bool:
    return ".downsample." in layer.name


def _is_batch_norm(layer: Layer) -> bool:
    return isinstance(layer.op, BatchNorm)


def _is_fully_connected(layer: Layer) -> bool:
    return isinstance(layer.op, Linear)


def _figures(what: What, unit: Literal["", "M", "G"], source: str, **printed: str) -> list[Figure]:
    """Figures of one table that all agree."""
    return [Figure(model=m, what=what, printed=p, unit=unit, source=source) for m, p in printed.items()]


def _differing(model: str, what: What, printed: str, unit: Literal["", "M", "G"], source: str, **why: Any) -> Figure:
    return Figure(model=model, what=what, printed=printed, unit=unit, source=source, **why)


VGG_PAPER = "Simonyan & Zisserman 2014, table 2"
HE = "He et al. 2015, table 1"
XIE = "Xie et al. 2016, table 1"
WRN_PAPER = "Zagoruyko & Komodakis 2016, tables 7 and 8"
MA = "Ma et al. 2018, table 8"
MB3 = "Howard et al. 2019, table 3"
EFFICIENT = "Tan & Le 2019, table 2"
V2 = "Tan & Le 2021, table 7"
V2_CODE = "Tan & Le 2021, the authors' repository"
REGNET_X = "Radosavovic et al. 2020, figure 15"
REGNET_Y = "Radosavovic et al. 2020, figure 16"
CONVNEXT = "Liu et al. 2022, table 1"

V1 = "the paper's network has its stride on the first 1x1 of a bottleneck"
ROUNDED_WIDTHS = "the authors round stage widths to whole groups in another way than torchvision"
FIRST_BLOCK = "the authors' first block of stage 2 keeps the stem's channels in its projection"

FIGURES: list[Figure] = [
    *_figures("params", "M", VGG_PAPER, vgg11="133", vgg13="133", vgg16="138", vgg19="144"),
    _differing(
        "vgg16", "MACs", "15.3", "G", "He et al. 2015, section 4.1",
        without=_is_fully_connected, reason="it leaves out the fully connected layers",
    ),
    *_figures("MACs", "G", "He et al. 2015, figure 3", vgg19="19.6"),
    *_figures("MACs", "G", "Szegedy et al. 2014, table 1 (whose own network has 5x5 windows)", googlenet="1.5"),
    _differing(
        "inception_v3", "MACs", "5", "G", "Szegedy et al. 2015, abstract", cut=True, reason=CUT,
    ),
    _differing(
        "inception_v3", "params", "24", "M", EFFICIENT,
        without=_is_auxiliary, reason="it leaves out the auxiliary head",
    ),
    *_figures("MACs", "G", EFFICIENT, inception_v3="5.7"),
    *_figures("MACs", "G", HE, resnet18="1.8"),
    _differing(
        "resnet34", "MACs", "3.6", "G", HE,
        without=_is_projection, reason="it counts shortcuts without projections (option A)",
    ),
    _differing("resnet50", "MACs", "3.8", "G", HE, had={"stride_on_first": True}, cut=True, reason=f"{V1}; {CUT}"),
    _differing("resnet101", "MACs", "7.6", "G", HE, had={"stride_on_first": True}, reason=V1),
    _differing("resnet152", "MACs", "11.3", "G", HE, had={"stride_on_first": True}, reason=V1),
    *_figures("MACs", "G", XIE, resnet50="4.1", resnext50_32x4d="4.2"),
    *_figures("params", "M", XIE, resnext50_32x4d="25.0"),
    _differing(
        "resnet50", "params", "25.5", "M", XIE,
        without=_is_batch_norm, reason="it rounds so without the parameters of batch normalisation",
    ),
    *_figures("MACs", "G", "Xie et al. 2016, figure 5", resnet101="7.8"),
    *_figures("MACs", "G", "Mahajan et al. 2018, the authors' model page", resnext101_32x8d="16"),
    _differing(
        "resnext101_32x8d", "params", "88", "M", "Mahajan et al. 2018, the authors' model page", cut=True, reason=CUT
    ),
    *_figures(
        "params", "M", WRN_PAPER,
        resnet18="11.7", resnet34="21.8", resnet50="25.6", resnet101="44.5", resnet152="60.2", wide_resnet50_2="68.9",
    ),
    *_figures("MACs", "G", "Radosavovic et al. 2020, table 3", resnet152="11.5"),
    *_figures("params", "M", "Huang et al. 2016, section 4.4", densenet201="20"),
    *_figures("params", "M", EFFICIENT, densenet169="14"),
    _differing("densenet169", "MACs", "3.5", "G", EFFICIENT, reason=NOT_KNOWN),
    *_figures("params", "", "Iandola et al. 2016, table 1", squeezenet1_0="1248424"),
    *_figures(
        "params", "M", "Ma et al. 2018, the authors' repository",
        shufflenet_v2_x0_5="1.4", shufflenet_v2_x1_0="2.3", shufflenet_v2_x1_5="3.5", shufflenet_v2_x2_0="7.4",
    ),
    _differing("shufflenet_v2_x0_5", "MACs", "41", "M", MA, reason=NOT_KNOWN),
    _differing("shufflenet_v2_x1_0", "MACs", "146", "M", MA, had={"projection_keeps_stem": True}, reason=FIRST_BLOCK),
    _differing("shufflenet_v2_x1_5", "MACs", "299", "M", MA, had={"projection_keeps_stem": True}, reason=FIRST_BLOCK),
    _differing("shufflenet_v2_x2_0", "MACs", "591", "M", MA, had={"projection_keeps_stem": True}, reason=FIRST_BLOCK),
    _differing("mobilenet_v2", "MACs", "300", "M", "Sandler et al. 2018, table 4", cut=True, reason=CUT),
    _differing(
        "mobilenet_v2", "params", "3.4", "M", "Sandler et al. 2018, table 4",
        without=_is_batch_norm, cut=True, reason=f"without the parameters of batch normalisation; {CUT}",
    ),
    _differing(
        "mobilenet_v2", "params", "3.47", "M", "Sandler et al. 2018, the authors' repository",
        without=_is_batch_norm, reason="without the parameters of batch normalisation",
    ),
    _differing("mobilenet_v3_large", "MACs", "219", "M", MB3, reason=NOT_KNOWN),
    *_figures("MACs", "M", "Howard et al. 2019, the authors' repository", mobilenet_v3_large="217"),
    _differing("mobilenet_v3_large", "params", "5.4", "M", MB3, cut=True, reason=CUT),
    _differing("mobilenet_v3_small", "MACs", "56", "M", MB3, cut=True, reason=CUT),
    *_figures("params", "M", MB3, mobilenet_v3_small="2.5"),
    *_figures(
        "params", "M", EFFICIENT,
        efficientnet_b0="5.3", efficientnet_b1="7.8", efficientnet_b3="12", efficientnet_b4="19",
        efficientnet_b5="30", efficientnet_b6="43", efficientnet_b7="66",
    ),
    _differing("efficientnet_b2", "params", "9.2", "M", EFFICIENT, reason=NOT_KNOWN),
    *_figures("MACs", "G", EFFICIENT, efficientnet_b0="0.39", efficientnet_b3="1.8", efficientnet_b6="19"),
    Figure(model="efficientnet_b2", what="MACs", printed="1.0", unit="G", source=EFFICIENT, image_size=260),
    _differing("efficientnet_b1", "MACs", "0.70", "G", EFFICIENT, reason=NOT_KNOWN),
    _differing("efficientnet_b4", "MACs", "4.2", "G", EFFICIENT, reason=NOT_KNOWN),
    _differing("efficientnet_b5", "MACs", "9.9", "G", EFFICIENT, reason=NOT_KNOWN),
    _differing("efficientnet_b7", "MACs", "37", "G", EFFICIENT, cut=True, reason=CUT),
    *_figures("params", "M", V2_CODE, efficientnet_v2_s="21.5", efficientnet_v2_m="54.1"),
    *_figures("MACs", "G", V2_CODE, efficientnet_v2_s="8.4"),
    _differing("efficientnet_v2_m", "MACs", "24.7", "G", V2_CODE, reason=NOT_KNOWN),
    _differing("efficientnet_v2_l", "MACs", "56.3", "G", V2_CODE, reason=NOT_KNOWN),
    _differing("efficientnet_v2_l", "params", "119.5", "M", V2_CODE, reason=NOT_KNOWN),
    _differing("efficientnet_v2_l", "MACs", "53", "G", V2, reason=NOT_KNOWN),
    *_figures(
        "params", "M", REGNET_X,
        regnet_x_800mf="7.3", regnet_x_1_6gf="9.2", regnet_x_3_2gf="15.3", regnet_x_8gf="39.6", regnet_x_16gf="54.3",
        regnet_x_32gf="107.8",
    ),
    *_figures(
        "MACs", "G", REGNET_X,
        regnet_x_400mf="0.4", regnet_x_800mf="0.8", regnet_x_1_6gf="1.6", regnet_x_3_2gf="3.2", regnet_x_8gf="8.0",
        regnet_x_16gf="15.9", regnet_x_32gf="31.7",
    ),
    _differing(
        "regnet_x_400mf", "params", "5.2", "M", REGNET_X, had={"nearest_width": True}, reason=ROUNDED_WIDTHS
    ),
    *_figures(
        "params", "M", REGNET_Y,
        regnet_y_400mf="4.3", regnet_y_1_6gf="11.2", regnet_y_3_2gf="19.4", regnet_y_16gf="83.6",
        regnet_y_32gf="145.0",
    ),
    *_figures(
        "MACs", "G", REGNET_Y,
        regnet_y_400mf="0.4", regnet_y_800mf="0.8", regnet_y_1_6gf="1.6", regnet_y_3_2gf="3.2", regnet_y_16gf="15.9",
        regnet_y_32gf="32.3",
    ),
    _differing(
        "regnet_y_800mf", "params", "6.3", "M", REGNET_Y, had={"nearest_width": True}, reason=ROUNDED_WIDTHS
    ),
    _differing("regnet_y_8gf", "params", "39.2", "M", REGNET_Y, had={"nearest_width": True}, reason=ROUNDED_WIDTHS),
    _differing("regnet_y_8gf", "MACs", "8.0", "G", REGNET_Y, had={"nearest_width": True}, reason=ROUNDED_WIDTHS),
    *_figures(
        "params", "M", CONVNEXT,
        convnext_tiny="29", convnext_small="50", convnext_base="89", convnext_large="198",
    ),
    *_figures(
        "MACs", "G", CONVNEXT,
        convnext_tiny="4.5", convnext_small="8.7", convnext_base="15.4", convnext_large="34.4",
    ),
]  # fmt: skip


def figures_of(model: str) -> list[Figure]:
    """All that is printed of one network of the catalogue."""
    return [figure for figure in FIGURES if figure.model == model]
