"""Papers' figures against the exact counts, and the counts as symbolic formulas."""

import re
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import sympy

from cnnbench.networks.layers import Shape
from cnnbench.networks.published import CUT, FIGURES, NOT_KNOWN, Figure, figures_of
from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.networks.symbolic import Formula, formula

REASON_NOT_KNOWN = {
    ("densenet169", "MACs", "3.5"),
    ("efficientnet_b1", "MACs", "0.70"),
    ("efficientnet_b2", "params", "9.2"),
    ("efficientnet_b4", "MACs", "4.2"),
    ("efficientnet_b5", "MACs", "9.9"),
    ("efficientnet_v2_l", "MACs", "53"),
    ("efficientnet_v2_l", "MACs", "56.3"),
    ("efficientnet_v2_l", "params", "119.5"),
    ("efficientnet_v2_m", "MACs", "24.7"),
    ("mobilenet_v3_large", "MACs", "219"),
    ("shufflenet_v2_x0_5", "MACs", "41"),
}
"""Every figure that differs for a reason that nobody has found; one more must be put here by hand."""


def name_of(figure: Figure) -> str:
    return f"{figure.model} {figure.what} {figure.printed} {figure.source}"


def is_sound(figure: Figure) -> bool:
    """Whether it agrees, or has a reason that holds; never both, for then the reason is stale."""
    architecture = ARCHITECTURES[figure.model]
    agrees = figure.agrees(architecture)
    return figure.is_explained(architecture) != agrees and bool(figure.reason) != agrees


def with_last_digit(figure: Figure, step: int) -> Figure:
    """The figure with its last digit one more or less."""
    printed = Decimal(figure.printed)
    exponent = printed.as_tuple().exponent
    assert isinstance(exponent, int)
    return replace(figure, printed=str(printed + step * Decimal((0, (1,), exponent))))


# --- papers ---


@pytest.mark.parametrize("figure", FIGURES, ids=name_of)
def test_a_published_figure_agrees_or_is_explained_and_never_both(figure: Figure) -> None:
    assert is_sound(figure)


@pytest.mark.parametrize("figure", [f for f in FIGURES if f.reason != NOT_KNOWN], ids=name_of)
@pytest.mark.parametrize("step", [1, -1])
def test_a_wrong_digit_is_caught(figure: Figure, step: int) -> None:
    assert not is_sound(with_last_digit(figure, step))


@pytest.mark.parametrize("figure", [f for f in FIGURES if f.reason not in ("", NOT_KNOWN)], ids=name_of)
def test_a_reason_is_a_computation_without_which_the_figure_is_unexplained(figure: Figure) -> None:
    architecture = ARCHITECTURES[figure.model]
    assert figure.is_explained(architecture)
    assert figure.without or figure.had or figure.cut
    assert not replace(figure, without=None, had=None, cut=False).is_explained(architecture)
    assert (CUT in figure.reason) == figure.cut


@pytest.mark.parametrize("figure", [f for f in FIGURES if not f.reason], ids=name_of)
def test_a_figure_that_agrees_is_not_given_a_reason(figure: Figure) -> None:
    assert not figure.without
    assert not figure.had
    assert not figure.cut
    assert not is_sound(replace(figure, reason=NOT_KNOWN))
    assert not is_sound(replace(figure, reason="anything"))


def test_figures_whose_reason_is_not_known_do_not_grow_unseen() -> None:
    unknown = {(figure.model, figure.what, figure.printed) for figure in FIGURES if figure.reason == NOT_KNOWN}
    assert unknown == REASON_NOT_KNOWN


def test_no_figure_stands_twice_and_all_are_of_networks_of_torchvision() -> None:
    keys = [(figure.model, figure.what, figure.source) for figure in FIGURES]
    assert len(keys) == len(set(keys))
    assert all(ARCHITECTURES[figure.model].from_torchvision for figure in FIGURES)


def test_the_figures_of_a_network_are_all_that_is_printed_of_it() -> None:
    assert {figure.printed for figure in figures_of("vgg19")} == {"144", "19.6"}
    assert figures_of("lenet5") == []


@pytest.mark.parametrize(
    ("model", "what", "digits", "exact"),
    [
        ("squeezenet1_0", "params", "1248424", 1_248_424),
        ("vgg16", "params", "138", 138_357_544),
        ("resnet18", "params", "11.7", 11_689_512),
        ("resnet18", "MACs", "1.8", 1_814_073_344),
        ("resnet50", "MACs", "4.1", 4_089_184_256),
        ("mobilenet_v2", "MACs", "300", 300_774_272),
    ],
)
def test_an_exact_count_stands_behind_the_printed_digits(model: str, what: str, digits: str, exact: int) -> None:
    figure = next(f for f in figures_of(model) if (f.what, f.printed) == (what, digits))
    assert figure.counted(ARCHITECTURES[model]) == exact


