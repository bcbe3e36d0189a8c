"""A network's totals as symbolic expressions in its number of classes and its image size."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sympy

from cnnbench.networks.architecture import Architecture
from cnnbench.networks.layers import Op, Shape, Terms, Value
from cnnbench.networks.network import Layer, Net, Network

AXES = {1: ("L",), 2: ("H", "W")}
"""The names of the spatial axes, by how many there are."""
MAX_STRIDE_TRIED = 128


@dataclass(frozen=True)
class Formula:
    """Totals for K classes and images of H x W (signals of length L), in words that sympy can read back."""

    params: str
    macs: str
    sizes: dict[str, str]
    """The sizes that stand in `macs` for the smaller feature maps, such as h1 = floor(H/2 - 1/2) + 1."""
    multiple: int | None
    """If all sides are multiples of this, `macs_of_multiples` holds."""
    macs_of_multiples: str | None


def formula(architecture: Architecture) -> Formula:
    """The totals of a network of the catalogue."""
    axes = AXES[len(architecture.image_size)]
    sides = [_size(name) for name in axes]
    classes = _size("K")
    net = _SymbolicNet(architecture.name)
    architecture.describe(net, Value((architecture.image[0], *sides)), classes)
    network: Network = net.network((architecture.image[0], *sides))
    macs = sympy.expand(sum(net.product(factors) for layer in network.inference for factors in _mac_terms(layer)))
    multiple, simpler = _for_multiples(macs, net.sizes, sides)
    used = _needed(macs, net.sizes)
    return Formula(
        params=written(sympy.expand(network.params)),
        macs=written(macs),
        sizes={str(symbol): str(expression) for expression, symbol in net.sizes.items() if symbol in used},
        multiple=multiple,
        macs_of_multiples=written(simpler) if multiple else None,
    )


def written(expression: Any) -> str:
    """A sum as people write it, constant first: `11,176,512 + 513 K`."""
    terms = [term.as_coeff_Mul() for term in sympy.Add.make_args(expression)]
    terms.sort(key=lambda term: (len(term[1].free_symbols), str(term[1])))
    return " + ".join(_term(coefficient, rest) for coefficient, rest in terms).replace("+ -", "- ")


def _term(coefficient: Any, rest: Any) -> str:
    number = f"{int(coefficient):,}" if coefficient.is_Integer else str(coefficient)
    if rest == 1:
        return number
    symbols = str(rest).replace("**", "^").replace("*", " ")
    return symbols if coefficient == 1 else f"{number} {symbols}"


@dataclass(frozen=True)
class _SymbolicNet(Net):
    """A net whose sizes are symbols: each new size of a feature map gets a name, so that expressions stay short."""

    sizes: dict[Any, Any] = field(default_factory=dict)

    def shape_after(self, name: str, op: Op, x: Shape) -> Shape:
        """The layer's output shape, without a check of its sizes."""
        channels, *sizes = op.output_shape(x)
        return (channels, *(self._named(size) for size in sizes))

    def product(self, factors: tuple[Any, ...]) -> Any:
        """Of factors where every size has its name."""
        return math.prod(self.sizes.get(factor, factor) for factor in factors)

    def _named(self, size: Any) -> Any:
        if isinstance(size, int) or size.is_Integer or size.is_Symbol:
            return size
        if size not in self.sizes:
            axis = str(next(iter(size.free_symbols)))[0].lower()
            count = sum(str(symbol).startswith(axis) for symbol in self.sizes.values())
            self.sizes[size] = _size(f"{axis}{count + 1}")
        return self.sizes[size]


def _size(name: str) -> Any:
    return sympy.Symbol(name, integer=True, positive=True)


def _mac_terms(layer: Layer) -> Terms:
    return layer.op.mac_terms(layer.input_shape)


def _needed(expression: Any, sizes: dict[Any, Any]) -> set[Any]:
    """The sizes that an expression is made of, and those that they are made of."""
    needed = set(expression.free_symbols)
    for definition, symbol in reversed(sizes.items()):
        if symbol in needed:
            needed |= definition.free_symbols
    return needed


def _for_multiples(macs: Any, sizes: dict[Any, Any], sides: list[Any]) -> tuple[int | None, Any]:
    """The smallest power of two for whose multiples no rounding is left, and the expression then."""
    definitions = [(symbol, expression) for expression, symbol in reversed(sizes.items())]
    whole: Callable[[Any], Any] = macs.subs(definitions).subs
    multiple = 1
    while multiple <= MAX_STRIDE_TRIED:
        parts = {side: sympy.Symbol(f"{side}_part", integer=True, positive=True) for side in sides}
        simpler = whole({side: multiple * part for side, part in parts.items()})
        if not simpler.has(sympy.floor, sympy.ceiling):
            back = {part: side / multiple for side, part in parts.items()}
            return multiple, sympy.expand(simpler.subs(back))
        multiple *= 2
    return None, None
