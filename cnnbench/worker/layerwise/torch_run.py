"""The layers of a module in PyTorch: the float64 reference, eager, and compiled."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import torch

from cnnbench.errors import ModelError
from cnnbench.records import layer_values
from cnnbench.records.task_messages import (
    LayersOpened,
    LayersRead,
    OpenLayers,
    OpenReference,
    ReadLayers,
    Value,
)
from cnnbench.suite.case import Case
from cnnbench.suite.runtimes import FREEZING, runtime_kind, split
from cnnbench.worker.layerwise.program import Part, TracedProgram, array_of, like
from cnnbench.worker.layerwise.stepped import Stepped, largest_difference
from cnnbench.worker.reference.image_file import with_image
from cnnbench.worker.reference.parity import Array, open_artifact, several, tiled
from cnnbench.worker.runtimes.eager import EagerInference
from cnnbench.worker.runtimes.registry import class_of

Compiled: TypeAlias = Callable[..., Sequence[torch.Tensor]]
MATERIALISED = {"conv1d", "conv2d", "conv3d", "convolution", "linear", "addmm", "mm", "bmm", "matmul"}
"""Operations that a compiler calls a library for, so that what they read and put out lies in memory in any case."""


def program_of(request: OpenReference) -> tuple[TracedProgram, dict[int, Array]]:
    """The model's, and its outputs by place where they are known: for reference inputs. Raises ModelError."""
    torch.set_num_threads(request.threads)
    case = Case(spec=request.spec, workload="inference", runtime="eager", batch=request.batch)
    program = _traced(_runtime(case, request))
    reference = several(tiled(open_artifact(Path(request.folder), request.golden)[1].reference, request.batch))
    is_known = request.image is None and len(reference) == len(program.outputs)
    return program, dict(zip(program.outputs, reference, strict=True)) if is_known else {}


def open_run(request: OpenLayers, reference: TracedProgram | None) -> "EagerLayers | CompiledLayers":
    """A run, of the reference's trace and weights where they are its own. Raises ModelError."""
    runtime = _runtime(request.case, request)
    own, known = runtime.module.state_dict(), reference.module.state_dict() if reference else {}
    types = [{name: (x.dtype, x.stride()) for name, x in each.items()} for each in (own, known)]
    if reference and types[0] == types[1]:
        runtime.module.load_state_dict(known, assign=True)
        program = reference
    else:
        program = _traced(runtime)
        if not program.align(request.values):
            raise ModelError(f"{request.case.backend}: its program has other layers than that in float32")
    name = runtime_kind(request.case.runtime).name
    return (CompiledLayers if name == "compile" else EagerLayers)(runtime, program)


def _runtime(case: Case, request: OpenReference | OpenLayers) -> EagerInference:
    facts, golden = open_artifact(folder := Path(request.folder), request.golden)
    kind = class_of(case.runtime, case.workload)
    made = kind(case, facts, folder, with_image(tiled(golden.images, case.batch), request.image), request.threads)
    assert isinstance(made, EagerInference)
    return made


def _traced(runtime: EagerInference) -> TracedProgram:
    half = runtime.half
    inputs = [x.to(half) if half and x.is_floating_point() else x for x in runtime.inputs]
    try:
        return TracedProgram(runtime.module, inputs)
    except ModelError as error:
        raise ModelError(f"model {runtime.case.spec.model!r}: {error}") from None


class EagerLayers:
    """Operation by operation: what runs is what is shipped."""

    def __init__(self, runtime: EagerInference, program: TracedProgram) -> None:
        self._runtime, self._program = runtime, program
        self._as_is, self._fed = (Stepped(self._program.walk()) for _ in range(2))
        self._at, self._outputs = 0, dict.fromkeys(self._program.outputs, None)
        self._made: dict[int, Array] = {}

    def opened(self) -> LayersOpened:
        """All values."""
        values = self._program.values
        return LayersOpened(places=list(range(len(values))), operators=[value.operator for value in values])

    def read(self, request: ReadLayers) -> LayersRead:
        """The values up to a place."""
        with self._runtime.autocast:
            for place in range(self._at, request.until):
                values, fed = self._as_is.value(), self._fed.value()
                layer_values.save(request.folder, request.name, place, values)
                layer_values.save(request.folder, layer_values.fed(request.name), place, fed)
                self._fed.go_on_with(layer_values.load(request.folder, layer_values.REFERENCE, place))
                if place in self._outputs:
                    self._made[place] = values
        self._at = request.until
        if request.until < len(self._program.values):
            return LayersRead()
        return LayersRead(asked=_asked(self._runtime, self._program, self._made))


