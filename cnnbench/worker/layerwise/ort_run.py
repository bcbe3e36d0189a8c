"""The layers of a graph in ONNX Runtime: the optimised graph, cut where its values are the model's. No torch.

A piece between such values is a session of its own, of the same nodes: no fusion is undone by asking. A graph with
quantised values is optimised but for its memory layout, which changes no integer, and loses the names of values.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from cnnbench.errors import ModelError, WorkerError
from cnnbench.records import layer_values
from cnnbench.records.artifact import GRAPH, WEIGHTS, graph_file
from cnnbench.records.task_messages import LayersOpened, LayersRead, OpenLayers, ReadLayers, Value
from cnnbench.suite.runtimes import split
from cnnbench.worker.layerwise.names import origins_of, places_of
from cnnbench.worker.layerwise.stepped import largest_difference
from cnnbench.worker.profilers.onnx_origin import BLOCKED_DOMAIN, name_of, values
from cnnbench.worker.profilers.ort import WEIGHTS_APART
from cnnbench.worker.reference.image_file import with_image
from cnnbench.worker.reference.parity import Array, open_artifact, several, tiled
from cnnbench.worker.runtimes.ort import constants_of, make_session

PROBED_CHANNELS = 64
"""More than any processor has in one block."""


class Piece(NamedTuple):
    """The nodes that compute one value from others."""

    place: int
    value: str
    nodes: list[onnx.NodeProto]
    reads: list[str]
    """Values of other pieces, and inputs of the graph."""


class Scale(NamedTuple):
    """Of a quantised value: it is (integer - zero) * scale."""

    value: str
    """What is quantised."""
    scale: Array
    zero: Array

    def numbers(self, integers: Array) -> Array:
        """In float32, the integers' shape."""
        found: Array = (integers.astype(np.float32) - self.zero.astype(np.float32)) * self.scale
        return found

    def integers(self, numbers: Array) -> Array:
        """The nearest, in the type of zero."""
        bounds = np.iinfo(self.zero.dtype)
        nearest: Array = np.clip(np.rint(numbers / self.scale) + self.zero, bounds.min, bounds.max)
        return nearest.astype(self.zero.dtype)


