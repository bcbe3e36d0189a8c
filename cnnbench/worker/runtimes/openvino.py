"""OpenVINO on the exported graph, in a process that imports neither torch nor ONNX Runtime."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import CONSTANT, GOLDEN, graph_file, read_graph
from cnnbench.records.record import ArtifactFacts, Ran
from cnnbench.suite.case import Case, Device
from cnnbench.suite.runtimes import split
from cnnbench.worker.reference.parity import Array, Tensors, several
from cnnbench.worker.runtimes.base import Runtime
from cnnbench.worker.runtimes.shares import Executed, precision_facts, shares
from cnnbench.worker.timing.measure import Phases

HINTS = {"": "LATENCY", "latency": "LATENCY", "throughput": "THROUGHPUT"}
"""OpenVINO's performance hint by the runtime's variant."""
COMPUTING = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
"""The CPU plug-in's kinds of nodes that do a network's arithmetic."""
NOT_EXECUTED = {"Input", "Output", "Const"}
HALVES = {"fp16": "f16", "bf16": "bf16"}
INTEGERS = {"i8": "int8", "u8": "int8"}
FLOATS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "f64": "fp64"}
"""Our names of its types of floating-point numbers."""


class OpenVino(Runtime):
    """Timed: one inference request of the batch, or with the throughput hint several at once that share the batch.

    The graph is compiled for the case's own batch.
    """

    takes_any_batch = False

    def __init__(
        self, case: Case, facts: ArtifactFacts, folder: Path, batch: Tensors, threads: int, *, count: bool = False
    ) -> None:
        """`count`: measure the time of each node, which slows it down."""
        if not (folder / graph_file(case)).exists():
            raise WorkerError("the model could not be exported to ONNX")
        self.case, self.facts = case, facts
        self.made = read_graph(folder, case) if case.has_own_graph else None
        self.hint = HINTS[split(case.runtime)[1]]
        model = ov.Core().read_model(folder / graph_file(case))
        self.constants = {model.input(name).get_any_name(): value for name, value in _constants(facts, folder)}
        self.names = [each.get_any_name() for each in model.inputs if each.get_any_name() not in self.constants]
        can_divide = self.hint == "THROUGHPUT" and facts.batch is None and not facts.whole_outputs
        self.parts = _divisor(case.batch, threads if can_divide else 1)
        self.compiled = self._compile(model, several(batch), threads, count)
        if (useful := int(self.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))) < self.parts:
            self.parts = _divisor(case.batch, useful)
            self.compiled = self._compile(model, several(batch), threads, count)
        self.requests = self._requests(several(batch))

    def _compile(self, model: Any, batch: Sequence[Array], threads: int, count: bool) -> Any:
        """For a part of the batch. Raises WorkerError where the graph or its shapes cannot be compiled."""
        shapes = {name: [len(x) // self.parts, *x.shape[1:]] for name, x in zip(self.names, batch, strict=True)}
        shapes |= {name: list(value.shape) for name, value in self.constants.items()}
        settings = {
            "PERFORMANCE_HINT": self.hint,
            "INFERENCE_PRECISION_HINT": HALVES.get(self.case.format, "f32"),  # else bfloat16 where there is any
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # as in the other runtimes
            "PERF_COUNT": count,
            # One request at a time uses all threads, on a machine of several sockets too.
            **({"NUM_STREAMS": 1} if self.hint == "LATENCY" else {"PERFORMANCE_HINT_NUM_REQUESTS": self.parts}),
        }
        try:
            model.reshape(shapes)
            return ov.Core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise WorkerError(f"OpenVINO cannot compile the graph: {said(error)}") from None

    @classmethod
    def probe(cls, device: Device, variant: str = "") -> str:
        """Run an addition. Raises WorkerError, or OpenVINO's own error."""
        if device != "cpu":
            raise WorkerError("OpenVINO is run on CPUs alone here")
        x = ov.opset13.parameter([1], np.float32)
        compiled = ov.Core().compile_model(ov.Model([ov.opset13.add(x, x)], [x]), "CPU")
        if compiled(np.ones(1, np.float32))[0][0] != 2:
            raise WorkerError("1 + 1 is not 2 on this device")
        return device

    def predict(self, images: Tensors) -> Tensors:
        """Outputs by requests of their own."""
        requests = self._requests(several(images))
        _run(requests)
        return self._outputs(requests)

    def phases(self) -> Phases:
        """Forward, until the outputs of all requests are there."""
        requests = self.requests
        if len(requests) > 1:
            return {"forward": lambda: _run(requests)}
        infer = requests[0].infer

        def forward() -> None:
            infer(share_outputs=True)

        return {"forward": forward}

    def result(self) -> Tensors:
        return self._outputs(self.requests)

    def ran(self) -> Ran:
        """Threads, streams and pinning as compiled, and every type that a node computes in."""
        setting = self.compiled.get_property
        types = {each["type"] for each in self.nodes if each["kind"] in COMPUTING or each["type"] in FLOATS}
        devices = [str(each) for each in setting("EXECUTION_DEVICES")]
        kernels = Counter(each["kernel"] for each in self.nodes)
        return Ran(
            device=" and ".join(devices).lower(),
            device_name=str(ov.Core().get_property("CPU", "FULL_DEVICE_NAME")),
            threads=int(setting("INFERENCE_NUM_THREADS")),
            precision=" and ".join(sorted(FLOATS.get(each, each) for each in types)),
            torch_in_process="torch" in sys.modules,
            providers=devices,
            nodes={devices[0]: len(self.nodes)},
            **(shares(self.formats(), self.made.macs, self.case.format) if self.made else {}),
            operators=dict(Counter(each["kind"] for each in self.nodes).most_common()),
            facts={
                "openvino": ov.__version__,
                "onnxruntime_in_process": "onnxruntime" in sys.modules,
                **(precision_facts(self.case, self.made) if self.made else {}),
                "hint": str(setting("PERFORMANCE_HINT")).rpartition(".")[2],
                "requests": len(self.requests),
                "streams": int(setting("NUM_STREAMS")),
                "pinning": bool(setting("ENABLE_CPU_PINNING")),
                "kernels": ", ".join(f"{name} {count}" for name, count in kernels.most_common()),
            },
        )

    def formats(self) -> list[Executed]:
        """Of each node that does the network's arithmetic."""
        names = {**FLOATS, **INTEGERS}
        found = [node for node in self.nodes if node["kind"] in COMPUTING]
        return [
            Executed(each["origin"].split(","), names.get(each["type"], each["type"]), each["kind"]) for each in found
        ]

    @classmethod
    def formats_on(cls, device: Device) -> tuple[str, ...] | None:
        """Those that the processor computes in, by OpenVINO."""
        able = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("fp32", "int8", *(name for name in ("bf16", "fp16") if name.upper() in able))

    @cached_property
    def nodes(self) -> list[dict[str, Any]]:
        """The executed nodes of the compiled graph: name, kind, kernel, type, and the exported nodes in each."""
        found = []
        for node in self.compiled.get_runtime_model().get_ordered_ops():
            about = {key: str(node.get_rt_info()[key].value) for key in RUNTIME_INFO.values()}
            one = {name: about[key] for name, key in RUNTIME_INFO.items()}
            if one["kind"] not in NOT_EXECUTED:
                found.append({"name": node.get_friendly_name(), **one})
        return found

    def _requests(self, batch: Sequence[Array]) -> list[Any]:
        """One for each part of the batch, with its inputs bound."""
        requests = []
        for place in range(self.parts):
            request = self.compiled.create_infer_request()
            size = self.case.batch // self.parts
            given = {name: x[place * size : (place + 1) * size] for name, x in zip(self.names, batch, strict=True)}
            for name, x in {**given, **self.constants}.items():
                request.set_tensor(name, ov.Tensor(np.ascontiguousarray(x)))  # a copy, which the request keeps
            requests.append(request)
        return requests

    def _outputs(self, requests: Sequence[Any]) -> Tensors:
        """Of all parts, copied; one without a batch gets an axis for it."""
        arrays = []
        for place in range(len(self.compiled.outputs)):
            parts = [np.array(request.get_output_tensor(place).data) for request in requests]
            arrays.append(parts[0][None] if place in self.facts.whole_outputs else np.concatenate(parts))
        return tuple(arrays) if len(arrays) > 1 else arrays[0]


RUNTIME_INFO: Mapping[str, str] = {
    "kind": "layerType",
    "kernel": "primitiveType",
    "type": "runtimePrecision",
    "origin": "originalLayersNames",
}
"""What the CPU plug-in says of each node of a compiled graph."""


def _run(requests: Sequence[Any]) -> None:
    for request in requests:
        request.start_async()
    for request in requests:
        request.wait()


def _divisor(batch: int, most: int) -> int:
    """The largest number of equal parts of a batch, `most` at most."""
    return max(parts for parts in range(1, max(most, 1) + 1) if batch % parts == 0)


def _constants(facts: ArtifactFacts, folder: Path) -> Iterator[tuple[str, Array]]:
    """The inputs of an ONNX file that are the same for all images."""
    if facts.constants:
        from safetensors.numpy import load_file

        values = load_file(folder / GOLDEN)
        yield from ((name, values[CONSTANT + name]) for name in facts.constants)


def said(error: Exception) -> str:
    """The part of OpenVINO's many lines that says what is wrong, without the places in its own code."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(told or lines)[:300]
