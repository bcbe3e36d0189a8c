"""LeNet-5 as it is built today: ReLU and max-pooling in place of the paper's tanh and trainable subsampling.

LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition", figure 2. The paper pads
28x28 digits to 32x32; at 28 the first fully connected layer sees 16x4x4 values, at 32 the paper's 16x5x5.
"""

from cnnbench.networks.layers import Activation, Conv, Flatten, Linear, MaxPool, Value
from cnnbench.networks.network import Net


def lenet5(net: Net, x: Value, classes: int) -> Value:
    """conv 6 - pool - conv 16 - pool - 120 - 84 - classes."""
    x = net("conv1", Conv(6, kernel=5), x)
    x = net("relu1", Activation(), x)
    x = net("pool1", MaxPool(2), x)
    x = net("conv2", Conv(16, kernel=5), x)
    x = net("relu2", Activation(), x)
    x = net("pool2", MaxPool(2), x)
    x = net("flatten", Flatten(), x)
    x = net("fc1", Linear(120), x)
    x = net("relu3", Activation(), x)
    x = net("fc2", Linear(84), x)
    x = net("relu4", Activation(), x)
    return net("fc3", Linear(classes), x)
