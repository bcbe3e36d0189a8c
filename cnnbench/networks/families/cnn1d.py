"""A CNN for signals such as audio, sensor data or an electrocardiogram: convolutions over time alone.

The plain form of the networks that Kiranyaz et al. 2021, "1D convolutional neural networks and applications: a survey",
section 3, describe: short stacks of convolution, normalisation and pooling, and a small classifier.
"""

import math
from dataclasses import dataclass

from cnnbench.networks.architecture import ours
from cnnbench.networks.families.blocks import Scaled, classify, same_conv, sequential
from cnnbench.networks.layers import Activation, BatchNorm, MaxPool, Op, Value
from cnnbench.networks.network import Net

# channels, kernel
STAGES = ((16, 7), (32, 5), (64, 3))


@dataclass(frozen=True)
class CNN1D(Scaled):
    """Three convolutions of 16, 32, 64 channels, each halving the length, then the mean over time."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        ops: list[Op] = []
        for channels, kernel in STAGES:
            conv = same_conv(self.wide(channels), kernel)
            ops += [conv, BatchNorm(), Activation()] * math.ceil(self.depth) + [MaxPool(2)]
        return classify(net, sequential(net.inside("features"), x, *ops), classes)


NETWORKS = [ours("cnn1d", CNN1D(), (1, 1024), "after Kiranyaz et al. 2021, section 3")]
