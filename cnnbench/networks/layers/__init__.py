"""The formulas of each kind of layer, on the shape of one image."""

from cnnbench.networks.layers.join import Add, Concat, Copy, Flatten, Joining, Opaque, Permute, Scale, Shuffle, Split
from cnnbench.networks.layers.norm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm
from cnnbench.networks.layers.op import Op, PerAxis, Saved, Shape, Terms, Value, WorkKind, spelled, written_out
from cnnbench.networks.layers.pointwise import Activation, Dropout, LayerScale, StochasticDepth
from cnnbench.networks.layers.pool import AdaptiveAvgPool, AvgPool, MaxPool, Resize
from cnnbench.networks.layers.weighted import Conv, ConvTranspose, DeformConv, Linear, MatMul

__all__ = ["Add", "Concat", "Copy", "Flatten", "Joining", "Opaque", "Permute", "Scale", "Shuffle", "Split"]
__all__ += ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm"]
__all__ += ["Op", "PerAxis", "Saved", "Shape", "Terms", "Value", "WorkKind", "spelled", "written_out"]
__all__ += ["Activation", "Dropout", "LayerScale", "StochasticDepth"]
__all__ += ["AdaptiveAvgPool", "AvgPool", "MaxPool", "Resize"]
__all__ += ["Conv", "ConvTranspose", "DeformConv", "Linear", "MatMul"]
