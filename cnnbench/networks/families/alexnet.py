"""AlexNet, the single-tower form that torchvision has.

Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", section 5, footnote 1: 64, 192, 384,
256, 256 filters and no local response normalisation, unlike the two-tower network of Krizhevsky, Sutskever and
Hinton 2012.
"""

from dataclasses import dataclass

from cnnbench.networks.families.blocks import round_channels
from cnnbench.networks.layers import Activation, AdaptiveAvgPool, Conv, Dropout, Flatten, Linear, MaxPool, Value
from cnnbench.networks.network import Net


@dataclass(frozen=True)
class AlexNet:
    """Five convolutions, three of them followed by overlapping pooling, then 4096 - 4096 - classes."""

    width: float = 1.0
    """Channels of every convolution and hidden layer, times this."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        """From (C, H, W) to (classes,)."""
        relu = Activation(inplace=True)
        first, second, third, fourth, fifth, hidden = (
            round_channels(channels * self.width) for channels in (64, 192, 384, 256, 256, 4096)
        )
        features = net.inside("features")
        x = features("0", Conv(first, kernel=11, stride=4, padding=2), x)
        x = features("1", relu, x)
        x = features("2", MaxPool(3, stride=2), x)
        x = features("3", Conv(second, kernel=5, padding=2), x)
        x = features("4", relu, x)
        x = features("5", MaxPool(3, stride=2), x)
        x = features("6", Conv(third, kernel=3, padding=1), x)
        x = features("7", relu, x)
        x = features("8", Conv(fourth, kernel=3, padding=1), x)
        x = features("9", relu, x)
        x = features("10", Conv(fifth, kernel=3, padding=1), x)
        x = features("11", relu, x)
        x = features("12", MaxPool(3, stride=2), x)
        x = net("avgpool", AdaptiveAvgPool(6), x)
        x = net("flatten", Flatten(), x)
        classifier = net.inside("classifier")
        x = classifier("0", Dropout(0.5), x)
        x = classifier("1", Linear(hidden), x)
        x = classifier("2", relu, x)
        x = classifier("3", Dropout(0.5), x)
        x = classifier("4", Linear(hidden), x)
        x = classifier("5", relu, x)
        return classifier("6", Linear(classes), x)