class CompiledLayers:
    """A compiled program that puts out, beside its outputs, values that lie in memory in any case.

    What computes each of them from those that it reads is compiled too, all in one program, to be fed with the
    reference's values.
    """

    def __init__(self, runtime: EagerInference, program: TracedProgram) -> None:
        from torch._inductor import config

        self._runtime, self._program = runtime, program
        variant = split(runtime.case.runtime)[1]
        self._freezes = variant == FREEZING
        self._mode = None if self._freezes else variant or None
        config.compile_threads = torch.get_num_threads()  # nothing is timed here
        self._places = self._program.reading(MATERIALISED)
        whole, self._part = self._program.part([], self._places), self._program.part(self._places, self._places)
        torch._dynamo.reset()
        made = self._run(self._compiled(whole), self._places)
        self._made = dict(zip(self._places, made, strict=True))
        self._feeds = {place: self._made[place] for place in self._part.given}
        """The reference's as soon as they are known, before that the run's."""
        self._fed: Compiled | None = None
        self._outputs: dict[int, Array] = {}
        self._at = 0

    def opened(self) -> LayersOpened:
        """The values that lie in memory."""
        values: list[Value] = self._program.values
        operators = [values[place].operator for place in self._places]
        return LayersOpened(places=self._places, operators=operators, at_once=True)

    def read(self, request: ReadLayers) -> LayersRead:
        """The values up to a place."""
        wanted = [place for place in self._places if self._at <= place < request.until]
        for place, fed in self._read(wanted, request.folder):
            made = array_of(self._made.pop(place))
            layer_values.save(request.folder, request.name, place, made)
            layer_values.save(request.folder, layer_values.fed(request.name), place, array_of(fed))
            if place in self._program.outputs:
                self._outputs[place] = made
        self._at = request.until
        if request.until < len(self._program.values):
            return LayersRead()
        self._feeds, self._fed = {}, None
        return LayersRead(asked=_asked(self._runtime, self._program, self._outputs))

    def _read(self, wanted: list[int], folder: str) -> list[tuple[int, torch.Tensor]]:
        """The values that are made of the reference's."""
        if not wanted:
            return []
        for place in set(wanted) & self._feeds.keys():
            self._feeds[place] = like(layer_values.load(folder, layer_values.REFERENCE, place), self._feeds[place])
        if self._fed is None:
            self._fed = self._compiled(self._part)
        return list(zip(wanted, self._run(self._fed, wanted, self._feeds.values()), strict=True))

    def _compiled(self, part: Part) -> Compiled:
        run: Compiled = torch.compile(part.module, mode=self._mode, dynamic=False)
        return run

    def _run(self, compiled: Compiled, wanted: Sequence[int], feeds: Iterable[torch.Tensor] = ()) -> list[torch.Tensor]:
        """The values at some places, in the memory layout that the compiler gives them: none is copied into another."""
        from torch._inductor import config

        settings = {"keep_output_stride": False, "freezing": self._freezes}
        with torch.inference_mode(), self._runtime.autocast, config.patch(settings):
            made = zip(self._places, compiled(*self._program.inputs, *feeds), strict=True)
            return [y.clone() for place, y in made if place in wanted]


def _asked(runtime: EagerInference, program: TracedProgram, made: dict[int, Array]) -> float | None:
    """The largest difference between the outputs of the program and of what is shipped."""
    facts_inputs = tuple(x.numpy() for x in runtime.inputs)
    shipped = several(runtime.predict(facts_inputs if len(facts_inputs) > 1 else facts_inputs[0]))
    outputs = [made[place] for place in program.outputs]
    return largest_difference(outputs, shipped) if len(outputs) == len(shipped) else None
