"""MobileNetV2: inverted residuals with linear bottlenecks.

Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", table 2; the width multiplier as in
section 4.
"""

import math
from dataclasses import dataclass

from cnnbench.networks.families.blocks import conv_norm, round_channels
from cnnbench.networks.layers import AdaptiveAvgPool, Add, BatchNorm, Conv, Dropout, Flatten, Linear, Value
from cnnbench.networks.network import Net

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


@dataclass(frozen=True)
class MobileNetV2:
    """A stem, seven stages of inverted residuals, a 1x1 head."""

    width: float = 1.0
    """Channels of every stage, times this; the head's never fewer than 1280."""
    depth: float = 1.0
    """Blocks of every stage, times this, rounded up."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        """From (C, H, W) to (classes,)."""
        features = net.inside("features")
        stem = Conv(round_channels(32 * self.width), kernel=3, stride=2, padding=1, bias=False)
        x = conv_norm(features.inside("0"), stem, x, "relu6")
        index = 1
        for expansion, channels, repeats, first_stride in STAGES:
            for repeat in range(math.ceil(repeats * self.depth)):
                stride = first_stride if repeat == 0 else 1
                block = features.inside(f"{index}")
                x = inverted_residual(block, x, expansion, round_channels(channels * self.width), stride)
                index += 1
        head = Conv(round_channels(1280 * max(1.0, self.width)), kernel=1, bias=False)
        x = conv_norm(features.inside(f"{index}"), head, x, "relu6")
        x = net("avgpool", AdaptiveAvgPool(1), x)
        x = net("flatten", Flatten(), x)
        x = net("classifier.0", Dropout(0.2), x)
        return net("classifier.1", Linear(classes), x)


def inverted_residual(net: Net, x: Value, expansion: int, channels: int, stride: int) -> Value:
    """1x1 to `expansion` times the channels, depthwise 3x3, linear 1x1 to `channels` (table 1)."""
    hidden = x.channels * expansion
    y, index = x, 0
    if expansion != 1:
        y = conv_norm(net.inside("conv.0"), Conv(hidden, kernel=1, bias=False), y, "relu6")
        index = 1
    depthwise = Conv(hidden, kernel=3, stride=stride, padding=1, groups=hidden, bias=False)
    y = conv_norm(net.inside(f"conv.{index}"), depthwise, y, "relu6")
    y = net(f"conv.{index + 1}", Conv(channels, kernel=1, bias=False), y)
    y = net(f"conv.{index + 2}", BatchNorm(), y)
    return net("add", Add(y), x) if stride == 1 and x.channels == channels else y
