"""ResNet and its relatives: blocks whose output is added to their input.

He et al. 2015, "Deep residual learning for image recognition", table 1. The bottleneck's stride stands on its 3x3
convolution, as in torchvision ("v1.5"); the paper has it on the first 1x1, which gives ResNet-50 its 3.8 G instead of
4.1 G MACs. ResNeXt: Xie et al. 2016, table 1. Wide ResNet: Zagoruyko & Komodakis 2016, section 2. Group normalisation:
Wu & He 2018. Instance normalisation: Ulyanov et al. 2016.
"""

import math
from dataclasses import dataclass
from typing import Literal

from cnnbench.networks import layers as nn
from cnnbench.networks.architecture import imagenet, ours
from cnnbench.networks.families.blocks import RELU, Scaled, chain, classify, same_conv, sequential, strides
from cnnbench.networks.layers import Op, Value
from cnnbench.networks.network import Net

Norm = Literal["batch", "group", "instance"]

NORMS: dict[Norm, Op] = {"batch": nn.BatchNorm(), "group": nn.GroupNorm(32), "instance": nn.InstanceNorm()}
"""Group normalisation with the paper's 32 groups; instance normalisation as torch.nn.InstanceNorm2d has it, without
parameters."""

EXPANSION = 4
"""A bottleneck puts out so many times the channels that its stage is named by."""

BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@dataclass(frozen=True)
class ResNet(Scaled):
    """Stages of 64, 128, 256, 512 channels, with so many blocks each (table 1)."""

    blocks: tuple[int, ...]
    bottleneck: bool
    """1x1, 3x3, 1x1 convolutions, which figure 5 shows on the right; else two 3x3, on the left."""
    groups: int = 1
    """Of the bottleneck's 3x3: ResNeXt's cardinality."""
    width_per_group: int = 64
    """Channels of each group in the first stage: ResNeXt's d, Wide ResNet's 64 k."""
    stride_on_first: bool = False
    """Downsample in the bottleneck's first convolution, as the paper does."""
    dilated: bool = False
    """Stages 3 and 4 are dilated instead of strided, for dense prediction (Chen et al. 2017, figure 3)."""

    def __post_init__(self) -> None:
        if not self.bottleneck and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError("groups, width_per_group: expected none for basic blocks, which are not grouped")

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        return classify(net, self.stages(net, x)[-1], classes)

    def stages(self, net: Net, x: Value) -> list[Value]:
        """The output of each stage."""
        base = self.wide(64)
        x = chain(net, x, conv1=same_conv(base, 7, 2), bn1=nn.BatchNorm(), relu=RELU)
        x = net("maxpool", nn.MaxPool(3, 2, padding=1), x)
        block = self._bottleneck if self.bottleneck else self._basic_block
        outputs, dilation = [], 1
        for stage, blocks in enumerate(self.blocks):
            first_stride, first_dilation = 1 if stage == 0 else 2, dilation
            if self.dilated and stage >= 2:
                first_stride, dilation = 1, 2 * dilation
            for index, stride in enumerate(strides(first_stride, blocks, self.depth)):
                inside = net.inside(f"layer{stage + 1}.{index}")
                x = block(inside, x, base * 2**stage, stride, dilation if index else first_dilation)
            outputs.append(x)
        return outputs

    def _basic_block(self, net: Net, x: Value, channels: int, stride: int, dilation: int) -> Value:
        """Two 3x3 convolutions."""
        assert dilation == 1, "torchvision's basic blocks have no dilation"
        y = chain(net, x, conv1=same_conv(channels, 3, stride), bn1=nn.BatchNorm(), relu1=RELU)
        y = chain(net, y, conv2=same_conv(channels, 3), bn2=nn.BatchNorm())
        return chain(net, y, add=nn.Add((_shortcut(net, x, channels, stride),), inplace=True), relu2=RELU)

    def _bottleneck(self, net: Net, x: Value, channels: int, stride: int, dilation: int) -> Value:
        """1x1 to fewer channels, 3x3, 1x1 to more; grouped for ResNeXt, wider for Wide ResNet."""
        inner = channels * self.width_per_group // 64 * self.groups
        outer = channels * EXPANSION
        first, second = (stride, 1) if self.stride_on_first else (1, stride)
        y = chain(net, x, conv1=same_conv(inner, 1, first), bn1=nn.BatchNorm(), relu1=RELU)
        y = chain(net, y, conv2=same_conv(inner, 3, second, self.groups, dilation), bn2=nn.BatchNorm(), relu2=RELU)
        y = chain(net, y, conv3=same_conv(outer), bn3=nn.BatchNorm())
        return chain(net, y, add=nn.Add((_shortcut(net, x, outer, stride),), inplace=True), relu3=RELU)


