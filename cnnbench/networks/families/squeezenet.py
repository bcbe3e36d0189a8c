"""SqueezeNet: fire modules, which squeeze the channels before they convolve.

Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", table 1.
Version 1.1 is not in the paper but in the authors' repository (github.com/forresti/SqueezeNet, SqueezeNet_v1.1): a
smaller first convolution and earlier pooling. The sizes in table 1, 111 and 55, are those of a 227x227 image; one of
224x224 gives 109 and 54.
"""

from dataclasses import dataclass
from typing import Literal

from cnnbench.networks import layers as nn
from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import RELU, Widened, chain, sequential
from cnnbench.networks.layers import Value
from cnnbench.networks.network import Net

Version = Literal["1_0", "1_1"]

# channels of the squeezing 1x1 of fire2 to fire9; each expanding convolution has four times as many (table 1)
SQUEEZED = (16, 16, 32, 32, 48, 48, 64, 64)

# channels and kernel of conv1; the fire modules that are followed by pooling
VERSIONS: dict[Version, tuple[int, int, tuple[int, int]]] = {"1_0": (96, 7, (4, 8)), "1_1": (64, 3, (3, 5))}


@dataclass(frozen=True)
class SqueezeNet(Widened):
    """A convolution, eight fire modules, and a 1x1 convolution that gives each class a map, whose mean is its score."""

    version: Version

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        channels, kernel, pooled = VERSIONS[self.version]
        pool = nn.MaxPool(3, stride=2, ceil=True)
        features = net.inside("features")
        x = sequential(features, x, nn.Conv(self.wide(channels), kernel, stride=2), RELU, pool)
        index = 3
        for number, squeezed in enumerate(SQUEEZED, start=2):
            x = _fire(features.inside(f"{index}"), x, self.wide(squeezed), self.wide(4 * squeezed))
            index += 1
            if number in pooled:
                x = features(f"{index}", pool, x)
                index += 1
        classifier = (nn.Dropout(0.5), nn.Conv(classes, kernel=1), RELU, nn.AdaptiveAvgPool(1))
        return net("flatten", nn.Flatten(), sequential(net.inside("classifier"), x, *classifier))


def _fire(net: Net, x: Value, squeezed: int, expanded: int) -> Value:
    """1x1 to few channels, then 1x1 and 3x3 side by side to many (figure 1)."""
    x = chain(net, x, squeeze=nn.Conv(squeezed, kernel=1), squeeze_activation=RELU)
    y = chain(net, x, expand1x1=nn.Conv(expanded, kernel=1), expand1x1_activation=RELU)
    z = chain(net, x, expand3x3=nn.Conv(expanded, kernel=3, padding=1), expand3x3_activation=RELU)
    return net("cat", nn.Concat((z,)), y)


NETWORKS = [
    imagenet(f"squeezenet{version}", SqueezeNet(version), "Iandola et al. 2016, table 1") for version in VERSIONS
]
