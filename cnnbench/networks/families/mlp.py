"""The convolution-free counterpart of the introductory CNN: every pixel connected to every hidden value."""

from dataclasses import dataclass

from cnnbench.networks.layers import Activation, Flatten, Linear, Value
from cnnbench.networks.network import Net


@dataclass(frozen=True)
class MLP:
    """One hidden layer: pixels - hidden - classes."""

    hidden: int = 128

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        """From (C, H, W) to (classes,)."""
        x = net("flatten", Flatten(), x)
        x = net("fc1", Linear(self.hidden), x)
        x = net("relu", Activation(), x)
        return net("fc2", Linear(classes), x)
