"""MobileNetV3: MobileNetV2's blocks as an architecture search chose them one by one.

Howard et al. 2019, "Searching for MobileNetV3", tables 1 (large) and 2 (small). Squeeze-and-excitation: Hu et al. 2018,
with a quarter of the block's expanded channels (section 5.3), which torchvision rounds to a multiple of 8.

Where torchvision differs from the tables: the last two layers are fully connected instead of 1x1 convolutions, which is
the same arithmetic; the small network has no squeeze-and-excitation in its last convolution, which table 2 ticks, and
1024 channels before the classes, where some versions of table 2 have 1280.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import (
    Widened,
    chain,
    conv_norm,
    depthwise,
    inverted_bottleneck,
    round_channels,
    same_conv,
    sequential,
    squeeze_excitation,
)
from cnnbench.networks.layers import Activation, AdaptiveAvgPool, Add, Dropout, Flatten, Linear, Value
from cnnbench.networks.network import Net

Size = Literal["large", "small"]

# kernel, expanded channels, channels, squeeze-and-excitation, activation, stride
BLOCKS: dict[Size, tuple[tuple[int, int, int, bool, str, int], ...]] = {
    "large": (  # table 1
        (3, 16, 16, False, "relu", 1),
        (3, 64, 24, False, "relu", 2),
        (3, 72, 24, False, "relu", 1),
        (5, 72, 40, True, "relu", 2),
        (5, 120, 40, True, "relu", 1),
        (5, 120, 40, True, "relu", 1),
        (3, 240, 80, False, "hardswish", 2),
        (3, 200, 80, False, "hardswish", 1),
        (3, 184, 80, False, "hardswish", 1),
        (3, 184, 80, False, "hardswish", 1),
        (3, 480, 112, True, "hardswish", 1),
        (3, 672, 112, True, "hardswish", 1),
        (5, 672, 160, True, "hardswish", 2),
        (5, 960, 160, True, "hardswish", 1),
        (5, 960, 160, True, "hardswish", 1),
    ),
    "small": (  # table 2
        (3, 16, 16, True, "relu", 2),
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hardswish", 2),
        (5, 240, 40, True, "hardswish", 1),
        (5, 240, 40, True, "hardswish", 1),
        (5, 120, 48, True, "hardswish", 1),
        (5, 144, 48, True, "hardswish", 1),
        (5, 288, 96, True, "hardswish", 2),
        (5, 576, 96, True, "hardswish", 1),
        (5, 576, 96, True, "hardswish", 1),
    ),
}

HIDDEN: dict[Size, int] = {"large": 1280, "small": 1024}
"""Channels of the last layer before the classes."""

HEAD_EXPANSION = 6
"""The last convolution puts out so many times the channels of the last block."""


@dataclass(frozen=True)
class MobileNetV3(Widened):
    """A stem, the blocks of table 1 or 2, and a head whose last layers follow the pooling (section 5.1).

    The search gave each block a size of its own: nothing repeats, so there is no depth to multiply.
    """

    size: Size

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        features = net.inside("features")
        x = conv_norm(features.inside("0"), same_conv(self.wide(16), 3, stride=2), x, "hardswish")
        blocks = BLOCKS[self.size]
        for index, (kernel, expanded, channels, squeezes, activation, stride) in enumerate(blocks, start=1):
            hidden, out = self.wide(expanded), self.wide(channels)
            block = features.inside(f"{index}")
            excitation = partial(
                squeeze_excitation,
                squeezed=round_channels(hidden // 4),
                activation=Activation("relu"),
                gate="hardsigmoid",
            )
            conv = depthwise(hidden, kernel, stride)
            y = inverted_bottleneck(block, x, hidden, conv, out, activation, excitation if squeezes else None)
            x = block("add", Add(x, inplace=True), y) if stride == 1 and x.channels == out else y
        head = same_conv(HEAD_EXPANSION * x.channels)
        x = conv_norm(features.inside(f"{len(blocks) + 1}"), head, x, "hardswish")
        x = chain(net, x, avgpool=AdaptiveAvgPool(1), flatten=Flatten())
        hidden_layer = Linear(self.wide(HIDDEN[self.size])), Activation("hardswish", inplace=True)
        return sequential(net.inside("classifier"), x, *hidden_layer, Dropout(0.2, inplace=True), Linear(classes))


NETWORKS = [
    imagenet(f"mobilenet_v3_{size}", MobileNetV3(size), f"Howard et al. 2019, table {table}")
    for table, size in enumerate(BLOCKS, start=1)
]
