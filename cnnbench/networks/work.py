"""The kinds of work that layers are: what a person calls them, where their settings decide how fast they can be."""

from typing import Literal

from cnnbench.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Conv,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
)
from cnnbench.networks.network import Layer

WorkKind = Literal[
    "depthwise convolutions",
    "1x1 convolutions",
    "grouped convolutions",
    "convolutions",
    "fully connected layers",
    "matrix products",
    "normalisation",
    "activations",
    "pooling",
    "sums, products and copies",
    "other operators",
]


def kind_of(layer: Layer) -> WorkKind:
    """What a layer's work is called.

    A depthwise convolution has one input channel for each group, so that each value that is read is used by one output
    channel alone; a 1x1 convolution is a matrix product (Howard et al., "MobileNets", 2017, section 3.1).
    """
    match layer.op:
        case Conv(groups=groups) if groups > 1 and groups == layer.input_shape[0]:
            return "depthwise convolutions"
        case Conv(groups=groups) if groups > 1:
            return "grouped convolutions"
        case Conv(kernel=kernel) if kernel == 1 or (isinstance(kernel, tuple) and set(kernel) == {1}):
            return "1x1 convolutions"
        case Conv():
            return "convolutions"
        case Linear():
            return "fully connected layers"
        case MatMul():
            return "matrix products"
        case BatchNorm() | GroupNorm() | InstanceNorm() | LayerNorm():
            return "normalisation"
        case Activation():
            return "activations"
        case MaxPool() | AvgPool() | AdaptiveAvgPool():
            return "pooling"
        case _:
            return "sums, products and copies"
