"""MobileNets and MNASNet: inverted residuals with linear bottlenecks.

MobileNetV2: Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", table 2; the width
multiplier as in section 4.

MNASNet, whose kernel and expansion were searched for each stage: Tan et al. 2018, "MnasNet: platform-aware neural
architecture search for mobile". torchvision's is not the A1 network of figure 7 but B1, found without
squeeze-and-excitation in the search space (table 2); its stages are those of the authors' code. The width multiplier is
section 6.2's "depth multiplier"; the last convolution keeps its 1280 channels.

MobileNetV3, whose blocks were searched one by one: Howard et al. 2019, "Searching for MobileNetV3", tables 1 (large)
and 2 (small). Squeeze-and-excitation: Hu et al. 2018, with a quarter of the block's expanded channels (section 5.3),
which torchvision rounds to a multiple of 8. Where torchvision differs from the tables: the last two layers are fully
connected instead of 1x1 convolutions, which is the same arithmetic; the small network has no squeeze-and-excitation in
its last convolution, which table 2 ticks, and 1024 channels before the classes, where some versions have 1280.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from cnnbench.networks import layers as nn
from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import (
    RELU,
    Scaled,
    Widened,
    WithDropout,
    classify,
    conv_norm,
    depthwise,
    inverted_bottleneck,
    pooled,
    round_channels,
    same_conv,
    sequential,
    squeeze_excitation,
    strides,
)
from cnnbench.networks.layers import Op, Value
from cnnbench.networks.network import Net

# expansion t, channels c, repeats n, stride s (table 2)
V2_STAGES = (
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
        for expansion, channels, repeats, first_stride in V2_STAGES:
            for stride in strides(first_stride, repeats, self.depth):
                block = features.inside(f"{index}")
                x = _v2_block(block, x, expansion, self.wide(channels), stride)
                index += 1
        head = same_conv(round_channels(1280 * max(1.0, self.width)))
        x = conv_norm(features.inside(f"{index}"), head, x, "relu6")
        return classify(net, x, classes, nn.Dropout(0.2))


def _v2_block(net: Net, x: Value, expansion: int, channels: int, stride: int) -> Value:
    """1x1 to `expansion` times the channels, depthwise 3x3, linear 1x1 to `channels` (table 1)."""
    hidden, expands, conv = x.channels * expansion, expansion != 1, net.inside("conv")
    y = conv_norm(conv.inside("0"), same_conv(hidden), x, "relu6") if expands else x
    y = conv_norm(conv.inside(f"{int(expands)}"), depthwise(hidden, 3, stride), y, "relu6")
    y = sequential(conv, y, same_conv(channels), nn.BatchNorm(), start=1 + expands)
    return net("add", nn.Add((y,)), x) if stride == 1 and x.channels == channels else y


# of MNASNet: expansion, kernel, stride, channels, repeats
MNAS_STAGES = (
    (3, 3, 2, 24, 3),
    (3, 5, 2, 40, 3),
    (6, 5, 2, 80, 3),
    (6, 3, 1, 96, 2),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)

MNAS_WIDTHS = {"0_5": 0.5, "0_75": 0.75, "1_0": 1.0, "1_3": 1.3}


@dataclass(frozen=True)
class MNASNet(WithDropout):
    """A stem, a depthwise separable convolution, six stages of inverted residuals, a 1x1 head of fixed width."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        layers = net.inside("layers")
        stem = self.wide(32)
        x = sequential(layers, x, *_separable(same_conv(stem, 3, stride=2), depthwise(stem, 3), self.wide(16)))
        for place, (expansion, kernel, first_stride, channels, repeats) in enumerate(MNAS_STAGES, start=8):
            for repeat, stride in enumerate(strides(first_stride, repeats, self.depth)):
                block = layers.inside(f"{place}.{repeat}")
                x = _mnas_block(block, x, expansion, kernel, stride, self.wide(channels))
        x = sequential(layers, x, same_conv(1280), nn.BatchNorm(), RELU, start=14)
        return self.classify(net, x, classes)


