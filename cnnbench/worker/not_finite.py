"""Where numbers cease to be finite in a training step."""

from typing import Any

import torch
from torch import nn

from cnnbench.worker.hooks import hooked
from cnnbench.worker.signature import flat


def first_layer(module: nn.Module, images: torch.Tensor) -> str:
    """The parameters that are not finite, or else the first layer whose output is not, in training mode; or nothing."""
    wrong = [name for name, tensor in module.state_dict().items() if not tensor.isfinite().all()]
    if wrong:
        return f"{wrong[0]} is not finite" + (f", as are {len(wrong) - 1} more" if wrong[1:] else "")
    found: list[str] = []

    def look(name: str, child: nn.Module, output: Any) -> None:
        if not found and not all(tensor.isfinite().all() for tensor in flat(output)):
            found.append(f"{name or 'the model'} ({type(child).__name__}) puts out numbers that are not finite")

    with hooked(module, after=look), torch.no_grad():
        module.train()(images)
    return found[0] if found else ""
