"""What a device can do through ONNX Runtime at best, in a process without torch: arithmetic, and the cost of a node."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from cnnbench.records.peaks import Smallest
from cnnbench.records.task_messages import MeasuredPeaks, MeasurePeaks
from cnnbench.suite.case import Device
from cnnbench.worker.peaks.kernels import CALLS, Call, ConvShape, call_costs, convolutions, matrix_products
from cnnbench.worker.runtimes.ort import chain, make_session, placed

CHAIN = 4
"""Convolutions in a row: the layout that ONNX Runtime changes before the first and after the last counts for less."""
Array = np.ndarray[Any, np.dtype[np.float32]]


def measure(request: MeasurePeaks) -> MeasuredPeaks:
    """Kernels in float32, which is what its graphs are run in here, and the cost of a node. Memory is torch's part."""
    device, threads, seconds = request.device, request.threads, request.kernel_s

    def product(side: int) -> Call:
        ones: Array = np.ones((side, side), np.float32)
        return _runner([_node("MatMul", 0)], ones / np.float32(side), ones, device, threads)

    def row(shape: ConvShape, batch: int, count: int = CHAIN) -> Call:
        nodes = [_node("Conv", place, pads=[shape.kernel // 2] * 4, group=shape.groups) for place in range(count)]
        kernel_elements = shape.channels // shape.groups * shape.kernel**2  # ones stay ones inside the border
        weight: Array = np.full(shape.weight, 1 / kernel_elements, np.float32)
        return _runner(nodes, weight, np.ones(shape.images(batch), np.float32), device, threads)

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
        ],
        bandwidths=[],
        calls=call_costs("onnxruntime", calls, seconds),
        failures={},
    )


def _node(operator: str, place: int, *, has_weight: bool = True, **settings: Any) -> NodeProto:
    """Takes the value `x<place>` and puts out the next one."""
    return helper.make_node(operator, [f"x{place}", *["w"] * has_weight], [f"x{place + 1}"], **settings)


def _runner(nodes: Sequence[NodeProto], weight: Array | None, x: Array, device: Device, threads: int) -> Call:
    """A run of the nodes one after the other, input and output bound to the device; over when the device is done."""
    weights = [] if weight is None else [numpy_helper.from_array(weight, "w")]
    session = make_session(chain(nodes, x.shape, *weights), device, threads)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x0", placed(x, device))
    binding.bind_output(f"x{len(nodes)}", device)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run
