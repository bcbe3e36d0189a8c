"""ONNX Runtime on the exported graph, in a process that never imports torch."""

import contextlib
import sys
import tempfile
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import CONSTANT, GOLDEN, graph_file, read_graph
from cnnbench.records.record import ArtifactFacts, GraphFacts, Memory, Ran
from cnnbench.suite.case import Case, Device
from cnnbench.suite.runtimes import CUDA_GRAPH, split
from cnnbench.worker.reference.parity import Array, Tensors, several
from cnnbench.worker.runtimes import cuda_driver
from cnnbench.worker.runtimes.base import Runtime
from cnnbench.worker.runtimes.shares import formats_in, precision_facts, shares
from cnnbench.worker.timing.measure import Phases

if TYPE_CHECKING:
    import onnx

PROVIDERS: dict[Device, tuple[str, dict[str, str]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    # TF32 would be on by itself; device 0 as torch's `cuda`.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0", "device_id": "0"}),
}
Options: TypeAlias = ort.SessionOptions | None
TENSORRT: tuple[str, dict[str, str]] = ("TensorrtExecutionProvider", {"device_id": "0"})
LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
"""Graph optimisation by the runtime's variant; all of it by default."""
COMPUTING = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
"""Operators that do a network's arithmetic. Others, such as those on shapes, belong on the CPU even beside a GPU."""


def make_session(
    graph: str | bytes, device: Device, threads: int, variant: str = "", options: Options = None
) -> ort.InferenceSession:
    """A session on exactly this device. Raises WorkerError where ONNX Runtime falls back to the CPU as a whole."""
    provider = _provider(device, variant)
    options = options or ort.SessionOptions()
    if variant in LEVELS:
        options.graph_optimization_level = LEVELS[variant]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if device != "cpu":
        ort.preload_dlls()
    session = ort.InferenceSession(graph, options, providers=[provider])
    session.disable_fallback()  # in `run`, after an error of the provider
    used = session.get_providers()[0]
    if used != provider[0]:
        raise WorkerError(f"ONNX Runtime was asked for {provider[0]} and fell back to {used}")
    return session


def optimised_model(graph: str | bytes, device: Device, threads: int, variant: str = "") -> "onnx.ModelProto":
    """The model as a session made for this alone has optimised it."""
    import onnx

    with tempfile.TemporaryDirectory(prefix="cnnbench-") as folder:
        file = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(file)
        make_session(graph, device, threads, variant, options)
        return onnx.load(str(file), load_external_data=False)


def _provider(device: Device, variant: str) -> tuple[str, dict[str, str]]:
    """The execution provider that is asked for, with its options."""
    if variant == "tensorrt":
        return TENSORRT
    name, options = PROVIDERS[device]
    return name, {**options, "enable_cuda_graph": "1"} if variant == CUDA_GRAPH else options


def uncaptured() -> ort.RunOptions:
    """Of a run that launches each kernel by itself, also in a session that captures and replays whole runs."""
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "-1")
    return options