def _mnas_block(net: Net, x: Value, expansion: int, kernel: int, stride: int, channels: int) -> Value:
    """1x1 to `expansion` times the channels, depthwise, linear 1x1 to `channels` (figure 7, MBConv)."""
    hidden = x.channels * expansion
    y = sequential(net.inside("layers"), x, *_separable(same_conv(hidden), depthwise(hidden, kernel, stride), channels))
    return net("add", nn.Add((x,)), y) if stride == 1 and x.channels == channels else y


def _separable(first: nn.Conv, second: nn.Conv, channels: int) -> tuple[Op, ...]:
    """Two convolutions and a linear 1x1 to `channels`, each with its batch normalisation."""
    return (first, nn.BatchNorm(), RELU, second, nn.BatchNorm(), RELU, same_conv(channels), nn.BatchNorm())


Size = Literal["large", "small"]

# of MobileNetV3: kernel, expanded channels, channels, squeeze-and-excitation, activation, stride
V3_BLOCKS: dict[Size, tuple[tuple[int, int, int, bool, str, int], ...]] = {
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

V3_HIDDEN: dict[Size, int] = {"large": 1280, "small": 1024}
"""Channels of the last layer before the classes."""

V3_LAST_STAGE = 3
"""Blocks after the last stride."""

HEAD_EXPANSION = 6
"""The last convolution puts out so many times the channels of the last block."""


@dataclass(frozen=True)
class MobileNetV3(Widened):
    """A stem, the blocks of table 1 or 2, and a head whose last layers follow the pooling (section 5.1).

    The search gave each block a size of its own: nothing repeats, so there is no depth to multiply.
    """

    size: Size
    dilated: bool = False
    """The last stage is dilated instead of strided, for dense prediction (section 6.4)."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        x = self.features(net.inside("features"), x)[-1]
        hidden_layer = nn.Linear(self.wide(V3_HIDDEN[self.size])), nn.Activation("hardswish", inplace=True)
        classifier = (*hidden_layer, nn.Dropout(0.2, inplace=True), nn.Linear(classes))
        return sequential(net.inside("classifier"), pooled(net, x), *classifier)

    def features(self, net: Net, x: Value) -> list[Value]:
        """The output of the stem, of each block, and of the last convolution."""
        x = conv_norm(net.inside("0"), same_conv(self.wide(16), 3, stride=2), x, "hardswish")
        outputs, blocks = [x], V3_BLOCKS[self.size]
        for index, (kernel, expanded, channels, squeezes, activation, stride) in enumerate(blocks, start=1):
            hidden, out = self.wide(expanded), self.wide(channels)
            block = net.inside(f"{index}")
            squeezed, relu = round_channels(hidden // 4), nn.Activation("relu")
            excitation = partial(squeeze_excitation, squeezed=squeezed, activation=relu, gate="hardsigmoid")
            is_dilated = self.dilated and index > len(blocks) - V3_LAST_STAGE
            conv = depthwise(hidden, kernel, dilation=2) if is_dilated else depthwise(hidden, kernel, stride)
            y = inverted_bottleneck(block, x, hidden, conv, out, activation, excitation if squeezes else None)
            x = block("add", nn.Add((x,), inplace=True), y) if stride == 1 and x.channels == out else y
            outputs.append(x)
        head = same_conv(HEAD_EXPANSION * x.channels)
        return [*outputs, conv_norm(net.inside(f"{len(blocks) + 1}"), head, x, "hardswish")]


MNAS_SOURCE = "Tan et al. 2018, table 2 (B1)"

NETWORKS = [
    imagenet("mobilenet_v2", MobileNetV2(), "Sandler et al. 2018, table 2"),
    *(imagenet(f"mnasnet{name}", MNASNet(width=width), MNAS_SOURCE) for name, width in MNAS_WIDTHS.items()),
    imagenet("mobilenet_v3_large", MobileNetV3("large"), "Howard et al. 2019, table 1"),
    imagenet("mobilenet_v3_small", MobileNetV3("small"), "Howard et al. 2019, table 2"),
]