def test_the_papers_resnet50_has_its_stride_on_the_first_convolution() -> None:
    """3.8 G in the paper, 4.1 G in torchvision: both are counted, neither is an error."""
    figure = next(f for f in figures_of("resnet50") if f.printed == "3.8")
    architecture = ARCHITECTURES["resnet50"]
    assert figure.counted(architecture) == 4_089_184_256
    assert figure.authors_count(architecture) == 3_857_973_248
    assert not figure.agrees(architecture)
    assert figure.is_explained(architecture)


# --- symbolic formulas ---

FORMULAS = [
    "lenet5",
    "mlp",
    "cnn1d",
    "vgg_style",
    "resnet_cifar_gn",
    "alexnet",
    "vgg11_bn",
    "resnet18",
    "resnext50_32x4d",
    "googlenet",
    "inception_v3",
    "squeezenet1_0",
    "densenet121",
    "shufflenet_v2_x0_5",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "regnet_y_400mf",
    "convnext_tiny",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
]


@pytest.fixture(scope="module")
def formulas() -> dict[str, Formula]:
    return {name: formula(ARCHITECTURES[name]) for name in FORMULAS}


def value_of(text: str, known: dict[str, int]) -> int:
    """A formula's value: `11,176,512 + 513 K` in sympy's words is `11176512 + 513*K`."""
    words = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    expression: Any = sympy.sympify(re.sub(r"(?<=\w) (?=\w)", "*", words))
    value = expression.subs(known)
    assert value.is_Integer, f"{text} is {value}"
    return int(value)


def all_sizes(said: Formula, size: Shape, classes: int) -> dict[str, int]:
    """The values of all symbols: each size's definition uses those before it."""
    known = dict(zip(("H", "W") if len(size) == 2 else ("L",), size, strict=True)) | {"K": classes}
    for symbol, definition in said.sizes.items():
        known[symbol] = value_of(definition, known)
    return known


@pytest.mark.parametrize("name", FORMULAS)
def test_a_symbolic_formula_gives_the_networks_own_counts(name: str, formulas: dict[str, Formula]) -> None:
    said, architecture = formulas[name], ARCHITECTURES[name]
    smallest = architecture.smallest_size()
    assert smallest is not None
    sides = len(architecture.image_size)
    for size, classes in (
        (architecture.image_size, architecture.classes),
        (tuple(side + more for side, more in zip(architecture.image_size, (5, 39), strict=False)), 7),
        ((smallest, smallest + 9)[:sides], 1),
    ):
        network = architecture.network(size, classes)
        known = all_sizes(said, size, classes)
        assert value_of(said.params, known) == network.params
        assert value_of(said.macs, known) == network.macs


@pytest.mark.parametrize("name", FORMULAS)
def test_the_simpler_formula_holds_where_all_sides_are_multiples(name: str, formulas: dict[str, Formula]) -> None:
    said, architecture = formulas[name], ARCHITECTURES[name]
    assert said.multiple is not None
    assert said.macs_of_multiples is not None
    sides = len(architecture.image_size)
    least = -(-(architecture.smallest_size() or 0) // said.multiple)
    for size in ((least, least + 3), (least + 4, least)):
        full = tuple(side * said.multiple for side in size[:sides])
        known = dict(zip(("H", "W") if sides == 2 else ("L",), full, strict=True)) | {"K": 13}
        assert value_of(said.macs_of_multiples, known) == architecture.network(full, 13).macs


def test_the_simpler_formula_does_not_hold_elsewhere(formulas: dict[str, Formula]) -> None:
    said = formulas["resnet18"]
    assert said.multiple == 32
    assert said.macs_of_multiples == "512 K + 36,144 H W"
    assert ARCHITECTURES["resnet18"].network((48,)).macs != 512 * 1000 + 36_144 * 48 * 48


def test_a_formula_is_written_as_people_write_it(formulas: dict[str, Formula]) -> None:
    assert formulas["resnet18"].params == "11,176,512 + 513 K"
    assert formulas["cnn1d"] == Formula(
        params="9,040 + 65 K",
        macs="64 K + 112 L + 2,560 l1 + 6,144 l2",
        sizes={"l1": "floor(L/2)", "l2": "floor(l1/2)"},
        multiple=4,
        macs_of_multiples="64 K + 2,928 L",
    )
    assert formulas["mlp"].params == "128 + 129 K + 128 H W"
    assert formulas["mlp"].sizes == {}
    assert formulas["lenet5"].macs_of_multiples == "116,160 - 9,240 H + 84 K - 9,240 W + 870 H W"


def test_no_formula_names_a_size_that_it_does_not_define(formulas: dict[str, Formula]) -> None:
    for name, said in formulas.items():
        named = set(re.findall(r"[a-zA-Z]\w*", f"{said.params} {said.macs}"))
        known = {"H", "W", "L", "K", *said.sizes}
        assert named <= known, name
