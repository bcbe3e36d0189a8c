"""LeNet-5 as it is built today: ReLU and max-pooling in place of the paper's tanh and trainable subsampling.

LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition", figure 2. The paper pads
28x28 digits to 32x32; at 28 the first fully connected layer sees 16x4x4 values, at 32 the paper's 16x5x5.
"""

from cnnbench.networks.architecture import ours
from cnnbench.networks.families.blocks import chain
from cnnbench.networks.layers import Activation, Conv, Flatten, Linear, MaxPool, Value
from cnnbench.networks.network import Net


def lenet5(net: Net, x: Value, classes: int) -> Value:
    """conv 6 - pool - conv 16 - pool - 120 - 84 - classes."""
    return chain(
        net,
        x,
        conv1=Conv(6, kernel=5),
        relu1=Activation(),
        pool1=MaxPool(2),
        conv2=Conv(16, kernel=5),
        relu2=Activation(),
        pool2=MaxPool(2),
        flatten=Flatten(),
        fc1=Linear(120),
        relu3=Activation(),
        fc2=Linear(84),
        relu4=Activation(),
        fc3=Linear(classes),
    )


SOURCE = "LeCun et al. 1998, figure 2"
NETWORKS = [ours("lenet5", lenet5, (1, 28, 28), SOURCE), ours("lenet5_32", lenet5, (1, 32, 32), SOURCE)]
