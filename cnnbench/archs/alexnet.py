"""AlexNet, the single-tower form that torchvision has.

Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", section 5, footnote 1: 64, 192, 384,
256, 256 filters and no local response normalisation, unlike the two-tower network of Krizhevsky, Sutskever and
Hinton 2012.
"""

from cnnbench.archs.layers import Activation, AdaptiveAvgPool, Conv, Dropout, Flatten, Linear, MaxPool, Shape
from cnnbench.archs.network import Net


def alexnet(net: Net, x: Shape, classes: int) -> Shape:
    """Five convolutions, three of them followed by overlapping pooling, then 4096 - 4096 - classes."""
    features = net.inside("features")
    x = features("0", Conv(64, kernel=11, stride=4, padding=2), x)
    x = features("1", Activation(), x)
    x = features("2", MaxPool(3, stride=2), x)
    x = features("3", Conv(192, kernel=5, padding=2), x)
    x = features("4", Activation(), x)
    x = features("5", MaxPool(3, stride=2), x)
    x = features("6", Conv(384, kernel=3, padding=1), x)
    x = features("7", Activation(), x)
    x = features("8", Conv(256, kernel=3, padding=1), x)
    x = features("9", Activation(), x)
    x = features("10", Conv(256, kernel=3, padding=1), x)
    x = features("11", Activation(), x)
    x = features("12", MaxPool(3, stride=2), x)
    x = net("avgpool", AdaptiveAvgPool(6), x)
    x = net("flatten", Flatten(), x)
    classifier = net.inside("classifier")
    x = classifier("0", Dropout(0.5), x)
    x = classifier("1", Linear(4096), x)
    x = classifier("2", Activation(), x)
    x = classifier("3", Dropout(0.5), x)
    x = classifier("4", Linear(4096), x)
    x = classifier("5", Activation(), x)
    return classifier("6", Linear(classes), x)
