"""A program that `torch.export.save` has written, as a module: a network in inference, with its own weights."""

import importlib
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MethodType

import torch
from torch import Tensor, fx, nn

from cnnbench.errors import ModelError, WorkerError
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.runtimes import QUANTISER
from cnnbench.worker.signature import Inputs, Shape

HOW = "torch.export.export(module.eval(), (torch.zeros(2, 3, 224, 224),), dynamic_shapes=({0: torch.export.Dim.AUTO},))"
"""An example of how to export one with a dynamic batch."""
INSTALL = "pip install 'cnnbench[torchao]'"


def load_program(spec: ModelSpec) -> tuple[nn.Module, Inputs]:
    """The module, and the shape of each tensor that it takes, without the batch.

    Axes other than the batch may be dynamic, too: their sizes are then those of the example that it was exported with,
    or the spec's. Raises ModelError for a file that cannot be read, and for a program whose batch is fixed.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.export.load(spec.model)
            module = program.module()
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model {spec.model!r} cannot be read as a program of torch.export, by torch {torch.__version__}: {words}; "
            "expected a file written by torch.export.save, whose operators are imported here"
        ) from None
    _, by_name = program.call_spec.in_spec.children() if program.call_spec.in_spec else (None, None)
    if by_name is not None and by_name.num_leaves:
        raise ModelError(
            f"model {spec.model!r}: its inputs are given by name; expected a program that takes them in order"
        )
    _take_modes(module)
    names = set(program.graph_signature.user_inputs)
    taken = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    return module, _inputs(spec, taken)


def quantiser() -> str:
    """What quantises in PyTorch, with its version. Raises WorkerError where it is not installed."""
    try:
        return f"torchao {version('torchao')}"
    except PackageNotFoundError:
        raise WorkerError(f"int8 in PyTorch needs torchao, which is not installed: {INSTALL}") from None


def load_quantised(file: Path) -> nn.Module:
    """The module of a program that was quantised: its nodes in float32, between nodes that quantise.

    Raises WorkerError where torchao is not installed, or there is no such file.
    """
    quantiser()
    importlib.import_module(QUANTISER)
    if not file.exists():
        raise WorkerError("the quantised program is not there")
    with warnings.catch_warnings(action="ignore"):
        module = torch.export.load(file).module()
    _take_modes(module)
    return module


def _take_modes(module: nn.Module) -> None:
    """Have a program's module accept to be put into a mode, of which it says itself that it has none."""
    for name in ("train", "eval"):
        setattr(module, name, MethodType(lambda self, *_: self, module))


def _inputs(spec: ModelSpec, taken: list[fx.Node]) -> Inputs:
    shapes: dict[str, Shape] = {}
    given = dict(spec.inputs or ())
    if not taken:
        raise ModelError(f"model {spec.model!r} takes no tensor; expected a program of at least one image or signal")
    for node in taken:
        value = node.meta["val"]
        if not isinstance(value, Tensor) or not value.is_floating_point() or not value.ndim:
            raise ModelError(
                f"model {spec.model!r}: expected inputs that are tensors of floats; got another in {node.name}"
            )
        batch, *sizes = value.shape
        if isinstance(batch, int):
            raise ModelError(
                f"model {spec.model!r} was exported with a fixed batch of {batch}; expected a dynamic one, such as by "
                f"{HOW}"
            )
        shape = given.get(node.name) or _filled(sizes, spec)
        if len(shape) != len(sizes) or any(isinstance(n, int) and n != m for n, m in zip(sizes, shape, strict=True)):
            expected = "x".join(str(n) if isinstance(n, int) else "any" for n in sizes)
            raise ModelError(
                f"model {spec.model!r}: expected {node.name} of {expected}; got {'x'.join(map(str, shape))}"
            )
        shapes[node.name] = shape
    if unknown := given.keys() - shapes.keys():
        raise ModelError(f"model {spec.model!r} takes {', '.join(shapes)}; got {', '.join(sorted(unknown))}")
    return shapes if len(shapes) > 1 else next(iter(shapes.values()))


def _filled(sizes: list[int | torch.SymInt], spec: ModelSpec) -> Shape:
    """Without what is dynamic: the spec's channels and image size, else what the program was exported with."""
    found = [n if isinstance(n, int) else int(n) for n in sizes]
    if spec.channels and found:
        found[0] = spec.channels
    if spec.image_size and len(found) == 1 + len(spec.image_size):
        found[1:] = spec.image_size
    return tuple(found)
