"""EfficientNet: one baseline, scaled in width, depth and resolution at once.

Tan & Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", table 1 (B0) and section 3.3;
the coefficients of B1 to B7 as published with the authors' code. Squeeze-and-excitation: Hu et al. 2018, with a quarter
of the block's input channels.

EfficientNetV2, with ordinary convolutions in its first stages: Tan & Le 2021, "EfficientNetV2: smaller models and
faster training", table 4 (S); the stages of M and L as published with the authors' code. The paper prints no stage
tables for M and L, which are S scaled up (section 3.3).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from cnnbench.networks import layers as nn
from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import (
    WithDropout,
    conv_norm,
    depthwise,
    inverted_bottleneck,
    round_channels,
    same_conv,
    squeeze_excitation,
    strides,
)
from cnnbench.networks.layers import Value
from cnnbench.networks.network import Net


class Stage(NamedTuple):
    """Blocks of one kind."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    repeats: int
    fused: bool = False
    """Whether one ordinary convolution stands for the 1x1 and the depthwise (EfficientNetV2)."""

    def scaled(self, width: float, depth: float) -> "Stage":
        """Its channels and repeats multiplied; repeats rounded up."""
        return self._replace(channels=round_channels(self.channels * width), repeats=math.ceil(self.repeats * depth))


# table 1, stages 2 to 8
B0_STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
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

Size = Literal["s", "m", "l"]

# of EfficientNetV2's stages: expansion, stride, whether one ordinary convolution stands for the 1x1 and the depthwise
V2_KINDS = ((1, 1, True), (4, 2, True), (4, 2, True), (4, 2, False), (6, 1, False), (6, 2, False), (6, 1, False))

# their channels and repeats; the first is table 4, the others are in the authors' code
V2_STAGES: dict[Size, tuple[tuple[int, int], ...]] = {
    "s": ((24, 2), (48, 4), (64, 4), (128, 6), (160, 9), (256, 15)),
    "m": ((24, 3), (48, 5), (80, 5), (160, 7), (176, 14), (304, 18), (512, 5)),
    "l": ((32, 4), (64, 7), (96, 7), (192, 10), (224, 19), (384, 25), (640, 7)),
}

# resolution, dropout
V2_SETTINGS: dict[Size, tuple[int, float]] = {"s": (384, 0.2), "m": (480, 0.3), "l": (480, 0.4)}

DROPPED_BLOCKS = 0.2
"""The probability of stochastic depth grows evenly from 0 for the first block towards this."""


@dataclass(frozen=True)
class EfficientNet(WithDropout):
    """B0 scaled by its compound coefficients (section 3.3); the resolution is the image's."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        stages = [stage.scaled(self.width, self.depth) for stage in B0_STAGES]
        x = features(net.inside("features"), x, self.wide(32), stages, 4 * stages[-1].channels)
        return self.classify(net, x, classes)


@dataclass(frozen=True)
class EfficientNetV2(WithDropout):
    """A stem as wide as the first stage, stages of fused and of plain MBConv, a 1x1 head."""

    size: Size

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        stages = [
            Stage(expansion, 3, stride, channels, repeats, fused).scaled(self.width, self.depth)
            for (expansion, stride, fused), (channels, repeats) in zip(V2_KINDS, V2_STAGES[self.size], strict=False)
        ]
        x = features(net.inside("features"), x, stages[0].channels, stages, self.wide(1280))
        return self.classify(net, x, classes)


def features(net: Net, x: Value, stem: int, stages: Sequence[Stage], head: int) -> Value:
    """A 3x3 stem, the stages, a 1x1 head."""
    x = conv_norm(net.inside("0"), same_conv(stem, 3, stride=2), x, "silu")
    done, blocks = 0, sum(stage.repeats for stage in stages)
    for number, stage in enumerate(stages, start=1):
        block = fused_mbconv if stage.fused else mbconv
        for repeat, stride in enumerate(strides(stage.stride, stage.repeats)):
            inner = net.inside(f"{number}.{repeat}")
            y = block(inner, x, round_channels(x.channels * stage.expansion), stage, stride)
            if stride == 1 and x.channels == y.channels:  # residual, dropped at times in training (Huang et al. 2016)
                y = inner("stochastic_depth", nn.StochasticDepth(DROPPED_BLOCKS * done / blocks), y)
                y = inner("add", nn.Add((x,), inplace=True), y)
            x = y
            done += 1
    return conv_norm(net.inside(f"{len(stages) + 1}"), same_conv(head), x, "silu")


def mbconv(net: Net, x: Value, hidden: int, stage: Stage, stride: int) -> Value:
    """The mobile inverted bottleneck with squeeze-and-excitation."""
    squeezed = max(1, x.channels // 4)
    excitation = partial(squeeze_excitation, squeezed=squeezed, activation=nn.Activation("silu", inplace=True))
    conv = depthwise(hidden, stage.kernel, stride)
    return inverted_bottleneck(net, x, hidden, conv, stage.channels, "silu", excitation)


def fused_mbconv(net: Net, x: Value, hidden: int, stage: Stage, stride: int) -> Value:
    """MBConv with one ordinary convolution in place of the 1x1 and the depthwise (Tan & Le 2021, figure 2)."""
    block, expands = net.inside("block"), hidden != x.channels
    fused = same_conv(hidden if expands else stage.channels, stage.kernel, stride)
    y = conv_norm(block.inside("0"), fused, x, "silu")
    return conv_norm(block.inside("1"), same_conv(stage.channels), y) if expands else y


V1_SOURCE, V2_SOURCE = "Tan & Le 2019, table 1", "Tan & Le 2021, table 4"

NETWORKS = [
    *(
        imagenet(f"efficientnet_{letter}", EfficientNet(width=w, depth=d, dropout=dropout), V1_SOURCE, resolution)
        for letter, (w, d, resolution, dropout) in COEFFICIENTS.items()
    ),
    *(
        imagenet(f"efficientnet_v2_{size}", EfficientNetV2(size, dropout=dropout), V2_SOURCE, resolution)
        for size, (resolution, dropout) in V2_SETTINGS.items()
    ),
]
