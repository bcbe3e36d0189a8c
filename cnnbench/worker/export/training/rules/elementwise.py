"""Functions of one value each: powers, exponentials, and activations whose slope is known from input and output."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from cnnbench.worker.export.training.rules.rule import NoRule, OpResult, Rule, op_result
from cnnbench.worker.graphs.graph import INTEGERS, Graph, Tensor

LARGE = 3e38
"""Nearly the largest float32: what stands for the slope of a root at 0, which a rectifier before it times 0."""
Function = Callable[[Graph, Tensor], Tensor]
Slope = Callable[[Graph, Tensor, Tensor], Tensor]
"""The derivative, from x and y."""


def unary(function: str | Function, slope: Slope) -> Rule:
    """The rule of y = f(x), from an ONNX operator's name or what writes f, and the derivative."""

    def rule(g: Graph, _: Any, x: Tensor, *__: Any, **___: Any) -> OpResult:
        value = g.cast(x, "float32")
        y = g(function, value) if isinstance(function, str) else function(g, value)
        return op_result(y, (x, lambda dy: g.mul(dy, slope(g, value, y))))

    return rule


def flat(function: str) -> Rule:
    """The rule of a step function, whose gradient is zero: an optimizer still sees one."""

    def rule(g: Graph, _: Any, x: Tensor, *__: Any, **___: Any) -> OpResult:
        return op_result(g.typed(x.dtype, function, x), (x, lambda dy: g.mul(dy, 0.0)))

    return rule


def _less_one(g: Graph, x: Tensor) -> Tensor:
    return g.sub(g("Exp", x), 1.0)


def _one_minus(g: Graph, x: Tensor) -> Tensor:
    return g.sub(g.constant(1.0), x)


neg = unary("Neg", lambda g, x, y: g.constant(-1.0))
absolute = unary("Abs", lambda g, x, y: g("Sign", x))
exp = unary("Exp", lambda g, x, y: y)
expm1 = unary(_less_one, lambda g, x, y: g.add(y, 1.0))
log = unary("Log", lambda g, x, y: g("Reciprocal", x))
log1p = unary(lambda g, x: g("Log", g.add(x, 1.0)), lambda g, x, y: g("Reciprocal", g.add(x, 1.0)))
sqrt = unary("Sqrt", lambda g, x, y: g.mul(g("Min", g("Reciprocal", y), g.constant(LARGE)), 0.5))
rsqrt = unary(lambda g, x: g("Reciprocal", g("Sqrt", x)), lambda g, x, y: g.mul(g.mul(y, g.mul(y, y)), -0.5))
reciprocal = unary("Reciprocal", lambda g, x, y: g("Neg", g.mul(y, y)))
square = unary(lambda g, x: g.mul(x, x), lambda g, x, y: g.mul(x, 2.0))
sin = unary("Sin", lambda g, x, y: g("Cos", x))
cos = unary("Cos", lambda g, x, y: g("Neg", g("Sin", x)))
atan = unary("Atan", lambda g, x, y: g("Reciprocal", g.add(g.mul(x, x), 1.0)))
erf = unary("Erf", lambda g, x, y: g.mul(g("Exp", g("Neg", g.mul(x, x))), 2 / math.sqrt(math.pi)))
log_sigmoid = unary(lambda g, x: g("Neg", g("Softplus", g("Neg", x))), lambda g, x, y: g("Sigmoid", g("Neg", x)))


def _mish_slope(g: Graph, x: Tensor, _: Tensor) -> Tensor:
    """With t = tanh(softplus(x)) and s the sigmoid: t + x s (1 - t^2)."""
    t = g("Tanh", g("Softplus", x))
    return g.add(t, g.mul(g.mul(x, g("Sigmoid", x)), _one_minus(g, g.mul(t, t))))


mish = unary(lambda g, x: g.mul(x, g("Tanh", g("Softplus", x))), _mish_slope)


