"""ONNX Runtime on the exported training step, in a process that never imports torch."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from safetensors import safe_open

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import (
    DROP,
    IMAGES,
    INPUT,
    LABELS,
    LEARNING_RATE,
    LOSS,
    METADATA,
    NEW,
    WEIGHTS,
    ordered_file,
    read_step,
    step_files,
)
from cnnbench.records.record import ArtifactFacts, Parity, Ran
from cnnbench.suite.case import Case, Device
from cnnbench.suite.optimizer import TIMED_LEARNING_RATE
from cnnbench.suite.runtimes import split
from cnnbench.worker.graphs.elementary import elementary
from cnnbench.worker.reference.parity import (
    PROOF_IMAGES,
    Array,
    Tensors,
    compare_losses,
    labels_for,
    part,
    several,
)
from cnnbench.worker.runtimes.ordered import LEVEL, ordered
from cnnbench.worker.runtimes.ort import LEVELS, Ort, make_session, placed
from cnnbench.worker.timing.measure import Phases

if TYPE_CHECKING:
    import onnx


class OrtTraining(Ort):
    """Timed: one run of the graph of the whole step; data loading is left out."""

    def __init__(self, case: Case, facts: ArtifactFacts, folder: Path, batch: Tensors, threads: int) -> None:
        step = read_step(folder, case.trainable)
        if step is None or step.error is not None:
            raise WorkerError(f"the training step could not be exported: {step.error if step else 'it is not there'}")
        file = folder / step_files(case.trainable)[0]
        self.is_ordered = case.device == "cpu" and split(case.runtime)[1] not in LEVELS
        super().__init__(case, step_graph(file, self.is_ordered, case.device), threads, step_options(self.is_ordered))
        self.facts, self.images, self.classes, self.places = step, batch, facts.classes, facts.places
        self.labels = labels_for(case.batch, facts.classes, case.spec.seed, facts.places)
        self.weights = folder / WEIGHTS
        self.steps = StepSession(self.session, case.device)
        self._begin()

    def _begin(self) -> None:
        self._start(drop=True)
        self.steps.bind(self.images, self.labels)

    def _start(self, *, drop: bool) -> None:
        in_place = self.facts.in_place and self.case.device == "cpu"  # what a device's provider does was not looked at
        with safe_open(self.weights, framework="np") as stored:  # one at a time: AlexNet's are 233 MiB
            self.steps.begin(_Stored(stored), TIMED_LEARNING_RATE, drop=drop, in_place=in_place)

    def first_call(self, reference_inputs: Tensors) -> None:
        self.steps.step()

    def own_proof(self, reference_inputs: Tensors) -> list[Parity]:
        """The losses of consecutive steps on some reference inputs, from the artifact's weights, against float64's.

        A wrong gradient or update shows in the second. The case's own state is reset afterwards.
        """
        self._start(drop=False)
        first = self.facts.first_image
        images = part(reference_inputs, slice(first, first + PROOF_IMAGES))
        labels = labels_for(len(several(images)[0]), self.classes, self.case.spec.seed, self.places)
        losses = [self.steps.train(images, labels) for _ in self.facts.losses]
        self._begin()
        found = compare_losses(f"{self.case.runtime} losses", losses, self.facts.losses, self.facts.loss_limit)
        return [found, *self.facts.parity]

    def predict(self, images: Tensors) -> Tensors:
        raise WorkerError("a training step puts out no logits")

    def put_out(self) -> Any:
        return self.steps.loss_value

    def optimised(self) -> "onnx.GraphProto | None":
        """The graph as it is executed; one that is `ordered` is that."""
        import onnx

        return onnx.load(str(self.graph)).graph if self.is_ordered else super().optimised()

    def ran(self) -> Ran:
        """With the optimisation that the graph has had: none is left to do where it is `ordered`."""
        ran = super().ran()
        return ran.model_copy(update={"graph_optimization": LEVELS[LEVEL].name}) if self.is_ordered else ran

    def phases(self) -> Phases:
        return {"step": self.steps.step}

    def result(self) -> Array:
        return np.asarray(self.steps.loss)


class _Stored(Mapping[str, Array]):
    """Arrays of an open file of safetensors, each read when it is asked for."""

    def __init__(self, file: Any) -> None:
        self.file, self.names = file, list(file.keys())

    def __getitem__(self, name: str) -> Array:
        found: Array = self.file.get_tensor(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def step_graph(file: Path, is_ordered: bool, device: Device) -> Path | bytes:
    """The graph as the device's provider can run it."""
    if device == "cpu":
        return ordered_file(file) if is_ordered else file
    import onnx

    return bytes(elementary(onnx.load(file)).SerializeToString())


def step_options(is_ordered: bool = False) -> ort.SessionOptions:
    """What a session of a training step asks for; a graph whose nodes are `ordered` has been optimised."""
    options = ort.SessionOptions()
    # Nodes as they stand in the graph: each parameter is updated as soon as its gradient is there.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    # The plan of one block for all of a step's tensors takes twice the memory, and saves no time (docs/training.md).
    options.enable_mem_pattern = False
    if is_ordered:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


