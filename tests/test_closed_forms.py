"""The formulas against papers' figures, against torch on random layers, and against torchvision layer by layer."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from cnnbench.archs.catalogue import ARCHS
from cnnbench.archs.layers import AdaptiveAvgPool, Add, BatchNorm, Conv, Linear, MaxPool, Op, Scale, Shape
from cnnbench.archs.network import Net
from cnnbench.case import ModelSpec
from cnnbench.errors import ShapeError
from cnnbench.worker import models, witnesses


@pytest.mark.parametrize(
    ("op", "x", "params"),
    [
        # 3x3x32x64 + 64 and 1600x128 + 128, as introductions to CNNs work them out
        (Conv(64, kernel=3), (32, 13, 13), 18_496),
        (Linear(128), (1600,), 204_928),
        (BatchNorm(), (64, 8, 8), 128),
    ],
)
def test_a_layers_parameters_are_the_textbooks(op: Op, x: Shape, params: int) -> None:
    assert op.params(x) == params


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("lenet5", 156 + 2_416 + 30_840 + 10_164 + 850),
        ("simple_cnn", 320 + 18_496 + 204_928 + 1_290),
        ("vgg_style", 1_792 + 36_928 + 73_856 + 147_584 + 295_168 + 590_080 + 2_097_664 + 5_130),
        # 138 M in Simonyan & Zisserman 2014, table 2
        ("vgg16", 138_357_544),
        ("resnet18", 11_176_512 + 513 * 1000),
    ],
)
def test_a_networks_parameters_are_the_sum_of_its_layers_formulas(model: str, params: int) -> None:
    assert ARCHS[model].network().params == params


def test_resnet18_has_the_macs_that_forward_and_backward_flops_are_made_of() -> None:
    """10,884,440,064 FLOP forward and backward = MACs x 2 x 3, the golden value of torch's own counter tests."""
    assert ARCHS["resnet18"].network().macs * 2 * 3 == 10_884_440_064


def test_the_papers_lenet_sees_a_five_by_five_map_at_32_pixels() -> None:
    layers = {layer.name: layer for layer in ARCHS["lenet5"].network((32, 32)).layers}
    assert layers["pool2"].output_shape == (16, 5, 5)
    assert layers["fc1"].params == 400 * 120 + 120


small = st.integers(1, 3)


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    groups=small,
    ins=small,
    outs=small,
    kernel=st.tuples(small, small),
    stride=small,
    padding=st.integers(0, 2),
    dilation=small,
    bias=st.booleans(),
)
def test_a_convolutions_formulas_agree_with_torch(
    size: tuple[int, int],
    groups: int,
    ins: int,
    outs: int,
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    dilation: int,
    bias: bool,
) -> None:
    x = (ins * groups, *size)
    op = Conv(outs * groups, kernel, stride, padding, dilation, groups, bias)
    module = nn.Conv2d(x[0], outs * groups, kernel, stride, padding, dilation, groups, bias)
    try:
        expected = tuple(module(torch.zeros(1, *x)).shape[1:])
    except RuntimeError:
        with pytest.raises(ShapeError, match="nothing is left"):
            op.output_shape(x)
        return
    assert op.output_shape(x) == expected
    assert op.params(x) == sum(p.numel() for p in module.parameters())
    assert witnesses.dispatched(module, torch.zeros(1, *x)) == {"": (0, op.macs(x))}


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    kernel=small,
    stride=small,
    padding=st.integers(0, 1),
    ceil=st.booleans(),
)
def test_a_pools_windows_agree_with_torch(
    size: tuple[int, int], kernel: int, stride: int, padding: int, ceil: bool
) -> None:
    assume(padding <= kernel // 2)
    module = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
    op = MaxPool(kernel, stride, padding, ceil)
    try:
        expected = tuple(module(torch.zeros(1, 2, *size)).shape[1:])
    except RuntimeError:
        with pytest.raises(ShapeError):
            op.output_shape((2, *size))
        return
    assume(min(size) + 2 * padding >= kernel)  # torch lets a ceiled window hang over by more than the padding
    assert op.output_shape((2, *size)) == expected


@pytest.mark.parametrize("model", [name for name, arch in ARCHS.items() if arch.from_torchvision])
def test_every_layers_parameters_agree_with_torchvisions_module(model: str) -> None:
    arch = ARCHS[model]
    with torch.device("meta"):
        module, _ = models.build(ModelSpec(model=model))
    formula = {layer.name: (layer.params, 0) for layer in arch.network().layers if layer.params}
    assert formula == witnesses.own_parameters(module)


@pytest.mark.parametrize(
    "model", ["lenet5", "simple_cnn", "vgg_style", "resnet_cifar", "resnext50_32x4d", "efficientnet_b1"]
)
@pytest.mark.parametrize("size", [(48, 40)])
def test_every_layers_macs_agree_with_torchs_counter_at_an_unusual_size(model: str, size: tuple[int, int]) -> None:
    spec = ModelSpec(model=model, image_size=size, classes=7)
    with torch.device("meta"):
        module, image = models.build(spec)
        counted = witnesses.dispatched(module.eval(), torch.zeros(1, *image))
    formula = {layer.name: (0, layer.macs) for layer in ARCHS[model].network(size, 7).layers if layer.macs}
    assert formula == counted


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("model", ["lenet5", "alexnet", "vgg_style", "resnet18"])
def test_the_smallest_size_is_the_smallest_that_torch_accepts(model: str) -> None:
    smallest = ARCHS[model].smallest_size()
    assert smallest is not None
    for size, accepted in ((smallest, True), (smallest - 1, False)):
        if size < 1:
            continue
        try:
            module, image = models.build(ModelSpec(model=model, image_size=(size, size)))
            module.eval()(torch.zeros(1, *image))
        except RuntimeError:
            assert not accepted
        else:
            assert accepted


def test_an_image_too_small_names_the_layer_and_the_smallest_size() -> None:
    with pytest.raises(ShapeError, match=r"image of 20x20 is too small for alexnet: layer 'features\.5' .*63x63"):
        ARCHS["alexnet"].network((20, 20))


@pytest.mark.parametrize(
    ("op", "x", "message"),
    [
        (Conv(4, 3, groups=2), (3, 8, 8), "3 -> 4 channels cannot be split into 2 groups"),
        (Conv(4, 3), (3,), "expected channels and at least one spatial axis"),
        (Add((4, 2, 2)), (4, 2, 3), "cannot add 4x2x3 and 4x2x2"),
        (Scale((3, 1, 1)), (4, 2, 3), "cannot scale 4x2x3 by 3x1x1"),
    ],
)
def test_shapes_that_do_not_fit_say_so(op: Op, x: Shape, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        op.output_shape(x)


def test_a_layer_written_down_twice_is_our_mistake() -> None:
    net = Net("twice")
    net("pool", AdaptiveAvgPool(1), (3, 4, 4))
    with pytest.raises(AssertionError, match="two layers are called pool"):
        net("pool", AdaptiveAvgPool(1), (3, 4, 4))
