"""EfficientNet: one baseline, scaled in width, depth and resolution at once.

Tan & Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", table 1 (B0) and section 3.3;
the coefficients of B1 to B7 as published with the authors' code. Squeeze-and-excitation: Hu et al. 2018, with a quarter
of the block's input channels.
"""

import math

from cnnbench.archs.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    Conv,
    Dropout,
    Flatten,
    Linear,
    Scale,
    Shape,
)
from cnnbench.archs.mobilenet import conv_norm, round_channels
from cnnbench.archs.network import Describe, Net

# expansion, kernel, stride, channels, repeats (table 1, stages 2 to 8)
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)

# width, depth, resolution, dropout
COEFFICIENTS = {
    "b0": (1.0, 1.0, 224, 0.2),
    "b1": (1.0, 1.1, 240, 0.2),
    "b2": (1.1, 1.2, 288, 0.3),
    "b3": (1.2, 1.4, 300, 0.3),
    "b4": (1.4, 1.8, 380, 0.4),
    "b5": (1.6, 2.2, 456, 0.4),
    "b6": (1.8, 2.6, 528, 0.5),
    "b7": (2.0, 3.1, 600, 0.5),
}


def squeeze_excitation(net: Net, x: Shape, squeezed: int) -> Shape:
    """One factor per channel, from the channels' means through two 1x1 convolutions."""
    s = net("avgpool", AdaptiveAvgPool(1), x)
    s = net("fc1", Conv(squeezed, kernel=1), s)
    s = net("activation", Activation("silu"), s)
    s = net("fc2", Conv(x[0], kernel=1), s)
    s = net("scale_activation", Activation("sigmoid"), s)
    return net("scale", Scale(s), x)


def mbconv(net: Net, x: Shape, expansion: int, kernel: int, stride: int, channels: int) -> Shape:
    """The mobile inverted bottleneck with squeeze-and-excitation."""
    hidden = round_channels(x[0] * expansion)
    y, index = x, 0
    block = net.inside("block")
    if hidden != x[0]:
        y = conv_norm(block.inside("0"), Conv(hidden, kernel=1, bias=False), y, "silu")
        index = 1
    depthwise = Conv(hidden, kernel, stride=stride, padding=kernel // 2, groups=hidden, bias=False)
    y = conv_norm(block.inside(f"{index}"), depthwise, y, "silu")
    y = squeeze_excitation(block.inside(f"{index + 1}"), y, max(1, x[0] // 4))
    y = conv_norm(block.inside(f"{index + 2}"), Conv(channels, kernel=1, bias=False), y, None)
    return net("add", Add(x), y) if stride == 1 and x[0] == channels else y


def efficientnet(width: float, depth: float, dropout: float) -> Describe:
    """EfficientNet with B0's channels times `width` and its repeats times `depth`."""

    def describe(net: Net, x: Shape, classes: int) -> Shape:
        features = net.inside("features")
        stem = Conv(round_channels(32 * width), kernel=3, stride=2, padding=1, bias=False)
        x = conv_norm(features.inside("0"), stem, x, "silu")
        for stage, (expansion, kernel, first_stride, channels, repeats) in enumerate(STAGES, start=1):
            for repeat in range(math.ceil(repeats * depth)):
                stride = first_stride if repeat == 0 else 1
                block = features.inside(f"{stage}.{repeat}")
                x = mbconv(block, x, expansion, kernel, stride, round_channels(channels * width))
        x = conv_norm(features.inside("8"), Conv(4 * x[0], kernel=1, bias=False), x, "silu")
        x = net("avgpool", AdaptiveAvgPool(1), x)
        x = net("flatten", Flatten(), x)
        x = net("classifier.0", Dropout(dropout), x)
        return net("classifier.1", Linear(classes), x)

    return describe
