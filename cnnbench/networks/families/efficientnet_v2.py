"""EfficientNetV2: EfficientNet with ordinary convolutions in its first stages.

Tan & Le 2021, "EfficientNetV2: smaller models and faster training", table 4 (S); the stages of M and L as published
with the authors' code. The paper prints no stage tables for M and L, which are S scaled up (section 3.3).
"""

import math
from dataclasses import dataclass
from typing import Literal

from cnnbench.networks.families.blocks import check_probability, conv_norm, round_channels
from cnnbench.networks.families.efficientnet import DROPPED_BLOCKS, mbconv, residual
from cnnbench.networks.layers import AdaptiveAvgPool, Conv, Dropout, Flatten, Linear, Value
from cnnbench.networks.network import Net

Size = Literal["s", "m", "l"]

# expansion, stride, channels, repeats
STAGES: dict[Size, tuple[tuple[int, int, int, int], ...]] = {
    "s": (  # table 4
        (1, 1, 24, 2),
        (4, 2, 48, 4),
        (4, 2, 64, 4),
        (4, 2, 128, 6),
        (6, 1, 160, 9),
        (6, 2, 256, 15),
    ),
    "m": (
        (1, 1, 24, 3),
        (4, 2, 48, 5),
        (4, 2, 80, 5),
        (4, 2, 160, 7),
        (6, 1, 176, 14),
        (6, 2, 304, 18),
        (6, 1, 512, 5),
    ),
    "l": (
        (1, 1, 32, 4),
        (4, 2, 64, 7),
        (4, 2, 96, 7),
        (4, 2, 192, 10),
        (6, 1, 224, 19),
        (6, 2, 384, 25),
        (6, 1, 640, 7),
    ),
}

FUSED_STAGES = 3
"""So many stages, from the first, are of Fused-MBConv; the others of MBConv."""

# resolution, dropout
SETTINGS: dict[Size, tuple[int, float]] = {"s": (384, 0.2), "m": (480, 0.3), "l": (480, 0.4)}


@dataclass(frozen=True)
class EfficientNetV2:
    """A stem as wide as the first stage, stages of fused and of plain MBConv, a 1x1 head."""

    size: Size
    width: float = 1.0
    """Channels of every layer, times this."""
    depth: float = 1.0
    """Repeats of every stage, times this, rounded up."""
    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_probability("dropout", self.dropout)

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        """From (C, H, W) to (classes,)."""
        stages = [
            (expansion, stride, round_channels(channels * self.width), math.ceil(repeats * self.depth))
            for expansion, stride, channels, repeats in STAGES[self.size]
        ]
        features = net.inside("features")
        _, _, stem, _ = stages[0]
        x = conv_norm(features.inside("0"), Conv(stem, kernel=3, stride=2, padding=1, bias=False), x, "silu")
        done, blocks = 0, sum(repeats for *_, repeats in stages)
        for stage, (expansion, first_stride, channels, repeats) in enumerate(stages, start=1):
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                block = features.inside(f"{stage}.{repeat}")
                drop = DROPPED_BLOCKS * done / blocks
                if stage <= FUSED_STAGES:
                    x = fused_mbconv(block, x, expansion, stride, channels, drop)
                else:
                    x = mbconv(block, x, expansion, 3, stride, channels, drop)
                done += 1
        head = Conv(round_channels(1280 * self.width), kernel=1, bias=False)
        x = conv_norm(features.inside(f"{len(stages) + 1}"), head, x, "silu")
        x = net("avgpool", AdaptiveAvgPool(1), x)
        x = net("flatten", Flatten(), x)
        x = net("classifier.0", Dropout(self.dropout, inplace=True), x)
        return net("classifier.1", Linear(classes), x)


def fused_mbconv(net: Net, x: Value, expansion: int, stride: int, channels: int, drop: float) -> Value:
    """MBConv with one ordinary 3x3 convolution in place of the 1x1 and the depthwise (figure 2)."""
    hidden = round_channels(x.channels * expansion)
    block = net.inside("block")
    expands = hidden != x.channels
    fused = Conv(hidden if expands else channels, kernel=3, stride=stride, padding=1, bias=False)
    y = conv_norm(block.inside("0"), fused, x, "silu")
    if expands:
        y = conv_norm(block.inside("1"), Conv(channels, kernel=1, bias=False), y)
    return residual(net, x, y, stride, drop)
