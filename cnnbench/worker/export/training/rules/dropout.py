"""Dropout, and the random numbers that it draws: a function of a counter that is an input of the step.

Each number is a hash of (draw, site, element): `draw` counts the steps, and is all the state that there is, so that a
step repeats its masks wherever and whenever it is run (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3"). A round multiplies a number with its own upper half, as in the middle of a square (Widynski 2020, "Squares: a fast
counter-based RNG"), and with a constant. Products and shifts of unsigned integers are all that is needed: ONNX
Runtime's CUDA provider has no exclusive or.
"""

from typing import Any

import numpy as np
from onnx import TensorProto

from cnnbench.records.artifact import DRAW, DROP
from cnnbench.worker.export.training.rules.rule import OpResult, op_result
from cnnbench.worker.graphs.graph import Graph, Tensor

BITS = 24
"""Of a number, as many as float32 tells apart."""
GOLDEN_32, GOLDEN_64 = 0x9E3779B9, 0x9E3779B97F4A7C15
"""2**32 and 2**64 by the golden ratio: consecutive multiples are far apart."""
ODD = (0x21F0AAAD, 0x735A2D97)
"""The factors of the two rounds."""
KEYS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""What a draw is multiplied with for each of its two keys."""


def dropout(g: Graph, _: Any, x: Tensor, p: float, train: bool | None = True) -> OpResult:
    """aten.native_dropout: values are zero with probability p, the others divided by 1 - p (Srivastava et al. 2014).

    Outputs y and which values were kept.
    """
    if not train or p == 0:
        return op_result(x, (x, lambda dy: dy), others=[x])
    rate = g.mul(_drop(g), p)
    kept = g.typed("bool", "GreaterOrEqual", drawn(g, x), g.mul(rate, 2.0**BITS))
    factor = g("Reciprocal", g.sub(g.constant(1.0), rate))
    mask = g.mul(g.cast(kept, "float32"), factor)
    return op_result(g.mul(x, mask), (x, lambda dy: g.mul(dy, mask)), others=[kept])


def bernoulli(g: Graph, out: Any, x: Tensor, p: float = 0.5, *_: Any, **__: Any) -> OpResult:
    """aten.bernoulli.p: 1.0 with probability p, else 0.0; with the scale `drop` between that and p, its mean."""
    scale = _drop(g)
    ones = g("Cast", g("Less", drawn(g, x), g.constant(p * 2.0**BITS)), to=TensorProto.FLOAT)
    return op_result(g.add(g.mul(g.sub(ones, float(p)), scale), float(p)))


def _drop(g: Graph) -> Tensor:
    return _input(g, DROP, "float32")


def _input(g: Graph, name: str, dtype: str) -> Tensor:
    if not any(value.name == name for value in g.inputs):
        g.input(name, (), dtype)
    return Tensor(name, (), dtype)


def drawn(g: Graph, x: Tensor) -> Tensor:
    """Whole numbers from 0 to 2**BITS, that not among them, in the shape of x, float32; others at each call."""
    g.draws += 1
    first, second = (
        _unsigned(g, "Add", key, np.uint32(g.draws * odd % 2**32)) for key, odd in zip(_keys(g), ODD, strict=True)
    )
    count = g.typed("int64", "Size", x, shape=())
    zero, one = (g.constant(np.asarray(value, np.int64)) for value in (0, 1))
    place = g.typed("int64", "Range", zero, count, one, shape=(None,))
    z = _unsigned(g, "Add", _unsigned(g, "Mul", g.cast(place, "uint32"), np.uint32(GOLDEN_32)), first)
    z = _unsigned(g, "Add", _mixed(g, z, np.uint32(16), np.uint32(ODD[0])), second)
    z = _mixed(g, z, np.uint32(15), np.uint32(ODD[1]))
    number = g.cast(_unsigned(g, "BitShift", z, np.uint32(32 - BITS), direction="RIGHT"), "float32")
    return g("Reshape", number, g.typed("int64", "Shape", x, shape=(x.ndim,)), shape=x.shape)


def _keys(g: Graph) -> tuple[Tensor, ...]:
    """The two numbers, () uint32, that this step's draw is for all places that draw."""
    if not g.draw_keys:
        scope, g.scope = g.scope, DRAW
        draw = g.cast(_input(g, DRAW, "int64"), "uint64")
        z = _mixed(g, _unsigned(g, "Mul", draw, np.uint64(GOLDEN_64)), np.uint64(32), np.uint64(KEYS[0]))
        z = _mixed(g, _unsigned(g, "Add", z, np.uint64(GOLDEN_64)), np.uint64(31), np.uint64(KEYS[1]))
        products = (_unsigned(g, "Mul", z, np.uint64(key)) for key in KEYS)
        halves = [_unsigned(g, "BitShift", each, np.uint64(32), direction="RIGHT") for each in products]
        g.draw_keys = tuple(g.cast(each, "uint32") for each in halves)
        g.scope = scope
    return g.draw_keys


def _mixed(g: Graph, z: Tensor, bits: np.unsignedinteger[Any], odd: np.unsignedinteger[Any]) -> Tensor:
    """One round: (z + z (z >> bits)) odd."""
    upper = _unsigned(g, "BitShift", z, bits, direction="RIGHT")
    return _unsigned(g, "Mul", _unsigned(g, "Add", z, _unsigned(g, "Mul", upper, z)), odd)


def _unsigned(g: Graph, operator: str, z: Tensor, other: Tensor | np.unsignedinteger[Any], **options: Any) -> Tensor:
    """An operator of two unsigned integers of z's type."""
    other = other if isinstance(other, Tensor) else g.constant(np.asarray(other))
    return g.typed(z.dtype, operator, z, other, **options)
