"""MobileNetV2: inverted residuals with linear bottlenecks.

Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", table 2; the width multiplier and the
rounding of channels to a multiple of eight as in section 4 and the authors' own code.
"""

from cnnbench.archs.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    Linear,
    Op,
    Shape,
)
from cnnbench.archs.network import Describe, Net

# expansion t, channels c, repeats n, stride s (table 2)
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one, and never more than 10 % below `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_norm(net: Net, conv: Op, x: Shape, activation: str | None) -> Shape:
    """A convolution without bias, its batch normalisation and its activation, numbered 0, 1, 2."""
    x = net("0", conv, x)
    x = net("1", BatchNorm(), x)
    return net("2", Activation(activation), x) if activation else x


def inverted_residual(net: Net, x: Shape, expansion: int, channels: int, stride: int) -> Shape:
    """1x1 to `expansion` times the channels, depthwise 3x3, linear 1x1 to `channels` (table 1)."""
    hidden = x[0] * expansion
    y, index = x, 0
    if expansion != 1:
        y = conv_norm(net.inside("conv.0"), Conv(hidden, kernel=1, bias=False), y, "relu6")
        index = 1
    depthwise = Conv(hidden, kernel=3, stride=stride, padding=1, groups=hidden, bias=False)
    y = conv_norm(net.inside(f"conv.{index}"), depthwise, y, "relu6")
    y = net(f"conv.{index + 1}", Conv(channels, kernel=1, bias=False), y)
    y = net(f"conv.{index + 2}", BatchNorm(), y)
    return net("add", Add(x), y) if stride == 1 and x[0] == channels else y


def mobilenet_v2(width: float = 1.0) -> Describe:
    """MobileNetV2 with a width multiplier."""

    def describe(net: Net, x: Shape, classes: int) -> Shape:
        features = net.inside("features")
        stem = Conv(round_channels(32 * width), kernel=3, stride=2, padding=1, bias=False)
        x = conv_norm(features.inside("0"), stem, x, "relu6")
        index = 1
        for expansion, channels, repeats, first_stride in STAGES:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                block = features.inside(f"{index}")
                x = inverted_residual(block, x, expansion, round_channels(channels * width), stride)
                index += 1
        head = Conv(round_channels(1280 * max(1.0, width)), kernel=1, bias=False)
        x = conv_norm(features.inside(f"{index}"), head, x, "relu6")
        x = net("avgpool", AdaptiveAvgPool(1), x)
        x = net("flatten", Flatten(), x)
        x = net("classifier.0", Dropout(0.2), x)
        return net("classifier.1", Linear(classes), x)

    return describe
