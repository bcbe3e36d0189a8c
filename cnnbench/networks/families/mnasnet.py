"""MNASNet: inverted residuals whose kernel and expansion were searched for each stage.

Tan et al. 2018, "MnasNet: platform-aware neural architecture search for mobile". torchvision's is not the A1 network of
figure 7 but B1, found without squeeze-and-excitation in the search space (table 2); its stages are those of the
authors' code. The width multiplier is section 6.2's "depth multiplier"; the last convolution keeps its 1280 channels.
"""

import math
from dataclasses import dataclass

from cnnbench.networks.families.blocks import check_probability, round_channels
from cnnbench.networks.layers import Activation, AdaptiveAvgPool, Add, BatchNorm, Conv, Dropout, Flatten, Linear, Value
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

RELU = Activation(inplace=True)


@dataclass(frozen=True)
class MNASNet:
    """A stem, a depthwise separable convolution, six stages of inverted residuals, a 1x1 head."""

    width: float = 1.0
    """Channels of every layer up to the head, times this."""
    depth: float = 1.0
    """Inverted residuals of every stage, times this, rounded up."""
    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_probability("dropout", self.dropout)

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        """From (C, H, W) to (classes,)."""
        layers = net.inside("layers")
        stem = round_channels(32 * self.width)
        x = _conv_norm(layers, 0, Conv(stem, kernel=3, stride=2, padding=1, bias=False), x)
        x = _conv_norm(layers, 3, Conv(stem, kernel=3, padding=1, groups=stem, bias=False), x)
        x = _conv_norm(layers, 6, Conv(round_channels(16 * self.width), kernel=1, bias=False), x, linear=True)
        for place, (expansion, kernel, first_stride, channels, repeats) in enumerate(STAGES, start=8):
            for repeat in range(math.ceil(repeats * self.depth)):
                stride = first_stride if repeat == 0 else 1
                block = layers.inside(f"{place}.{repeat}")
                x = inverted_residual(block, x, expansion, kernel, stride, round_channels(channels * self.width))
        x = _conv_norm(layers, 14, Conv(1280, kernel=1, bias=False), x)
        x = net("avgpool", AdaptiveAvgPool(1), x)
        x = net("flatten", Flatten(), x)
        x = net("classifier.0", Dropout(self.dropout, inplace=True), x)
        return net("classifier.1", Linear(classes), x)


def inverted_residual(net: Net, x: Value, expansion: int, kernel: int, stride: int, channels: int) -> Value:
    """1x1 to `expansion` times the channels, depthwise, linear 1x1 to `channels` (figure 7, MBConv)."""
    hidden = x.channels * expansion
    layers = net.inside("layers")
    depthwise = Conv(hidden, kernel, stride=stride, padding=kernel // 2, groups=hidden, bias=False)
    y = _conv_norm(layers, 0, Conv(hidden, kernel=1, bias=False), x)
    y = _conv_norm(layers, 3, depthwise, y)
    y = _conv_norm(layers, 6, Conv(channels, kernel=1, bias=False), y, linear=True)
    return net("add", Add(x), y) if stride == 1 and x.channels == channels else y


def _conv_norm(net: Net, index: int, conv: Conv, x: Value, linear: bool = False) -> Value:
    """A convolution, its batch normalisation and, unless linear, its activation, numbered from `index` on."""
    x = net(f"{index}", conv, x)
    x = net(f"{index + 1}", BatchNorm(), x)
    return x if linear else net(f"{index + 2}", RELU, x)
