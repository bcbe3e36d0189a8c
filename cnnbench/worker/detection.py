"""torchvision's detection networks: up to their heads, and with their post-processing."""

from typing import Any

import torch
from torch import Tensor, nn

from cnnbench.errors import ModelError
from cnnbench.suite.case import ModelSpec


class UpToHeads(nn.Module):
    """Backbone, feature pyramid and the heads that look at every position. Takes images (N, C, H, W).

    Of a network of two stages these are the heads that propose regions; what looks at each region comes after them.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = head_of(detector)

    def forward(self, images: Tensor) -> Any:
        """What the heads put out: a nest of tensors (N, ...)."""
        features = self.backbone(images)
        return self.head([features] if isinstance(features, Tensor) else list(features.values()))


class WithPostProcessing(nn.Module):
    """All of a detection network: images (N, C, H, W) are normalised and padded, boxes decoded, scored and suppressed.

    It puts out what its heads do, by which outputs are compared with their reference: which boxes outlive the
    suppression of others is decided by rounding where scores are nearly equal.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Any:
        """What the heads put out: a nest of tensors (N, ...). Raises ModelError where it is traced into a graph."""
        if torch.compiler.is_compiling():
            raise ModelError("which boxes are left behind the heads depends on values; add /heads to the model's name")
        made: list[Any] = []
        hook = head_of(self.detector).register_forward_hook(lambda *call: made.append(call[-1]))
        try:
            self.detector(list(images))
        finally:
            hook.remove()
        return made[0]


def head_of(detector: Any) -> nn.Module:
    """The heads that look at every position of its feature maps."""
    found = detector.rpn.head if hasattr(detector, "rpn") else detector.head
    assert isinstance(found, nn.Module)
    return found


def up_to_heads(module: nn.Module) -> nn.Module:
    """What is counted of a module: of a detection network what its heads need, of others all."""
    return UpToHeads(module.detector) if isinstance(module, WithPostProcessing) else module


def _as_it_is(image: Tensor, target: None) -> tuple[Tensor, None]:
    return image, target


def build(name: str, spec: ModelSpec, *, with_post_processing: bool) -> tuple[nn.Module, tuple[int, ...]]:
    """The module with random weights, and the shape of its images: by default squares of the side that torchvision
    resizes the shorter one to. Those that are given are not resized."""
    from torchvision.models import get_model

    classes = {} if spec.classes is None else {"num_classes": spec.classes}
    detector = get_model(name, weights=None, weights_backbone=None, **classes)
    detector.transform.resize = _as_it_is
    size = spec.image_size or (detector.transform.min_size[-1],) * 2
    return (WithPostProcessing if with_post_processing else UpToHeads)(detector), (3, *size)
