"""A training step's graph in ONNX Runtime, with everything that lasts bound to the device between steps. No torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from cnnbench.suite.case import Device
from cnnbench.worker.export.training.names import DROP, IMAGES, LABELS, LEARNING_RATE, LOSS, NEW
from cnnbench.worker.runtimes.ort import make_session

Value = NDArray[Any]


class StepSession:
    """Steps one after the other: what one puts out, the next takes in, without a copy.

    There are two sets of buffers for parameters, states and statistics; each step reads one and writes the other.
    """

    def __init__(self, graph: str, device: Device, threads: int, variant: str = "") -> None:
        """Load the graph. Raises WorkerError where ONNX Runtime does not run it on the device."""
        options = ort.SessionOptions()
        # Nodes as they stand in the graph: each parameter is updated as soon as its gradient is there.
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        self.device: Device = device
        self.session = make_session(graph, device, threads, variant, options)
        self.shapes = {value.name: value.shape for value in self.session.get_inputs()}
        self.lasting = [
            value.name.removesuffix(NEW) for value in self.session.get_outputs() if value.name.endswith(NEW)
        ]
        self.types = {value.name: value.type for value in self.session.get_inputs()}
        self.loss_value = self._placed(np.zeros((), np.float32))

    def begin(self, values: Mapping[str, Value], rate: float, *, drop: bool) -> None:
        """Take parameters and buffers from `values`; what is not there, such as the optimizer's states, is zero."""
        first = {name: self._placed(self._start(name, values)) for name in self.lasting}
        self._buffers = [first, {name: self._placed(self._start(name, values)) for name in self.lasting}]
        self._given = {LEARNING_RATE: self._placed(np.asarray(rate, np.float32))}
        if DROP in self.shapes:
            self._given[DROP] = self._placed(np.asarray(float(drop), np.float32))
        self._block = 0

    def bind(self, images: Value, labels: Value) -> None:
        """Give the next steps their images (N, C, H, W) float32 and labels (N) int64."""
        # Kept, because on the CPU a value is only a view of its array, and a binding does not keep the array alive.
        self._bound = given = {**self._given, IMAGES: self._placed(images), LABELS: self._placed(labels)}
        self._bindings = []
        for read, written in (self._buffers, self._buffers[::-1]):
            binding = self.session.io_binding()
            for name, value in {**given, **read}.items():
                if name in self.shapes:
                    binding.bind_ortvalue_input(name, value)
            for name, value in written.items():
                binding.bind_ortvalue_output(name + NEW, value)
            binding.bind_ortvalue_output(LOSS, self.loss_value)
            self._bindings.append(binding)

    def step(self) -> None:
        """One step; on the CPU it is done when this returns."""
        binding = self._bindings[self._block]
        self.session.run_with_iobinding(binding)
        self._block ^= 1
        if self.device != "cpu":
            binding.synchronize_outputs()

    @property
    def loss(self) -> float:
        """Of the last step, before its update."""
        return float(self.loss_value.numpy())

    def values(self) -> dict[str, Value]:
        """Parameters, buffers and states now, on the host."""
        return {name: value.numpy().copy() for name, value in self._buffers[self._block].items()}

    def _start(self, name: str, values: Mapping[str, Value]) -> Value:
        if name in values:  # a copy: on the CPU, ONNX Runtime works in the array's own memory
            return np.array(values[name], order="C", copy=True)
        return np.zeros(self.shapes[name], np.int64 if "int64" in self.types[name] else np.float32)

    def _placed(self, value: Value) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(value, self.device, 0)