class OrtLayers:
    """A graph of the artifact or of the user's in pieces."""

    def __init__(self, request: OpenLayers) -> None:
        """Optimise it, run it whole, and cut it. Raises ModelError for a file that cannot be compared."""
        facts, golden = open_artifact(Path(request.folder), request.golden)
        self._case, self._threads, self._known = request.case, request.threads, request.values
        self._name = request.file or request.case.runtime
        source = Path(request.file or Path(request.folder) / graph_file(request.case))
        images = several(with_image(tiled(golden.images, request.case.batch), request.image))
        fixed = {} if request.file else constants_of(facts, Path(request.folder), "cpu")
        constants = {name: value.numpy() for name, value in fixed.items()}
        optimised = Path(request.scratch) / GRAPH
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(optimised)
        options.add_session_config_entry(WEIGHTS_APART, WEIGHTS)
        try:
            exported = onnx.load(str(source), load_external_data=False).graph
            self._scales = _scales(exported)
            level = split(request.case.runtime)[1]
            session = make_session(str(source), "cpu", request.threads, level, options)
            if self._scales and not level:
                make_session(str(source), "cpu", request.threads, "extended", options)
        except Exception as error:
            raise ModelError(f"{self._name}: ONNX Runtime cannot load it: {_words(error)}") from None
        self._feeds = _feeds(session, images, constants, self._name)
        try:
            self._shipped: list[Array] = session.run(None, self._feeds)
        except Exception as error:
            raise ModelError(f"{self._name}: it cannot run on the model's images: {_words(error)}") from None
        self._outputs = [value.name for value in session.get_outputs()]
        del session
        self._scratch = request.scratch
        self._model = onnx.load(str(optimised), load_external_data=False)  # each piece reads its own weights
        graph = self._model.graph
        same, self._blocked = values(exported, graph)
        places = self._places(exported, Path(request.folder))
        self._nodes = {places[y]: name_of(node) for node in exported.node for y in node.output if y in places}
        quantised = {name: places[each.value] for name, each in self._scales.items() if each.value in places}
        replaced = {each.value for each in self._scales.values()}  # before it is cut to its range
        places = quantised | {name: place for name, place in places.items() if name not in replaced}
        joined = {value: places[own] for value, own in same.items() if own in places}
        self._pieces = {piece.place: piece for piece in _pieces(graph, joined)}
        if not self._pieces:
            raise ModelError(
                f"{self._name}: none of its values is known in the model; expected a graph that torch's exporter made "
                "of it, with its metadata, or one with the same names of values"
            )
        self._place_of = {piece.value: place for place, piece in self._pieces.items()}
        self._last = {value: place for place in sorted(self._pieces) for value in self._pieces[place].reads}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._made: dict[str, Array] = {}
        self._exact: dict[str, Array] = {}
        self._put_out: dict[str, Array] = {}
        self._block = _block() if self._blocked else 1
        self._at = 0

    def opened(self) -> LayersOpened:
        """The values that the optimised graph has."""
        places = sorted(self._pieces)
        operators = [Counter(node.op_type for node in self._pieces[place].nodes) for place in places]
        words = [" + ".join(f"{n} {op}" if n > 1 else op for op, n in each.items()) for each in operators]
        return LayersOpened(places=places, operators=words, nodes=[self._nodes[place] for place in places])

    def read(self, request: ReadLayers) -> LayersRead:
        """The values up to a place."""
        for place in sorted(self._pieces):
            if self._at <= place < request.until:
                self._read(self._pieces[place], request)
        self._at = request.until
        if request.until < len(self._known):
            return LayersRead()
        if not self._put_out.keys() >= set(self._outputs):  # some are no values of the model
            return LayersRead()
        asked = largest_difference([self._put_out[name] for name in self._outputs], self._shipped)
        return LayersRead(asked=asked)

    def _read(self, piece: Piece, request: ReadLayers) -> None:
        session = self._session(piece)
        own = {name: self._feeds.get(name, self._made.get(name)) for name in piece.reads}
        made = session.run([piece.value], own)[0]
        exact = {name: self._exact[name] for name in piece.reads if name in self._exact}
        fed = session.run([piece.value], {**own, **exact})[0] if exact else made
        value = self._known[piece.place]
        layer_values.save(request.folder, request.name, piece.place, self._plain(piece.value, made, value))
        layer_values.save(
            request.folder, layer_values.fed(request.name), piece.place, self._plain(piece.value, fed, value)
        )
        if piece.value in self._outputs:
            self._put_out[piece.value] = made
        if self._last.get(piece.value, -1) > piece.place:
            exactly = layer_values.load(request.folder, layer_values.REFERENCE, piece.place)
            self._made[piece.value] = made
            self._exact[piece.value] = self._as_is(piece.value, exactly, made)
        for name in piece.reads:
            if self._last[name] <= piece.place:
                self._made.pop(name, None)
                self._exact.pop(name, None)

    def _session(self, piece: Piece) -> ort.InferenceSession:
        model = onnx.ModelProto(ir_version=self._model.ir_version)
        model.opset_import.extend(self._model.opset_import)
        model.functions.extend(self._model.functions)
        graph = model.graph
        graph.name = "piece"
        graph.node.extend(piece.nodes)
        read = {name for node in piece.nodes for name in _reads(node)}
        graph.initializer.extend(tensor for name, tensor in self._weights.items() if name in read)
        load_external_data_for_model(model, self._scratch)
        for name in piece.reads:
            given = self._feeds[name] if name in self._feeds else self._made[name]
            graph.input.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(given.dtype), None))
        graph.output.append(onnx.ValueInfoProto(name=piece.value))
        return make_session(model.SerializeToString(), "cpu", self._threads, "disabled")

    def _plain(self, name: str, made: Array, value: Value) -> Array:
        """In the plain layout, without the channels that only fill a block."""
        if name in self._scales:
            return self._scales[name].numbers(made)
        if name not in self._blocked:
            return made
        count, channels, *size = made.shape
        blocks = made.reshape(count, channels // self._block, *size, self._block)
        plain = np.moveaxis(blocks, -1, 2).reshape(count, channels, *size)
        return plain[:, : value.shape[1]] if len(value.shape) == made.ndim else plain

    def _as_is(self, name: str, exact: Array, made: Array) -> Array:
        """The reference's numbers in the type and layout of the run's; its own where the shape is another."""
        if name in self._blocked and exact.ndim == made.ndim:
            count, channels, *size = made.shape
            filled = np.zeros(made.shape, made.dtype)
            if exact.shape[0] != count or list(exact.shape[2:]) != size or exact.shape[1] > channels:
                return made
            filled[:, : exact.shape[1]] = exact
            blocks = filled.reshape(count, channels // self._block, self._block, *size)
            return np.ascontiguousarray(np.moveaxis(blocks, 2, -1)).reshape(made.shape)
        if exact.shape != made.shape:
            return made
        if name in self._scales:
            return self._scales[name].integers(exact)
        return np.ascontiguousarray(exact.astype(made.dtype))

    def _places(self, exported: onnx.GraphProto, folder: Path) -> dict[str, int]:
        """By name of each value of the exported graph, its place: by origin, where the file tells it, or by name."""
        made = {value for node in exported.node for value in node.output}
        if self._case.spec.is_onnx_file:
            return {value.name: place for place, value in enumerate(self._known) if value.name in made}
        found = {} if self._scales else origins_of(exported)  # quantising leaves an activation to the node before it
        if not found and (folder / GRAPH).exists():  # or there is no metadata
            own = origins_of(onnx.load(str(folder / GRAPH), load_external_data=False).graph)
            found = {name: origin for name, origin in own.items() if name in made}
        found = found or origins_of(exported)
        return places_of(self._known, found)


def _scales(graph: onnx.GraphProto) -> dict[str, Scale]:
    """By name of each value that is quantised by constants, those."""
    fixed = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[str, Scale] = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and len(node.input) > 2 and fixed.keys() >= set(node.input[1:]):
            scale, zero = (numpy_helper.to_array(fixed[name]) for name in node.input[1:])
            if not scale.ndim:
                found[node.output[0]] = Scale(node.input[0], scale, zero)
    return found


def _pieces(graph: onnx.GraphProto, joined: Mapping[str, int]) -> Iterator[Piece]:
    """Each joined value, the first of each place, with the nodes between it and those that come before it."""
    makers = {value: place for place, node in enumerate(graph.node) for value in node.output}
    first: dict[int, str] = {}
    for value, place in joined.items():
        first.setdefault(place, value)
    stops = {value: place for place, value in first.items()}
    fixed = {tensor.name for tensor in graph.initializer}
    for place, value in first.items():
        needed, waiting = {makers[value]}, [makers[value]]
        reads: dict[str, None] = {}
        while waiting:
            for name in _reads(graph.node[waiting.pop()]):
                maker = makers.get(name)
                if name in fixed or maker in needed:
                    continue
                if maker is None or stops.get(name, place) < place:
                    reads[name] = None
                else:
                    needed.add(maker)
                    waiting.append(maker)
        yield Piece(place, value, [graph.node[each] for each in sorted(needed)], list(reads))


def _reads(node: onnx.NodeProto) -> list[str]:
    """What a node reads, also inside its control flow."""
    inner = [each.g for each in node.attribute if each.HasField("g")]
    inner += [graph for each in node.attribute for graph in each.graphs]
    found = [name for name in node.input if name]
    for graph in inner:
        own = {value.name for value in (*graph.input, *graph.initializer)}
        own |= {name for each in graph.node for name in each.output}
        found += [name for each in graph.node for name in _reads(each) if name not in own]
    return found


def _feeds(
    session: ort.InferenceSession, images: Sequence[Array], constants: Mapping[str, Array], name: str
) -> dict[str, Array]:
    """The images by the names and in the types of a graph's inputs. Raises ModelError where they are not as many."""
    inputs = [each for each in session.get_inputs() if each.name not in constants]
    if len(inputs) != len(images):
        raise ModelError(f"{name}: expected {len(images)} inputs, as the model has; got {len(inputs)}")
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
    fed = {
        each.name: image.astype(types.get(each.type, image.dtype)) for each, image in zip(inputs, images, strict=True)
    }
    return {**fed, **constants}


def _block() -> int:
    """How many channels lie side by side in the blocked layout on this processor."""
    x = np.arange(PROBED_CHANNELS * 2, dtype=np.float32).reshape(1, PROBED_CHANNELS, 1, 2)
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=BLOCKED_DOMAIN)
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
    graph = helper.make_graph([node], "block", ends[:1], ends[1:])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(BLOCKED_DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    y = make_session(model.SerializeToString(), "cpu", 1, "disabled").run(None, {"x": x})[0].ravel()
    if not np.array_equal(np.sort(y), x.ravel()):
        raise WorkerError("ONNX Runtime's blocked layout is not known")
    return int(np.flatnonzero(y == 1)[0])  # the first channel's second pixel lies behind one block


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
