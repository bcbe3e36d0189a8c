"""ResNet and its relatives: blocks whose output is added to their input.

He et al. 2015, "Deep residual learning for image recognition", table 1. The bottleneck's stride stands on its 3x3
convolution, as in torchvision ("v1.5"); the paper has it on the first 1x1, which gives ResNet-50 its 3.8 G instead of
4.1 G MACs. ResNeXt: Xie et al. 2016, table 1. Wide ResNet: Zagoruyko & Komodakis 2016, section 2.
"""

from dataclasses import dataclass

from cnnbench.archs.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    BatchNorm,
    Conv,
    Flatten,
    Linear,
    MaxPool,
    Shape,
)
from cnnbench.archs.network import Describe, Net

EXPANSION = 4
"""A bottleneck puts out so many times the channels that its stage is named by."""

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


@dataclass(frozen=True)
class BasicBlock:
    """Two 3x3 convolutions (figure 5, left)."""

    def __call__(self, net: Net, x: Shape, width: int, stride: int) -> Shape:
        """From x to `width` channels."""
        y = net("conv1", Conv(width, kernel=3, stride=stride, padding=1, bias=False), x)
        y = net("bn1", BatchNorm(), y)
        y = net("relu1", Activation(), y)
        y = net("conv2", Conv(width, kernel=3, padding=1, bias=False), y)
        y = net("bn2", BatchNorm(), y)
        y = net("add", Add(_shortcut(net, x, width, stride)), y)
        return net("relu2", Activation(), y)


@dataclass(frozen=True)
class Bottleneck:
    """1x1 to fewer channels, 3x3, 1x1 to more (figure 5, right); grouped for ResNeXt, wider for Wide ResNet."""

    groups: int = 1
    width_per_group: int = 64

    def __call__(self, net: Net, x: Shape, width: int, stride: int) -> Shape:
        """From x to four times `width` channels."""
        inner = width * self.width_per_group // 64 * self.groups
        outer = width * EXPANSION
        y = net("conv1", Conv(inner, kernel=1, bias=False), x)
        y = net("bn1", BatchNorm(), y)
        y = net("relu1", Activation(), y)
        y = net("conv2", Conv(inner, kernel=3, stride=stride, padding=1, groups=self.groups, bias=False), y)
        y = net("bn2", BatchNorm(), y)
        y = net("relu2", Activation(), y)
        y = net("conv3", Conv(outer, kernel=1, bias=False), y)
        y = net("bn3", BatchNorm(), y)
        y = net("add", Add(_shortcut(net, x, outer, stride)), y)
        return net("relu3", Activation(), y)


def _shortcut(net: Net, x: Shape, channels: int, stride: int) -> Shape:
    """The input itself, or a 1x1 projection of it where its shape must change (section 3.3, option B)."""
    if stride == 1 and x[0] == channels:
        return x
    x = net("downsample.0", Conv(channels, kernel=1, stride=stride, bias=False), x)
    return net("downsample.1", BatchNorm(), x)


def resnet(blocks: tuple[int, ...], block: BasicBlock | Bottleneck) -> Describe:
    """A ResNet with so many blocks in its stages of 64, 128, 256, 512 (table 1)."""

    def describe(net: Net, x: Shape, classes: int) -> Shape:
        x = net("conv1", Conv(64, kernel=7, stride=2, padding=3, bias=False), x)
        x = net("bn1", BatchNorm(), x)
        x = net("relu", Activation(), x)
        x = net("maxpool", MaxPool(3, stride=2, padding=1), x)
        for stage, depth in enumerate(blocks):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                x = block(net.inside(f"layer{stage + 1}.{index}"), x, 64 * 2**stage, stride)
        x = net("avgpool", AdaptiveAvgPool(1), x)
        x = net("flatten", Flatten(), x)
        return net("fc", Linear(classes), x)

    return describe


def resnet_cifar(net: Net, x: Shape, classes: int) -> Shape:
    """A small ResNet for 32x32 images: 64, 128, 256 channels, two identity blocks each, biases kept.

    Unlike the paper's CIFAR networks (section 4.2), whose blocks do the downsampling, plain convolutions between the
    stages do, and every convolution has a bias.
    """
    x = net("conv1", Conv(64, kernel=3, padding=1), x)
    x = net("bn1", BatchNorm(), x)
    x = net("relu", Activation(), x)
    for stage, channels in enumerate((64, 128, 256), start=1):
        layer = net.inside(f"layer{stage}")
        first_block = 0
        if stage > 1:
            x = layer("0", Conv(channels, kernel=3, stride=2, padding=1), x)
            x = layer("1", BatchNorm(), x)
            x = layer("2", Activation(), x)
            first_block = 3
        for index in range(first_block, first_block + 2):
            x = _identity_block(layer.inside(f"{index}"), x)
    x = net("avgpool", AdaptiveAvgPool(1), x)
    x = net("flatten", Flatten(), x)
    return net("fc", Linear(classes), x)


def _identity_block(net: Net, x: Shape) -> Shape:
    y = net("conv1", Conv(x[0], kernel=3, padding=1), x)
    y = net("bn1", BatchNorm(), y)
    y = net("relu1", Activation(), y)
    y = net("conv2", Conv(x[0], kernel=3, padding=1), y)
    y = net("bn2", BatchNorm(), y)
    y = net("add", Add(x), y)
    return net("relu2", Activation(), y)
