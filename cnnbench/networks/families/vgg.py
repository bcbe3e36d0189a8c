"""VGG: stacks of 3x3 convolutions, each stack followed by pooling.

Simonyan & Zisserman 2014, "Very deep convolutional networks for large-scale image recognition", table 1, columns A, B,
D, E; with batch normalisation (Ioffe & Szegedy 2015) after each convolution where asked.
"""

import math
from dataclasses import dataclass

from cnnbench.networks.architecture import imagenet, ours
from cnnbench.networks.families.blocks import RELU, Scaled, chain, round_channels, sequential
from cnnbench.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    Linear,
    MaxPool,
    Op,
    Value,
)
from cnnbench.networks.network import Net

WIDTHS = (64, 128, 256, 512, 512)

CONVS_PER_STACK = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


@dataclass(frozen=True)
class VGG(Scaled):
    """Stacks of so many convolutions, then 4096 - 4096 - classes."""

    convs: tuple[int, ...]
    """In each stack, of five at most."""
    batch_norm: bool = False

    def __post_init__(self) -> None:
        if len(self.convs) > len(WIDTHS):
            raise ValueError(f"convs: expected {len(WIDTHS)} stacks at most; got {len(self.convs)}")

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        widths = WIDTHS[: len(self.convs)]
        x = sequential(net.inside("features"), x, *stacks(widths, self.convs, self.width, self.depth, self.batch_norm))
        x = chain(net, x, avgpool=AdaptiveAvgPool(7), flatten=Flatten())
        hidden_layer = (Linear(self.wide(4096)), RELU, Dropout(0.5))
        return sequential(net.inside("classifier"), x, *hidden_layer, *hidden_layer, Linear(classes))


@dataclass(frozen=True)
class VGGStyle(Scaled):
    """A small VGG for 32x32 images: three stacks of two convolutions, then 512 - classes."""

    convs: tuple[int, ...] = (2, 2, 2)

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        widths = tuple(64 * 2**stack for stack in range(len(self.convs)))
        x = sequential(net.inside("features"), x, *stacks(widths, self.convs, self.width, self.depth))
        hidden_layer = (Linear(self.wide(512)), Activation(), Dropout(0.5))
        return sequential(net.inside("classifier"), net("flatten", Flatten(), x), *hidden_layer, Linear(classes))


def stacks(
    widths: tuple[int, ...], convs: tuple[int, ...], width: float, depth: float, batch_norm: bool = False
) -> list[Op]:
    """The layers of all stacks, their widths and numbers of convolutions scaled."""
    ops: list[Op] = []
    for channels, count in zip(widths, convs, strict=True):
        conv = Conv(round_channels(channels * width), kernel=3, padding=1)
        norms = [BatchNorm()] if batch_norm else []
        ops += [conv, *norms, RELU] * math.ceil(count * depth) + [MaxPool(2)]
    return ops


SOURCE = "Simonyan & Zisserman 2014, table 1"
NETWORKS = [
    *(imagenet(f"vgg{layers}", VGG(convs), SOURCE) for layers, convs in CONVS_PER_STACK.items()),
    *(imagenet(f"vgg{layers}_bn", VGG(convs, batch_norm=True), SOURCE) for layers, convs in CONVS_PER_STACK.items()),
    ours("vgg_style", VGGStyle(), (3, 32, 32), "after Simonyan & Zisserman 2014, section 2"),
]
