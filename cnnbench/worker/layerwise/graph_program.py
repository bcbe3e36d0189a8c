"""The graph of an ONNX file, run node by node by onnx's reference implementation. No torch."""

from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from cnnbench.errors import ModelError
from cnnbench.records.artifact import CONSTANT, GOLDEN, GRAPH
from cnnbench.records.task_messages import OpenReference, Value
from cnnbench.worker.layerwise.stepped import Walk
from cnnbench.worker.profilers.onnx_origin import name_of
from cnnbench.worker.reference.image_file import with_image
from cnnbench.worker.reference.onnx_float64 import AveragePool, MaxPool, in_float64, modern
from cnnbench.worker.reference.parity import Array, open_artifact, several, tiled

Nodes = Generator[tuple[onnx.NodeProto, str, Array], Array | None, None]
"""Each value with its node and name; takes what to go on with instead, if anything."""


class GraphProgram:
    """A graph with the places of its values."""

    def __init__(self, request: OpenReference) -> None:
        """Run it once to know its values. Raises ModelError where onnx's reference implementation cannot."""
        folder = Path(request.folder)
        facts, golden = open_artifact(folder, request.golden)
        self._model = modern(onnx.load(str(folder / GRAPH)))
        weights = {tensor.name for tensor in self._model.graph.initializer} | set(facts.constants)
        names = [value.name for value in self._model.graph.input if value.name not in weights]
        images = with_image(tiled(golden.images, request.batch), request.image)
        self._feeds = dict(zip(names, several(images), strict=True))
        self.images = several(images)
        if facts.constants:
            from safetensors.numpy import load_file

            stored = load_file(folder / GOLDEN)
            self._feeds |= {name: stored[CONSTANT + name] for name in facts.constants}
        self._makers = {output: node for node in self._model.graph.node for output in node.output}
        self.values: list[Value] = []
        self._place_of: dict[str, int] = {}
        try:
            for node, name, made in self._run(wide=False):
                if made.dtype.kind == "f" and made.size:
                    self._place_of[name] = len(self.values)
                    self.values.append(self._value(node, name, made))
        except Exception as error:  # whatever an operator's implementation raises
            words = " ".join(str(error).split())[:200]
            raise ModelError(
                f"model {request.spec.model!r}: its layers are not known: onnx's reference implementation cannot run "
                f"it: {type(error).__name__}: {words}"
            ) from None

    def walk(self, *, wide: bool = False) -> Walk:
        """Run it, in float64 where `wide`."""
        nodes = self._run(wide=wide)
        given: Array | None = None
        while True:
            try:
                _, name, made = nodes.send(given)
            except StopIteration:
                return
            given = None
            if name in self._place_of:
                given = yield self._place_of[name], made

    def _run(self, *, wide: bool) -> Nodes:
        model = in_float64(self._model) if wide else self._model
        evaluator: Any = ReferenceEvaluator(model, new_ops=[MaxPool, AveragePool])
        known: dict[str, Any] = {"": None, **evaluator.rt_inits_}
        known |= {n: x.astype(np.float64) if wide and x.dtype == np.float32 else x for n, x in self._feeds.items()}
        left = Counter(name for node in evaluator.rt_nodes_ for name in node.input)
        for node in evaluator.rt_nodes_:
            options = {"context": known} if node.need_context() else {}
            with np.errstate(all="ignore"):
                made = node.run(*(known[name] for name in node.input), **options)
            for name, values in zip(node.output, made, strict=False):
                if name:
                    known[name] = values
                    if isinstance(values, np.ndarray):
                        given = yield node.onnx_node, name, values
                        if given is not None:
                            known[name] = given.astype(values.dtype).reshape(values.shape)
            for name in node.input:
                left[name] -= 1
                if name and not left[name] and not options:
                    known.pop(name, None)

    def _value(self, node: onnx.NodeProto, name: str, made: Array) -> Value:
        before: set[int] = set()
        waiting = [name for name in node.input if name]
        while waiting:
            read = waiting.pop()
            if read in self._place_of:
                before.add(self._place_of[read])
            elif read in self._makers:
                waiting += [each for each in self._makers[read].input if each]
        return Value(module=name_of(node), name=name, operator=node.op_type, shape=made.shape, inputs=sorted(before))
