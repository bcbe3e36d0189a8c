"""The training step as one graph: forward, loss, backward and the optimizer's update (docs/training.md)."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import onnx
import torch
from torch import Tensor as Torch
from torch import fx, nn

from cnnbench.records.artifact import DRAW, DROP, IMAGES, INPUT, LABELS, LEARNING_RATE, LOSS, METADATA, NEW, STEP_COUNT
from cnnbench.suite.optimizer import Optimizer
from cnnbench.worker.export.any_batch import traced_line
from cnnbench.worker.export.training.optimizers import clip_factor, update
from cnnbench.worker.export.training.rules import RULES
from cnnbench.worker.export.training.rules.rule import (
    Gradient,
    NoRule,
    OpResult,
    ScaledGradient,
    Shape,
    materialise,
)
from cnnbench.worker.export.training.trace import CannotExport, is_getitem, traced
from cnnbench.worker.graphs.graph import INTEGERS, Graph, Tensor

__all__ = ["METADATA", "CannotExport", "export_step"]

OF_NUMBERS = {f"aten.{name}.{kind}" for name in ("add", "sub", "mul", "div") for kind in ("Tensor", "Scalar")}
"""Operators whose arguments may be numbers; in others a number that depends on the batch is a size."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def export_step(
    module: nn.Module, images: Torch | Mapping[str, Torch], optimizer: Optimizer, places: tuple[int, ...] = ()
) -> onnx.ModelProto:
    """The training step of the module for images like these (2, C, H, W), checked by onnx.

    Inputs: images (N, C, H, W), or each of several (N, ...) by its name, which are given in the module's order; labels
    (N, *places) int64 (places are (H, W) of a dense prediction), learning_rate (), drop () and draw () int64 where the
    model drops, every parameter and buffer that the step reads by its name, and the optimizer's states. Outputs: loss
    (), and each of the latter that the step changes under its name with `.new` behind it. Raises CannotExport.
    """
    inputs = images if isinstance(images, Mapping) else {IMAGES: images}
    _check_names(module, inputs)
    model = _Step(module, optimizer, tuple(inputs)).write(traced(module, list(inputs.values()), places))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CannotExport(f"the step's graph is not valid ONNX: {' '.join(str(error).split())[:300]}") from error
    return model


def _check_names(module: nn.Module, inputs: Iterable[str]) -> None:
    """Raises CannotExport for an input whose name is that of another value of the graph."""
    of_step = (LABELS, LEARNING_RATE, DROP, DRAW, STEP_COUNT, LOSS)
    of_module = {name for values in (module.named_parameters(), module.named_buffers()) for name, _ in values}
    for name in inputs:
        if name in of_step or name in of_module:
            kinds = f"its own {', '.join(of_step)}" if name in of_step else "the model's parameters and buffers"
            raise CannotExport(
                f"the input {name!r} has the name of another input of the step, among {kinds}; rename one of them"
            )


