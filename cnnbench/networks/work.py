"""Kinds of layers by how fast they can run: a convolution's depends on its settings."""

from typing import Literal

from cnnbench.networks import layers
from cnnbench.networks.layers import Conv, Op
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

KINDS: dict[type[Op], WorkKind] = {
    layers.Linear: "fully connected layers",
    layers.MatMul: "matrix products",
    layers.Activation: "activations",
    **dict.fromkeys((layers.BatchNorm, layers.GroupNorm, layers.InstanceNorm, layers.LayerNorm), "normalisation"),
    **dict.fromkeys((layers.MaxPool, layers.AvgPool, layers.AdaptiveAvgPool), "pooling"),
}


def kind_of(layer: Layer) -> WorkKind:
    """The kind of a layer's work.

    A depthwise convolution has one input channel per group, so each value that is read serves one output channel only;
    a 1x1 convolution is a matrix product (Howard et al., "MobileNets", 2017, section 3.1).
    """
    op = layer.op
    if not isinstance(op, Conv):
        return KINDS.get(type(op), "sums, products and copies")
    if op.groups > 1:
        return "depthwise convolutions" if op.groups == layer.input_shape[0] else "grouped convolutions"
    return "1x1 convolutions" if op.kernel in (1, (1,), (1, 1)) else "convolutions"
