"""AlexNet, the single-tower form that torchvision has.

Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", section 5, footnote 1: 64, 192, 384,
256, 256 filters and no local response normalisation, unlike the two-tower network of Krizhevsky, Sutskever and
Hinton 2012.
"""

from dataclasses import dataclass

from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import RELU, Widened, chain, sequential
from cnnbench.networks.layers import AdaptiveAvgPool, Conv, Dropout, Flatten, Linear, MaxPool, Value
from cnnbench.networks.network import Net


@dataclass(frozen=True)
class AlexNet(Widened):
    """Five convolutions, three of them followed by overlapping pooling, then 4096 - 4096 - classes."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        first, second, third, fourth, fifth, hidden = (
            self.wide(channels) for channels in (64, 192, 384, 256, 256, 4096)
        )
        pool = MaxPool(3, stride=2)
        x = sequential(
            net.inside("features"),
            x,
            *(Conv(first, kernel=11, stride=4, padding=2), RELU, pool),
            *(Conv(second, kernel=5, padding=2), RELU, pool),
            *(Conv(third, kernel=3, padding=1), RELU),
            *(Conv(fourth, kernel=3, padding=1), RELU),
            *(Conv(fifth, kernel=3, padding=1), RELU, pool),
        )
        x = chain(net, x, avgpool=AdaptiveAvgPool(6), flatten=Flatten())
        hidden_layer = (Dropout(0.5), Linear(hidden), RELU)
        return sequential(net.inside("classifier"), x, *hidden_layer, *hidden_layer, Linear(classes))


NETWORKS = [imagenet("alexnet", AlexNet(), "Krizhevsky 2014, section 5")]
