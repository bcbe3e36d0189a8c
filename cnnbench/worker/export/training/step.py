"""The training step as one graph: forward, loss, backward and the optimizer's update, with a dynamic batch.

The module is traced in training mode into ATen operators; each has a rule (rules/) that writes its ONNX nodes and
computes its vector-Jacobian product. Nothing of the result is particular to ONNX Runtime.
"""

import copy
import json
import operator
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
import torch
from torch import Tensor as Torch
from torch import fx, nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import DROP, IMAGES, LABELS, LEARNING_RATE, LOSS, NEW, STEP_COUNT
from cnnbench.suite.optimizer import Optimizer
from cnnbench.worker import models
from cnnbench.worker.export.inference import out_of_place
from cnnbench.worker.export.training.graph import Graph, Tensor
from cnnbench.worker.export.training.optimizers import update
from cnnbench.worker.export.training.rules import RULES
from cnnbench.worker.export.training.rules.rule import NoRule, OpResult, ScaledGradient, Shape, VjpResult, materialise

METADATA = "cnnbench.training_step"
"""The model's property that says, in JSON, what each input and output is."""
Place = tuple[fx.Node, int]
"""An output of a traced operator."""


class CannotExport(WorkerError):
    """A step that no graph can be written for; the message names the operator and where it stands."""


def export_step(module: nn.Module, images: Torch, optimizer: Optimizer) -> onnx.ModelProto:
    """The training step of the module for images like these (2, C, H, W), checked by onnx.

    Inputs: images (N, C, H, W), labels (N) int64, learning_rate (), drop () where the model drops, every parameter and
    buffer by its name, and the optimizer's states. Outputs: loss (), and each of the latter under its name with `.new`
    behind it. Raises CannotExport.
    """
    program = _traced(module, images)
    model = _Step(optimizer).write(program)
    onnx.checker.check_model(model, full_check=True)
    return model


class RowDropout(nn.Module):
    """Stochastic depth (Huang et al. 2016) that drops whole images' branches, as torchvision's mode `row`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Torch) -> Torch:
        """x (N, ...) with some images' values zero and the others divided by 1 - p."""
        if not self.training or self.p == 0:
            return x
        ones = x.new_ones((x.shape[0], *(1 for _ in x.shape[1:])))
        return x * nn.functional.dropout(ones, self.p)


class _Loss(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Torch, labels: Torch) -> Torch:
        return models.loss(self.module(images), labels)


