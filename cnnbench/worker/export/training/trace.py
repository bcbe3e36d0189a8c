"""A module and its loss as ATen operators in training mode, with marks where no gradient goes back."""

import inspect
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from cnnbench.errors import ModelError, WorkerError
from cnnbench.worker import models
from cnnbench.worker.copies import copied
from cnnbench.worker.export.any_batch import FixedBatch, any_batch, traced_line
from cnnbench.worker.export.inference import DataIsDetached, kind_of, out_of_place, scripted
from cnnbench.worker.export.training import decompositions
from cnnbench.worker.export.training.backward_hooks import check_backward, check_hooks
from cnnbench.worker.export.training.rules import RULES
from cnnbench.worker.hooks import running

_LIBRARY: Any = torch.library.Library("cnnbench", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define("stop_gradient(Tensor x) -> Tensor")
_LIBRARY.impl("stop_gradient", lambda x: x.clone(), "CompositeExplicitAutograd")
STOP = torch.ops.cnnbench.stop_gradient.default
"""Stands for `detach`, and behind what ran under `no_grad`: torch.export's further passes lose both."""
WITHOUT_OUTPUT = (
    "aten._assert_tensor_metadata.default",
    "aten._assert_scalar.default",
    "aten.sym_constrain_range.default",
)
"""Operators that only check something."""


class CannotExport(WorkerError):
    """A step that no graph can be written for; the message names the operator and where it stands."""


class RowDropout(nn.Module):
    """Stochastic depth (Huang et al. 2016) that drops whole images' branches, as torchvision's mode `row`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x (N, ...) with some images' values zero and the others divided by 1 - p."""
        if not self.training or self.p == 0:
            return x
        ones = x.new_ones((x.shape[0], *(1 for _ in x.shape[1:])))
        return x * nn.functional.dropout(ones, self.p)


class _Loss(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        return models.loss(self.module, self.module(*inputs), labels)


def traced(module: nn.Module, inputs: Sequence[Tensor], places: tuple[int, ...] = ()) -> torch.export.ExportedProgram:
    """ATen operators of the loss in training mode, without any that write into their arguments. Raises CannotExport.

    The inputs are two of each, such as images (2, C, H, W).
    """
    if reason := scripted(module) or check_hooks(module):
        raise CannotExport(reason)
    module = copied(module).train()
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == "StochasticDepth" and getattr(child, "mode", None) == "row":
                setattr(parent, name, RowDropout(float(str(child.p))))
    batch = torch.export.Dim("batch", min=1)
    given = (tuple(inputs), torch.zeros(len(inputs[0]), *places, dtype=torch.long))
    shapes = (tuple({0: batch} for _ in inputs), {0: batch})
    stack: list[str] = []
    try:
        with warnings.catch_warnings(action="ignore"), out_of_place(module), _checkpoints_run():
            _refuse_hidden(module, *given)
            with running(module) as stack, _as_no_grad(), _Rewritten(), DataIsDetached(), any_batch():
                program = torch.export.export(_Loss(module), given, dynamic_shapes=shapes, strict=False)
            _mark(program.graph_module)
            decomposed: torch.export.ExportedProgram = program.run_decompositions({})
            _refuse_objects(decomposed)
            if any(node.op == "call_function" and not has_rule(node) for node in decomposed.graph.nodes):
                decomposed = program.run_decompositions(decompositions.table())
            return decomposed
    except CannotExport:
        raise
    except FixedBatch as error:
        raise CannotExport(str(error)) from error
    except Exception as error:
        if isinstance(error, (MemoryError, OSError)) or "allocate memory" in str(error):
            raise  # passing: it says nothing of the model
        kind = kind_of(str(error))
        where = f"layer {stack[-1]!r}: " if stack and stack[-1] else ""
        raise CannotExport(f"{where}{f'{kind}: ' if kind else ''}torch.export: {said(error)}") from error


def _refuse_objects(program: torch.export.ExportedProgram) -> None:
    """Raises CannotExport for an object that is no tensor, such as a random generator."""
    for name, kept in program.constants.items():
        if not isinstance(kept, Tensor):
            raise CannotExport(
                f"its forward pass uses an object that no graph can hold: {name}, a {type(kept).__name__}"
            )


def _refuse_hidden(module: nn.Module, inputs: Sequence[Tensor], labels: Tensor) -> None:
    """Raises CannotExport for what is seen when the module runs, and in no trace."""
    try:
        reason = check_backward(module, inputs, labels)
    except ModelError as error:
        reason = str(error)
    except RuntimeError as error:
        if "allocate memory" in str(error):
            raise
        reason = f"in training mode the model raises {said(error)}"
    if reason:
        raise CannotExport(reason)


def said(error: Exception) -> str:
    """An error in one line; where it says nothing, with the place where it was raised."""
    text = " ".join(str(error).split())[:300]
    if not text:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = f"raised in {frame.name} ({Path(frame.filename).name}:{frame.lineno})"
    return f"{type(error).__name__}: {text}"


def has_rule(node: fx.Node) -> bool:
    """Whether a traced call needs no other way: it has a gradient rule, or puts out no tensor."""
    value = node.meta.get("val")
    parts = value if isinstance(value, (tuple, list)) else [value]
    return str(node.target) in RULES or not any(isinstance(part, Tensor) for part in parts) or is_getitem(node)


def is_getitem(node: fx.Node) -> bool:
    """Whether it only picks one of several outputs."""
    return getattr(node.target, "__name__", "") == "getitem"


def _mark(graph_module: fx.GraphModule) -> None:
    """Put STOP in the place of `detach`, and behind each output of what ran under `no_grad`."""
    for part in [each for each in graph_module.modules() if isinstance(each, fx.GraphModule)]:
        for node in list(part.graph.nodes):
            if str(node.target) == "aten.detach.default":
                if len(node.args[0].users) > 1 and any(_writes_into(user, node) for user in node.users):
                    raise CannotExport(
                        f"its forward pass writes into what it has detached ({traced_line(node.stack_trace or '')}): "
                        "compute a new tensor instead"
                    )
                node.target = STOP
            elif str(node.target) == "wrap_with_set_grad_enabled" and node.args[0] is False:
                outputs = [user for user in node.users if is_getitem(user)]
                for output in outputs:
                    if not isinstance(output.meta.get("val"), Tensor):
                        continue
                    with part.graph.inserting_after(output):
                        stopped = part.graph.call_function(STOP, (output,))
                    stopped.meta = dict(output.meta)
                    output.replace_all_uses_with(stopped, delete_user_cb=lambda user, own=stopped: user is not own)
        part.recompile()


def _writes_into(user: fx.Node, node: fx.Node) -> bool:
    schema = getattr(user.target, "_schema", None)
    return schema is not None and schema.is_mutable and user.args[:1] == (node,)


@contextmanager
def _checkpoints_run() -> Iterator[None]:
    """Have checkpoints run as what they hold: they save memory in a backward pass that the trace does not have."""
    original = checkpoint.CheckpointFunction.__dict__.get("apply")

    def run(function: Any, _: bool, *args: Any) -> Any:
        return function(*args)

    checkpoint.CheckpointFunction.apply = staticmethod(run)
    try:
        yield
    finally:
        if original is None:
            del checkpoint.CheckpointFunction.apply
        else:
            checkpoint.CheckpointFunction.apply = original


@contextmanager
def _as_no_grad() -> Iterator[None]:
    """Have `torch.inference_mode` be `torch.no_grad`, which torch.export writes down."""
    enter, leave = torch.inference_mode.__enter__, torch.inference_mode.__exit__

    def stop(self: Any) -> None:
        self.cnnbench_guard = torch.set_grad_enabled(torch.is_grad_enabled() and not self.mode)

    def go_on(self: Any, *failure: Any) -> None:
        self.cnnbench_guard.__exit__(*failure)

    torch.inference_mode.__enter__, torch.inference_mode.__exit__ = stop, go_on  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.inference_mode.__enter__, torch.inference_mode.__exit__ = enter, leave  # type: ignore[method-assign]


class _Rewritten(TorchFunctionMode):
    """Instance normalisation that updates running statistics, by operators whose writes torch.export sees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.instance_norm:
            given = inspect.signature(func).bind(*args, **(kwargs or {}))
            given.apply_defaults()
            x, mean, variance, w, b, own, momentum, eps = given.arguments.values()
            if own and mean is not None:
                return _tracked_instance_norm(x, w, b, mean, variance, momentum, eps)
        return func(*args, **(kwargs or {}))


def _tracked_instance_norm(
    x: Tensor, w: Tensor | None, b: Tensor | None, mean: Tensor, variance: Tensor, momentum: float, eps: float
) -> Tensor:
    """The running statistics take each image's own, the variance unbiased, averaged over the images."""
    with torch.no_grad():
        axes = list(range(2, x.ndim))
        for running, new in ((mean, x.mean(axes)), (variance, x.var(axes))):
            running.copy_(running * (1 - momentum) + new.mean(0) * momentum)
    return torch.instance_norm(x, w, b, None, None, True, momentum, eps, False)
