"""DenseNet: every layer of a block takes the feature maps of all the layers before it.

Huang et al. 2016, "Densely connected convolutional networks", table 1; the form with bottleneck and compression,
DenseNet-BC (section 3). DenseNet-161 (k = 48) is not in the table but in the authors' repository
(github.com/liuzhuang13/DenseNet). Every layer concatenates its input again, which copies it: what autograd keeps of a
block grows with the square of its layers (Pleiss et al. 2017).
"""

import math
from dataclasses import dataclass

from cnnbench.networks import layers as nn
from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import RELU, chain, pooled, same_conv
from cnnbench.networks.layers import Value
from cnnbench.networks.network import Net

# growth rate k, layers per block, stem channels 2k
MEMBERS = {
    121: (32, (6, 12, 24, 16), 64),
    169: (32, (6, 12, 32, 32), 64),
    201: (32, (6, 12, 48, 32), 64),
    161: (48, (6, 12, 36, 24), 96),
}


@dataclass(frozen=True)
class DenseNet:
    """A stem, dense blocks with transitions between them, a linear classifier (table 1)."""

    growth_rate: int
    """Channels that each layer adds: k."""
    blocks: tuple[int, ...]
    """Layers of each block."""
    stem: int = 64
    """Channels of the first convolution."""
    bottleneck: int = 4
    """A layer's 1x1 convolution puts out so many times k channels."""
    compression: float = 0.5
    """A transition keeps this part of the channels, rounded down: theta."""
    depth: float = 1.0
    """Layers of every block, times this, rounded up."""

    def __post_init__(self) -> None:
        if self.compression > 1:
            raise ValueError(f"compression: expected 1 at most; got {self.compression}")

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        features = net.inside("features")
        stem = same_conv(self.stem, 7, stride=2)
        x = chain(features, x, conv0=stem, norm0=nn.BatchNorm(), relu0=RELU, pool0=nn.MaxPool(3, stride=2, padding=1))
        for number, layers in enumerate(self.blocks, start=1):
            x = self._dense_block(features.inside(f"denseblock{number}"), x, math.ceil(layers * self.depth))
            if number < len(self.blocks):  # a transition: fewer channels, and half the size
                kept = same_conv(max(1, math.floor(self.compression * x.channels)))
                transition = features.inside(f"transition{number}")
                x = chain(transition, x, norm=nn.BatchNorm(), relu=RELU, conv=kept, pool=nn.AvgPool(2))
        x = net("relu", RELU, features("norm5", nn.BatchNorm(), x))
        return net("classifier", nn.Linear(classes), pooled(net, x))

    def _dense_block(self, net: Net, x: Value, layers: int) -> Value:
        """Each layer takes the block's input and all that the layers before it put out (section 3, equation 2).

        1x1 to a few times k channels, 3x3 to k, each behind its normalisation and activation.
        """
        added: tuple[Value, ...] = ()
        for number in range(1, layers + 1):
            layer = net.inside(f"denselayer{number}")
            y = layer("cat", nn.Concat(added), x)
            squeeze = same_conv(self.bottleneck * self.growth_rate)
            y = chain(layer, y, norm1=nn.BatchNorm(), relu1=RELU, conv1=squeeze)
            added += (chain(layer, y, norm2=nn.BatchNorm(), relu2=RELU, conv2=same_conv(self.growth_rate, 3)),)
        return net("cat", nn.Concat(added), x)


NETWORKS = [imagenet(f"densenet{d}", DenseNet(*row), "Huang et al. 2016, table 1") for d, row in MEMBERS.items()]
