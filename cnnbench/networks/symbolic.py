"""A network's totals as symbolic expressions in its number of classes and its image size."""

import math
from dataclasses import dataclass, field
from typing import Any

import sympy

from cnnbench.networks.architecture import Architecture
from cnnbench.networks.layers import Op, Shape, Value
from cnnbench.networks.network import Net

AXES = {1: ("L",), 2: ("H", "W")}
"""The names of the spatial axes, by how many there are."""
MULTIPLES = [2**power for power in range(8)]


@dataclass(frozen=True)
class Formula:
    """Totals for K classes and images of H x W (signals of length L), as text that sympy can parse."""

    params: str
    macs: str
    sizes: dict[str, str]
    """The symbols in `macs` for sizes of smaller feature maps, such as h1 = floor(H/2 - 1/2) + 1."""
    multiple: int | None
    """If all sides are multiples of this, `macs_of_multiples` holds."""
    macs_of_multiples: str | None


def formula(architecture: Architecture) -> Formula:
    """The totals of a registered network."""
    axes = AXES[len(architecture.image_size)]
    sides = [_size(name) for name in axes]
    classes = _size("K")
    net = _SymbolicNet(architecture.name)
    architecture.describe(net, Value((architecture.image[0], *sides)), classes)
    network = net.network((architecture.image[0], *sides))
    terms = (factors for layer in network.inference for factors in layer.op.mac_terms(layer.input_shape))
    macs = sympy.expand(sum(net.product(factors) for factors in terms))
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
    """A sum as text, constant first: `11,176,512 + 513 K`."""
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
    """A net of symbolic sizes: each new size of a feature map gets a symbol, so that expressions stay short."""

    sizes: dict[Any, Any] = field(default_factory=dict)

    def shape_after(self, name: str, op: Op, x: Shape) -> Shape:
        """The layer's output shape; sizes are not checked."""
        channels, *sizes = op.output_shape(x)
        return (channels, *(self._named(size) for size in sizes))

    def product(self, factors: tuple[Any, ...]) -> Any:
        """Of factors, with each size replaced by its symbol."""
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


def _needed(expression: Any, sizes: dict[Any, Any]) -> set[Any]:
    """The size symbols that an expression needs, directly or through others."""
    needed = set(expression.free_symbols)
    for definition, symbol in reversed(sizes.items()):
        if symbol in needed:
            needed |= definition.free_symbols
    return needed


def _for_multiples(macs: Any, sizes: dict[Any, Any], sides: list[Any]) -> tuple[int | None, Any]:
    """The smallest power of two for whose multiples no rounding is left, and the expression then."""
    whole = macs.subs([(symbol, expression) for expression, symbol in reversed(sizes.items())])
    parts = {side: _size(f"{side}_part") for side in sides}
    for multiple in MULTIPLES:
        simpler = whole.subs({side: multiple * part for side, part in parts.items()})
        if not simpler.has(sympy.floor, sympy.ceiling):
            return multiple, sympy.expand(simpler.subs({part: side / multiple for side, part in parts.items()}))
    return None, None