class StepSession:
    """Steps one after the other: what one puts out, the next takes in, without a copy.

    Parameters, states and statistics have two sets of buffers, of which each step reads one and writes the other, or
    one, which each step writes over.
    """

    def __init__(self, session: ort.InferenceSession, device: Device) -> None:
        self.device, self.session = device, session
        self.shapes = {value.name: value.shape for value in session.get_inputs()}
        self.types = {value.name: value.type for value in session.get_inputs()}
        self.lasting = [value.name.removesuffix(NEW) for value in session.get_outputs() if value.name.endswith(NEW)]
        described = json.loads(session.get_modelmeta().custom_metadata_map.get(METADATA, "{}"))
        roles = described.get("inputs", {})
        self.inputs = [name for name, role in roles.items() if role == INPUT] or [IMAGES]
        """Names of the model's, in its order."""
        self.same: dict[str, str] = described.get("same", {})
        """By a further name of a tied parameter or buffer: the one that the graph has."""
        self._fixed: dict[str, Array] = {}
        """What no step changes, whether the graph reads it or not."""
        self.loss_value = placed(np.zeros((), np.float32), device)
        self._buffers: list[dict[str, ort.OrtValue]] = []
        self._given: dict[str, ort.OrtValue] = {}
        """Inputs that stay: kept, because on the CPU a value is a view of an array that a binding does not keep."""
        self._bindings: list[Any] = []
        self._next = 0
        """The set of buffers that the next step reads."""

    @classmethod
    def of(cls, file: str, threads: int) -> "StepSession":
        """Load an exported step on the CPU, as it is timed."""
        return cls.of_ordered(ordered(Path(file)), threads)

    @classmethod
    def of_ordered(cls, graph: bytes, threads: int) -> "StepSession":
        """Load a graph whose nodes are `ordered` on the CPU."""
        return cls(make_session(graph, "cpu", threads, options=step_options(is_ordered=True)), "cpu")

    def begin(self, values: Mapping[str, Array], rate: float, *, drop: bool, in_place: bool = False) -> None:
        """Take parameters and buffers from `values`; what is not there, such as the optimizer's states, is zero.

        `in_place`: a step writes over what it has read, instead of into a second set of buffers.
        """
        self._buffers, self._bindings = [], []  # those of before go first
        names = {self.same.get(name, name): name for name in values}
        self._buffers = [
            {name: placed(self._start(name, names, values), self.device) for name in self.lasting}
            for _ in range(1 if in_place else 2)
        ]
        fixed = names.keys() - set(self.lasting)
        self._fixed = {name: np.array(values[names[name]], order="C", copy=True) for name in fixed}
        scalars = {LEARNING_RATE: rate, DROP: float(drop)}
        given = {name: np.asarray(value, np.float32) for name, value in scalars.items()} | self._fixed
        self._given = {name: placed(value, self.device) for name, value in given.items() if name in self.shapes}
        self._next = 0

    def set_rate(self, rate: float) -> None:
        """The learning rate of the steps that are bound from now on."""
        self._given[LEARNING_RATE] = placed(np.asarray(rate, np.float32), self.device)

    def bind(self, images: Tensors, labels: Array) -> None:
        """Give the next steps their images (N, C, H, W) float32, or several inputs, and labels (N) int64."""
        given = {**dict(zip(self.inputs, several(images), strict=True)), LABELS: labels}
        self._given |= {name: placed(array, self.device) for name, array in given.items()}
        self._bindings = []
        for read, written in zip(self._buffers, reversed(self._buffers), strict=True):
            binding = self.session.io_binding()
            for name, value in {**self._given, **read}.items():
                if name in self.shapes:
                    binding.bind_ortvalue_input(name, value)
            for name, value in written.items():
                binding.bind_ortvalue_output(name + NEW, value)
            binding.bind_ortvalue_output(LOSS, self.loss_value)
            self._bindings.append(binding)

    def step(self) -> None:
        """One step on what is bound; on the CPU it is done when this returns."""
        binding = self._bindings[self._next]
        self.session.run_with_iobinding(binding)
        self._next = (self._next + 1) % len(self._bindings)
        if self.device != "cpu":
            binding.synchronize_outputs()

    def train(self, images: Tensors, labels: Array) -> float:
        """One step on images, or several inputs, and labels of its own; the loss before it."""
        self.bind(images, labels)
        self.step()
        return self.loss

    @property
    def loss(self) -> float:
        """Of the last step, before its update."""
        return float(self.loss_value.numpy())

    def values(self) -> dict[str, Array]:
        """Parameters, buffers and states now, on the host."""
        changed = {name: value.numpy().copy() for name, value in self._buffers[self._next].items()}
        found = changed | self._fixed
        return found | {name: found[first] for name, first in self.same.items() if first in found}

    def _start(self, name: str, names: Mapping[str, str], values: Mapping[str, Array]) -> Array:
        if name in names:  # a copy: on the CPU, ONNX Runtime works in the array's own memory
            return np.array(values[names[name]], order="C", copy=True)
        return np.zeros(self.shapes[name], np.int64 if "int64" in self.types[name] else np.float32)
