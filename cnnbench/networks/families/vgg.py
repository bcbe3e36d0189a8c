"""AlexNet and VGG: plain stacks of convolutions and pooling, and large fully connected layers.

AlexNet, the single-tower form that torchvision has: Krizhevsky 2014, "One weird trick for parallelizing convolutional
neural networks", section 5, footnote 1: 64, 192, 384, 256, 256 filters and no local response normalisation, unlike the
two-tower network of Krizhevsky, Sutskever and Hinton 2012.

VGG: Simonyan & Zisserman 2014, "Very deep convolutional networks for large-scale image recognition", table 1, columns
A, B, D, E; with batch normalisation (Ioffe & Szegedy 2015) after each convolution where asked.
"""

import math
from dataclasses import dataclass

from cnnbench.networks import layers as nn
from cnnbench.networks.architecture import imagenet, ours
from cnnbench.networks.families.blocks import RELU, Scaled, Widened, chain, round_channels, sequential
from cnnbench.networks.layers import Op, Value
from cnnbench.networks.network import Net


@dataclass(frozen=True)
class AlexNet(Widened):
    """Five convolutions, three of them followed by overlapping pooling, then 4096 - 4096 - classes."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        pool = nn.MaxPool(3, stride=2)
        x = sequential(
            net.inside("features"),
            x,
            *(nn.Conv(self.wide(64), kernel=11, stride=4, padding=2), RELU, pool),
            *(nn.Conv(self.wide(192), kernel=5, padding=2), RELU, pool),
            *(nn.Conv(self.wide(384), kernel=3, padding=1), RELU),
            *(nn.Conv(self.wide(256), kernel=3, padding=1), RELU),
            *(nn.Conv(self.wide(256), kernel=3, padding=1), RELU, pool),
        )
        x = chain(net, x, avgpool=nn.AdaptiveAvgPool(6), flatten=nn.Flatten())
        hidden_layer = (nn.Dropout(0.5), nn.Linear(self.wide(4096)), RELU)
        return sequential(net.inside("classifier"), x, *hidden_layer, *hidden_layer, nn.Linear(classes))


WIDTHS = (64, 128, 256, 512, 512)

CONVS_PER_STACK = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


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
        x = chain(net, x, avgpool=nn.AdaptiveAvgPool(7), flatten=nn.Flatten())
        hidden_layer = (nn.Linear(self.wide(4096)), RELU, nn.Dropout(0.5))
        return sequential(net.inside("classifier"), x, *hidden_layer, *hidden_layer, nn.Linear(classes))


@dataclass(frozen=True)
class VGGStyle(Scaled):
    """A small VGG for 32x32 images: three stacks of two convolutions, then 512 - classes."""

    convs: tuple[int, ...] = (2, 2, 2)

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        widths = tuple(64 * 2**stack for stack in range(len(self.convs)))
        x = sequential(net.inside("features"), x, *stacks(widths, self.convs, self.width, self.depth))
        hidden_layer = (nn.Linear(self.wide(512)), nn.Activation(), nn.Dropout(0.5))
        return sequential(net.inside("classifier"), net("flatten", nn.Flatten(), x), *hidden_layer, nn.Linear(classes))


def stacks(
    widths: tuple[int, ...], convs: tuple[int, ...], width: float, depth: float, batch_norm: bool = False
) -> list[Op]:
    """The layers of all stacks, their widths and numbers of convolutions scaled."""
    ops: list[Op] = []
    for channels, count in zip(widths, convs, strict=True):
        conv = nn.Conv(round_channels(channels * width), kernel=3, padding=1)
        norms = [nn.BatchNorm()] if batch_norm else []
        ops += [conv, *norms, RELU] * math.ceil(count * depth) + [nn.MaxPool(2)]
    return ops


SOURCE = "Simonyan & Zisserman 2014, table 1"

NETWORKS = [
    imagenet("alexnet", AlexNet(), "Krizhevsky 2014, section 5"),
    *(imagenet(f"vgg{layers}", VGG(convs), SOURCE) for layers, convs in CONVS_PER_STACK.items()),
    *(imagenet(f"vgg{layers}_bn", VGG(convs, batch_norm=True), SOURCE) for layers, convs in CONVS_PER_STACK.items()),
    ours("vgg_style", VGGStyle(), (3, 32, 32), "after Simonyan & Zisserman 2014, section 2"),
]
