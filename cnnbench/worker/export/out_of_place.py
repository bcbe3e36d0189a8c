"""Modules that write into their arguments, kept from it while they are traced."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
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
