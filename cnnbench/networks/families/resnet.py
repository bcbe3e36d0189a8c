"""ResNet and its relatives: blocks whose output is added to their input.

He et al. 2015, "Deep residual learning for image recognition", table 1. The bottleneck's stride stands on its 3x3
convolution, as in torchvision ("v1.5"); the paper has it on the first 1x1, which gives ResNet-50 its 3.8 G instead of
4.1 G MACs. ResNeXt: Xie et al. 2016, table 1. Wide ResNet: Zagoruyko & Komodakis 2016, section 2.
"""

import math
from dataclasses import dataclass

from cnnbench.networks.families.blocks import round_channels
from cnnbench.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    BatchNorm,
    Conv,
    Flatten,
    Linear,
    MaxPool,
    Value,
)
from cnnbench.networks.network import Net

EXPANSION = 4
"""A bottleneck puts out so many times the channels that its stage is named by."""

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}

RELU = Activation(inplace=True)


@dataclass(frozen=True)
class ResNet:
    """Stages of 64, 128, 256, 512 channels, with so many blocks each (table 1)."""

    blocks: tuple[int, ...]
    bottleneck: bool
    """1x1, 3x3, 1x1 convolutions, which figure 5 shows on the right; else two 3x3, on the left."""
    groups: int = 1
    """Of the bottleneck's 3x3: ResNeXt's cardinality."""
    width_per_group: int = 64
    """Channels of each group in the first stage: ResNeXt's d, Wide ResNet's 64 k."""
    width: float = 1.0
    """Channels of every stage, times this."""
    depth: float = 1.0
    """Blocks of every stage, times this, rounded up."""
    stride_on_first: bool = False
    """Downsample in the bottleneck's first convolution, as the paper does."""

    def __post_init__(self) -> None:
        if not self.bottleneck and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError("groups, width_per_group: expected none for basic blocks, which are not grouped")

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        """From (C, H, W) to (classes,)."""
        base = round_channels(64 * self.width)
        x = net("conv1", Conv(base, kernel=7, stride=2, padding=3, bias=False), x)
        x = net("bn1", BatchNorm(), x)
        x = net("relu", RELU, x)
        x = net("maxpool", MaxPool(3, stride=2, padding=1), x)
        block = self._bottleneck if self.bottleneck else self._basic_block
        for stage, blocks in enumerate(self.blocks):
            for index in range(math.ceil(blocks * self.depth)):
                stride = 2 if stage > 0 and index == 0 else 1
                x = block(net.inside(f"layer{stage + 1}.{index}"), x, base * 2**stage, stride)
        x = net("avgpool", AdaptiveAvgPool(1), x)
        x = net("flatten", Flatten(), x)
        return net("fc", Linear(classes), x)

    def _basic_block(self, net: Net, x: Value, channels: int, stride: int) -> Value:
        """Two 3x3 convolutions."""
        y = net("conv1", Conv(channels, kernel=3, stride=stride, padding=1, bias=False), x)
        y = net("bn1", BatchNorm(), y)
        y = net("relu1", RELU, y)
        y = net("conv2", Conv(channels, kernel=3, padding=1, bias=False), y)
        y = net("bn2", BatchNorm(), y)
        y = net("add", Add(_shortcut(net, x, channels, stride), inplace=True), y)
        return net("relu2", RELU, y)

    def _bottleneck(self, net: Net, x: Value, channels: int, stride: int) -> Value:
        """1x1 to fewer channels, 3x3, 1x1 to more; grouped for ResNeXt, wider for Wide ResNet."""
        inner = channels * self.width_per_group // 64 * self.groups
        outer = channels * EXPANSION
        first, second = (stride, 1) if self.stride_on_first else (1, stride)
        y = net("conv1", Conv(inner, kernel=1, stride=first, bias=False), x)
        y = net("bn1", BatchNorm(), y)
        y = net("relu1", RELU, y)
        y = net("conv2", Conv(inner, kernel=3, stride=second, padding=1, groups=self.groups, bias=False), y)
        y = net("bn2", BatchNorm(), y)
        y = net("relu2", RELU, y)
        y = net("conv3", Conv(outer, kernel=1, bias=False), y)
        y = net("bn3", BatchNorm(), y)
        y = net("add", Add(_shortcut(net, x, outer, stride), inplace=True), y)
        return net("relu3", RELU, y)


def _shortcut(net: Net, x: Value, channels: int, stride: int) -> Value:
    """The input itself, or a 1x1 projection of it where its shape must change (section 3.3, option B)."""
    if stride == 1 and x.channels == channels:
        return x
    x = net("downsample.0", Conv(channels, kernel=1, stride=stride, bias=False), x)
    return net("downsample.1", BatchNorm(), x)
