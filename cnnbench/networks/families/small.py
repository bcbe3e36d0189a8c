"""Small networks for digits and signals, as introductions build them.

LeNet-5: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition", figure 2, with
ReLU and max-pooling in place of the paper's tanh and trainable subsampling. The paper pads 28x28 digits to 32x32; at 28
the first fully connected layer sees 16x4x4 values, at 32 the paper's 16x5x5.
"""

import math
from dataclasses import dataclass

from cnnbench.networks import layers as nn
from cnnbench.networks.architecture import ours
from cnnbench.networks.families.blocks import Scaled, chain, classify, same_conv, sequential
from cnnbench.networks.layers import Op, Value
from cnnbench.networks.network import Net

RELU = nn.Activation()

# channels, kernel
CNN1D_STAGES = ((16, 7), (32, 5), (64, 3))


def lenet5(net: Net, x: Value, classes: int) -> Value:
    """conv 6 - pool - conv 16 - pool - 120 - 84 - classes."""
    x = chain(net, x, conv1=nn.Conv(6, kernel=5), relu1=RELU, pool1=nn.MaxPool(2))
    x = chain(net, x, conv2=nn.Conv(16, kernel=5), relu2=RELU, pool2=nn.MaxPool(2), flatten=nn.Flatten())
    return chain(net, x, fc1=nn.Linear(120), relu3=RELU, fc2=nn.Linear(84), relu4=RELU, fc3=nn.Linear(classes))


def simple_cnn(net: Net, x: Value, classes: int) -> Value:
    """conv 32 - pool - conv 64 - pool - 128 - classes."""
    x = chain(net, x, conv1=nn.Conv(32, kernel=3), relu1=RELU, pool1=nn.MaxPool(2))
    x = chain(net, x, conv2=nn.Conv(64, kernel=3), relu2=RELU, pool2=nn.MaxPool(2), flatten=nn.Flatten())
    return chain(net, x, fc1=nn.Linear(128), relu3=RELU, dropout=nn.Dropout(0.25), fc2=nn.Linear(classes))


@dataclass(frozen=True)
class MLP:
    """Every pixel connected to every hidden value: pixels - hidden - classes."""

    hidden: int = 128

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        return chain(net, x, flatten=nn.Flatten(), fc1=nn.Linear(self.hidden), relu=RELU, fc2=nn.Linear(classes))


@dataclass(frozen=True)
class CNN1D(Scaled):
    """For signals such as audio or an electrocardiogram: three convolutions, each halving the length, then the mean.

    The plain form of the networks of Kiranyaz et al. 2021, "1D convolutional neural networks and applications: a
    survey", section 3.
    """

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        ops: list[Op] = []
        for channels, kernel in CNN1D_STAGES:
            conv = same_conv(self.wide(channels), kernel)
            ops += [conv, nn.BatchNorm(), RELU] * math.ceil(self.depth) + [nn.MaxPool(2)]
        return classify(net, sequential(net.inside("features"), x, *ops), classes)


LECUN = "LeCun et al. 1998, figure 2"

NETWORKS = [
    ours("lenet5", lenet5, (1, 28, 28), LECUN),
    ours("lenet5_32", lenet5, (1, 32, 32), LECUN),
    ours("mlp", MLP(), (1, 28, 28), "the fully connected counterpart of simple_cnn"),
    ours("cnn1d", CNN1D(), (1, 1024), "after Kiranyaz et al. 2021, section 3"),
    ours("simple_cnn", simple_cnn, (1, 28, 28), "the two-convolution network of many introductions"),
]
