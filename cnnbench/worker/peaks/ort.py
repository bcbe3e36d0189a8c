"""What a device can do through ONNX Runtime at best, in a process without torch: arithmetic, and the cost of a node."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cnnbench.records.peaks import Smallest
from cnnbench.records.task_messages import MeasuredPeaks, MeasurePeaks
from cnnbench.suite.case import Device
from cnnbench.worker.peaks.kernels import CALLS, Call, ConvShape, call_costs, convolutions, matrix_products
from cnnbench.worker.runtimes.ort import chain, make_session, placed

CHAIN = 4
"""Convolutions in a row: the layout that ONNX Runtime changes before the first and after the last counts for less."""
Array = np.ndarray[Any, np.dtype[Any]]


def measure(request: MeasurePeaks) -> MeasuredPeaks:
    """Kernels in float32 and, on the CPU, int8, and the cost of a node. Memory is torch's part."""
    device, threads, seconds = request.device, request.threads, request.kernel_s

    def product(side: int) -> Call:
        ones: Array = np.ones((side, side), np.float32)
        return _runner([_node("MatMul", 0)], ones / np.float32(side), ones, device, threads)

    def row(shape: ConvShape, batch: int, count: int = CHAIN) -> Call:
        nodes = [_node("Conv", place, pads=[shape.kernel // 2] * 4, group=shape.groups) for place in range(count)]
        kernel_elements = shape.channels // shape.groups * shape.kernel**2  # ones stay ones inside the border
        weight: Array = np.full(shape.weight, 1 / kernel_elements, np.float32)
        return _runner(nodes, weight, np.ones(shape.images(batch), np.float32), device, threads)

    def product_in_int8(side: int) -> Call:
        ones: Array = np.ones((side, side), np.uint8)
        return _int8_runner([_int8_node("QLinearMatMul", 0)], ones.astype(np.int8), ones, threads)

    def row_in_int8(shape: ConvShape, batch: int) -> Call:
        pads, groups = [shape.kernel // 2] * 4, shape.groups
        nodes = [_int8_node("QLinearConv", place, pads=pads, group=groups) for place in range(CHAIN)]
        return _int8_runner(nodes, np.ones(shape.weight, np.int8), np.ones(shape.images(batch), np.uint8), threads)

    operators = [_node("Sin", place, has_weight=False) for place in range(CALLS)]
    calls: dict[Smallest, Call] = {
        "operator": _runner(operators, None, np.ones((1, 1, 1, 1), np.float32), device, threads),
        "convolution": row(ConvShape(1, 1, 1), 1, CALLS),
    }
    return MeasuredPeaks(
        device_name="",
        throughputs=[
            *matrix_products("onnxruntime", "fp32", product, seconds),
            *convolutions("onnxruntime", "fp32", row, seconds, f"{CHAIN} in a row", CHAIN),
            *(matrix_products("onnxruntime", "int8", product_in_int8, seconds) if device == "cpu" else ()),
            *(
                convolutions("onnxruntime", "int8", row_in_int8, seconds, f"{CHAIN} in a row", CHAIN)
                if device == "cpu"
                else ()
            ),
        ],
        bandwidths=[],
        calls=call_costs("onnxruntime", calls, seconds),
        failures={},
    )


def _node(operator: str, place: int, *, has_weight: bool = True, **settings: Any) -> NodeProto:
    """Takes the value `x<place>` and puts out the next one."""
    return helper.make_node(operator, [f"x{place}", *["w"] * has_weight], [f"x{place + 1}"], **settings)


def _int8_node(operator: str, place: int, **settings: Any) -> NodeProto:
    """The same of unsigned 8-bit integers, with weights of 8 bits."""
    inputs = [f"x{place}", "scale", "zero", "w", "scale", "weight_zero", "scale", "zero"]
    return helper.make_node(operator, inputs, [f"x{place + 1}"], **settings)


def _int8_runner(nodes: Sequence[NodeProto], weight: Array, x: Array, threads: int) -> Call:
    """A run on the CPU; results of all scales are as fast."""
    constants = {"w": weight, "scale": np.float32(1), "zero": np.uint8(0), "weight_zero": np.int8(0)}
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return _bound(chain(nodes, x.shape, *weights, dtype=TensorProto.UINT8), len(nodes), x, "cpu", threads)


def _runner(nodes: Sequence[NodeProto], weight: Array | None, x: Array, device: Device, threads: int) -> Call:
    """A run of the nodes one after the other, input and output bound to the device; over when the device is done."""
    weights = [] if weight is None else [numpy_helper.from_array(weight, "w")]
    return _bound(chain(nodes, x.shape, *weights), len(nodes), x, device, threads)


def _bound(graph: bytes, count: int, x: Array, device: Device, threads: int) -> Call:
    session = make_session(graph, device, threads)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x0", placed(x, device))
    binding.bind_output(f"x{count}", device)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run
