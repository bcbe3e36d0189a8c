"""Gradient rules: for each ATen operator of a training step, its ONNX nodes and how gradients go back through it."""

from collections.abc import Mapping
from types import MappingProxyType

from cnnbench.worker.export.training.rules import convolution, head, normalisation, pointwise, pooling, shape
from cnnbench.worker.export.training.rules.rule import Rule

_RULES: Mapping[str, Rule] = {
    "_native_batch_norm_legit_functional.default": normalisation.batch_norm,
    "_unsafe_view.default flatten.using_ints reshape.default view.default": shape.view,
    "adaptive_avg_pool1d.default adaptive_avg_pool2d.default": pooling.adaptive_avg_pool,
    "add.Tensor": pointwise.add,
    "alias.default clone.default contiguous.default": shape.identity,
    "avg_pool1d.default avg_pool2d.default": pooling.avg_pool,
    "cat.default": shape.cat,
    "conv1d.default conv1d.padding conv2d.default conv2d.padding": convolution.convolution,
    "cross_entropy_loss.default": head.cross_entropy,
    "div.Scalar div.Tensor": pointwise.div,
    "gelu.default": pointwise.gelu,
    "group_norm.default": normalisation.group_norm,
    "hardsigmoid.default": pointwise.hardsigmoid,
    "hardswish.default": pointwise.hardswish,
    "hardtanh.default": pointwise.hardtanh,
    "instance_norm.default": normalisation.instance_norm,
    "layer_norm.default": normalisation.layer_norm,
    "linear.default": head.linear,
    "max_pool1d.default max_pool2d.default": pooling.max_pool,
    "mean.dim": shape.mean,
    "mul.Scalar mul.Tensor": pointwise.mul,
    "native_dropout.default": head.dropout,
    "new_ones.default": shape.new_ones,
    "permute.default": shape.permute,
    "relu.default": pointwise.relu,
    "sigmoid.default": pointwise.sigmoid,
    "silu.default": pointwise.silu,
    "slice.Tensor": shape.slice_,
    "split.Tensor split_with_sizes.default": shape.split,
    "squeeze.dim squeeze.dims unsqueeze.default": shape.view,
    "stack.default": shape.stack,
    "sub.Tensor": pointwise.sub,
    "sum.default": shape.sum_all,
    "tanh.default": pointwise.tanh,
    "transpose.int": shape.transpose,
}
RULES: Mapping[str, Rule] = MappingProxyType(
    {f"aten.{name}": rule for names, rule in _RULES.items() for name in names.split()}
)
"""By the operator's ATen name."""
