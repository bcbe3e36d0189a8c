"""GoogLeNet and Inception v3: modules that look at their input through windows of several sizes at once.

Both are torchvision's forms, taken over from TensorFlow's, which differ from the papers.

GoogLeNet: Szegedy et al. 2014, "Going deeper with convolutions", table 1; the auxiliary heads as in section 5.
- Each convolution has batch normalisation (Ioffe & Szegedy 2015) in place of a bias, and there is no local response
  normalisation.
- The windows that the paper has 5x5 are 3x3 (github.com/pytorch/vision, issue 906).
- The last max pooling is 2x2 in place of 3x3.
- The auxiliary heads average over 4x4 parts whatever the image's size, in place of 5x5 windows with stride 3.
- 20 % are dropped before the classifier in place of 40 %.

Inception v3: Szegedy et al. 2015, "Rethinking the Inception architecture for computer vision", table 1, figures 5 to 7
(modules, whose large windows are factorised into small ones), 8 (auxiliary head) and 10 (modules that reduce the size).
- The stem ends in a 1x1, a 3x3 and max pooling, where table 1 has three 3x3 convolutions.
- The modules of figure 5 have a 5x5 convolution where the figure has a single 3x3.
- There are four modules of figure 6, where table 1 has five.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cnnbench.networks import layers as nn
from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import RELU, Widened, chain, pooled, same_conv
from cnnbench.networks.layers import PerAxis, Value
from cnnbench.networks.network import Net

# 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection (table 1)
GOOGLENET_MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}

# what follows a module: pooling, with its kernel; an auxiliary head
POOLS = {"3b": ("maxpool3", 3), "4e": ("maxpool4", 2)}
HEADS = {"4a": "aux1", "4d": "aux2"}


@dataclass(frozen=True)
class GoogLeNet(Widened):
    """A stem, nine Inception modules, a linear classifier; in training two auxiliary heads more."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        first, last = self._scaled(64, 192)
        x = _conv_bn_relu(net.inside("conv1"), same_conv(first, 7, stride=2), x)
        x = net("maxpool1", nn.MaxPool(3, stride=2, ceil=True), x)
        x = _conv_bn_relu(net.inside("conv2"), same_conv(first), x)
        x = _conv_bn_relu(net.inside("conv3"), same_conv(last, 3), x)
        x = net("maxpool2", nn.MaxPool(3, stride=2, ceil=True), x)
        for name, row in GOOGLENET_MODULES.items():
            x = _inception(net.inside(f"inception{name}"), x, self._scaled(*row))
            if name in POOLS:
                pool, kernel = POOLS[name]
                x = net(pool, nn.MaxPool(kernel, stride=2, ceil=True), x)
            if name in HEADS:
                self._auxiliary_head(net.inside(HEADS[name]).training_only(), x, classes)
        return chain(net, pooled(net, x), dropout=nn.Dropout(0.2), fc=nn.Linear(classes))

    def _auxiliary_head(self, net: Net, x: Value, classes: int) -> Value:
        """A small classifier on a middle layer, for its gradient (section 5)."""
        channels, hidden = self._scaled(128, 1024)
        x = net("avgpool", nn.AdaptiveAvgPool(4), x)
        x = _conv_bn_relu(net.inside("conv"), same_conv(channels), x)
        x = chain(net, x, flatten=nn.Flatten(), fc1=nn.Linear(hidden), relu=RELU, dropout=nn.Dropout(0.7))
        return net("fc2", nn.Linear(classes), x)

    def _scaled(self, *channels: int) -> tuple[int, ...]:
        return tuple(self.wide(each) for each in channels)


def _inception(net: Net, x: Value, row: tuple[int, ...]) -> Value:
    """Four branches side by side: 1x1; 1x1, then 3x3; the same again; pooling, then 1x1 (figure 2b)."""
    alone, reduced_second, second, reduced_third, third, projected = row
    b1 = _conv_bn_relu(net.inside("branch1"), same_conv(alone), x)
    b2 = _conv_bn_relu(net.inside("branch2.0"), same_conv(reduced_second), x)
    b2 = _conv_bn_relu(net.inside("branch2.1"), same_conv(second, 3), b2)
    b3 = _conv_bn_relu(net.inside("branch3.0"), same_conv(reduced_third), x)
    b3 = _conv_bn_relu(net.inside("branch3.1"), same_conv(third, 3), b3)
    b4 = net("branch4.0", nn.MaxPool(3, stride=1, padding=1, ceil=True), x)
    b4 = _conv_bn_relu(net.inside("branch4.1"), same_conv(projected), b4)
    return net("cat", nn.Concat((b2, b3, b4)), b1)


def _conv_bn_relu(net: Net, conv: nn.Conv, x: Value) -> Value:
    """A convolution, its batch normalisation and its activation, each by its name."""
    return chain(net, x, conv=conv, bn=nn.BatchNorm(), relu=RELU)


Step = tuple[int, *tuple[PerAxis, ...]]
"""Channels and kernel of a convolution; two kernels are two convolutions side by side."""

Module = Mapping[str, tuple[Step, ...]]
"""An Inception module: the steps of each of its branches. The one called `branch_pool` begins with average pooling; a
module without it reduces the size, with stride 2 in each branch's last step, and has max pooling for a branch."""

ROW, COLUMN = (1, 7), (7, 1)


def figure_5(pooled: int) -> Module:
    """For maps of 35x35: 288 channels with 64 in the pooling branch."""
    return {
        "branch1x1": ((64, 1),),
        "branch5x5": ((48, 1), (64, 5)),
        "branch3x3dbl": ((64, 1), (96, 3), (96, 3)),
        "branch_pool": ((pooled, 1),),
    }


