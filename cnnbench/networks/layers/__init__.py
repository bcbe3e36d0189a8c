"""The formulas of each kind of layer, on the shape of one image."""

from cnnbench.networks.layers.join import Add, Concat, Copy, Flatten, Opaque, Permute, Scale, Shuffle, Split
from cnnbench.networks.layers.norm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm
from cnnbench.networks.layers.op import Op, PerAxis, Saved, Shape, Terms, Value, spelled, written_out
from cnnbench.networks.layers.pointwise import Activation, Dropout, LayerScale, StochasticDepth
from cnnbench.networks.layers.pool import AdaptiveAvgPool, AvgPool, MaxPool
from cnnbench.networks.layers.weighted import Conv, Linear, MatMul

__all__ = [
    "Activation",
    "AdaptiveAvgPool",
    "Add",
    "AvgPool",
    "BatchNorm",
    "Concat",
    "Conv",
    "Copy",
    "Dropout",
    "Flatten",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "MatMul",
    "MaxPool",
    "Op",
    "Opaque",
    "PerAxis",
    "Permute",
    "Saved",
    "Scale",
    "Shape",
    "Shuffle",
    "Split",
    "StochasticDepth",
    "Terms",
    "Value",
    "spelled",
    "written_out",
]
