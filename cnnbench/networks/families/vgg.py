"""VGG: stacks of 3x3 convolutions, each stack followed by pooling.

Simonyan & Zisserman 2014, "Very deep convolutional networks for large-scale image recognition", table 1, columns A, B,
D, E; with batch normalisation (Ioffe & Szegedy 2015) after each convolution where asked.
"""

import math
from dataclasses import dataclass

from cnnbench.networks.families.blocks import round_channels
from cnnbench.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    Linear,
    MaxPool,
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
class VGG:
    """Stacks of so many convolutions, then 4096 - 4096 - classes."""

    convs: tuple[int, ...]
    """In each stack, of five at most."""
    batch_norm: bool = False
    width: float = 1.0
    """Channels of every convolution and hidden layer, times this."""
    depth: float = 1.0
    """Convolutions in each stack, times this, rounded up."""

    def __post_init__(self) -> None:
        if len(self.convs) > len(WIDTHS):
            raise ValueError(f"convs: expected {len(WIDTHS)} stacks at most; got {len(self.convs)}")

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        """From (C, H, W) to (classes,)."""
        widths = tuple(round_channels(width * self.width) for width in WIDTHS[: len(self.convs)])
        convs = tuple(math.ceil(convs * self.depth) for convs in self.convs)
        hidden = round_channels(4096 * self.width)
        relu = Activation(inplace=True)
        x = stacks(net.inside("features"), x, widths, convs, self.batch_norm)
        x = net("avgpool", AdaptiveAvgPool(7), x)
        x = net("flatten", Flatten(), x)
        classifier = net.inside("classifier")
        x = classifier("0", Linear(hidden), x)
        x = classifier("1", relu, x)
        x = classifier("2", Dropout(0.5), x)
        x = classifier("3", Linear(hidden), x)
        x = classifier("4", relu, x)
        x = classifier("5", Dropout(0.5), x)
        return classifier("6", Linear(classes), x)


@dataclass(frozen=True)
class VGGStyle:
    """A small VGG for 32x32 images: three stacks of two convolutions, then 512 - classes."""

    convs: tuple[int, ...] = (2, 2, 2)
    width: float = 1.0
    depth: float = 1.0

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        """From (C, H, W) to (classes,)."""
        widths = tuple(round_channels(64 * 2**stack * self.width) for stack in range(len(self.convs)))
        convs = tuple(math.ceil(convs * self.depth) for convs in self.convs)
        x = stacks(net.inside("features"), x, widths, convs, batch_norm=False)
        x = net("flatten", Flatten(), x)
        classifier = net.inside("classifier")
        x = classifier("0", Linear(round_channels(512 * self.width)), x)
        x = classifier("1", Activation(), x)
        x = classifier("2", Dropout(0.5), x)
        return classifier("3", Linear(classes), x)


def stacks(net: Net, x: Value, widths: tuple[int, ...], convs: tuple[int, ...], batch_norm: bool) -> Value:
    """The stacks, numbered as torch.nn.Sequential numbers them."""
    index = 0
    for width, depth in zip(widths, convs, strict=True):
        for _ in range(depth):
            x = net(f"{index}", Conv(width, kernel=3, padding=1), x)
            if batch_norm:
                index += 1
                x = net(f"{index}", BatchNorm(), x)
            x = net(f"{index + 1}", Activation(inplace=True), x)
            index += 2
        x = net(f"{index}", MaxPool(2), x)
        index += 1
    return x
