"""Why a module could not be exported or traced, in a sentence that names the layer where that can be found."""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnbench.errors import ModelError
from cnnbench.worker.export import inference
from cnnbench.worker.export.training.backward_hooks import written_parameter


def reason(
    error: Exception, module: nn.Module, inputs: Sequence[Tensor], otherwise: str = "it cannot be exported"
) -> str:
    """What the error comes from; where that is not known, what it says."""
    if isinstance(error, ModelError):
        return str(error)
    said = inference.said(error, otherwise)
    if inference.WRITES in said:
        with contextlib.suppress(Exception), torch.no_grad():
            said = written_parameter(module, inputs) or said
    return inference.scripted(module) or said
