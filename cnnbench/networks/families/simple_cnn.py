"""The two-convolution network of many introductions to MNIST, with 3x3 kernels and one hidden layer."""

from cnnbench.networks.layers import Activation, Conv, Dropout, Flatten, Linear, MaxPool, Value
from cnnbench.networks.network import Net


def simple_cnn(net: Net, x: Value, classes: int) -> Value:
    """conv 32 - pool - conv 64 - pool - 128 - classes."""
    x = net("conv1", Conv(32, kernel=3), x)
    x = net("relu1", Activation(), x)
    x = net("pool1", MaxPool(2), x)
    x = net("conv2", Conv(64, kernel=3), x)
    x = net("relu2", Activation(), x)
    x = net("pool2", MaxPool(2), x)
    x = net("flatten", Flatten(), x)
    x = net("fc1", Linear(128), x)
    x = net("relu3", Activation(), x)
    x = net("dropout", Dropout(0.25), x)
    return net("fc2", Linear(classes), x)
