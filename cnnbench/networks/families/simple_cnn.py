"""The two-convolution network of many introductions to MNIST, with 3x3 kernels and one hidden layer."""

from cnnbench.networks.architecture import ours
from cnnbench.networks.families.blocks import chain
from cnnbench.networks.layers import Activation, Conv, Dropout, Flatten, Linear, MaxPool, Value
from cnnbench.networks.network import Net


def simple_cnn(net: Net, x: Value, classes: int) -> Value:
    """conv 32 - pool - conv 64 - pool - 128 - classes."""
    return chain(
        net,
        x,
        conv1=Conv(32, kernel=3),
        relu1=Activation(),
        pool1=MaxPool(2),
        conv2=Conv(64, kernel=3),
        relu2=Activation(),
        pool2=MaxPool(2),
        flatten=Flatten(),
        fc1=Linear(128),
        relu3=Activation(),
        dropout=Dropout(0.25),
        fc2=Linear(classes),
    )


NETWORKS = [ours("simple_cnn", simple_cnn, (1, 28, 28), "the two-convolution network of many introductions")]
