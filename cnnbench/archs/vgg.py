"""VGG: stacks of 3x3 convolutions, each stack followed by pooling.

Simonyan & Zisserman 2014, "Very deep convolutional networks for large-scale image recognition", table 1, columns A, B,
D, E; with batch normalisation (Ioffe & Szegedy 2015) after each convolution where asked.
"""

from cnnbench.archs.layers import (
    Activation,
    AdaptiveAvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    Linear,
    MaxPool,
    Shape,
)
from cnnbench.archs.network import Describe, Net

WIDTHS = (64, 128, 256, 512, 512)

CONVS_PER_STACK = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def stacks(net: Net, x: Shape, widths: tuple[int, ...], convs: tuple[int, ...], batch_norm: bool) -> Shape:
    """The stacks, numbered as torch.nn.Sequential numbers them."""
    index = 0
    for width, depth in zip(widths, convs, strict=True):
        for _ in range(depth):
            x = net(f"{index}", Conv(width, kernel=3, padding=1), x)
            if batch_norm:
                index += 1
                x = net(f"{index}", BatchNorm(), x)
            x = net(f"{index + 1}", Activation(), x)
            index += 2
        x = net(f"{index}", MaxPool(2), x)
        index += 1
    return x


def vgg(depth: int, *, batch_norm: bool = False) -> Describe:
    """VGG with so many weight layers: 11, 13, 16 or 19."""

    def describe(net: Net, x: Shape, classes: int) -> Shape:
        x = stacks(net.inside("features"), x, WIDTHS, CONVS_PER_STACK[depth], batch_norm)
        x = net("avgpool", AdaptiveAvgPool(7), x)
        x = net("flatten", Flatten(), x)
        classifier = net.inside("classifier")
        x = classifier("0", Linear(4096), x)
        x = classifier("1", Activation(), x)
        x = classifier("2", Dropout(0.5), x)
        x = classifier("3", Linear(4096), x)
        x = classifier("4", Activation(), x)
        x = classifier("5", Dropout(0.5), x)
        return classifier("6", Linear(classes), x)

    return describe


def vgg_style(net: Net, x: Shape, classes: int) -> Shape:
    """A small VGG for 32x32 images: three stacks of two convolutions, 64, 128 and 256 wide, then 512 - classes."""
    x = stacks(net.inside("features"), x, (64, 128, 256), (2, 2, 2), batch_norm=False)
    x = net("flatten", Flatten(), x)
    classifier = net.inside("classifier")
    x = classifier("0", Linear(512), x)
    x = classifier("1", Activation(), x)
    x = classifier("2", Dropout(0.5), x)
    return classifier("3", Linear(classes), x)
