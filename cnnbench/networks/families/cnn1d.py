"""A CNN for signals such as audio, sensor data or an electrocardiogram: convolutions over time alone.

The plain form of the networks that Kiranyaz et al. 2021, "1D convolutional neural networks and applications: a survey",
section 3, describe: short stacks of convolution, normalisation and pooling, and a small classifier.
"""

import math
from dataclasses import dataclass

from cnnbench.networks.families.blocks import round_channels
from cnnbench.networks.layers import Activation, AdaptiveAvgPool, BatchNorm, Conv, Flatten, Linear, MaxPool, Value
from cnnbench.networks.network import Net

# channels, kernel
STAGES = ((16, 7), (32, 5), (64, 3))


@dataclass(frozen=True)
class CNN1D:
    """Three convolutions of 16, 32, 64 channels, each halving the length, then the mean over time."""

    width: float = 1.0
    """Channels of every stage, times this."""
    depth: float = 1.0
    """Convolutions of every stage, times this, rounded up."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        """From (C, L) to (classes,)."""
        features, index = net.inside("features"), 0
        for channels, kernel in STAGES:
            for _ in range(math.ceil(self.depth)):
                conv = Conv(round_channels(channels * self.width), kernel, padding=kernel // 2, bias=False)
                x = features(f"{index}", conv, x)
                x = features(f"{index + 1}", BatchNorm(), x)
                x = features(f"{index + 2}", Activation(), x)
                index += 3
            x = features(f"{index}", MaxPool(2), x)
            index += 1
        x = net("avgpool", AdaptiveAvgPool(1), x)
        x = net("flatten", Flatten(), x)
        return net("fc", Linear(classes), x)
