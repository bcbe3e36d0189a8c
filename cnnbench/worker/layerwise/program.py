"""A module as torch.export traces it, run operation by operation."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from cnnbench.errors import ModelError
from cnnbench.records.task_messages import Value
from cnnbench.worker.export.inference import said, trace
from cnnbench.worker.layerwise.names import operator_of
from cnnbench.worker.layerwise.stepped import Walk
from cnnbench.worker.reference.parity import Array


class Part(NamedTuple):
    """Some operations of a program, as a module of their own."""

    module: fx.GraphModule
    given: list[int]
    """The places of the values that it takes, behind the program's inputs."""


class TracedProgram:
    """A traced module, with the places of its values."""

    def __init__(self, module: nn.Module, inputs: Sequence[Tensor]) -> None:
        """Trace it with inputs (N, ...). Raises ModelError where torch.export cannot."""
        try:
            traced = trace(module, *inputs, dynamic_batch=False).exported_program
        except Exception as error:
            raise ModelError(f"its layers are not known: {said(error, 'it cannot be traced')}") from None
        assert traced is not None
        self.module, self.inputs = module, inputs
        self._module: Any = traced.module()
        nodes = self._module.graph.nodes
        self._nodes: list[fx.Node] = [n for n in nodes if n.users or n.op in ("placeholder", "output")]  # no checks
        self._place_of: dict[fx.Node, int] = {}
        self.values: list[Value] = []
        for node in self._nodes:
            if (value := self._value(node)) is not None:
                self._place_of[node] = len(self.values)
                self.values.append(value)

    def align(self, values: Sequence[Value]) -> bool:
        """Take the places of another program's values, in order, and leave out what only this one has.

        In another layout there may be copies in between. False where one of the values is not here.
        """
        at, places = 0, {}
        for node, place in self._place_of.items():
            if at < len(values) and _is_same(self.values[place], values[at]):
                places[node] = at
                at += 1
        self._place_of, self.values = places, list(values)
        return at == len(values)

    def walk(self, *, wide: bool = False) -> Walk:
        """Run it, in float64 where `wide`. A tensor lives until the last operation that reads it."""
        inputs = iter(self.inputs)
        known: dict[fx.Node, Any] = {}
        left = {node: sum(user in left_users for user in node.users) for node, left_users in self._users().items()}
        for node in self._nodes:
            if node.op == "output":
                return
            with torch.inference_mode():
                made = next(inputs) if node.op == "placeholder" else self._made(node, known, wide=wide)
                known[node] = _widened(made) if wide else made
            if node in self._place_of:
                given = yield self._place_of[node], array_of(known[node])
                if given is not None:
                    known[node] = like(given, known[node])
            for used in node.all_input_nodes:
                left[used] -= 1
                if not left[used]:
                    del known[used]

    @property
    def images(self) -> list[Array]:
        """The batch (N, ...) of each input."""
        return [array_of(x) for x in self.inputs]

    @property
    def outputs(self) -> list[int]:
        """The places of what it puts out."""
        return [self._place_of[node] for node in self._nodes[-1].all_input_nodes if node in self._place_of]

    def reading(self, operators: Collection[str]) -> list[int]:
        """The places of the values that operations of these kinds read or put out, and of the outputs."""
        found = set(self.outputs)
        for node, place in self._place_of.items():
            if self.values[place].operator in operators:
                found |= {place, *(self._place_of[used] for used in node.all_input_nodes if used in self._place_of)}
        return sorted(found)

    def part(self, given: Collection[int], wanted: Sequence[int]) -> Part:
        """What computes the wanted values from the given ones, also where a wanted one is given."""
        stops = {node for node, place in self._place_of.items() if place in given}
        asked = {node for node, place in self._place_of.items() if place in wanted}
        needed, waiting = set(asked), list(asked)
        read: set[fx.Node] = set()
        while waiting:
            for used in waiting.pop().all_input_nodes:
                if used in stops:
                    read.add(used)
                elif used not in needed:
                    needed.add(used)
                    waiting.append(used)
        graph = fx.Graph()
        known = {node: graph.placeholder(node.name) for node in self._nodes if node.op == "placeholder"}
        taken = [node for node in self._nodes if node in read]
        known |= {node: graph.placeholder(f"given_{node.name}") for node in taken}
        made: dict[fx.Node, fx.Node] = {}
        for node in self._nodes:
            if node in needed and node.op != "placeholder":
                made[node] = graph.node_copy(node, lambda used: known[used])
                known.setdefault(node, made[node])
        graph.output(tuple(made[node] for node in self._nodes if node in asked))
        return Part(fx.GraphModule(self._module, graph), [self._place_of[node] for node in taken])

    def _users(self) -> dict[fx.Node, set[fx.Node]]:
        own = set(self._nodes)
        return {node: own & set(node.users) for node in self._nodes}

    def _made(self, node: fx.Node, known: dict[fx.Node, Any], *, wide: bool) -> Any:
        if node.op == "get_attr":
            found = self._module
            for part in str(node.target).split("."):
                found = getattr(found, part)
            return found.detach() if isinstance(found, Tensor) else found
        args, options = fx.map_arg((node.args, dict(node.kwargs)), lambda used: known[used])
        if wide:  # also where an operation is told a type
            args, options = tree_map(_widened, (args, options))
        function: Any = node.target
        return function(*args, **options)

    def _value(self, node: fx.Node) -> Value | None:
        made = node.meta.get("val")
        if node.op != "call_function" or not isinstance(made, Tensor) or not made.is_floating_point():
            return None
        stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
        operation, output = node, 0
        if getattr(node.target, "__name__", "") == "getitem":
            operation, output = node.args  # type: ignore[assignment]
        return Value(
            module=stack[-1] if stack else "",
            name=operation.name,
            output=output,
            operator=operator_of(operation.name),
            shape=tuple(made.shape),
            inputs=sorted(self._before(node)),
        )

    def _before(self, node: fx.Node) -> set[int]:
        found: set[int] = set()
        for used in node.all_input_nodes:
            found |= {self._place_of[used]} if used in self._place_of else self._before(used)
        return found


def _is_same(one: Value, other: Value) -> bool:
    ones, others = ((x.module, x.operator, x.output, x.shape) for x in (one, other))
    return ones == others


def array_of(values: Tensor) -> Array:
    """Its numbers, in float32 or float64."""
    found: Array = (values if values.dtype == torch.float64 else values.float()).detach().cpu().numpy()
    return found


def like(given: Array, own: Tensor) -> Tensor:
    """The given numbers, of the type and in the memory layout of a tensor."""
    made = torch.empty_strided(own.shape, own.stride(), dtype=own.dtype, device=own.device)
    return made.copy_(torch.from_numpy(np.ascontiguousarray(given)))


def _widened(made: Any) -> Any:
    """In float64 what is in float32, also the name of the type."""
    if made is torch.float32:
        return torch.float64
    is_narrow = isinstance(made, Tensor) and made.dtype == torch.float32
    return made.double() if is_narrow else tree_map(_widened, made) if isinstance(made, (tuple, list)) else made
