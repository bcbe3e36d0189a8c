"""Receptive fields against published figures, and against the pixels that torch's gradients depend on."""

import math

import pytest
import torch

from cnnbench.networks.receptive import receptive_fields
from cnnbench.networks.registry import get
from cnnbench.suite.case import ModelSpec
from cnnbench.worker import models
from cnnbench.worker.hooks import hooked


def sizes(model: str) -> dict[str, tuple[int, ...] | None]:
    fields = receptive_fields(get(model).network())
    return {name: None if of is None else tuple(each.size for each in of) for name, of in fields.items()}


def test_fields_are_the_published_ones() -> None:
    """VGG-16's last pooling: 212 (Araujo et al. 2019, table 1). ResNet's by the same recurrence, by hand."""
    assert sizes("vgg16")["features.30"] == (212, 212)
    resnet = sizes("resnet18")
    assert resnet["conv1"] == (7, 7)
    assert resnet["maxpool"] == (11, 11)
    assert resnet["layer1.1.conv2"] == (43, 43)
    assert resnet["layer4.1.conv2"] == (435, 435)


def test_what_sees_the_whole_image_has_none() -> None:
    assert sizes("efficientnet_b0")["features.1.0.block.2.0"] is None  # behind a squeeze-and-excitation
    assert sizes("resnet18")["fc"] is None


def _flat(places: list[int], size: tuple[int, ...]) -> int:
    """The place among all of a map, line by line."""
    return sum(place * math.prod(size[axis + 1 :]) for axis, place in enumerate(places))


@pytest.mark.parametrize(
    ("model", "size", "layer"),
    [
        ("resnet18", (128, 128), "layer2.1.conv2"),
        ("mobilenet_v2", (96, 96), "features.5.conv.2"),
        ("densenet121", (96, 96), "features.denseblock1.denselayer3.conv2"),
        ("cnn1d", (256,), "features.8"),
        ("convnext_tiny", (96, 96), "features.1.1.block.0"),
    ],
)
def test_a_field_holds_exactly_the_pixels_that_a_gradient_depends_on(
    model: str, size: tuple[int, ...], layer: str
) -> None:
    spec = ModelSpec.checked(model, size, None)
    module, shape = models.build(spec)
    assert isinstance(shape, tuple)
    for parameter in module.parameters():  # no weight hides a pixel
        parameter.data.abs_().add_(0.01)
    for child in module.modules():
        if isinstance(child, torch.nn.ReLU6):
            child.max_val = float("inf")
    made: list[torch.Tensor] = []
    x = torch.rand(1, *shape, requires_grad=True)
    with hooked(module.eval(), after=lambda name, _, y: made.append(y) if name == layer else None):
        module(x)
    places = [side // 2 for side in made[0].shape[2:]]
    (gradient,) = torch.autograd.grad(made[0][0].flatten(1)[:, _flat(places, made[0].shape[2:])].sum(), x)
    seen = gradient[0].abs().sum(0).nonzero()
    fields = receptive_fields(get(model).network(size))[layer]
    assert fields is not None
    expected = [field.at(place, side) for field, place, side in zip(fields, places, shape[1:], strict=True)]
    assert [(int(seen[:, axis].min()), int(seen[:, axis].max()) + 1) for axis in range(seen.shape[1])] == expected