def _shortcut(net: Net, x: Value, channels: int, stride: int) -> Value:
    """The input itself, or a 1x1 projection of it where its shape must change (section 3.3, option B)."""
    if stride == 1 and x.channels == channels:
        return x
    return sequential(net.inside("downsample"), x, same_conv(channels, 1, stride), nn.BatchNorm())


@dataclass(frozen=True)
class ResNetCIFAR(Scaled):
    """For 32x32 images: stages of 64, 128, 256 channels with so many identity blocks each (after section 4.2).

    Unlike the paper's CIFAR networks, whose blocks do the downsampling, plain convolutions between the stages do, and
    every convolution has a bias.
    """

    norm: Norm = "batch"
    blocks: tuple[int, ...] = (2, 2, 2)

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        norm, relu, base = NORMS[self.norm], nn.Activation(), self.wide(64)
        x = chain(net, x, conv1=_conv(base), bn1=norm, relu=relu)
        for stage, blocks in enumerate(self.blocks):
            layer = net.inside(f"layer{stage + 1}")
            if stage:
                x = sequential(layer, x, _conv(base * 2**stage, stride=2), norm, relu)
            for index in range(math.ceil(blocks * self.depth)):
                block, conv = layer.inside(f"{index + 3 * bool(stage)}"), _conv(x.channels)
                y = chain(block, x, conv1=conv, bn1=norm, relu1=relu, conv2=conv, bn2=norm)
                x = chain(block, y, add=nn.Add((x,)), relu2=relu)
        return classify(net, x, classes)


def _conv(channels: int, stride: int = 1) -> nn.Conv:
    return nn.Conv(channels, kernel=3, stride=stride, padding=1)


HE, XIE = "He et al. 2015, table 1", "Xie et al. 2016, table 1"
ZAGORUYKO = "Zagoruyko & Komodakis 2016, section 2"

NETWORKS = [
    ours("resnet_cifar", ResNetCIFAR(), (3, 32, 32), "after He et al. 2015, section 4.2"),
    ours("resnet_cifar_gn", ResNetCIFAR("group"), (3, 32, 32), "after He et al. 2015, and Wu & He 2018"),
    ours("resnet_cifar_in", ResNetCIFAR("instance"), (3, 32, 32), "after He et al. 2015, and Ulyanov et al. 2016"),
    *(imagenet(f"resnet{d}", ResNet(blocks, bottleneck=d >= 50), HE) for d, blocks in BLOCKS_PER_STAGE.items()),
    *(
        imagenet(f"resnext{d}_{groups}x{width}d", ResNet(BLOCKS_PER_STAGE[d], True, groups, width), XIE)
        for d, groups, width in ((50, 32, 4), (101, 32, 8), (101, 64, 4))
    ),
    imagenet("wide_resnet50_2", ResNet(BLOCKS_PER_STAGE[50], True, width_per_group=128), ZAGORUYKO),
    imagenet("wide_resnet101_2", ResNet(BLOCKS_PER_STAGE[101], True, width_per_group=128), ZAGORUYKO),
]
