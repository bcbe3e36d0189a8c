"""Operators that compare, choose and convert: what is larger, truth values, types."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from cnnbench.worker.export.training.rules.rule import NoRule, OpResult, Rule, op_result
from cnnbench.worker.graphs.graph import INTEGERS, Graph, Tensor, broadcast

FLOATS = ("float16", "bfloat16", "float64")
"""Types that a step in float32 has no place for."""


def compare(operator: str, *, negated: bool = False) -> Rule:
    """The rule of a comparison, which has no gradient."""

    def rule(g: Graph, _: Any, x: Tensor, y: Tensor | float) -> OpResult:
        a, b = g.alike(x, y)
        if a.dtype == "bool" and operator != "Equal":
            a, b = g.cast(a, "int32"), g.cast(b, "int32")
        found = g.typed("bool", operator, a, b, shape=broadcast(a.shape, b.shape))
        return op_result(g.typed("bool", "Not", found) if negated else found)

    return rule


def logical(operator: str) -> Rule:
    """The rule of an operator of truth values."""

    def rule(g: Graph, _: Any, x: Tensor, *others: Tensor) -> OpResult:
        if any(each.dtype not in ("bool",) for each in (x, *others)):
            raise NoRule("bits of whole numbers")
        shape = broadcast(x.shape, others[0].shape) if others else x.shape
        return op_result(g.typed("bool", operator, x, *others, shape=shape))

    return rule


def _larger(operator: str, strictly: str, g: Graph, _: Any, x: Tensor, y: Tensor) -> OpResult:
    """Where both are equal each has half of the gradient."""
    a, b = g.alike(x, y)
    shape = broadcast(a.shape, b.shape)

    def to(one: Tensor, other: Tensor) -> Callable[[Tensor], Tensor]:
        def vjp(dy: Tensor) -> Tensor:
            more, same = (g("Cast", g(name, one, other, shape=shape), to=1) for name in (strictly, "Equal"))
            return g.mul(dy, g.add(more, g.mul(same, 0.5)))

        return vjp

    return op_result(g.typed(a.dtype, operator, a, b, shape=shape), (x, to(a, b)), (y, to(b, a)))


maximum, minimum = partial(_larger, "Max", "Greater"), partial(_larger, "Min", "Less")


def where(g: Graph, _: Any, condition: Tensor, x: Tensor | float, y: Tensor | float) -> OpResult:
    """x where the condition holds, else y; the three broadcast."""
    first = x if isinstance(x, Tensor) else g.alike(y, x)[1] if isinstance(y, Tensor) else g.constant(float(x))
    zero = g.constant(0.0)
    return op_result(
        g.where(condition, first, y),
        (x, lambda dy: g.where(condition, dy, zero)),
        (y, lambda dy: g.where(condition, zero, dy)),
    )


def masked_fill(g: Graph, out: Any, x: Tensor, mask: Tensor, value: Tensor | float) -> OpResult:
    """A number where the mask holds, else x."""
    found = where(g, out, mask, value, x)
    if found.outputs[0].shape != x.shape:
        raise NoRule("a mask that is larger than what it fills")
    return found


def cast(g: Graph, _: Any, x: Tensor, *args: Any, dtype: Any = None, **__: Any) -> OpResult:
    """x in another type: float32 stays as it is, whole numbers and truth values have no gradient."""
    types = (f"torch.{each.dtype}" if isinstance(each, Tensor) else str(each) for each in (dtype, *args))
    wanted = next((each for each in types if each.startswith("torch.")), f"torch.{x.dtype}")
    name = wanted.removeprefix("torch.")
    if name in ("strided", "contiguous_format", "preserve_format", "channels_last"):
        name = x.dtype
    if name in FLOATS:
        raise NoRule(f"a cast to {name}: the step computes in float32")
    if name == x.dtype:
        return op_result(x, (x, lambda dy: dy))
    if name not in (*INTEGERS, "float32"):
        raise NoRule(f"a cast to {name}")
    return op_result(g.cast(x, name))


def filled(value: float | None) -> Rule:
    """The rule of a tensor of one value, which an argument says if it is None."""

    def rule(g: Graph, out: Any, *args: Any, **_: Any) -> OpResult:
        numbers = [each for each in args if isinstance(each, (int, float)) and not isinstance(each, bool)]
        what = value if value is not None else numbers[-1]
        (shape,) = out
        if None not in shape:
            return op_result(g.constant(np.full(shape, what, np.float32)))
        return op_result(g.spread(g.constant(np.full((1,) * len(shape), what, np.float32)), shape))

    return rule
