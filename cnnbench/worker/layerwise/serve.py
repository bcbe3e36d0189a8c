"""The requests of a comparison layer by layer, each to what reads the layers there. No torch here."""

from typing import Any

from cnnbench.records.task_messages import (
    LayersOpened,
    LayersRead,
    OpenLayers,
    OpenReference,
    ReadLayers,
    ReadReference,
    ReferenceOpened,
    ReferenceRead,
)
from cnnbench.suite.runtimes import runtime_kind
from cnnbench.worker.layerwise.stepped import Reference


class Reading:
    """What a process reads layers of: the reference, and runs by name."""

    def __init__(self) -> None:
        self._reference: Reference | None = None
        self._request: OpenReference | None = None
        self._runs: dict[str, Any] = {}

    def open_reference(self, request: OpenReference) -> ReferenceOpened:
        """List the model's values; the same model is read from the beginning again."""
        self._runs.clear()
        if self._reference and request == self._request:
            self._reference = Reference(self._reference.program, self._reference.expected)
        elif request.spec.is_onnx_file:
            from cnnbench.worker.layerwise.graph_program import GraphProgram

            self._reference = Reference(GraphProgram(request), {})
        else:
            from cnnbench.worker.layerwise.torch_run import program_of

            self._reference = Reference(*program_of(request))
        self._request = request
        return ReferenceOpened(values=self._reference.program.values)

    def read_reference(self, request: ReadReference) -> ReferenceRead:
        """Go on in float64."""
        assert self._reference is not None
        return self._reference.read(request)

    def open_layers(self, request: OpenLayers) -> LayersOpened:
        """Prepare a run."""
        if request.file or runtime_kind(request.case.runtime).runs_exported_graph:
            from cnnbench.worker.layerwise.ort_run import OrtLayers

            run: Any = OrtLayers(request)
        else:
            from cnnbench.worker.layerwise.torch_run import open_run

            shared: Any = self._reference.program if self._reference else None
            run = open_run(request, shared)
        self._runs[request.name] = run
        found: LayersOpened = run.opened()
        return found

    def read_layers(self, request: ReadLayers) -> LayersRead:
        """Go on with the run."""
        found: LayersRead = self._runs[request.name].read(request)
        return found
