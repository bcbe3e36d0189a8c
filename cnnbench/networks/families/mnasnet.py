"""MNASNet: inverted residuals whose kernel and expansion were searched for each stage.

Tan et al. 2018, "MnasNet: platform-aware neural architecture search for mobile". torchvision's is not the A1 network of
figure 7 but B1, found without squeeze-and-excitation in the search space (table 2); its stages are those of the
authors' code. The width multiplier is section 6.2's "depth multiplier"; the last convolution keeps its 1280 channels.
"""

from dataclasses import dataclass

from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import (
    RELU,
    Scaled,
    check_probability,
    classify,
    depthwise,
    same_conv,
    sequential,
    strides,
)
from cnnbench.networks.layers import Add, BatchNorm, Conv, Dropout, Op, Value
from cnnbench.networks.network import Net

# expansion, kernel, stride, channels, repeats
STAGES = (
    (3, 3, 2, 24, 3),
    (3, 5, 2, 40, 3),
    (6, 5, 2, 80, 3),
    (6, 3, 1, 96, 2),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)

WIDTHS = {"0_5": 0.5, "0_75": 0.75, "1_0": 1.0, "1_3": 1.3}


@dataclass(frozen=True)
class MNASNet(Scaled):
    """A stem, a depthwise separable convolution, six stages of inverted residuals, a 1x1 head of fixed width."""

    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_probability("dropout", self.dropout)

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        layers = net.inside("layers")
        stem = self.wide(32)
        x = sequential(layers, x, *separable(same_conv(stem, 3, stride=2), depthwise(stem, 3), self.wide(16)))
        for place, (expansion, kernel, first_stride, channels, repeats) in enumerate(STAGES, start=8):
            for repeat, stride in enumerate(strides(first_stride, repeats, self.depth)):
                block = layers.inside(f"{place}.{repeat}")
                x = inverted_residual(block, x, expansion, kernel, stride, self.wide(channels))
        x = sequential(layers, x, same_conv(1280), BatchNorm(), RELU, start=14)
        return classify(net, x, classes, Dropout(self.dropout, inplace=True))


def inverted_residual(net: Net, x: Value, expansion: int, kernel: int, stride: int, channels: int) -> Value:
    """1x1 to `expansion` times the channels, depthwise, linear 1x1 to `channels` (figure 7, MBConv)."""
    hidden = x.channels * expansion
    y = sequential(net.inside("layers"), x, *separable(same_conv(hidden), depthwise(hidden, kernel, stride), channels))
    return net("add", Add(x), y) if stride == 1 and x.channels == channels else y


def separable(first: Conv, second: Conv, channels: int) -> tuple[Op, ...]:
    """Two convolutions and a linear 1x1 to `channels`, each with its batch normalisation."""
    return (first, BatchNorm(), RELU, second, BatchNorm(), RELU, same_conv(channels), BatchNorm())


NETWORKS = [
    imagenet(f"mnasnet{name}", MNASNet(width=width), "Tan et al. 2018, table 2 (B1)") for name, width in WIDTHS.items()
]
