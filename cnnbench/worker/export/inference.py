"""The inference graph: images in, logits out, with a dynamic batch."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

INPUT, OUTPUT = "images", "logits"
EXPORT_BATCH = 2
"""Not 0 or 1, which the exporter would take for constants."""
PROTOBUF_LIMIT_BYTES = 1_800_000_000
"""Above it weights stand in a second file: a protobuf message cannot exceed 2 GiB."""


def trace(module: nn.Module, x: Tensor, *, dynamic_batch: bool = True) -> torch.onnx.ONNXProgram:
    """The graph of the module in inference mode, not yet optimised: each node names the module that it comes from.

    x is (2, C, H, W) for a dynamic batch, else of the batch that the graph is to have. Raises whatever torch's exporter
    raises, when it cannot.
    """
    assert x.shape[0] == EXPORT_BATCH or not dynamic_batch
    module.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()), out_of_place(module):
        program = torch.onnx.export(
            module,
            (x,),
            dynamo=True,
            optimize=False,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    return program


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


def save(program: torch.onnx.ONNXProgram, module: nn.Module, file: Path) -> int:
    """Optimise the graph, write it, and return its opset."""
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
        program.optimize()
        program.save(str(file), external_data=weight_bytes(module) > PROTOBUF_LIMIT_BYTES)
    return int(program.model.opset_imports[""])


def weight_bytes(module: nn.Module) -> int:
    """Of all parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())