def softplus(g: Graph, _: Any, x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> OpResult:
    """log(1 + exp(beta x)) / beta, and x itself where beta x is above the threshold."""
    scaled = g.mul(x, beta) if beta != 1 else x
    linear = g("Greater", scaled, g.constant(float(threshold)))
    soft = g("Softplus", scaled)
    y = g.where(linear, x, g.mul(soft, 1 / beta) if beta != 1 else soft)
    return op_result(y, (x, lambda dy: g.mul(dy, g.where(linear, g.constant(1.0), g("Sigmoid", scaled)))))


def leaky_relu(g: Graph, _: Any, x: Tensor, slope: float = 0.01) -> OpResult:
    """x, and below 0 that times a number."""
    positive = g("Greater", x, g.constant(0.0))
    return op_result(g.where(positive, x, g.mul(x, slope)), (x, lambda dy: g.where(positive, dy, g.mul(dy, slope))))


def elu(g: Graph, _: Any, x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> OpResult:
    """scale x, and below 0 scale alpha (exp(input_scale x) - 1); SELU and CELU are of this form."""
    positive = g("Greater", x, g.constant(0.0))
    curved = g.mul(_less_one(g, g.mul(g("Min", x, g.constant(0.0)), input_scale)), alpha * scale)
    y = g.where(positive, g.mul(x, scale), curved)

    def dx(dy: Tensor) -> Tensor:
        below = g.mul(g.add(curved, alpha * scale), input_scale)
        return g.mul(dy, g.where(positive, g.constant(float(scale)), below))

    return op_result(y, (x, dx))


def selu(g: Graph, out: Any, x: Tensor) -> OpResult:
    """Klambauer et al. 2017, with the constants as torch has them."""
    return elu(g, out, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def celu(g: Graph, out: Any, x: Tensor, alpha: float = 1.0) -> OpResult:
    """Barron 2017: max(x, 0) + min(alpha (exp(x / alpha) - 1), 0)."""
    return elu(g, out, x, alpha, 1.0, 1 / alpha)


def prelu(g: Graph, _: Any, x: Tensor, w: Tensor) -> OpResult:
    """x, and below 0 that times a learnt number for each channel, or for all."""
    per_channel = w
    if w.ndim == 1 and x.ndim > 1:
        per_channel = g.reshape(w, (1, w.shape[0], *(1 for _ in x.shape[2:])))
    positive = g("Greater", x, g.constant(0.0))
    axes = [i for i in range(x.ndim) if i >= per_channel.ndim or per_channel.shape[i] == 1]

    def dw(dy: Tensor) -> Tensor:
        along = g.where(positive, g.constant(0.0), g.mul(dy, x))
        return g.reshape(g.sum(along, axes, keep=True), w.shape)

    return op_result(
        g.where(positive, x, g.mul(x, per_channel)),
        (x, lambda dy: g.where(positive, dy, g.mul(dy, per_channel))),
        (w, dw),
    )


@cache
def _bounds_pass_gradients() -> bool:
    """Whether torch's clamp hands on the gradient at a bound: it did before version 2.14."""
    bound = torch.zeros((), requires_grad=True)
    (gradient,) = torch.autograd.grad(torch.clamp(bound, min=0.0), bound)
    return bool(gradient)


def clamp(g: Graph, _: Any, x: Tensor, low: float | None = None, high: float | None = None) -> OpResult:
    """x within its bounds; the gradient at a bound is torch's."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        raise NoRule("bounds that are tensors")
    if x.dtype in INTEGERS and not any(isinstance(each, float) for each in (low, high)):
        whole = [None if each is None else g.constant(np.asarray(each, np.int64)) for each in (low, high)]
        limited = g.typed("int64", "Clip", g.cast(x, "int64"), *whole)
        return op_result(limited if x.dtype == "bool" else g.cast(limited, x.dtype))
    value = g.cast(x, "float32")
    bounds = [None if each is None else g.constant(float(each)) for each in (low, high)]
    y = g("Clip", value, *bounds)

    def dx(dy: Tensor) -> Tensor:
        at = "OrEqual" if _bounds_pass_gradients() else ""
        for operator, bound in zip((f"Greater{at}", f"Less{at}"), bounds, strict=True):
            if bound is not None:
                dy = g.where(g.typed("bool", operator, value, bound), dy, 0.0)
        return dy

    return op_result(y, (x, dx))


def clamp_max(g: Graph, out: Any, x: Tensor, high: float) -> OpResult:
    """No more than a bound."""
    return clamp(g, out, x, None, high)


def power(g: Graph, _: Any, x: Tensor | float, exponent: Tensor | float) -> OpResult:
    """x to the power of a number or a tensor, or a number to the power of a tensor."""
    if not isinstance(exponent, Tensor) and exponent == 2:
        return square(g, _, x)
    base = x if isinstance(x, Tensor) else g.constant(float(x))
    base, by = g.alike(g.cast(base, "float32"), exponent)
    shape = g.mul(base, by).shape if isinstance(exponent, Tensor) else base.shape
    y = g("Pow", base, by, shape=shape)

    def d_base(dy: Tensor) -> Tensor:
        if not isinstance(exponent, Tensor) and exponent == 0:
            return g.mul(dy, 0.0)
        lower = g.sub(by, 1.0)
        return g.mul(dy, g.mul(by, g("Pow", base, lower, shape=shape)))

    def d_exponent(dy: Tensor) -> Tensor:
        """0 where the base is 0, as torch has it."""
        positive = g("Greater", base, g.constant(0.0))
        logarithm = g("Log", g.where(positive, base, 1.0))
        return g.mul(g.mul(dy, y), logarithm)

    return op_result(y, (x, d_base), (exponent, d_exponent))


def softmax(g: Graph, _: Any, x: Tensor, axis: int, *__: Any, **___: Any) -> OpResult:
    """exp(x) over its sum along an axis."""
    y = g("Softmax", x, axis=axis % x.ndim)

    def dx(dy: Tensor) -> Tensor:
        along = g.mul(dy, y)
        return g.sub(along, g.mul(y, g.sum(along, [axis % x.ndim], keep=True)))

    return op_result(y, (x, dx))


def log_softmax(g: Graph, _: Any, x: Tensor, axis: int, *__: Any, **___: Any) -> OpResult:
    """The logarithm of it."""
    y = g("LogSoftmax", x, axis=axis % x.ndim)
    return op_result(y, (x, lambda dy: g.sub(dy, g.mul(g("Exp", y), g.sum(dy, [axis % x.ndim], keep=True)))))
