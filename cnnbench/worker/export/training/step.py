"""The training step as one graph: forward, loss, backward and the optimizer's update (docs/training.md)."""

import copy
import json
import operator
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
import torch
from torch import Tensor as Torch
from torch import fx, nn

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import DROP, IMAGES, LABELS, LEARNING_RATE, LOSS, NEW, STEP_COUNT
from cnnbench.suite.optimizer import Optimizer
from cnnbench.worker import models
from cnnbench.worker.export.inference import out_of_place
from cnnbench.worker.export.training.graph import Graph, Tensor
from cnnbench.worker.export.training.optimizers import update
from cnnbench.worker.export.training.rules import RULES
from cnnbench.worker.export.training.rules.rule import Gradient, NoRule, OpResult, Shape, materialise

METADATA = "cnnbench.training_step"
"""The model's property that says, in JSON, what each input and output is."""


class CannotExport(WorkerError):
    """A step that no graph can be written for; the message names the operator and where it stands."""


def export_step(module: nn.Module, images: Torch, optimizer: Optimizer) -> onnx.ModelProto:
    """The training step of the module for images like these (2, C, H, W), checked by onnx.

    Inputs: images (N, C, H, W), labels (N) int64, learning_rate (), drop () where the model drops, every parameter and
    buffer by its name, and the optimizer's states. Outputs: loss (), and each of the latter under its name with `.new`
    behind it. Raises CannotExport.
    """
    model = _Step(optimizer).write(_traced(module, images))
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
        with warnings.catch_warnings(action="ignore"), out_of_place(module):
            shapes = ({0: batch}, {0: batch})
            program = torch.export.export(_Loss(module), (images, labels), dynamic_shapes=shapes, strict=False)
            decomposed: torch.export.ExportedProgram = program.run_decompositions({})
            return decomposed
    except Exception as error:
        if isinstance(error, (MemoryError, OSError)) or "allocate memory" in str(error):
            raise  # passing: it says nothing of the model
        raise CannotExport(f"torch.export: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


@dataclass
class _Step:
    """A step that is being written."""

    optimizer: Optimizer
    graph: Graph = field(default_factory=Graph)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    """What stands for each traced node: a tensor, a list of tensors, or a number."""
    parameters: dict[str, Tensor] = field(default_factory=dict)
    buffers: list[str] = field(default_factory=list)
    gradients: dict[Tensor, Gradient] = field(default_factory=dict)
    """As far as they are known."""
    after: dict[str, Tensor] = field(default_factory=dict)
    """By the name of an input that lasts: its value after the step."""

    def write(self, program: torch.export.ExportedProgram) -> onnx.ModelProto:
        """The whole model."""
        g, signature = self.graph, program.graph_signature
        self._inputs(program)
        calls = [node for node in program.graph.nodes if node.op == "call_function"]
        written = [(node, result) for node in calls if (result := self._forward(node))]
        values = {node.name: value for node, value in self.values.items()}
        self.after = {_name(buffer): values[output] for output, buffer in signature.buffers_to_mutate.items()}
        (loss,) = (values[str(output)] for output in signature.user_outputs)
        g.scope = "loss"
        self.gradients[loss] = g.constant(1.0)
        rate, step = g.input(LEARNING_RATE, ()), None
        if self.optimizer.counts_steps:
            g.scope = STEP_COUNT
            step = self.after[STEP_COUNT] = g.add(g.input(STEP_COUNT, ()), 1.0)
        uses = Counter(argument for _, result in written for argument, _ in result.vjps)
        for node, result in reversed(written):
            self._backward(node, result)
            for argument, _ in result.vjps:
                uses[argument] -= 1
                if not uses[argument] and self.parameters.get(argument.name) == argument:
                    self._update(argument.name, rate, step)  # while parameter and gradient are in the caches
        for name in self.parameters:
            if name not in self.after:
                self._update(name, rate, step)
        g.scope = ""
        g.output(loss, LOSS)
        for name, tensor in self.after.items():
            g.output(tensor, name + NEW)
        return g.model("training step", {METADATA: json.dumps(self._described())})

    def _inputs(self, program: torch.export.ExportedProgram) -> None:
        signature, users = program.graph_signature, iter((IMAGES, LABELS))
        for node in program.graph.find_nodes(op="placeholder"):
            if constant := signature.inputs_to_lifted_tensor_constants.get(node.name):
                self.values[node] = self.graph.constant(program.constants[constant].numpy())
                continue
            parameter = _name(signature.inputs_to_parameters.get(node.name))
            buffer = _name(signature.inputs_to_buffers.get(node.name))
            traced, name = node.meta["val"], parameter or buffer or next(users)
            value = self.graph.input(name, _shape(traced), str(traced.dtype).removeprefix("torch."))
            self.values[node] = value = replace(value, varies=bool(parameter))
            if parameter:
                self.parameters[name] = value
            elif buffer:
                self.buffers.append(name)

    def _forward(self, node: fx.Node) -> OpResult | None:
        """Write a traced operator; None for what only picks or asks for a size."""
        value = node.meta.get("val")
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, fx.Node)
            self.values[node] = self.values[source][index]
            return None
        if isinstance(value, (int, torch.SymInt)):
            self.values[node] = None if isinstance(value, torch.SymInt) else value
            return None
        self.graph.scope = _module_of(node)
        name = str(node.target)
        if name not in RULES:
            raise CannotExport(f"no gradient rule for {name}{_where(node)}")
        several = isinstance(value, (tuple, list))
        parts: Any = value if several else [value]
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.values[n])
        with _explained(f"the gradient rule for {name}{_where(node)}"):
            result = RULES[name](self.graph, [_shape(part) for part in parts], *args, **kwargs)
        inputs = [self.values[n] for n in node.all_input_nodes]
        varies = any(isinstance(each, Tensor) and each.varies for each in inputs)
        outputs, others = (
            [replace(output, varies=varies, origin=node.name) for output in group]
            for group in (result.outputs, result.others)
        )
        self.values[node] = [*outputs, *others] if several else outputs[0]
        return replace(result, outputs=outputs)

    def _backward(self, node: fx.Node, result: OpResult) -> None:
        if not any(y in self.gradients for y in result.outputs) or not any(x.varies for x, _ in result.vjps):
            return
        g = self.graph
        g.scope = f"{_module_of(node)}/gradient"
        with _explained(f"the gradient of {node.target}{_where(node)}"):
            given = [self.gradients.get(y) if result.takes_scaled else self._gradient(y) for y in result.outputs]
            found = result.argument_gradients(g, given)
        for argument, gradient in found:
            earlier = self._gradient(argument)
            self.gradients[argument] = gradient if earlier is None else g.add(earlier, materialise(g, gradient))

    def _gradient(self, tensor: Tensor) -> Tensor | None:
        """The gradient of a tensor, as far as it is known, without a factor of its own."""
        gradient = self.gradients.get(tensor)
        return None if gradient is None else materialise(self.graph, gradient)

    def _update(self, name: str, rate: Tensor, step: Tensor | None) -> None:
        """Write the optimizer's part for one parameter, whose gradient is complete."""
        g, parameter = self.graph, self.parameters[name]
        gradient = self._gradient(parameter)
        names = [f"{name}.{state}" for state in self.optimizer.states]
        states: Sequence[Tensor] = [g.input(state, parameter.shape) for state in names]
        g.scope = f"{name}/update"
        if gradient is not None:  # torch leaves a parameter alone that the loss does not depend on
            parameter, states = update(g, self.optimizer, parameter, gradient, states, rate, step)
        self.after |= {name: parameter, **dict(zip(names, states, strict=True))}

    def _described(self) -> Mapping[str, Any]:
        names, states = list(self.parameters), self.optimizer.states
        roles = {
            IMAGES: "images",
            LABELS: "labels: class numbers",
            LEARNING_RATE: "learning rate",
            STEP_COUNT: "steps made",
            DROP: "scale of the rates at which values are dropped: 1 as the model says, 0 for none",
            **dict.fromkeys(names, "parameter"),
            **dict.fromkeys(self.buffers, "buffer"),
            **{f"{n}.{state}": f"optimizer's state of {n}; begins as zeros" for n in names for state in states},
        }
        return {
            "inputs": {value.name: roles[value.name] for value in self.graph.inputs},
            "outputs": {LOSS: "mean over the images, before the update"}
            | {name + NEW: f"{name} after the step" for name in self.after},
            "next": {name: name + NEW for name in self.after},
            "optimizer": self.optimizer.model_dump(),
        }


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raise what a rule cannot do, or a fault in it, as CannotExport."""
    try:
        yield
    except (NoRule, AssertionError, TypeError) as error:
        raise CannotExport(f"{what}: {error or type(error).__name__}") from error


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
