"""Gradient rules: for each ATen operator of a training step, its ONNX nodes and how gradients go back through it."""

from collections.abc import Mapping
from types import MappingProxyType

from cnnbench.worker.export.training.rules import convolution, loss, normalisation, pointwise, pooling, product, shape
from cnnbench.worker.export.training.rules.rule import Rule

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "aten._native_batch_norm_legit_functional.default": normalisation.batch_norm,
        "aten._unsafe_view.default": shape.view,
        "aten.adaptive_avg_pool1d.default": pooling.adaptive_avg_pool,
        "aten.adaptive_avg_pool2d.default": pooling.adaptive_avg_pool,
        "aten.add.Tensor": pointwise.add,
        "aten.alias.default": shape.identity,
        "aten.avg_pool1d.default": pooling.avg_pool,
        "aten.avg_pool2d.default": pooling.avg_pool,
        "aten.cat.default": shape.cat,
        "aten.clone.default": shape.identity,
        "aten.contiguous.default": shape.identity,
        "aten.conv1d.default": convolution.convolution,
        "aten.conv1d.padding": convolution.convolution,
        "aten.conv2d.default": convolution.convolution,
        "aten.conv2d.padding": convolution.convolution,
        "aten.cross_entropy_loss.default": loss.cross_entropy,
        "aten.div.Scalar": pointwise.div,
        "aten.div.Tensor": pointwise.div,
        "aten.flatten.using_ints": shape.view,
        "aten.gelu.default": pointwise.gelu,
        "aten.group_norm.default": normalisation.group_norm,
        "aten.hardsigmoid.default": pointwise.hardsigmoid,
        "aten.hardswish.default": pointwise.hardswish,
        "aten.hardtanh.default": pointwise.hardtanh,
        "aten.instance_norm.default": normalisation.instance_norm,
        "aten.layer_norm.default": normalisation.layer_norm,
        "aten.linear.default": product.linear,
        "aten.max_pool1d.default": pooling.max_pool,
        "aten.max_pool2d.default": pooling.max_pool,
        "aten.mean.dim": shape.mean,
        "aten.mul.Scalar": pointwise.mul,
        "aten.mul.Tensor": pointwise.mul,
        "aten.native_dropout.default": loss.dropout,
        "aten.new_ones.default": shape.new_ones,
        "aten.permute.default": shape.permute,
        "aten.relu.default": pointwise.relu,
        "aten.reshape.default": shape.view,
        "aten.sigmoid.default": pointwise.sigmoid,
        "aten.silu.default": pointwise.silu,
        "aten.slice.Tensor": shape.slice_,
        "aten.split.Tensor": shape.split,
        "aten.split_with_sizes.default": shape.split,
        "aten.squeeze.dim": shape.view,
        "aten.squeeze.dims": shape.view,
        "aten.stack.default": shape.stack,
        "aten.sub.Tensor": pointwise.sub,
        "aten.sum.default": shape.sum_all,
        "aten.tanh.default": pointwise.tanh,
        "aten.transpose.int": shape.transpose,
        "aten.unsqueeze.default": shape.view,
        "aten.view.default": shape.view,
    }
)
"""By the operator's ATen name."""
