"""ShuffleNet V2: half of the channels pass each block untouched, and a shuffle mixes the halves.

Ma et al. 2018, "ShuffleNet V2: practical guidelines for efficient CNN architecture design", table 5 and
figure 3 (c, d).
"""

import math
from dataclasses import dataclass

from cnnbench.networks import layers as nn
from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import RELU, chain, conv_norm, depthwise, same_conv, sequential
from cnnbench.networks.layers import Value
from cnnbench.networks.network import Net

# channels of conv1, of stages 2 to 4, of conv5 (table 5)
CHANNELS = {
    "x0_5": (24, 48, 96, 192, 1024),
    "x1_0": (24, 116, 232, 464, 1024),
    "x1_5": (24, 176, 352, 704, 1024),
    "x2_0": (24, 244, 488, 976, 2048),
}


@dataclass(frozen=True)
class ShuffleNetV2:
    """A stem, three stages that halve the size each, a 1x1 head (table 5)."""

    widths: tuple[int, ...]
    """Channels of the stem, of each stage, of the head."""
    blocks: tuple[int, ...] = (4, 8, 4)
    """Blocks of each stage; the first one has stride 2."""
    depth: float = 1.0
    """Blocks of every stage, times this, rounded up."""
    projection_keeps_stem: bool = False
    """In the first block of stage 2, project to the stem's channels rather than to half of the stage's, as the authors'
    code does."""

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.blocks) + 2:
            raise ValueError(f"widths: expected {len(self.blocks) + 2}, of stem, stages, head; got {self.widths}")
        if any(width % 2 for width in self.widths[1:-1]):
            raise ValueError(f"widths: expected even ones for the stages, which halve them; got {self.widths}")

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        stem, *stages, head = self.widths
        x = conv_norm(net.inside("conv1"), same_conv(stem, 3, stride=2), x, "relu")
        x = net("maxpool", nn.MaxPool(3, stride=2, padding=1), x)
        for stage, (channels, blocks) in enumerate(zip(stages, self.blocks, strict=True), start=2):
            projected = x.channels if self.projection_keeps_stem else channels // 2
            x = downsampling_block(net.inside(f"stage{stage}.0"), x, channels, projected)
            for index in range(1, math.ceil(blocks * self.depth)):
                x = basic_block(net.inside(f"stage{stage}.{index}"), x)
        x = conv_norm(net.inside("conv5"), same_conv(head), x, "relu")
        return chain(net, x, mean=nn.AdaptiveAvgPool(1), flatten=nn.Flatten(), fc=nn.Linear(classes))


def basic_block(net: Net, x: Value) -> Value:
    """One half of the channels is left as it is, the other convolved; then they are shuffled (figure 3c)."""
    left = net("left", nn.Split(2, 0), x)
    right = net("right", nn.Split(2, 1), x)
    right = _convolutions(net.inside("branch2"), right, right.channels, right.channels, stride=1)
    return _joined(net, left, right)


def downsampling_block(net: Net, x: Value, channels: int, projected: int) -> Value:
    """All channels pass both branches, each with stride 2: a projection, and convolutions for the rest (figure 3d)."""
    projection = (depthwise(x.channels, 3, stride=2), nn.BatchNorm(), same_conv(projected), nn.BatchNorm(), RELU)
    left = sequential(net.inside("branch1"), x, *projection)
    right = _convolutions(net.inside("branch2"), x, channels // 2, channels - projected, stride=2)
    return _joined(net, left, right)


def _convolutions(net: Net, x: Value, hidden: int, channels: int, stride: int) -> Value:
    """1x1 to the hidden channels, depthwise 3x3, 1x1 to the output's."""
    x = sequential(net, x, same_conv(hidden), nn.BatchNorm(), RELU, depthwise(hidden, 3, stride), nn.BatchNorm())
    return sequential(net, x, same_conv(channels), nn.BatchNorm(), RELU, start=5)


def _joined(net: Net, left: Value, right: Value) -> Value:
    return chain(net, left, cat=nn.Concat((right,)), shuffle=nn.Shuffle(2))


NETWORKS = [
    imagenet(f"shufflenet_v2_{name}", ShuffleNetV2(widths), "Ma et al. 2018, table 5")
    for name, widths in CHANNELS.items()
]