def figure_6(inner: int) -> Module:
    """For maps of 17x17: 768 channels; every 7x7 is a 1x7 and a 7x1."""
    return {
        "branch1x1": ((192, 1),),
        "branch7x7": ((inner, 1), (inner, ROW), (192, COLUMN)),
        "branch7x7dbl": ((inner, 1), (inner, COLUMN), (inner, ROW), (inner, COLUMN), (192, ROW)),
        "branch_pool": ((192, 1),),
    }


# for maps of 8x8: 2048 channels
FIGURE_7: Module = {
    "branch1x1": ((320, 1),),
    "branch3x3": ((384, 1), (384, (1, 3), (3, 1))),
    "branch3x3dbl": ((448, 1), (384, 3), (384, (1, 3), (3, 1))),
    "branch_pool": ((192, 1),),
}

# figure 10, left
TO_17: Module = {"branch3x3": ((384, 3),), "branch3x3dbl": ((64, 1), (96, 3), (96, 3))}
TO_8: Module = {"branch3x3": ((192, 1), (320, 3)), "branch7x7x3": ((192, 1), (192, ROW), (192, COLUMN), (192, 3))}

V3_MODULES = {
    "Mixed_5b": figure_5(32),
    "Mixed_5c": figure_5(64),
    "Mixed_5d": figure_5(64),
    "Mixed_6a": TO_17,
    "Mixed_6b": figure_6(128),
    "Mixed_6c": figure_6(160),
    "Mixed_6d": figure_6(160),
    "Mixed_6e": figure_6(192),
    "Mixed_7a": TO_8,
    "Mixed_7b": FIGURE_7,
    "Mixed_7c": FIGURE_7,
}

HEAD_BEHIND = "Mixed_6e"
"""The module whose output the auxiliary head takes."""


@dataclass(frozen=True)
class InceptionV3(Widened):
    """A stem, eleven modules, a linear classifier; in training an auxiliary head more."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        x = _conv_bn_relu(net.inside("Conv2d_1a_3x3"), self._conv(32, kernel=3, stride=2), x)
        x = _conv_bn_relu(net.inside("Conv2d_2a_3x3"), self._conv(32, kernel=3), x)
        x = _conv_bn_relu(net.inside("Conv2d_2b_3x3"), self._conv(64, kernel=3, padding=1), x)
        x = net("maxpool1", nn.MaxPool(3, stride=2), x)
        x = _conv_bn_relu(net.inside("Conv2d_3b_1x1"), self._conv(80, kernel=1), x)
        x = _conv_bn_relu(net.inside("Conv2d_4a_3x3"), self._conv(192, kernel=3), x)
        x = net("maxpool2", nn.MaxPool(3, stride=2), x)
        for name, module in V3_MODULES.items():
            x = self._module(net.inside(name), x, module)
            if name == HEAD_BEHIND:
                self._auxiliary_head(net.inside("AuxLogits").training_only(), x, classes)
        x = chain(net, x, avgpool=nn.AdaptiveAvgPool(1), dropout=nn.Dropout(0.5), flatten=nn.Flatten())
        return net("fc", nn.Linear(classes), x)

    def _module(self, net: Net, x: Value, module: Module) -> Value:
        """All branches side by side."""
        reduces = "branch_pool" not in module
        outputs = []
        for name, steps in module.items():
            y = net("pool", nn.AvgPool(3, stride=1, padding=1), x) if name == "branch_pool" else x
            outputs.append(self._branch(net, y, name, steps, stride=2 if reduces else 1))
        if reduces:
            outputs.append(net("pool", nn.MaxPool(3, stride=2), x))
        return net("cat", nn.Concat(tuple(outputs[1:])), outputs[0])

    def _branch(self, net: Net, x: Value, name: str, steps: tuple[Step, ...], stride: int) -> Value:
        """One step after the other; each keeps the size, but for a last one with a stride."""
        for number, (channels, *kernels) in enumerate(steps, start=1):
            step = name if len(steps) == 1 else f"{name}_{number}"
            strides = stride if number == len(steps) else 1
            convs = [self._conv(channels, kernel, strides, _same(kernel) if strides == 1 else 0) for kernel in kernels]
            if len(convs) == 1:
                x = _conv_bn_relu(net.inside(step), convs[0], x)
            else:
                lettered = zip("ab", convs, strict=True)
                first, *others = [_conv_bn_relu(net.inside(f"{step}{letter}"), conv, x) for letter, conv in lettered]
                x = net(f"{step}_cat", nn.Concat(tuple(others)), first)
        return x

    def _auxiliary_head(self, net: Net, x: Value, classes: int) -> Value:
        """A small classifier on the last maps of 17x17 (figure 8)."""
        x = net("avgpool", nn.AvgPool(5, stride=3), x)
        x = _conv_bn_relu(net.inside("conv0"), self._conv(128, kernel=1), x)
        x = _conv_bn_relu(net.inside("conv1"), self._conv(768, kernel=5), x)
        return chain(net, x, pool=nn.AdaptiveAvgPool(1), flatten=nn.Flatten(), fc=nn.Linear(classes))

    def _conv(self, channels: int, kernel: PerAxis, stride: int = 1, padding: PerAxis = 0) -> nn.Conv:
        return nn.Conv(self.wide(channels), kernel, stride=stride, padding=padding, bias=False)


def _same(kernel: PerAxis) -> PerAxis:
    """The padding with which an odd kernel keeps the size."""
    return kernel // 2 if isinstance(kernel, int) else tuple(side // 2 for side in kernel)


NETWORKS = [
    imagenet("googlenet", GoogLeNet(), "Szegedy et al. 2014, table 1"),
    imagenet("inception_v3", InceptionV3(), "Szegedy et al. 2015, table 1", 299),
]