def chain(
    nodes: Sequence["onnx.NodeProto"], shape: Sequence[int], *weights: "onnx.TensorProto", dtype: int = 1
) -> bytes:
    """A model of nodes one after the other, from the value `x0` to `x<number of nodes>` of the same shape.

    In float32, or another type by onnx's number.
    """
    from onnx import helper

    first, last = (helper.make_tensor_value_info(f"x{i}", dtype, shape) for i in (0, len(nodes)))
    graph = helper.make_graph(nodes, "chain", [first], [last], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def placed(values: Array, device: Device) -> ort.OrtValue:
    """On the device; on the CPU a view of the array, which must outlive it."""
    return ort.OrtValue.ortvalue_from_numpy(values, device, 0)


def assigned_nodes(session: ort.InferenceSession) -> list[tuple[str, str]]:
    """(provider, operator) of each node of the optimised graph; none where this version does not say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]


class Ort(Runtime):
    """A graph in a session."""

    def __init__(self, case: Case, graph: Path | bytes, threads: int, options: Options = None) -> None:
        self.case, self.graph, self.threads = case, graph if isinstance(graph, bytes) else str(graph), threads
        self.variant = split(case.runtime)[1]
        self.session = make_session(self.graph, case.device, threads, self.variant, options)

    @classmethod
    def probe(cls, device: Device, variant: str = "") -> str:
        """Run a graph of one addition. Raises WorkerError, or ONNX Runtime's own error."""
        from onnx import helper

        graph = chain([helper.make_node("Add", ["x0", "x0"], ["x1"])], [1])
        session = make_session(graph, device, 1, variant)
        if session.run(None, {"x0": np.ones(1, np.float32)}, uncaptured())[0][0] != 2:
            raise WorkerError("1 + 1 is not 2 on this device")
        return device_name(device)

    @abstractmethod
    def put_out(self) -> Any:
        """What the last timed call put out, as an OrtValue."""

    def made_for_precision(self) -> GraphFacts | None:
        """What is known of the graph, where it was made for a precision."""
        return None

    def ran(self) -> Ran:
        """The device of what was put out and of every node that computes, the providers, and the session's options."""
        optimised, made = self.optimised(), self.made_for_precision()
        output, options, nodes = self.put_out(), self.session.get_session_options(), assigned_nodes(self.session)
        expected, device = _provider(self.case.device, self.variant)[0], output.device_name().lower()
        elsewhere = {provider for provider, operator in nodes if operator in COMPUTING and provider != expected}
        return Ran(
            device=" and ".join(sorted(elsewhere)) or device,
            device_name=device_name(device),
            threads=options.intra_op_num_threads,
            precision="unknown" if made else {"tensor(float)": "fp32"}.get(output.data_type(), output.data_type()),
            torch_in_process="torch" in sys.modules,
            providers=self.session.get_providers(),
            nodes=dict(Counter(provider for provider, _ in nodes)),
            operators=dict(Counter(node.op_type for node in optimised.node).most_common()) if optimised else {},
            graph_optimization=options.graph_optimization_level.name,
            **(shares(formats_in(optimised), made.macs, self.case.format) if optimised and made else {}),
            facts={
                "onnxruntime": ort.__version__,
                "execution_mode": options.execution_mode.name,
                **(precision_facts(self.case, made) if made else {}),
            },
        )

    def optimised(self) -> "onnx.GraphProto | None":
        """The graph as it is executed, from a session made for this alone.

        It is not known where there is no place for the optimised graph: that takes nothing from the measurement.
        """
        with contextlib.suppress(OSError, Fail, RuntimeException):
            return optimised_model(self.graph, self.case.device, self.threads, self.variant).graph
        return None

    def memory(self, imported_bytes: int, loaded_bytes: int) -> Memory:
        """With the device's used memory: the session's arena gives nothing back, so that the end is its peak."""
        used_bytes = cuda_driver.used_bytes() if self.case.device == "cuda" else None
        on_host = super().memory(imported_bytes, loaded_bytes)
        return on_host.model_copy(update={"device_used_bytes": used_bytes})


def device_name(device: str) -> str:
    """The GPU's, where the driver says; else ONNX Runtime's own word for the device."""
    return (cuda_driver.device_name() if device == "cuda" else None) or device


class OrtInference(Ort):
    """Timed: one run of the session with input and output bound to the device beforehand."""

    def __init__(
        self, case: Case, facts: ArtifactFacts, folder: Path, batch: Tensors, threads: int, options: Options = None
    ) -> None:
        graph = folder / graph_file(case)
        if not graph.exists():
            raise WorkerError("the model could not be exported to ONNX")
        super().__init__(case, graph, threads, options)
        self.facts, self.folder = facts, folder
        self.is_replayed = self.variant == CUDA_GRAPH
        """Whether a call replays what a first one captured: from the same inputs and to the same outputs in memory."""
        self.takes_any_batch = facts.batch is None and not self.is_replayed
        self.constants = constants_of(facts, folder, case.device)
        self.images = [placed(array, case.device) for array in several(batch)]
        self.binding = self._bind(self.images)

    def predict(self, images: Tensors) -> Tensors:
        """Outputs through a binding of their own; where calls are replayed, through the one that is timed."""
        if self.is_replayed:
            for image, array in zip(self.images, several(images), strict=True):
                image.update_inplace(array)
            binding = self.binding
        else:
            binding = self._bind([placed(array, self.case.device) for array in several(images)])
        self.session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return self._on_host(binding)

    def phases(self) -> Phases:
        """Forward; on a device other than the CPU it ends when the device is done."""
        session, binding = self.session, self.binding
        if self.case.device == "cpu":
            return {"forward": lambda: session.run_with_iobinding(binding)}

        def forward() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return {"forward": forward}

    def result(self) -> Tensors:
        return self._on_host(self.binding)

    def put_out(self) -> Any:
        return self.binding.get_outputs()[0]

    def made_for_precision(self) -> GraphFacts | None:
        return read_graph(self.folder, self.case) if self.case.has_own_graph else None

    def _bind(self, images: Sequence[Any]) -> Any:
        binding = self.session.io_binding()
        names = (value.name for value in self.session.get_inputs() if value.name not in self.constants)
        for name, given in {**self.constants, **dict(zip(names, images, strict=True))}.items():
            binding.bind_ortvalue_input(name, given)
        for value in self.session.get_outputs():
            binding.bind_output(value.name, self.case.device)
        if self.is_replayed:  # outputs that a run has allocated keep their place from now on
            self.session.run_with_iobinding(binding, uncaptured())
            for value, output in zip(self.session.get_outputs(), binding.get_outputs(), strict=True):
                binding.bind_ortvalue_output(value.name, output)
        return binding

    def _on_host(self, binding: Any) -> Tensors:
        """The outputs; one without a batch gets an axis for it."""
        whole = self.facts.whole_outputs
        arrays = tuple(y[None] if place in whole else y for place, y in enumerate(binding.copy_outputs_to_cpu()))
        return arrays if len(arrays) > 1 else arrays[0]


def constants_of(facts: ArtifactFacts, folder: Path, device: Device) -> dict[str, ort.OrtValue]:
    """The inputs that are the same for all images, on the device."""
    if not facts.constants:
        return {}
    from safetensors.numpy import load_file

    values = load_file(folder / GOLDEN)
    return {name: placed(values[CONSTANT + name], device) for name in facts.constants}