@dataclass
class _Step:
    """A step that is being written."""

    module: nn.Module
    optimizer: Optimizer
    given: tuple[str, ...]
    """Names of the module's inputs."""
    graph: Graph = field(default_factory=Graph)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    """What stands for each traced node: a tensor, a list of tensors, a number, or torch's tensor of a constant."""
    parameters: dict[str, Tensor] = field(default_factory=dict)
    """Those that the loss is computed from, trained or not."""
    buffers: list[str] = field(default_factory=list)
    same: dict[str, str] = field(default_factory=dict)
    """By a further name of a parameter or buffer: its first one."""
    gradients: dict[Tensor, Gradient] = field(default_factory=dict)
    """As far as they are known."""
    after: dict[str, Tensor] = field(default_factory=dict)
    """By the name of an input that lasts: its value after the step."""

    def write(self, program: torch.export.ExportedProgram) -> onnx.ModelProto:
        """The whole model."""
        g, signature = self.graph, program.graph_signature
        if written := list(getattr(signature, "parameters_to_mutate", {}).values()):
            raise CannotExport(f"the model writes into its parameter {_name(written[0])} in its forward pass")
        self._inputs(program)
        calls = [node for node in program.graph.nodes if node.op == "call_function"]
        written = [(node, result) for node in calls if (result := self._forward(node))]
        values = {node.name: self._constant(value) for node, value in self.values.items()}
        self.after = {
            self._first(_name(buffer)): values[output] for output, buffer in signature.buffers_to_mutate.items()
        }
        (loss,) = (values[str(output)] for output in signature.user_outputs)
        if not loss.varies:
            raise CannotExport("the loss depends on no parameter that asks for a gradient (requires_grad)")
        g.scope = "loss"
        self.gradients[loss] = g.constant(1.0)
        rate, step = g.input(LEARNING_RATE, ()), None
        if self.optimizer.counts_steps:
            g.scope = STEP_COUNT
            step = self.after[STEP_COUNT] = g.add(g.input(STEP_COUNT, ()), 1.0)
        if g.draws:
            g.scope = DRAW
            self.after[DRAW] = g.add(Tensor(DRAW, (), "int64"), 1)
        complete: list[str] = []
        uses = Counter(argument for _, result in written for argument, _ in result.vjps)
        for node, result in reversed(written):
            self._backward(node, result)
            for argument, _ in result.vjps:
                uses[argument] -= 1
                if uses[argument] or self.parameters.get(argument.name) != argument:
                    continue
                if self.optimizer.max_norm is None:
                    self._update(argument.name, rate, step)  # while parameter and gradient are in the caches
                else:
                    complete.append(argument.name)
        if self.optimizer.max_norm is not None:
            self._clip(complete, self.optimizer.max_norm)
            for name in complete:
                self._update(name, rate, step)
        g.scope = ""
        g.output(loss, LOSS)
        for name, tensor in self.after.items():
            g.output(tensor, name + NEW)
        return g.model("training step", {METADATA: json.dumps(self._described())})

    def _inputs(self, program: torch.export.ExportedProgram) -> None:
        signature, users = program.graph_signature, iter((*self.given, LABELS))
        tensors = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        self.same = _further_names(self.module)
        kept, changed = self.module.state_dict().keys(), {_name(each) for each in signature.buffers_to_mutate.values()}
        for node in program.graph.find_nodes(op="placeholder"):
            if constant := signature.inputs_to_lifted_tensor_constants.get(node.name):
                self.values[node] = program.constants[constant]
                continue
            traced, parameter = node.meta["val"], signature.inputs_to_parameters.get(node.name)
            full = _name(parameter or signature.inputs_to_buffers.get(node.name))
            name = self._first(full) if full else next(users)
            if full and full not in kept and full not in changed:
                self.values[node] = tensors[name].detach()
                continue
            if full and full not in kept:
                raise CannotExport(
                    f"the buffer {full} changes in training, and is not in the state dict that has its "
                    "values (register it with persistent=True)"
                )
            if full and not node.users and full not in changed:
                continue
            declared = {value.name for value in self.graph.inputs}
            dtype = str(traced.dtype).removeprefix("torch.")
            value = Tensor(name, _shape(traced), dtype)
            if name not in declared:
                value = self.graph.input(name, _shape(traced), dtype)
            self.values[node] = value = replace(value, varies=bool(parameter) and tensors[name].requires_grad)
            if parameter:
                self.parameters[name] = value
            elif full and name not in self.buffers:
                self.buffers.append(name)
            elif name == self.given[0]:
                self.graph.first_input = value

    def _first(self, name: str) -> str:
        """A parameter's or buffer's first name."""
        return self.same.get(name, name)

    def _constant(self, value: Any) -> Any:
        """What a rule is given for torch's tensor of a constant."""
        if isinstance(value, Torch):
            if value.dtype in (torch.float64, torch.float16, torch.bfloat16):
                value = value.float()
            return self.graph.constant(value.detach().numpy())
        return [self._constant(each) for each in value] if isinstance(value, list) else value

    def _number(self, node: fx.Node) -> Tensor:
        """What depends on the number of images N, as a value a N + b () float32."""
        assert self.graph.first_input is not None
        number = node.meta["val"].node.expr
        (images,) = number.free_symbols
        one, two, three = (float(number.subs(images, count)) for count in (1, 2, 3))
        if not math.isclose(three - two, two - one):
            raise NoRule(f"a value computed from the number of images otherwise than by products and sums: {number}")
        multiple = self.graph.mul(self.graph.batch_size(self.graph.first_input), two - one)
        return self.graph.add(multiple, 2 * one - two)

    def _argument(self, node: fx.Node, *, is_number: bool) -> Any:
        """What a rule is given for a traced value."""
        is_symbolic = isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat))
        return self._number(node) if is_number and is_symbolic else self._constant(self.values[node])

    def _forward(self, node: fx.Node) -> OpResult | None:
        """Write a traced operator; None for what only picks, asks for a size, checks, or is a constant."""
        value, name = node.meta.get("val"), str(node.target)
        if is_getitem(node):
            source, index = node.args
            assert isinstance(source, fx.Node)
            assert isinstance(index, int)
            if index >= len(self.values[source]):
                raise CannotExport(f"output {index} of {source.target}{_where(source)} has no rule")
            self.values[node] = self.values[source][index]
            return None
        several = isinstance(value, (tuple, list))
        parts: Any = value if several else [value]
        if not any(isinstance(part, Torch) for part in parts):
            self.values[node] = value if isinstance(value, (int, float)) else None
            return None
        given = [self.values[n] for n in node.all_input_nodes]
        if all(isinstance(each, (Torch, int, float)) for each in given) and _is_repeatable(node):
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.values[n])
            self.values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            return None
        self.graph.scope = _module_of(node)
        if name not in RULES:
            raise CannotExport(f"no gradient rule for {node.meta.get('original_aten') or name}{_where(node)}")
        with _explained(f"{name}{_where(node)}"):
            argument = partial(self._argument, is_number=name in OF_NUMBERS)
            args, kwargs = fx.map_arg((node.args, node.kwargs), argument)
        if args and isinstance(args[0], Tensor) and kwargs.get("dtype") in FLOATS:  # in which torch sums integers, too
            args = (self.graph.cast(args[0], "float32"), *args[1:])
        with _explained(f"the gradient rule for {name}{_where(node)}"):
            result = RULES[name](self.graph, [_shape(part) for part in parts], *args, **kwargs)
        for y, part in zip(result.outputs, parts, strict=False):
            if y.dtype in INTEGERS and part.dtype in FLOATS:
                raise CannotExport(f"the rule for {name}{_where(node)} gives {y.dtype}, PyTorch {part.dtype}")
        varies = any(argument.varies for argument, _ in result.vjps)
        types = [str(part.dtype).removeprefix("torch.") for part in parts]
        if any(each in ("float64", "float16", "bfloat16") for each in types) and varies:
            raise CannotExport(f"{name}{_where(node)} computes in {types[0]}; a step computes in float32")
        sizes = {y.name: part.shape[0] for y, part in zip(result.outputs, parts, strict=False) if part.ndim}
        self.graph.merged |= {
            y for y, size in sizes.items() if isinstance(size, torch.SymInt) and not size.node.expr.is_symbol
        }
        outputs = [replace(output, varies=varies, origin=node.name) for output in result.outputs]
        others = [replace(output, varies=False, origin=node.name) for output in result.others]
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

    def _clip(self, names: Sequence[str], max_norm: float) -> None:
        """Scale the gradients of all these parameters by their global norm."""
        g, given = self.graph, {name: self._gradient(self.parameters[name]) for name in names}
        gradients = {name: gradient for name, gradient in given.items() if gradient is not None}
        g.scope = "clip"
        factor = clip_factor(g, max_norm, list(gradients.values()))
        for name, gradient in gradients.items():
            self.gradients[self.parameters[name]] = g.mul(gradient, factor)

    def _update(self, name: str, rate: Tensor, step: Tensor | None) -> None:
        """Write the optimizer's part for one parameter, whose gradient is complete; none without a gradient."""
        g, parameter = self.graph, self.parameters[name]
        gradient = self._gradient(parameter)
        if gradient is None:  # torch leaves a parameter alone that the loss does not depend on
            return
        names = [f"{name}.{state}" for state in self.optimizer.states]
        states: Sequence[Tensor] = [g.input(state, parameter.shape) for state in names]
        g.scope = f"{name}/update"
        is_shared = self._is_shared(gradient)
        parameter, states = update(g, self.optimizer, parameter, gradient, states, rate, step, is_shared=is_shared)
        self.after |= {name: parameter, **dict(zip(names, states, strict=True))}

    def _is_shared(self, gradient: Tensor) -> bool:
        """Whether it is the gradient of several values, as of the terms of a sum."""
        tensors = (each.rest if isinstance(each, ScaledGradient) else each for each in self.gradients.values())
        return sum(each.name == gradient.name for each in tensors) > 1

    def _described(self) -> Mapping[str, Any]:
        names, states = list(self.parameters), self.optimizer.states
        roles = {
            **({IMAGES: "images"} if len(self.given) == 1 else dict.fromkeys(self.given, INPUT)),
            LABELS: "labels: class numbers",
            LEARNING_RATE: "learning rate",
            STEP_COUNT: "steps made",
            DROP: "scale of the rates at which values are dropped: 1 as the model says, 0 for none",
            DRAW: "which random numbers are drawn: any number; counts the steps",
            **{n: "parameter" if n in self.after else "parameter that stays as it is" for n in names},
            **{n: "buffer" if n in self.after else "buffer that stays as it is" for n in self.buffers},
            **{f"{n}.{state}": f"optimizer's state of {n}; begins as zeros" for n in names for state in states},
        }
        return {
            "inputs": {value.name: roles[value.name] for value in self.graph.inputs},
            "outputs": {LOSS: "mean over the images, before the update"}
            | {name + NEW: f"{name} after the step" for name in self.after},
            "next": {name: name + NEW for name in self.after},
            "same": self.same,
            "optimizer": self.optimizer.model_dump(),
            "notes": self.graph.notes,
        }


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raise what a rule cannot do, or a fault in it, as CannotExport."""
    try:
        yield
    except (NoRule, AssertionError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise CannotExport(f"{what}: {error or type(error).__name__}") from error


def _is_repeatable(node: fx.Node) -> bool:
    """Whether it gives the same each time, and no dimension of it depends on the batch."""
    tags = getattr(node.target, "tags", ())
    value = node.meta["val"]
    parts = value if isinstance(value, (tuple, list)) else [value]
    return torch.Tag.nondeterministic_seeded not in tags and all(None not in _shape(part) for part in parts)


def _further_names(module: nn.Module) -> dict[str, str]:
    """By each further name of a tied parameter or buffer: the first."""
    first: dict[int, str] = {}
    every = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: found for name, tensor in every if (found := first.setdefault(id(tensor), name)) != name}


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
    """The module, and the user's line that calls the operator: ` in layer1.0 (nets.py:12)`."""
    module, line = _module_of(node), traced_line(node.meta.get("stack_trace") or "")
    return (f" in {module}" if module else "") + (f" ({line})" if line else "")
