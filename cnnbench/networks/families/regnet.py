"""RegNet: networks given by a handful of numbers, from which the width of every block follows.

Radosavovic et al. 2020, "Designing network design spaces", section 3.3; the networks of figures 15 (X) and 16 (Y),
their parameters as published with the authors' code. RegNetY-128GF: Singh et al. 2022, "Revisiting weakly supervised
pre-training of visual perception models". The bottleneck ratio b is 1, as in all of them (section 4).
"""

import math
from collections import Counter
from dataclasses import dataclass

from cnnbench.networks import layers as nn
from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import (
    RELU,
    classify,
    conv_norm,
    round_channels,
    same_conv,
    squeeze_excitation,
    strides,
)
from cnnbench.networks.layers import Value
from cnnbench.networks.network import Net

# depth d, w_0, w_a, w_m, group width g
REGNET_X = {
    "400mf": (22, 24, 24.48, 2.54, 16),
    "800mf": (16, 56, 35.73, 2.28, 16),
    "1_6gf": (18, 80, 34.01, 2.25, 24),
    "3_2gf": (25, 88, 26.31, 2.25, 48),
    "8gf": (23, 80, 49.56, 2.88, 120),
    "16gf": (22, 216, 55.59, 2.1, 128),
    "32gf": (23, 320, 69.86, 2.0, 168),
}
REGNET_Y = {
    "400mf": (16, 48, 27.89, 2.09, 8),
    "800mf": (14, 56, 38.84, 2.4, 16),
    "1_6gf": (27, 48, 20.71, 2.65, 24),
    "3_2gf": (21, 80, 42.63, 2.66, 24),
    "8gf": (17, 192, 76.82, 2.19, 56),
    "16gf": (18, 200, 106.23, 2.48, 112),
    "32gf": (20, 232, 115.89, 2.53, 232),
}

Y_SE_RATIO = 0.25
"""RegNetY is RegNetX with squeeze-and-excitation, to so much of the block's input channels (appendix D)."""

QUANTUM = 8
"""Widths are multiples of this."""

STEM = 32


@dataclass(frozen=True)
class RegNet:
    """A stem, a stage for each width that the parameters give, and a fully connected layer (figure 3)."""

    depth: int
    """d: blocks in all stages together."""
    w_0: int
    """Width of the first block."""
    w_a: float
    """What each further block adds, before the widths are quantised."""
    w_m: float
    """How many times as wide each stage is as the one before."""
    group_width: int
    """g: channels of each group of the 3x3 convolutions."""
    se_ratio: float = 0.0
    """Squeezed channels of squeeze-and-excitation, as a part of the block's input channels; none if 0."""
    nearest_width: bool = False
    """Round a stage's width to the nearest number of whole groups, as the authors' code does; torchvision rounds up
    where more than 10 % would be lost, and halves."""

    def __post_init__(self) -> None:
        for name, least in (("depth", 1), ("group_width", 1), ("w_a", 0), ("se_ratio", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}; got {getattr(self, name)}")
        if self.w_0 < 1 or self.w_0 % QUANTUM:
            raise ValueError(f"w_0: expected a multiple of {QUANTUM}; got {self.w_0}")
        if self.w_m <= 1:
            raise ValueError(f"w_m: expected more than 1; got {self.w_m}")

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        x = conv_norm(net.inside("stem"), same_conv(STEM, 3, stride=2), x, "relu")
        for stage, (width, blocks) in enumerate(self.stages(), start=1):
            for index, stride in enumerate(strides(2, blocks)):
                x = self._block(net.inside(f"trunk_output.block{stage}.block{stage}-{index}"), x, width, stride)
        return classify(net, x, classes)

    def stages(self) -> list[tuple[int, int]]:
        """Width and blocks of each stage: as many blocks as have that width (section 3.3).

        The width is then made to fit the groups, if it is not narrower than one (appendix D).
        """
        stages = []
        for width, blocks in Counter(self._quantised_width(block) for block in range(self.depth)).items():
            group = min(self.group_width, width)
            whole = round(width / group) * group if self.nearest_width else round_channels(width, group)
            stages.append((whole, blocks))
        return stages

    def _quantised_width(self, block: int) -> int:
        """w_j, from equations 2 to 4, to the nearest multiple of 8."""
        linear = self.w_0 + self.w_a * block
        power = round(math.log(linear / self.w_0) / math.log(self.w_m))
        return round(self.w_0 * self.w_m**power / QUANTUM) * QUANTUM

    def _block(self, net: Net, x: Value, width: int, stride: int) -> Value:
        """1x1, grouped 3x3, squeeze-and-excitation if it has one, 1x1 (figure 4; appendix D)."""
        shortcut = x
        if stride != 1 or x.channels != width:
            shortcut = conv_norm(net.inside("proj"), same_conv(width, 1, stride), x)
        groups = width // min(self.group_width, width)
        f = net.inside("f")
        y = conv_norm(f.inside("a"), same_conv(width), x, "relu")
        y = conv_norm(f.inside("b"), same_conv(width, 3, stride, groups), y, "relu")
        if self.se_ratio:
            squeezed = max(1, round(self.se_ratio * x.channels))
            y = squeeze_excitation(f.inside("se"), y, squeezed, nn.Activation("relu"))
        y = conv_norm(f.inside("c"), same_conv(width), y)
        return net("activation", RELU, net("add", nn.Add((y,)), shortcut))


X_SOURCE, Y_SOURCE = "Radosavovic et al. 2020, figure 15", "Radosavovic et al. 2020, figure 16"

NETWORKS = [
    *(imagenet(f"regnet_x_{name}", RegNet(*row), X_SOURCE) for name, row in REGNET_X.items()),
    *(imagenet(f"regnet_y_{name}", RegNet(*row, se_ratio=Y_SE_RATIO), Y_SOURCE) for name, row in REGNET_Y.items()),
    imagenet("regnet_y_128gf", RegNet(27, 456, 160.83, 2.52, 264, se_ratio=Y_SE_RATIO), "Singh et al. 2022", 384),
]
