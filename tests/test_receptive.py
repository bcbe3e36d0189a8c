"""Receptive fields against published figures, and against the pixels that torch's gradients depend on."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch

from cnnbench.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    Conv,
    ConvTranspose,
    Flatten,
    LayerNorm,
    Linear,
    MaxPool,
    Op,
    Permute,
    Resize,
    Scale,
    Value,
)
from cnnbench.networks.network import Net
from cnnbench.networks.receptive import Field, joined, receptive_fields
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


# --- by hand ---


def behind(*ops: Op, image: tuple[int, ...] = (3, 16, 16)) -> list[tuple[float, float, float]] | None:
    """Jump, low and high along each axis behind layers in a row; None for the whole image."""
    net, x = Net("net"), Value(image)
    for number, op in enumerate(ops):
        x = net(f"{number}", op, x)
    found = list(receptive_fields(net.network(image)).values())[-1]
    return None if found is None else [(float(each.jump), float(each.low), float(each.high)) for each in found]


CHANNELS_LAST = Permute((1, 2, 0))


@pytest.mark.parametrize(
    ("ops", "field"),
    [
        ([Conv(4, 3, padding=1, dilation=2)], (1, -1, 3)),
        ([Conv(4, 3, 2, 1), Conv(4, 5, padding=2)], (2, -5, 5)),
        ([Conv(4, 1, 2), MaxPool(2)], (4, 0, 2)),
        ([MaxPool(3, 1, 1)], (1, -1, 1)),
        ([AvgPool(3, 2)], (2, 0, 2)),
        ([AvgPool(3)], (3, 0, 2)),
        ([AdaptiveAvgPool(4)], (4, 0, 3)),
        ([Conv(4, 1, 2), AdaptiveAvgPool(1)], (16, 0, 14)),
        ([AdaptiveAvgPool(3)], None),  # of windows that differ
        ([ConvTranspose(4, 2, 2)], (0.5, -0.5, 0)),
        ([ConvTranspose(4, 4, 2, 1)], (0.5, -1, 0.5)),
        ([ConvTranspose(4, 3, 3, 1, dilation=2)], (1 / 3, -1, 1 / 3)),
        ([Conv(4, 1, 2), ConvTranspose(4, 2, 2), Conv(4, 3, padding=1)], (1, -2, 1)),
        ([Conv(4, 3), Activation()], (1, 0, 2)),
        ([Conv(4, 3), CHANNELS_LAST, LayerNorm(1), Linear(5)], (1, 0, 2)),
        ([CHANNELS_LAST, LayerNorm(2)], None),
        ([Conv(4, 3), LayerNorm(1)], None),  # over a line of pixels
        ([Conv(4, 3), Linear(5)], None),
        ([Flatten(), Linear(5)], None),
        ([Resize(4)], None),
        ([Flatten(), Linear(5), Activation()], None),
    ],
)
def test_a_field_follows_from_windows_strides_and_padding(ops: list[Op], field: tuple[float, ...] | None) -> None:
    found = behind(*ops)
    assert found == (None if field is None else [pytest.approx(field)] * 2)


def test_each_axis_has_its_own_field() -> None:
    assert behind(Conv(4, (3, 1), (2, 1), (1, 0)), image=(3, 16, 9)) == [(2, -1, 1), (1, 0, 0)]
    assert behind(Conv(4, (3, 1), (2, 1), (1, 0)), Permute((0, 2, 1))) == [(1, 0, 0), (2, -1, 1)]
    assert behind(AdaptiveAvgPool((4, 2)), image=(3, 16, 8)) == [(4, 0, 3), (4, 0, 3)]
    assert behind(MaxPool((2, 3)), image=(3, 16, 9)) == [(2, 0, 1), (3, 0, 2)]


def test_what_is_joined_sees_what_either_sees_where_their_places_are_one_anothers() -> None:
    net, x = Net("net"), Value((3, 16, 16))
    left, right = net("left", Conv(4, 3, padding=1), x), net("right", Conv(4, 1), net("pool", AvgPool(5, 1, 2), x))
    added = net("add", Add((right,)), left)
    net("scaled", Scale((net("mean", AdaptiveAvgPool(1), added),)), added)
    net("blind", Add((net("resized", Resize(16), x),)), net("three", Conv(3, 1), x))
    found = receptive_fields(net.network(x.shape))
    assert found["add"] == (Field(Fraction(1), Fraction(-2), Fraction(2)),) * 2
    assert [found[name] for name in ("scaled", "blind")] == [None, None]

    def axis(jump: int, low: int, high: int) -> Field:
        return Field(Fraction(jump), Fraction(low), Fraction(high))

    assert joined([(None, axis(2, -3, 1)), (None, axis(2, -1, 4))]) == (None, axis(2, -3, 4))
    assert joined([(None, axis(2, 0, 1)), (None, axis(1, 0, 1))]) is None
    assert joined([(None, axis(2, 0, 1)), (axis(2, 0, 1), None)]) is None


def test_a_place_lies_within_the_image() -> None:
    field = Field(Fraction(4), Fraction(-5), Fraction(6))
    assert (field.size, field.at(0, 20), field.at(2, 20), field.at(4, 20)) == (12, (0, 7), (3, 15), (11, 20))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more"), [(2, 2, 0, 0), (3, 2, 1, 1), (4, 2, 1, 0), (3, 3, 0, 0)]
)
def test_behind_a_transposed_convolution_each_place_depends_on_the_pixels_of_its_field_and_no_others(
    kernel: int, stride: int, padding: int, more: int
) -> None:
    layers: list[Any] = [
        torch.nn.ConvTranspose1d(1, 1, kernel, stride, padding, more, bias=False),
        torch.nn.Conv1d(1, 1, 3, padding=1, bias=False),
    ]
    for layer in layers:
        torch.nn.init.ones_(layer.weight)
    net, value, x = Net("net"), Value((1, 6)), torch.zeros(1, 1, 6, requires_grad=True)
    value = net("up", ConvTranspose(1, kernel, stride, padding, bias=False, output_padding=more), value)
    net("conv", Conv(1, 3, padding=1, bias=False), value)
    (field,) = receptive_fields(net.network((1, 6)))["conv"] or ()
    out = layers[1](layers[0](x))[0, 0]
    for place in range(len(out)):
        (gradient,) = torch.autograd.grad(out[place], x, retain_graph=True)
        seen = gradient[0, 0].nonzero()[:, 0].tolist()
        assert field.at(place, 6) == (seen[0], seen[-1] + 1)
