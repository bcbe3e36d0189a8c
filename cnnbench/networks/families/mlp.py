"""The convolution-free counterpart of the introductory CNN: every pixel connected to every hidden value."""

from dataclasses import dataclass

from cnnbench.networks.architecture import ours
from cnnbench.networks.families.blocks import chain
from cnnbench.networks.layers import Activation, Flatten, Linear, Value
from cnnbench.networks.network import Net


@dataclass(frozen=True)
class MLP:
    """One hidden layer: pixels - hidden - classes."""

    hidden: int = 128

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        return chain(net, x, flatten=Flatten(), fc1=Linear(self.hidden), relu=Activation(), fc2=Linear(classes))


NETWORKS = [ours("mlp", MLP(), (1, 28, 28), "the fully connected counterpart of simple_cnn")]
