"""The inference graph: images in, logits out, with a dynamic batch; as many of either as the module has."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from cnnbench.errors import ModelError
from cnnbench.worker.export.any_batch import any_batch
from cnnbench.worker.signature import flat, takes_any_number

INPUT, OUTPUT = "images", "logits"
EXPORT_BATCH = 2
"""Not 0 or 1, which the exporter would take for constants."""
WRITES = "its forward pass writes into its own parameters"
REASONS = {
    "data-dependent": "its forward pass takes another path for other values (data-dependent control flow)",
    "ScriptModule": "a module that torch.jit made cannot be exported; give the one that it was made of",
    "CustomObjArgument": "its forward pass uses an object that no graph can hold, such as a random generator",
    "set_ on a graph input": WRITES,
    "Inferred shape and existing shape differ": "the exported graph has other shapes than the model",
    "ONNX function": "it uses an operator that ONNX, or torch's exporter, does not have",
}
"""By a part of torch's words, the kind of failure."""
PROTOBUF_LIMIT_BYTES = 1_800_000_000
"""Above it weights stand in a second file: a protobuf message cannot exceed 2 GiB."""


def trace(module: nn.Module, *inputs: Tensor, dynamic_batch: bool = True) -> torch.onnx.ONNXProgram:
    """The graph of the module in inference mode, not yet optimised: each node names the module that it comes from.

    An input is (2, C, H, W) for a dynamic batch, else of the batch that the graph is to have. Raises whatever torch's
    exporter raises, when it cannot.
    """
    assert inputs[0].shape[0] == EXPORT_BATCH or not dynamic_batch
    shapes: tuple[object, ...] = tuple({0: torch.export.Dim("batch", min=1)} for _ in inputs)
    if takes_any_number(module):  # its one parameter is a tuple
        shapes = (shapes,)
    module.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(io.StringIO()),
        out_of_place(module),
        _tensors_alone(module),
        AttentionOfHeads(),
        DataIsDetached(),
        any_batch(),
    ):
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            optimize=False,
            dynamic_shapes=shapes if dynamic_batch else None,
            input_names=[f"{INPUT}.{place}" if place else INPUT for place in range(len(inputs))],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    return program


def said(error: Exception, otherwise: str = "it cannot be exported") -> str:
    """Why it failed: the kind of failure where that is known, else `otherwise`, and what the innermost error says."""
    if isinstance(error, ModelError):
        return str(error)
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    words = re.split(
        r" (?:For more information|Caused by|The error above|Maybe try|If you)", " ".join(str(error).split())
    )[0]
    kind = kind_of(words) or otherwise
    places = re.findall(r"\(([^()]+\.py:\d+) in \w+\)", str(error))
    return f"{kind}{f' ({Path(places[-1]).name})' if places else ''}: {type(error).__name__}: {words[:300]}"


def kind_of(words: str) -> str | None:
    """The kind of failure that torch's words tell of, if it is known."""
    return next((reason for part, reason in REASONS.items() if part in words), None)


def scripted(module: nn.Module) -> str | None:
    """In a sentence, that a module or one inside it is one that torch.jit made; None if none is."""
    for name, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            which = f"layer {name!r}" if name else "the model"
            return f"{which} is a ScriptModule, made by torch.jit, which cannot be traced; give what it was made of"
    return None


@contextlib.contextmanager
def out_of_place(module: nn.Module) -> Iterator[None]:
    """Have activations and dropout put out new tensors, which are the same values, while the context lasts.

    torch.export undoes each write into an argument by tracing the operator's decomposition, 0.1 s for one ReLU6 with a
    dynamic batch: half of the time that MobileNetV2's export took.
    """
    in_place = [child for child in module.modules() if getattr(child, "inplace", None) is True]
    for child in in_place:
        child.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for child in in_place:
            child.inplace = True  # type: ignore[assignment]


@contextlib.contextmanager
def _tensors_alone(module: nn.Module) -> Iterator[None]:
    """Have the module put out its tensors without the numbers beside them, which a graph does not hold."""

    def pick(_: nn.Module, __: object, output: Any) -> Any:
        others = [each for each in tree_leaves(output) if each is not None and not isinstance(each, Tensor)]
        return tuple(flat(output)) if others else None

    handle = module.register_forward_hook(pick)
    try:
        yield
    finally:
        handle.remove()


class AttentionOfHeads(TorchFunctionMode):
    """Has attention of one head, (N, tokens, C), computed as (N, 1, tokens, C), which alone ONNX's operator takes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or (kwargs.get("query", args[0] if args else None)).ndim != 3:
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, lambda x: x.unsqueeze(-3) if x.ndim == 3 else x, (args, kwargs))
        return func(*args, **kwargs).squeeze(-3)


class DataIsDetached(TorchFunctionMode):
    """Has `x.data` be x, or x detached, whose writes torch's trace sees: it makes a constant of the former."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach() if args[0].requires_grad else args[0]
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            return args[0].detach().copy_(args[1])
        return func(*args, **(kwargs or {}))


def save(program: torch.onnx.ONNXProgram, module: nn.Module, file: Path, *, optimize: bool = True) -> int:
    """Optimise the graph, write it, and return its opset.

    A graph that is not optimised has the module's own tensors: written again, it has the values that they have then.
    """
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
        if optimize:
            program.optimize()
        program.save(str(file), external_data=weight_bytes(module) > PROTOBUF_LIMIT_BYTES)
    return int(program.model.opset_imports[""])


def weight_bytes(module: nn.Module) -> int:
    """Of all parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())
