"""An ONNX graph in float64: onnx's reference implementation on a copy whose float32 values are float64. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_average_pool import AveragePool_19 as SlowAveragePool
from onnx.reference.ops.op_max_pool import MaxPool as SlowMaxPool

from cnnbench.worker.reference.parity import Array

MODERN = 15
"""The opset since which softmax and batch normalisation mean what they do today."""


class Float64:
    """Runs a graph in float64. Raises whatever onnx's reference implementation raises where it cannot."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = ReferenceEvaluator(in_float64(modern(model)), new_ops=[MaxPool, AveragePool])

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs, in order."""
        wide = {name: x.astype(np.float64) if x.dtype == np.float32 else x for name, x in feeds.items()}
        return [np.asarray(y) for y in self._evaluator.run(None, wide)]


def modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same in a later opset, if it can be converted: onnx's implementation has an operator's last meaning alone."""
    if all(opset.version >= MODERN for opset in model.opset_import if opset.domain in ("", "ai.onnx")):
        return model
    try:
        return onnx.version_converter.convert_version(model, MODERN)
    except Exception:  # the converter's own, of many kinds
        return model


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose float32 weights, constants, casts and declared types are float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for graph in _graphs(wide.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            tensor = value.type.tensor_type
            if tensor.elem_type == TensorProto.FLOAT:
                tensor.elem_type = TensorProto.DOUBLE
        for tensor in graph.initializer:
            _widen(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    _widen(attribute.t)
                if node.op_type in ("Cast", "EyeLike") and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.DOUBLE
    return wide


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, and those inside its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


class MaxPool(SlowMaxPool):
    """The same as onnx's, whose Python loop takes minutes for one image, where windows are plain."""

    op_domain = ""

    def _run(self, x: Array, *args: Any, **settings: Any) -> Any:  # type: ignore[override]
        windows = _windows(x, -np.inf, settings) if len(self.onnx_node.output) == 1 else None
        if windows is None:
            return super()._run(x, *args, **settings)  # type: ignore[no-untyped-call]
        return (windows.max(axis=_axes(x)),)


class AveragePool(SlowAveragePool):
    """The same as onnx's, where windows are plain and none hangs over the edge."""

    op_domain = ""

    def _run(self, x: Array, *args: Any, **settings: Any) -> Any:  # type: ignore[override]
        windows = _windows(x, 0.0, settings)
        if windows is None:
            return super()._run(x, *args, **settings)  # type: ignore[no-untyped-call]
        counted = _windows(np.ones_like(x), float(settings.get("count_include_pad") or 0), settings)
        assert counted is not None
        return (windows.sum(axis=_axes(x)) / counted.sum(axis=_axes(x)),)


def _axes(x: Array) -> tuple[int, ...]:
    return tuple(range(-(x.ndim - 2), 0))


def _windows(x: Array, padding: float, settings: Mapping[str, Any]) -> Array | None:
    """Each window of x (N, C, ...) in axes at the end; None for settings that only onnx's loop knows."""
    sides = x.ndim - 2
    kernel: Sequence[int] = settings["kernel_shape"]
    strides = settings.get("strides") or [1] * sides
    pads = settings.get("pads") or [0] * 2 * sides
    is_plain = settings.get("auto_pad") in (None, "NOTSET", "VALID") and set(settings.get("dilations") or [1]) == {1}
    if not is_plain or settings.get("ceil_mode") or settings.get("storage_order"):
        return None
    around = [(0, 0), (0, 0), *zip(pads[:sides], pads[sides:], strict=True)]
    windows = sliding_window_view(np.pad(x, around, constant_values=padding), tuple(kernel), _axes(x))
    steps = (slice(None), slice(None), *(slice(None, None, step) for step in strides))
    found: Array = windows[steps]
    return found
