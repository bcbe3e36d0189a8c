"""What a device can do through ONNX Runtime at best, in a process without torch: arithmetic, and the cost of a node."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cnnbench.records.messages import MeasuredPeaks, MeasurePeaks
from cnnbench.records.peaks import CallCost, Kernel, Smallest, Throughput
from cnnbench.suite.case import Device
from cnnbench.worker.peaks import kernels as peaks
from cnnbench.worker.peaks.kernels import ConvShape
from cnnbench.worker.runtimes.ort import make_session

CHAIN = 4
"""Convolutions in a row: the layout that ONNX Runtime changes before the first and after the last counts for less."""
CONVOLUTIONS: dict[Kernel, ConvShape] = {
    "3x3 convolution": peaks.CONV_3X3,
    "1x1 convolution": peaks.CONV_1X1,
    "depthwise convolution": peaks.DEPTHWISE,
}
OPSET, IR = 17, 10
Array = np.ndarray[Any, np.dtype[np.float32]]


def measure(request: MeasurePeaks) -> MeasuredPeaks:
    """Kernels in float32, which is what its graphs are run in here, and the cost of a node. Memory is torch's part."""
    device, threads, seconds = request.device, request.threads, request.kernel_s

    def matrices(side: int) -> Callable[[], object]:
        ones: Array = np.ones((side, side), np.float32)
        return _runner([_node("MatMul", 0)], {"w": ones / np.float32(side)}, ones, device, threads)

    throughputs = [
        _throughput("matrix product", f"{side}x{side}x{side}", 2 * side**3, taken)
        for side, taken in peaks.grown(peaks.MATRIX_SIDES, matrices, seconds).items()
    ]
    for kernel, shape in CONVOLUTIONS.items():

        def images(batch: int, shape: ConvShape = shape) -> Callable[[], object]:
            ones: Array = np.ones((batch, shape.channels, shape.side, shape.side), np.float32)
            return _runner(_convolutions(shape, CHAIN), {"w": _weights(shape)}, ones, device, threads)

        throughputs += [
            _throughput(kernel, f"{shape.text(batch)}, {CHAIN} in a row", CHAIN * shape.flop(batch), taken)
            for batch, taken in peaks.grown(peaks.BATCHES, images, seconds).items()
        ]
    one: Array = np.ones((1, 1, 1, 1), np.float32)
    smallest = ConvShape(1, 1, 1)
    nodes: dict[Smallest, Sequence[NodeProto]] = {
        "operator": [_node("Sin", place, weights=False) for place in range(peaks.CALLS)],
        "convolution": _convolutions(smallest, peaks.CALLS),
    }
    calls = []
    for name, chain in nodes.items():
        weights = {} if name == "operator" else {"w": _weights(smallest)}
        taken = peaks.repeat(_runner(chain, weights, one, device, threads), seconds)
        calls.append(CallCost(library="onnxruntime", smallest=name, calls=peaks.CALLS, seconds=taken))
    return MeasuredPeaks(device_name="", throughputs=throughputs, bandwidths=[], calls=calls, failures={})


def _throughput(kernel: Kernel, size: str, flop: int, taken: list[float]) -> Throughput:
    return Throughput(library="onnxruntime", kernel=kernel, precision="fp32", size=size, flop=flop, seconds=taken)


def _weights(shape: ConvShape) -> Array:
    """That keep ones as they are, wherever a window does not reach over the border."""
    kernel_elements = shape.channels // shape.groups * shape.kernel**2
    weights: Array = np.full(
        (shape.channels, shape.channels // shape.groups, shape.kernel, shape.kernel), 1 / kernel_elements
    )
    return weights.astype(np.float32)


def _node(operator: str, place: int, *, weights: bool = True, **settings: Any) -> NodeProto:
    """Takes the value `x<place>` and puts out the next one."""
    return helper.make_node(operator, [f"x{place}", *(["w"] if weights else [])], [f"x{place + 1}"], **settings)


def _convolutions(shape: ConvShape, count: int) -> list[NodeProto]:
    padding = [shape.kernel // 2] * 4
    return [_node("Conv", place, pads=padding, group=shape.groups) for place in range(count)]


def _runner(
    nodes: Sequence[NodeProto], weights: dict[str, Array], x: Array, device: Device, threads: int
) -> Callable[[], object]:
    """A run of the nodes one after the other, input and output bound to the device; over when the device is done."""
    graph = helper.make_graph(
        nodes,
        "peaks",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info(f"x{len(nodes)}", TensorProto.FLOAT, x.shape)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    session = make_session(model.SerializeToString(), device, threads)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x0", ort.OrtValue.ortvalue_from_numpy(x, device, 0))
    binding.bind_output(f"x{len(nodes)}", device)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run
