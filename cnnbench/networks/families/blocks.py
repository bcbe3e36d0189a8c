"""What several families are built from."""

from cnnbench.networks.layers import Activation, AdaptiveAvgPool, BatchNorm, Conv, Op, Scale, Value
from cnnbench.networks.network import Net


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one, and never more than 10 % below `channels`.

    Howard et al. 2017 scale channels by a width multiplier; this rounding is that of the MobileNetV2 authors' code.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def check_probability(setting: str, value: float) -> None:
    """Raises ValueError unless the value lies between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{setting}: expected a probability; got {value}")


def conv_norm(net: Net, conv: Op, x: Value, activation: str | None = None) -> Value:
    """A convolution, its batch normalisation and its activation, numbered 0, 1, 2."""
    x = net("0", conv, x)
    x = net("1", BatchNorm(), x)
    return net("2", Activation(activation, inplace=True), x) if activation else x


def squeeze_excitation(net: Net, x: Value, squeezed: int, activation: Activation, gate: str = "sigmoid") -> Value:
    """One factor per channel, from the channels' means through two 1x1 convolutions (Hu et al. 2018, section 3)."""
    s = net("avgpool", AdaptiveAvgPool(1), x)
    s = net("fc1", Conv(squeezed, kernel=1), s)
    s = net("activation", activation, s)
    s = net("fc2", Conv(x.channels, kernel=1), s)
    s = net("scale_activation", Activation(gate), s)
    return net("scale", Scale(s), x)
