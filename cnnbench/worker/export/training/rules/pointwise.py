"""Elementwise operators: sums, products, activations."""

import math
from functools import cache
from typing import Any

import numpy as np

from cnnbench.worker.export.training.rules.rule import OpResult, op_result
from cnnbench.worker.graphs.graph import INTEGERS, Graph, Tensor

STEEP = 3e38
"""Nearly the largest float32: times any positive normal number it is at least 1."""


def add(g: Graph, _: Any, x: Tensor | float, y: Tensor | float, *, alpha: float = 1) -> OpResult:
    """x + alpha y, broadcast; one of both may be a number, as in 1 - y."""
    if not isinstance(x, Tensor):
        assert isinstance(y, Tensor)
        x = g.alike(y, x)[1]
    if not isinstance(y, Tensor):
        if x.dtype in INTEGERS:  # and a fraction are a fraction
            return op_result(g.add(g.cast(x, "int64") if x.dtype == "bool" else x, alpha * y))
        total = g("Add", x, g.constant(np.asarray(alpha * y, x.dtype)), shape=x.shape)
        return op_result(Tensor(total.name, x.shape, x.dtype), (x, lambda dy: dy))

    def scaled(value: Tensor) -> Tensor:
        return value if alpha == 1 else g.mul(value, alpha)

    return op_result(g.add(x, scaled(y)), (x, lambda dy: dy), (y, scaled))


def sub(g: Graph, out: Any, x: Tensor | float, y: Tensor | float, *, alpha: float = 1) -> OpResult:
    """x - alpha y, broadcast."""
    return add(g, out, x, y, alpha=-alpha)


def mul(g: Graph, _: Any, x: Tensor, y: Tensor | float) -> OpResult:
    """x y, broadcast."""
    return op_result(g.mul(x, y), (x, lambda dy: g.mul(dy, y)), (y, lambda dy: g.mul(dy, x)))


def div(g: Graph, out: Any, x: Tensor, y: Tensor | float) -> OpResult:
    """x / y, broadcast."""
    if not isinstance(y, Tensor):
        return mul(g, out, x, 1 / y)
    quotient = g.div(g.cast(x, "float32"), y)  # of integers too: ONNX's own quotient of two is cut off
    dx = cache(lambda dy: g.div(dy, y))
    return op_result(quotient, (x, dx), (y, lambda dy: g("Neg", g.mul(dx(dy), quotient))))


def relu(g: Graph, _: Any, x: Tensor) -> OpResult:
    """max(x, 0); the gradient at 0 is 0."""
    y = g("Relu", x)
    return op_result(y, (x, lambda dy: g.mul(dy, unit_step(g, y))))


def unit_step(g: Graph, x: Tensor, at_zero: float = 0.0) -> Tensor:
    """1.0 where x > 0, else 0.0, and so much at 0: a steep line within [0, 1], for which one pass suffices."""
    return g("HardSigmoid", x, alpha=STEEP, beta=at_zero)


def hardtanh(g: Graph, _: Any, x: Tensor, low: float = -1.0, high: float = 1.0) -> OpResult:
    """x within its bounds; the gradient at a bound is 0."""
    y = g("Clip", x, g.constant(float(low)), g.constant(float(high)))

    def dx(dy: Tensor) -> Tensor:
        above = g.sub(y, float(low)) if low else y
        below = g.sub(g.constant(float(high)), y)
        return g.mul(dy, unit_step(g, g.mul(above, below)))

    return op_result(y, (x, dx))


def relu6(g: Graph, out: Any, x: Tensor) -> OpResult:
    """x within 0 and 6."""
    return hardtanh(g, out, x, 0.0, 6.0)


def sigmoid(g: Graph, _: Any, x: Tensor) -> OpResult:
    """1 / (1 + exp(-x))."""
    y = g("Sigmoid", x)
    return op_result(y, (x, lambda dy: g.mul(dy, g.sub(y, g.mul(y, y)))))


def silu(g: Graph, _: Any, x: Tensor) -> OpResult:
    """x s(x) with s the sigmoid; its derivative is s + y (1 - s)."""
    s = g("Sigmoid", x)
    y = g.mul(x, s)
    return op_result(y, (x, lambda dy: g.mul(dy, g.add(s, g.mul(y, g.sub(g.constant(1.0), s))))))


def tanh(g: Graph, _: Any, x: Tensor) -> OpResult:
    """The hyperbolic tangent."""
    y = g("Tanh", x)
    return op_result(y, (x, lambda dy: g.sub(dy, g.mul(dy, g.mul(y, y)))))


def hardsigmoid(g: Graph, _: Any, x: Tensor) -> OpResult:
    """x / 6 + 1 / 2 within [0, 1]."""

    def dx(dy: Tensor) -> Tensor:
        inside = g("And", g("Greater", x, g.constant(-3.0)), g("Less", x, g.constant(3.0)))
        return g.where(inside, g.mul(dy, 1 / 6), 0.0)

    return op_result(g("HardSigmoid", x, alpha=1 / 6, beta=0.5), (x, dx))


def hardswish(g: Graph, _: Any, x: Tensor) -> OpResult:
    """x hardsigmoid(x); its derivative is 0 up to -3, x / 3 + 1 / 2 between, and 1 from 3 on."""

    def dx(dy: Tensor) -> Tensor:
        slope = g.add(g.mul(x, 1 / 3), 0.5)
        between = g.where(g("Greater", x, g.constant(-3.0)), slope, 0.0)
        return g.mul(dy, g.where(g("Less", x, g.constant(3.0)), between, 1.0))

    return op_result(g("HardSwish", x), (x, dx))


def gelu(g: Graph, _: Any, x: Tensor, *, approximate: str = "none") -> OpResult:
    """x P(x) with P the normal distribution; its derivative is P + x p with p the normal density.

    Approximately, P is (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016).
    """
    if approximate != "none":
        square, root = g.mul(x, x), math.sqrt(2 / math.pi)
        t = g("Tanh", g.mul(x, g.add(g.mul(square, 0.044715 * root), root)))
        half = g.add(g.mul(t, 0.5), 0.5)

        def slope() -> Tensor:
            inner = g.add(g.mul(square, 3 * 0.044715 * root), root)
            return g.add(half, g.mul(g.mul(g.mul(x, 0.5), g.sub(g.constant(1.0), g.mul(t, t))), inner))

        return op_result(g.mul(x, half), (x, lambda dy: g.mul(dy, slope())))
    distribution = g.add(g.mul(g("Erf", g.mul(x, math.sqrt(0.5))), 0.5), 0.5)

    def dx(dy: Tensor) -> Tensor:
        density = g.mul(g("Exp", g.mul(g.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
        return g.mul(dy, g.add(distribution, g.mul(x, density)))

    return op_result(g.mul(x, distribution), (x, dx))
