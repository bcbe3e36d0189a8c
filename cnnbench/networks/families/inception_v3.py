"""Inception v3: Inception modules whose large windows are factorised into small ones.

Szegedy et al. 2015, "Rethinking the Inception architecture for computer vision", table 1, figures 5 to 7 (modules), 8
(auxiliary head) and 10 (modules that reduce the size). This is torchvision's form, taken over from TensorFlow's, which
differs from the paper:
- the stem ends in a 1x1, a 3x3 and max pooling, where table 1 has three 3x3 convolutions;
- the modules of figure 5 have a 5x5 convolution where the figure has a single 3x3;
- there are four modules of figure 6, where table 1 has five.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import Widened, chain
from cnnbench.networks.families.googlenet import conv_bn_relu
from cnnbench.networks.layers import (
    AdaptiveAvgPool,
    AvgPool,
    Concat,
    Conv,
    Dropout,
    Flatten,
    Linear,
    MaxPool,
    PerAxis,
    Value,
)
from cnnbench.networks.network import Net

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
TO_17: Module = {
    "branch3x3": ((384, 3),),
    "branch3x3dbl": ((64, 1), (96, 3), (96, 3)),
}
TO_8: Module = {
    "branch3x3": ((192, 1), (320, 3)),
    "branch7x7x3": ((192, 1), (192, ROW), (192, COLUMN), (192, 3)),
}

MODULES = {
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
        x = conv_bn_relu(net.inside("Conv2d_1a_3x3"), self._conv(32, kernel=3, stride=2), x)
        x = conv_bn_relu(net.inside("Conv2d_2a_3x3"), self._conv(32, kernel=3), x)
        x = conv_bn_relu(net.inside("Conv2d_2b_3x3"), self._conv(64, kernel=3, padding=1), x)
        x = net("maxpool1", MaxPool(3, stride=2), x)
        x = conv_bn_relu(net.inside("Conv2d_3b_1x1"), self._conv(80, kernel=1), x)
        x = conv_bn_relu(net.inside("Conv2d_4a_3x3"), self._conv(192, kernel=3), x)
        x = net("maxpool2", MaxPool(3, stride=2), x)
        for name, module in MODULES.items():
            x = self._module(net.inside(name), x, module)
            if name == HEAD_BEHIND:
                self._auxiliary_head(net.inside("AuxLogits").training_only(), x, classes)
        return chain(net, x, avgpool=AdaptiveAvgPool(1), dropout=Dropout(0.5), flatten=Flatten(), fc=Linear(classes))

    def _module(self, net: Net, x: Value, module: Module) -> Value:
        """All branches side by side."""
        reduces = "branch_pool" not in module
        outputs = []
        for name, steps in module.items():
            y = net("pool", AvgPool(3, stride=1, padding=1), x) if name == "branch_pool" else x
            outputs.append(self._branch(net, y, name, steps, stride=2 if reduces else 1))
        if reduces:
            outputs.append(net("pool", MaxPool(3, stride=2), x))
        return net("cat", Concat(tuple(outputs[1:])), outputs[0])

    def _branch(self, net: Net, x: Value, name: str, steps: tuple[Step, ...], stride: int) -> Value:
        """One step after the other; each keeps the size, but for a last one with a stride."""
        for number, (channels, *kernels) in enumerate(steps, start=1):
            step = name if len(steps) == 1 else f"{name}_{number}"
            strides = stride if number == len(steps) else 1
            convs = [self._conv(channels, kernel, strides, _same(kernel) if strides == 1 else 0) for kernel in kernels]
            if len(convs) == 1:
                x = conv_bn_relu(net.inside(step), convs[0], x)
            else:
                lettered = zip("ab", convs, strict=True)
                first, *others = [conv_bn_relu(net.inside(f"{step}{letter}"), conv, x) for letter, conv in lettered]
                x = net(f"{step}_cat", Concat(tuple(others)), first)
        return x

    def _auxiliary_head(self, net: Net, x: Value, classes: int) -> Value:
        """A small classifier on the last maps of 17x17 (figure 8)."""
        x = net("avgpool", AvgPool(5, stride=3), x)
        x = conv_bn_relu(net.inside("conv0"), self._conv(128, kernel=1), x)
        x = conv_bn_relu(net.inside("conv1"), self._conv(768, kernel=5), x)
        return chain(net, x, pool=AdaptiveAvgPool(1), flatten=Flatten(), fc=Linear(classes))

    def _conv(self, channels: int, kernel: PerAxis, stride: int = 1, padding: PerAxis = 0) -> Conv:
        return Conv(self.wide(channels), kernel, stride=stride, padding=padding, bias=False)


def _same(kernel: PerAxis) -> PerAxis:
    """The padding with which an odd kernel keeps the size."""
    return kernel // 2 if isinstance(kernel, int) else tuple(side // 2 for side in kernel)


NETWORKS = [imagenet("inception_v3", InceptionV3(), "Szegedy et al. 2015, table 1", 299)]
