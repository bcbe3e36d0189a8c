"""A small ResNet for 32x32 images: 64, 128, 256 channels, two identity blocks each, biases kept.

After He et al. 2015, section 4.2. Unlike the paper's CIFAR networks, whose blocks do the downsampling, plain
convolutions between the stages do, and every convolution has a bias. With batch, group (Wu & He 2018) or instance
normalisation (Ulyanov et al. 2016).
"""

import math
from dataclasses import dataclass
from typing import Literal

from cnnbench.networks.architecture import ours
from cnnbench.networks.families.blocks import Scaled, chain, classify, sequential
from cnnbench.networks.layers import Activation, Add, BatchNorm, Conv, GroupNorm, InstanceNorm, Op, Value
from cnnbench.networks.network import Net

Norm = Literal["batch", "group", "instance"]

NORMS: dict[Norm, Op] = {"batch": BatchNorm(), "group": GroupNorm(32), "instance": InstanceNorm()}
"""Group normalisation with the paper's 32 groups; instance normalisation as torch.nn.InstanceNorm2d has it, without
parameters."""

RELU = Activation()


@dataclass(frozen=True)
class ResNetCIFAR(Scaled):
    """Stages of 64, 128, 256 channels with so many identity blocks each."""

    norm: Norm = "batch"
    blocks: tuple[int, ...] = (2, 2, 2)

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        norm = NORMS[self.norm]
        base = self.wide(64)
        x = chain(net, x, conv1=_conv(base), bn1=norm, relu=RELU)
        for stage, blocks in enumerate(self.blocks):
            layer = net.inside(f"layer{stage + 1}")
            if stage:
                x = sequential(layer, x, _conv(base * 2**stage, stride=2), norm, RELU)
            for index in range(math.ceil(blocks * self.depth)):
                x = _identity_block(layer.inside(f"{index + 3 * bool(stage)}"), x, norm)
        return classify(net, x, classes)


def _identity_block(net: Net, x: Value, norm: Op) -> Value:
    y = chain(net, x, conv1=_conv(x.channels), bn1=norm, relu1=RELU, conv2=_conv(x.channels), bn2=norm)
    return chain(net, y, add=Add(x), relu2=RELU)


def _conv(channels: int, stride: int = 1) -> Conv:
    return Conv(channels, kernel=3, stride=stride, padding=1)


NETWORKS = [
    ours("resnet_cifar", ResNetCIFAR(), (3, 32, 32), "after He et al. 2015, section 4.2"),
    ours("resnet_cifar_gn", ResNetCIFAR("group"), (3, 32, 32), "after He et al. 2015, and Wu & He 2018"),
    ours("resnet_cifar_in", ResNetCIFAR("instance"), (3, 32, 32), "after He et al. 2015, and Ulyanov et al. 2016"),
]
