"""SqueezeNet: fire modules, which squeeze the channels before they convolve.

Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", table 1.
Version 1.1 is not in the paper but in the authors' repository (github.com/forresti/SqueezeNet, SqueezeNet_v1.1): a
smaller first convolution and earlier pooling. The sizes in table 1, 111 and 55, are those of a 227x227 image; one of
224x224 gives 109 and 54.
"""

from dataclasses import dataclass
from typing import Literal

from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import RELU, Widened, chain, sequential
from cnnbench.networks.layers import AdaptiveAvgPool, Concat, Conv, Dropout, Flatten, MaxPool, Value
from cnnbench.networks.network import Net

Version = Literal["1_0", "1_1"]

# channels of the squeezing 1x1, of the expanding 1x1, of the expanding 3x3: fire2 to fire9 (table 1)
FIRES = (
    (16, 64, 64),
    (16, 64, 64),
    (32, 128, 128),
    (32, 128, 128),
    (48, 192, 192),
    (48, 192, 192),
    (64, 256, 256),
    (64, 256, 256),
)

# channels and kernel of conv1; the fire modules that are followed by pooling
VERSIONS: dict[Version, tuple[int, int, tuple[int, int]]] = {
    "1_0": (96, 7, (4, 8)),
    "1_1": (64, 3, (3, 5)),
}


@dataclass(frozen=True)
class SqueezeNet(Widened):
    """A convolution, eight fire modules, and a 1x1 convolution that gives each class a map, whose mean is its score."""

    version: Version

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        channels, kernel, pooled = VERSIONS[self.version]
        pool = MaxPool(3, stride=2, ceil=True)
        features = net.inside("features")
        x = sequential(features, x, Conv(self.wide(channels), kernel, stride=2), RELU, pool)
        index = 3
        for number, row in enumerate(FIRES, start=2):
            x = fire(features.inside(f"{index}"), x, *(self.wide(channels) for channels in row))
            index += 1
            if number in pooled:
                x = features(f"{index}", pool, x)
                index += 1
        classifier = (Dropout(0.5), Conv(classes, kernel=1), RELU, AdaptiveAvgPool(1))
        return net("flatten", Flatten(), sequential(net.inside("classifier"), x, *classifier))


def fire(net: Net, x: Value, squeezed: int, expanded1x1: int, expanded3x3: int) -> Value:
    """1x1 to few channels, then 1x1 and 3x3 side by side to many (figure 1)."""
    x = chain(net, x, squeeze=Conv(squeezed, kernel=1), squeeze_activation=RELU)
    y = chain(net, x, expand1x1=Conv(expanded1x1, kernel=1), expand1x1_activation=RELU)
    z = chain(net, x, expand3x3=Conv(expanded3x3, kernel=3, padding=1), expand3x3_activation=RELU)
    return net("cat", Concat((z,)), y)


NETWORKS = [
    imagenet(f"squeezenet{version}", SqueezeNet(version), "Iandola et al. 2016, table 1") for version in VERSIONS
]
