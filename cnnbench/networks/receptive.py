"""The receptive field of each layer in closed form: which part of the image one place of its output depends on.

Araujo, Norris, Sim 2019, "Computing receptive fields of convolutional neural networks" (Distill), sections 2 and 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from cnnbench.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Dropout,
    LayerNorm,
    LayerScale,
    Linear,
    MaxPool,
    Op,
    Permute,
    Scale,
    Shape,
    Shuffle,
    Split,
    StochasticDepth,
)
from cnnbench.networks.layers.op import per_axis
from cnnbench.networks.network import Network


@dataclass(frozen=True)
class Field:
    """Along one axis: place i of the output depends on pixels `jump * i + low` to `jump * i + high`.

    Behind a transposed convolution these are fractions, and the whole numbers between them are meant.
    """

    jump: Fraction
    low: Fraction
    high: Fraction

    @property
    def size(self) -> int:
        """Pixels."""
        return int(self.high - self.low) + 1

    def at(self, place: int, pixels: int) -> tuple[int, int]:
        """The first pixel that a place depends on, and the one after the last, within an image of so many."""
        low, high = (self.jump * place + end for end in (self.low, self.high))
        return max(0, math.ceil(low)), min(pixels, math.floor(high) + 1)


Fields = tuple[Field | None, ...]
"""For each axis of a value; None of that of the channels."""
POINTWISE = (Activation, BatchNorm, Dropout, LayerScale, StochasticDepth, Shuffle, Split, Add, Concat, Scale)
"""Layers whose output depends on the same place of their inputs alone."""


def receptive_fields(network: Network) -> dict[str, tuple[Field, ...] | None]:
    """By layer, the field along each axis of the image; None where one place depends on the whole image."""
    image: Fields = (None, *(Field(Fraction(1), Fraction(0), Fraction(0)) for _ in network.input_shape[1:]))
    known: dict[int | None, Fields | None] = {None: image}
    found: dict[str, tuple[Field, ...] | None] = {}
    for layer in network.layers:
        inputs = [(known[value.layer], value.shape) for value in layer.inputs]
        known[layer.output.layer] = fields = _after(layer.op, inputs, layer.output_shape)
        found[layer.name] = None if fields is None else tuple(each for each in fields if each is not None)
    return found


def _after(op: Op, inputs: Sequence[tuple[Fields | None, Shape]], y: Shape) -> Fields | None:
    fields, x = inputs[0]
    if any(each is None for each, _ in inputs) or fields is None:
        return None
    axes = len(x) - 1
    if isinstance(op, Permute):
        return tuple(fields[axis] for axis in op.order)
    if isinstance(op, LayerNorm):
        return fields if op.axes == 1 and fields[-1] is None else None
    if isinstance(op, Linear):
        return fields if fields[-1] is None and axes else None
    if isinstance(op, AdaptiveAvgPool):
        windows = [size // out if size % out == 0 else 0 for size, out in zip(x[1:], y[1:], strict=True)]
        return _windows(fields, windows, windows, [0] * axes, [1] * axes) if all(windows) else None
    if type(op) is ConvTranspose:
        kernel, stride, padding, dilation = _settings(op, axes)
        return (None, *map(_transposed, _spatial(fields), kernel, stride, padding, dilation))
    if type(op) is Conv:
        return _windows(fields, *_settings(op, axes))
    if isinstance(op, MaxPool | AvgPool):
        strides = op.kernel if op.stride is None else op.stride
        return _windows(fields, *(per_axis(value, axes) for value in (op.kernel, strides, op.padding, 1)))
    if isinstance(op, POINTWISE) and all(shape[1:] == x[1:] for _, shape in inputs):
        return joined([each for each, _ in inputs if each is not None])
    return None


def _settings(op: Conv, axes: int) -> tuple[tuple[int, ...], ...]:
    return tuple(per_axis(value, axes) for value in (op.kernel, op.stride, op.padding, op.dilation))


def _spatial(fields: Fields) -> list[Field]:
    return [each for each in fields if each is not None]


def _windows(
    fields: Fields, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Fields:
    def after(x: Field, k: int, s: int, p: int, d: int) -> Field:
        return Field(x.jump * s, x.low - x.jump * p, x.high + x.jump * (d * (k - 1) - p))

    return (None, *map(after, _spatial(fields), kernel, stride, padding, dilation))


def _transposed(x: Field, k: int, s: int, p: int, d: int) -> Field:
    """Place o reads places (o + p - d (k - 1)) / s to (o + p) / s."""
    return Field(x.jump / s, x.low + x.jump * (p - d * (k - 1)) / s, x.high + x.jump * p / s)


def joined(all_: Sequence[Fields]) -> Fields | None:
    """The smallest field that holds all; None where their places are not one another's."""
    found: list[Field | None] = []
    for same in zip(*all_, strict=True):
        spatial = [each for each in same if each is not None]
        if not spatial:
            found.append(None)
        elif len(spatial) != len(same) or len({each.jump for each in spatial}) > 1:
            return None
        else:
            low, high = min(each.low for each in spatial), max(each.high for each in spatial)
            found.append(Field(spatial[0].jump, low, high))
    return tuple(found)
