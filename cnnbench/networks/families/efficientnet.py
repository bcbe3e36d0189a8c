"""EfficientNet: one baseline, scaled in width, depth and resolution at once.

Tan & Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", table 1 (B0) and section 3.3;
the coefficients of B1 to B7 as published with the authors' code. Squeeze-and-excitation: Hu et al. 2018, with a quarter
of the block's input channels.
"""

import math
from dataclasses import dataclass

from cnnbench.networks.families.blocks import check_probability, conv_norm, round_channels, squeeze_excitation
from cnnbench.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    Conv,
    Dropout,
    Flatten,
    Linear,
    StochasticDepth,
    Value,
)
from cnnbench.networks.network import Net

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

DROPPED_BLOCKS = 0.2
"""Probability that the last block is dropped; the first never is, and between it grows evenly."""


@dataclass(frozen=True)
class EfficientNet:
    """B0 scaled by its compound coefficients (section 3.3); the resolution is the image's."""

    width: float = 1.0
    """B0's channels, times this."""
    depth: float = 1.0
    """B0's repeats, times this, rounded up."""
    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_probability("dropout", self.dropout)

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        """From (C, H, W) to (classes,)."""
        features = net.inside("features")
        stem = Conv(round_channels(32 * self.width), kernel=3, stride=2, padding=1, bias=False)
        x = conv_norm(features.inside("0"), stem, x, "silu")
        repeats_of = [math.ceil(repeats * self.depth) for *_, repeats in STAGES]
        done = 0
        for stage, (expansion, kernel, first_stride, channels, _) in enumerate(STAGES, start=1):
            for repeat in range(repeats_of[stage - 1]):
                stride = first_stride if repeat == 0 else 1
                block = features.inside(f"{stage}.{repeat}")
                drop = DROPPED_BLOCKS * done / sum(repeats_of)
                x = mbconv(block, x, expansion, kernel, stride, round_channels(channels * self.width), drop)
                done += 1
        x = conv_norm(features.inside("8"), Conv(4 * x.channels, kernel=1, bias=False), x, "silu")
        x = net("avgpool", AdaptiveAvgPool(1), x)
        x = net("flatten", Flatten(), x)
        x = net("classifier.0", Dropout(self.dropout, inplace=True), x)
        return net("classifier.1", Linear(classes), x)


def mbconv(net: Net, x: Value, expansion: int, kernel: int, stride: int, channels: int, drop: float) -> Value:
    """The mobile inverted bottleneck with squeeze-and-excitation."""
    hidden = round_channels(x.channels * expansion)
    y, index = x, 0
    block = net.inside("block")
    if hidden != x.channels:
        y = conv_norm(block.inside("0"), Conv(hidden, kernel=1, bias=False), y, "silu")
        index = 1
    depthwise = Conv(hidden, kernel, stride=stride, padding=kernel // 2, groups=hidden, bias=False)
    y = conv_norm(block.inside(f"{index}"), depthwise, y, "silu")
    squeezed = max(1, x.channels // 4)
    y = squeeze_excitation(block.inside(f"{index + 1}"), y, squeezed, Activation("silu", inplace=True))
    y = conv_norm(block.inside(f"{index + 2}"), Conv(channels, kernel=1, bias=False), y)
    return residual(net, x, y, stride, drop)


def residual(net: Net, x: Value, y: Value, stride: int, drop: float) -> Value:
    """y added to x where their shapes are equal, and dropped at times in training (Huang et al. 2016)."""
    if stride != 1 or x.channels != y.channels:
        return y
    y = net("stochastic_depth", StochasticDepth(drop), y)
    return net("add", Add(x, inplace=True), y)