def _traced(module: nn.Module, images: Torch) -> torch.export.ExportedProgram:
    """ATen operators of the loss in training mode, without any that write into their arguments."""
    module = copy.deepcopy(module).train()
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == "StochasticDepth" and getattr(child, "mode", None) == "row":
                setattr(parent, name, RowDropout(float(str(child.p))))
    batch = torch.export.Dim("batch", min=1)
    labels = torch.zeros(len(images), dtype=torch.long)
    try:
        with warnings.catch_warnings(), out_of_place(module):
            warnings.simplefilter("ignore")
            program = torch.export.export(
                _Loss(module), (images, labels), dynamic_shapes=({0: batch}, {0: batch}), strict=False
            )
            decomposed: torch.export.ExportedProgram = program.run_decompositions({})
            return decomposed
    except Exception as error:
        raise CannotExport(f"torch.export: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


@dataclass
class _Step:
    """A step that is being written."""

    optimizer: Optimizer
    graph: Graph = field(default_factory=Graph)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    """What stands for each traced node: a tensor, a list of tensors, or a number."""
    parameters: dict[fx.Node, str] = field(default_factory=dict)
    buffers: list[str] = field(default_factory=list)
    gradients: dict[Place, Tensor | ScaledGradient] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    """By the name of an input that lasts: its value after the step."""

    def write(self, program: torch.export.ExportedProgram) -> onnx.ModelProto:
        """The whole model."""
        g, nodes = self.graph, {node.name: node for node in program.graph.nodes}
        self._inputs(program, nodes)
        calls = [node for node in nodes.values() if node.op == "call_function"]
        written = [entry for node in calls if (entry := self._forward(node))]
        loss = self._outputs(program, nodes)
        g.scope = "loss"
        self.gradients[self._place(loss)] = g.constant(1.0)
        rate, step = g.input(LEARNING_RATE, ()), None
        if self.optimizer.counts_steps:
            g.scope = STEP_COUNT
            step = self.after[STEP_COUNT] = g.add(g.input(STEP_COUNT, ()), 1.0)
        uses = Counter(place for _, _, places in written for place in places)
        for node, op_result, places in reversed(written):
            self._backward(node, op_result, places)
            for place in places:
                uses[place] -= 1
                if not uses[place] and place[0] in self.parameters:
                    self._update(place[0], rate, step)  # while parameter and gradient are in the caches
        for node, name in self.parameters.items():
            if name not in self.after:
                self._update(node, rate, step)
        g.scope = ""
        g.output(self.values[loss], LOSS)
        for name, tensor in self.after.items():
            g.output(tensor, name + NEW)
        return g.model("training step", {METADATA: json.dumps(self._described())})

    def _inputs(self, program: torch.export.ExportedProgram, nodes: Mapping[str, fx.Node]) -> None:
        users = iter((IMAGES, LABELS))
        for spec in program.graph_signature.input_specs:
            if isinstance(spec.arg, ConstantArgument):
                continue
            node, name = nodes[spec.arg.name], _name(spec.target)
            traced = node.meta["val"]
            if spec.kind is InputKind.CONSTANT_TENSOR and spec.target:
                constant = program.constants[spec.target]
                assert isinstance(constant, Torch)
                self.values[node] = self.graph.constant(constant.numpy())
                continue
            if spec.kind is InputKind.PARAMETER:
                self.parameters[node] = name
            elif spec.kind is InputKind.BUFFER:
                self.buffers.append(name)
            else:
                name = next(users)
            value = self.graph.input(name, _shape(traced), str(traced.dtype).removeprefix("torch."))
            self.values[node] = replace(value, varies=spec.kind is InputKind.PARAMETER)

    def _forward(self, node: fx.Node) -> tuple[fx.Node, OpResult, list[Place]] | None:
        """Write a traced operator; None for what only picks or asks for a size."""
        if node.target is operator.getitem:
            source, index = self._place(node)
            self.values[node] = self.values[source][index]
            return None
        value = node.meta.get("val")
        if isinstance(value, (int, torch.SymInt)):
            self.values[node] = None if isinstance(value, torch.SymInt) else value
            return None
        self.graph.scope = _module_of(node)
        name = str(node.target)
        if name not in RULES:
            raise CannotExport(f"no gradient rule for {name}{_where(node)}")
        several = isinstance(value, (tuple, list))
        parts: Any = value if several else [value]
        shapes = [_shape(part) for part in parts]
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.values[n])
        inputs: list[fx.Node] = []  # in order, those in lists included, each as often as it stands there
        fx.map_arg((node.args, node.kwargs), lambda n: inputs.append(n))
        places = [self._place(n) for n in inputs if isinstance(self.values[n], Tensor)]
        try:
            op_result = RULES[name](self.graph, shapes, *args, **kwargs)
        except (NoRule, AssertionError, TypeError) as error:
            raise CannotExport(
                f"the gradient rule for {name}{_where(node)}: {error or type(error).__name__}"
            ) from error
        varies = any(self._tensor(place).varies for place in places)
        outputs = [replace(output, varies=varies) for output in op_result.outputs]
        self.values[node] = outputs if several else outputs[0]
        return node, op_result, places

    def _outputs(self, program: torch.export.ExportedProgram, nodes: Mapping[str, fx.Node]) -> fx.Node:
        """Note what buffers become; the loss's node."""
        for spec in program.graph_signature.output_specs:
            assert isinstance(spec.arg, TensorArgument)
            if spec.kind is OutputKind.BUFFER_MUTATION:
                self.after[_name(spec.target)] = self.values[nodes[spec.arg.name]]
            else:
                loss = nodes[spec.arg.name]
        return loss

    def _backward(self, node: fx.Node, op_result: OpResult, arguments: list[Place]) -> None:
        g, first = self.graph, self.gradients.get((node, 0))
        places = [(node, index) for index in range(len(op_result.outputs))]
        if not any(place in self.gradients for place in places) or not any(self._tensor(p).varies for p in arguments):
            return
        g.scope = f"{_module_of(node)}/gradient"
        try:
            found: VjpResult
            if op_result.vjp_scaled and isinstance(first, ScaledGradient):
                found = op_result.vjp_scaled(first)
            else:
                found = op_result.vjp([self._gradient(place) for place in places])
        except (NoRule, AssertionError) as error:
            raise CannotExport(f"the gradient of {node.target}{_where(node)}: {error}") from error
        for place, gradient in zip(arguments, found, strict=False):
            if gradient is not None and self._tensor(place).varies:
                earlier = self._gradient(place)
                self.gradients[place] = gradient if earlier is None else g.add(earlier, materialise(g, gradient))

    def _gradient(self, place: Place) -> Tensor | None:
        """The gradient of an output, as far as it is known."""
        gradient = self.gradients.get(place)
        return None if gradient is None else materialise(self.graph, gradient)

    def _update(self, node: fx.Node, rate: Tensor, step: Tensor | None) -> None:
        """Write the optimizer's part for one parameter, whose gradient is complete."""
        g, name = self.graph, self.parameters[node]
        parameter, gradient = self.values[node], self._gradient((node, 0))
        names = [f"{name}.{state}" for state in self.optimizer.states]
        states: Sequence[Tensor] = [g.input(state, parameter.shape) for state in names]
        g.scope = f"{name}/update"
        if gradient is not None:  # torch leaves a parameter alone that the loss does not depend on
            parameter, states = update(g, self.optimizer, parameter, gradient, states, rate, step)
        self.after |= {name: parameter, **dict(zip(names, states, strict=True))}

    def _described(self) -> Mapping[str, Any]:
        names = list(self.parameters.values())
        roles = {
            IMAGES: "images",
            LABELS: "labels: class numbers",
            LEARNING_RATE: "learning rate",
            STEP_COUNT: "steps made",
            DROP: "scale of the rates at which values are dropped: 1 as the model says, 0 for none",
            **dict.fromkeys(names, "parameter"),
            **dict.fromkeys(self.buffers, "buffer"),
        }
        roles |= {
            f"{name}.{state}": f"optimizer's state of {name}; begins as zeros"
            for name in names
            for state in self.optimizer.states
        }
        return {
            "inputs": {value.name: roles[value.name] for value in self.graph.inputs},
            "outputs": {LOSS: "mean over the images, before the update"}
            | {name + NEW: f"{name} after the step" for name in self.after},
            "next": {name: name + NEW for name in self.after},
            "optimizer": self.optimizer.model_dump(),
        }

    def _place(self, node: fx.Node) -> Place:
        """The output that a node is, or picks."""
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, fx.Node)
            assert isinstance(index, int)
            return source, index
        return node, 0

    def _tensor(self, place: Place) -> Tensor:
        value = self.values[place[0]]
        tensor = value[place[1]] if isinstance(value, list) else value
        assert isinstance(tensor, Tensor)
        return tensor


def _shape(value: Torch) -> Shape:
    """With None for the batch."""
    return tuple(None if isinstance(size, torch.SymInt) else int(size) for size in value.shape)


def _name(target: str | None) -> str:
    """A parameter's or a buffer's, without that of the module that adds the loss."""
    return (target or "").removeprefix("module.")


def _module_of(node: fx.Node) -> str:
    """The innermost module that the traced operator comes from, by its name."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).removeprefix("module").removeprefix(".") if stack else ""


def _where(node: fx.Node) -> str:
    module = _module_of(node)
    return f" in {module}" if module else ""
