"""A small ResNet for 32x32 images: 64, 128, 256 channels, two identity blocks each, biases kept.

After He et al. 2015, section 4.2. Unlike the paper's CIFAR networks, whose blocks do the downsampling, plain
convolutions between the stages do, and every convolution has a bias. With batch, group (Wu & He 2018) or instance
normalisation (Ulyanov et al. 2016).
"""

import math
from dataclasses import dataclass
from typing import Literal

from cnnbench.networks.families.blocks import round_channels
from cnnbench.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    BatchNorm,
    Conv,
    Flatten,
    GroupNorm,
    InstanceNorm,
    Linear,
    Op,
    Value,
)
from cnnbench.networks.network import Net

Norm = Literal["batch", "group", "instance"]

NORMS: dict[Norm, Op] = {"batch": BatchNorm(), "group": GroupNorm(32), "instance": InstanceNorm()}
"""Group normalisation with the paper's 32 groups; instance normalisation as torch.nn.InstanceNorm2d has it, without
parameters."""


@dataclass(frozen=True)
class ResNetCIFAR:
    """Stages of 64, 128, 256 channels with so many identity blocks each."""

    norm: Norm = "batch"
    blocks: tuple[int, ...] = (2, 2, 2)
    width: float = 1.0
    """Channels of every stage, times this."""
    depth: float = 1.0
    """Blocks of every stage, times this, rounded up."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        """From (C, H, W) to (classes,)."""
        norm = NORMS[self.norm]
        base = round_channels(64 * self.width)
        x = net("conv1", Conv(base, kernel=3, padding=1), x)
        x = net("bn1", norm, x)
        x = net("relu", Activation(), x)
        for stage, blocks in enumerate(self.blocks, start=1):
            layer = net.inside(f"layer{stage}")
            first_block = 0
            if stage > 1:
                x = layer("0", Conv(base * 2 ** (stage - 1), kernel=3, stride=2, padding=1), x)
                x = layer("1", norm, x)
                x = layer("2", Activation(), x)
                first_block = 3
            for index in range(first_block, first_block + math.ceil(blocks * self.depth)):
                x = _identity_block(layer.inside(f"{index}"), x, norm)
        x = net("avgpool", AdaptiveAvgPool(1), x)
        x = net("flatten", Flatten(), x)
        return net("fc", Linear(classes), x)


def _identity_block(net: Net, x: Value, norm: Op) -> Value:
    y = net("conv1", Conv(x.channels, kernel=3, padding=1), x)
    y = net("bn1", norm, y)
    y = net("relu1", Activation(), y)
    y = net("conv2", Conv(x.channels, kernel=3, padding=1), y)
    y = net("bn2", norm, y)
    y = net("add", Add(x), y)
    return net("relu2", Activation(), y)
