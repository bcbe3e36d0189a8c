"""MobileNetV2: inverted residuals with linear bottlenecks.

Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", table 2; the width multiplier as in
section 4.
"""

from dataclasses import dataclass

from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import (
    Scaled,
    classify,
    conv_norm,
    depthwise,
    round_channels,
    same_conv,
    sequential,
    strides,
)
from cnnbench.networks.layers import Add, BatchNorm, Dropout, Value
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
class MobileNetV2(Scaled):
    """A stem, seven stages of inverted residuals, a 1x1 head of at least 1280 channels."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        features = net.inside("features")
        x = conv_norm(features.inside("0"), same_conv(self.wide(32), 3, stride=2), x, "relu6")
        index = 1
        for expansion, channels, repeats, first_stride in STAGES:
            for stride in strides(first_stride, repeats, self.depth):
                block = features.inside(f"{index}")
                x = inverted_residual(block, x, expansion, self.wide(channels), stride)
                index += 1
        head = same_conv(round_channels(1280 * max(1.0, self.width)))
        x = conv_norm(features.inside(f"{index}"), head, x, "relu6")
        return classify(net, x, classes, Dropout(0.2))


def inverted_residual(net: Net, x: Value, expansion: int, channels: int, stride: int) -> Value:
    """1x1 to `expansion` times the channels, depthwise 3x3, linear 1x1 to `channels` (table 1)."""
    hidden, expands, conv = x.channels * expansion, expansion != 1, net.inside("conv")
    y = conv_norm(conv.inside("0"), same_conv(hidden), x, "relu6") if expands else x
    y = conv_norm(conv.inside(f"{int(expands)}"), depthwise(hidden, 3, stride), y, "relu6")
    y = sequential(conv, y, same_conv(channels), BatchNorm(), start=1 + expands)
    return net("add", Add(y), x) if stride == 1 and x.channels == channels else y


NETWORKS = [imagenet("mobilenet_v2", MobileNetV2(), "Sandler et al. 2018, table 2")]
