"""Blocks that several families are built from."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from cnnbench.networks import layers as nn
from cnnbench.networks.layers import Op, Value
from cnnbench.networks.network import Net

RELU = nn.Activation(inplace=True)


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one, and never more than 10 % below `channels`.

    Howard et al. 2017 scale channels by a width multiplier; this rounding is that of the MobileNetV2 authors' code.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def check_probability(setting: str, value: float) -> None:
    """Raises ValueError unless the value lies between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{setting}: expected a probability; got {value}")


@dataclass(frozen=True, kw_only=True)
class Widened:
    """A family that can be made wider or narrower."""

    width: float = 1.0
    """Channels of every layer, times this."""

    def wide(self, channels: int) -> int:
        """The channels of a layer that has `channels` at width 1."""
        return round_channels(channels * self.width)


@dataclass(frozen=True, kw_only=True)
class Scaled(Widened):
    """A family that can also be made deeper or shallower."""

    depth: float = 1.0
    """Blocks of every stage, times this, rounded up."""


@dataclass(frozen=True, kw_only=True)
class WithDropout(Scaled):
    """A family whose classifier stands behind a dropout."""

    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_probability("dropout", self.dropout)

    def classify(self, net: Net, x: Value, classes: int) -> Value:
        """The mean over all positions, dropout, and a fully connected layer."""
        return classify(net, x, classes, nn.Dropout(self.dropout, inplace=True))


def strides(first: int, blocks: int, depth: float = 1.0) -> list[int]:
    """The stride of each block of a stage: `first`, then 1; `depth` times as many blocks, rounded up."""
    return [first] + [1] * (math.ceil(blocks * depth) - 1)


def same_conv(channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv:
    """A convolution without bias, padded so that stride 1 keeps the size."""
    padding = dilation * (kernel // 2)
    return nn.Conv(channels, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False)


def depthwise(channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv:
    """One filter per channel."""
    return same_conv(channels, kernel, stride, channels, dilation)


def chain(net: Net, x: Value, **ops: Op) -> Value:
    """Layers in sequence, by name."""
    for name, op in ops.items():
        x = net(name, op, x)
    return x


def sequential(net: Net, x: Value, *ops: Op, start: int = 0) -> Value:
    """Layers in sequence, numbered as torch.nn.Sequential numbers them."""
    return chain(net, x, **{str(index): op for index, op in enumerate(ops, start)})


def conv_norm(net: Net, conv: Op, x: Value, activation: str | None = None) -> Value:
    """A convolution, its batch normalisation and its activation, numbered 0, 1, 2."""
    return sequential(net, x, conv, nn.BatchNorm(), *([nn.Activation(activation, inplace=True)] if activation else []))


def squeeze_excitation(net: Net, x: Value, squeezed: int, activation: nn.Activation, gate: str = "sigmoid") -> Value:
    """One factor per channel, from the channels' means through two 1x1 convolutions (Hu et al. 2018, section 3)."""
    factors = chain(
        net,
        x,
        avgpool=nn.AdaptiveAvgPool(1),
        fc1=nn.Conv(squeezed, kernel=1),
        activation=activation,
        fc2=nn.Conv(x.channels, kernel=1),
        scale_activation=nn.Activation(gate),
    )
    return net("scale", nn.Scale((factors,)), x)


def inverted_bottleneck(
    net: Net,
    x: Value,
    hidden: int,
    conv: nn.Conv,
    channels: int,
    activation: str,
    excitation: Callable[[Net, Value], Value] | None = None,
) -> Value:
    """1x1 to `hidden` channels unless x has them, a depthwise `conv`, `excitation`, linear 1x1 to `channels`."""
    block, index = net.inside("block"), count()
    if hidden != x.channels:
        x = conv_norm(block.inside(f"{next(index)}"), same_conv(hidden), x, activation)
    x = conv_norm(block.inside(f"{next(index)}"), conv, x, activation)
    if excitation:
        x = excitation(block.inside(f"{next(index)}"), x)
    return conv_norm(block.inside(f"{next(index)}"), same_conv(channels), x)


def pooled(net: Net, x: Value) -> Value:
    """The mean of each channel over all positions: (C,)."""
    return chain(net, x, avgpool=nn.AdaptiveAvgPool(1), flatten=nn.Flatten())


def classify(net: Net, x: Value, classes: int, dropout: nn.Dropout | None = None) -> Value:
    """The mean over all positions and a fully connected layer: `fc`, or `classifier.1` behind a dropout."""
    x, fc = pooled(net, x), nn.Linear(classes)
    return sequential(net.inside("classifier"), x, dropout, fc) if dropout else net("fc", fc, x)
