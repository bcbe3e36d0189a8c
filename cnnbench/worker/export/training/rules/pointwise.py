"""Elementwise operators: sums, products, activations."""

import math
from typing import Any

import numpy as np

from cnnbench.worker.export.training.graph import Graph, Tensor
from cnnbench.worker.export.training.rules.rule import Gradients, NoRule, OpResult, op_result, unbroadcast


def add(g: Graph, _: Any, x: Tensor, y: Tensor | float, *, alpha: float = 1) -> OpResult:
    """x + alpha y, broadcast."""
    if not isinstance(y, Tensor):
        total = g("Add", x, g.constant(np.asarray(alpha * y, x.dtype)), shape=x.shape)
        return op_result(Tensor(total.name, x.shape, x.dtype), lambda dy: [dy])
    other = y if alpha == 1 else g.mul(y, alpha)

    def vjp(dy: Tensor) -> Gradients:
        scaled = dy if alpha == 1 else g.mul(dy, alpha)
        return [unbroadcast(g, dy, x) if x.varies else None, unbroadcast(g, scaled, y) if y.varies else None]

    return op_result(g.add(x, other), vjp)


def sub(g: Graph, out: Any, x: Tensor, y: Tensor | float, *, alpha: float = 1) -> OpResult:
    """x - alpha y, broadcast."""
    return add(g, out, x, y, alpha=-alpha)


def mul(g: Graph, _: Any, x: Tensor, y: Tensor | float) -> OpResult:
    """x y, broadcast."""
    if not isinstance(y, Tensor):
        return op_result(g.mul(x, y), lambda dy: [g.mul(dy, y)])

    def vjp(dy: Tensor) -> Gradients:
        return [
            unbroadcast(g, g.mul(dy, y), x) if x.varies else None,
            unbroadcast(g, g.mul(dy, x), y) if y.varies else None,
        ]

    return op_result(g.mul(x, y), vjp)


def div(g: Graph, _: Any, x: Tensor, y: Tensor | float) -> OpResult:
    """x / y, broadcast."""
    if not isinstance(y, Tensor):
        return op_result(g.mul(x, 1 / y), lambda dy: [g.mul(dy, 1 / y)])
    quotient = g.div(x, y)

    def vjp(dy: Tensor) -> Gradients:
        dx = g.div(dy, y)
        negative = g("Neg", g.mul(dx, quotient))
        return [unbroadcast(g, dx, x) if x.varies else None, unbroadcast(g, negative, y) if y.varies else None]

    return op_result(quotient, vjp)


STEEP = 3e38
"""Nearly the largest float32: times any positive normal number it is at least 1."""


def relu(g: Graph, _: Any, x: Tensor) -> OpResult:
    """max(x, 0); the gradient at 0 is 0."""
    y = g("Relu", x)
    return op_result(y, lambda dy: [g.mul(dy, _positive(g, y))])


def _positive(g: Graph, x: Tensor) -> Tensor:
    """1.0 where x > 0, else 0.0: a steep line within [0, 1], for which one pass suffices."""
    return g("HardSigmoid", x, alpha=STEEP, beta=0.0)


def not_negative(g: Graph, x: Tensor) -> Tensor:
    """1.0 where x >= 0, else 0.0, likewise."""
    return g("HardSigmoid", x, alpha=STEEP, beta=1.0)


def hardtanh(g: Graph, _: Any, x: Tensor, low: float = -1.0, high: float = 1.0) -> OpResult:
    """x within its bounds, such as ReLU6; the gradient at a bound is 0."""
    y = g("Clip", x, g.constant(float(low)), g.constant(float(high)))

    def vjp(dy: Tensor) -> Gradients:
        above = g.sub(y, float(low)) if low else y
        below = g.sub(g.constant(float(high)), y)
        return [g.mul(dy, _positive(g, g.mul(above, below)))]

    return op_result(y, vjp)


def sigmoid(g: Graph, _: Any, x: Tensor) -> OpResult:
    """1 / (1 + exp(-x))."""
    y = g("Sigmoid", x)
    return op_result(y, lambda dy: [g.mul(dy, g.sub(y, g.mul(y, y)))])


def silu(g: Graph, _: Any, x: Tensor) -> OpResult:
    """x s(x) with s the sigmoid; its derivative is s + y (1 - s)."""
    s = g("Sigmoid", x)
    y = g.mul(x, s)

    def vjp(dy: Tensor) -> Gradients:
        return [g.mul(dy, g.add(s, g.mul(y, g.sub(g.constant(1.0), s))))]

    return op_result(y, vjp)


def tanh(g: Graph, _: Any, x: Tensor) -> OpResult:
    """The hyperbolic tangent."""
    y = g("Tanh", x)
    return op_result(y, lambda dy: [g.sub(dy, g.mul(dy, g.mul(y, y)))])


def hardsigmoid(g: Graph, _: Any, x: Tensor) -> OpResult:
    """x / 6 + 1 / 2 within [0, 1]."""
    y = g("HardSigmoid", x, alpha=1 / 6, beta=0.5)

    def vjp(dy: Tensor) -> Gradients:
        inside = g("And", g("Greater", x, g.constant(-3.0)), g("Less", x, g.constant(3.0)))
        return [g.where(inside, g.mul(dy, 1 / 6), 0.0)]

    return op_result(y, vjp)


def hardswish(g: Graph, _: Any, x: Tensor) -> OpResult:
    """x hardsigmoid(x); its derivative is 0 up to -3, x / 3 + 1 / 2 between, and 1 from 3 on."""
    y = g("HardSwish", x)

    def vjp(dy: Tensor) -> Gradients:
        slope = g.add(g.mul(x, 1 / 3), 0.5)
        between = g.where(g("Greater", x, g.constant(-3.0)), slope, 0.0)
        below = g("Less", x, g.constant(3.0))
        return [g.mul(dy, g.where(below, between, 1.0))]

    return op_result(y, vjp)


def gelu(g: Graph, _: Any, x: Tensor, *, approximate: str = "none") -> OpResult:
    """x P(x) with P the normal distribution; its derivative is P + x p with p the normal density."""
    if approximate != "none":
        raise NoRule(f"gelu with approximate={approximate!r}")
    distribution = g.add(g.mul(g("Erf", g.mul(x, math.sqrt(0.5))), 0.5), 0.5)

    def vjp(dy: Tensor) -> Gradients:
        density = g.mul(g("Exp", g.mul(g.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
        return [g.mul(dy, g.add(distribution, g.mul(x, density)))]

    return op_result(g.mul(x, distribution), vjp)
