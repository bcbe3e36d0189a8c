"""Every number of the introductory note the project grew from, against the formulas and torch.

Where the note is off, the test says so and asserts what is true.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnbench.networks.families.efficientnet import COEFFICIENTS
from cnnbench.networks.layers import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Conv,
    Flatten,
    GroupNorm,
    InstanceNorm,
    Linear,
    MaxPool,
    Op,
    Shape,
)
from cnnbench.networks.network import Layer
from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.suite.case import ModelSpec
from cnnbench.worker import models


def layers_of(model: str, size: Shape | None = None) -> dict[str, Layer]:
    return {layer.name: layer for layer in ARCHITECTURES[model].network(size).layers}


def shapes_of(model: str, size: Shape | None = None) -> dict[str, Shape]:
    return {name: layer.output_shape for name, layer in layers_of(model, size).items()}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- the idea ---


def test_the_example_kernel_gives_the_sum_eight() -> None:
    """What the note leaves as `(weighted sum)`: columns right minus left, the middle row twice."""
    image = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).reshape(1, 1, 3, 3)
    assert F.conv2d(image, kernel).tolist() == [[[[8.0]]]]
    assert (3 - 1) + 2 * (6 - 4) + (9 - 7) == 8
    assert Conv(1, kernel=3, bias=False).output_shape((1, 3, 3)) == (1, 1, 1)
    assert Conv(1, kernel=3, bias=False).macs((1, 3, 3)) == 9


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("filters", [1, 32])
def test_a_convolution_takes_h_w_c_to_as_many_maps_as_it_has_kernels(channels: int, filters: int) -> None:
    """(H x W x C) * (K x K x C) is one map; F kernels give F."""
    assert Conv(filters, kernel=5).output_shape((channels, 28, 30)) == (filters, 24, 26)
    assert Conv(filters, kernel=5, bias=False).params((channels, 28, 30)) == filters * 5 * 5 * channels


def test_the_typical_architectures_shapes() -> None:
    shapes = shapes_of("simple_cnn")
    assert [shapes[name] for name in ("conv1", "pool1", "conv2", "pool2", "flatten", "fc1", "fc2")] == [
        (32, 26, 26),
        (32, 13, 13),
        (64, 11, 11),
        (64, 5, 5),
        (1600,),
        (128,),
        (10,),
    ]
    assert 64 * 5 * 5 == 1600


def test_the_hooks_of_the_example_see_these_shapes() -> None:
    """The note captures conv1 and conv2 of one digit, and draws conv1's 32 maps in 4 rows of 8."""
    module, image = models.build(ModelSpec(model="simple_cnn"))
    seen: dict[str, Shape] = {}
    for name in ("conv1", "conv2"):
        module.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: tuple(output.shape)})
        )
    with torch.no_grad():
        module.eval()(torch.zeros(1, *image))
    assert seen == {"conv1": (1, 32, 26, 26), "conv2": (1, 64, 11, 11)}
    assert seen["conv1"][1] == 4 * 8


@pytest.mark.parametrize(
    ("op", "x", "params"),
    [
        (Conv(64, kernel=3), (32, 13, 13), 18_496),
        (Linear(128), (1600,), 204_928),
    ],
)
def test_the_worked_parameter_counts(op: Op, x: Shape, params: int) -> None:
    assert op.params(x) == params


def test_the_worked_parameter_counts_are_those_of_the_network_itself() -> None:
    layers = layers_of("simple_cnn")
    assert {name: layer.params for name, layer in layers.items() if layer.params} == {
        "conv1": 320,
        "conv2": 18_496,
        "fc1": 204_928,
        "fc2": 1_290,
    }


# --- fewer parameters than an MLP ---


def test_the_mlps_first_layer_has_100_352_weights() -> None:
    assert Linear(128, bias=False).params((28 * 28,)) == 100_352


def test_the_two_convolutions_have_18_720_weights() -> None:
    layers = layers_of("simple_cnn")
    first, second = (
        Conv(c.op.out_channels, kernel=3, bias=False).params(c.input_shape)
        for c in (layers["conv1"], layers["conv2"])
        if isinstance(c.op, Conv)
    )
    assert (first, second, first + second) == (288, 18_432, 18_720)


def test_five_times_fewer_holds_for_the_convolutions_alone() -> None:
    """100,352 / 18,720 = 5.4: weights without biases, of the convolutions without the layers behind them."""
    assert round(100_352 / 18_720, 1) == 5.4


def test_the_whole_cnn_has_more_parameters_than_its_mlp_because_of_its_fully_connected_layer() -> None:
    """The note says `5x fewer parameters`. With all layers it is 2.2 times more: 225,034 against 101,770."""
    cnn, mlp = ARCHITECTURES["simple_cnn"].network(), ARCHITECTURES["mlp"].network()
    assert (cnn.params, mlp.params) == (225_034, 101_770)
    assert cnn.params > 2 * mlp.params
    in_convolutions = sum(layer.params for layer in cnn.layers if isinstance(layer.op, Conv))
    assert in_convolutions < mlp.params / 5
    assert layers_of("simple_cnn")["fc1"].params == 204_928 > cnn.params * 0.9


def test_fewer_parameters_are_not_less_work() -> None:
    """The note counts parameters alone. A shared weight is used at each position: 26 times the MLP's MACs."""
    cnn, mlp = ARCHITECTURES["simple_cnn"].network(), ARCHITECTURES["mlp"].network()
    assert mlp.macs == 784 * 128 + 128 * 10
    assert cnn.macs == 26 * 26 * 32 * 9 + 11 * 11 * 64 * 9 * 32 + 1600 * 128 + 128 * 10
    assert round(cnn.macs / mlp.macs) == 26


# --- its networks ---


def test_lenets_shapes_at_28_pixels() -> None:
    """The note's code: 16 * 4 * 4 values into the first fully connected layer."""
    shapes = shapes_of("lenet5")
    assert shapes["conv1"] == (6, 24, 24)
    assert shapes["pool1"] == (6, 12, 12)
    assert shapes["conv2"] == (16, 8, 8)
    assert shapes["pool2"] == (16, 4, 4)
    assert shapes["flatten"] == (16 * 4 * 4,) == (256,)
    assert [shapes[name] for name in ("fc1", "fc2", "fc3")] == [(120,), (84,), (10,)]


def test_the_notes_lenet_code_cannot_take_the_32_pixels_of_its_own_history() -> None:
    """Its history has 32x32, where the flattened map has 16 * 5 * 5 values, which `view(-1, 16*4*4)` cannot hold."""
    shapes = shapes_of("lenet5_32")
    assert shapes["pool2"] == (16, 5, 5)
    assert shapes["flatten"] == (400,)
    with pytest.raises(RuntimeError, match="invalid for input of size 400"):
        torch.zeros(1, *shapes["pool2"]).view(-1, 16 * 4 * 4)
    built_for_28, _ = models.build(ModelSpec(model="lenet5"))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        built_for_28.eval()(torch.zeros(1, 1, 32, 32))


def test_the_view_that_the_note_flattens_with_mixes_images_where_flatten_would_complain() -> None:
    """`view(-1, 256)` makes 25 rows of 16 images at 32 pixels: the batch is silently another one."""
    maps = torch.zeros(16, 16, 5, 5)
    assert maps.view(-1, 16 * 4 * 4).shape == (25, 256)
    assert torch.flatten(maps, 1).shape == (16, *Flatten().output_shape((16, 5, 5))) == (16, 400)


def test_lenets_parameters() -> None:
    """What the note's comparison prints for LeNet-5 as it is written there, and for the 1998 size."""
    assert ARCHITECTURES["lenet5"].network().params == 156 + 2_416 + 30_840 + 10_164 + 850 == 44_426
    assert ARCHITECTURES["lenet5_32"].network().params == 156 + 2_416 + 48_120 + 10_164 + 850 == 61_706


def test_the_vgg_style_networks_shapes() -> None:
    shapes = shapes_of("vgg_style")
    pools = [layer.output_shape for layer in layers_of("vgg_style").values() if isinstance(layer.op, MaxPool)]
    assert pools == [(64, 16, 16), (128, 8, 8), (256, 4, 4)]
    assert shapes["flatten"] == (256 * 4 * 4,) == (4096,)
    assert (shapes["classifier.0"], shapes["classifier.3"]) == ((512,), (10,))


def test_the_vgg_style_networks_parameters() -> None:
    """What the note's comparison prints: most of it is in the first fully connected layer."""
    assert ARCHITECTURES["vgg_style"].network().params == sum(
        [1_792, 36_928, 73_856, 147_584, 295_168, 590_080, 4_096 * 512 + 512, 5_130]
    )
    assert layers_of("vgg_style")["classifier.0"].params == 2_097_664


def test_the_cifar_resnets_shapes_stage_by_stage() -> None:
    shapes = shapes_of("resnet_cifar")
    assert shapes["conv1"] == shapes["relu"] == shapes["layer1.1.relu2"] == (64, 32, 32)
    assert shapes["layer2.0"] == shapes["layer2.4.relu2"] == (128, 16, 16)
    assert shapes["layer3.0"] == shapes["layer3.4.relu2"] == (256, 8, 8)
    assert shapes["avgpool"] == (256, 1, 1)
    assert shapes["flatten"] == (256,)
    assert shapes["fc"] == (10,)


def test_the_cifar_resnets_parameters() -> None:
    """What the note prints: convolutions with biases, batch normalisation with two values per channel."""

    def conv(ins: int, outs: int) -> int:
        return 9 * ins * outs + outs + 2 * outs

    expected = (
        conv(3, 64) + 4 * conv(64, 64) + conv(64, 128) + 4 * conv(128, 128) + conv(128, 256) + 4 * conv(256, 256) + 2570
    )
    module, _ = models.build(ModelSpec(model="resnet_cifar"))
    assert ARCHITECTURES["resnet_cifar"].network().params == parameters(module) == expected == 3_476_234


def test_a_skip_connection_keeps_the_shape_and_costs_no_parameter() -> None:
    layers = layers_of("resnet_cifar")
    add = layers["layer1.0.add"]
    assert add.params == add.macs == 0
    assert add.elementwise == 64 * 32 * 32
    assert [value.shape for value in add.inputs] == [(64, 32, 32)] * 2


# --- transfer learning ---


def test_transfer_learning_trains_5_130_of_11_181_642_parameters() -> None:
    network = ARCHITECTURES["resnet18"].network(classes=10)
    classifier = network.layers[-1]
    assert (network.params, classifier.params) == (11_181_642, 5_130)
    with torch.device("meta"):
        module, _ = models.build(ModelSpec(model="resnet18"))
        assert isinstance(module.fc, nn.Linear)
        features = module.fc.in_features
        module.fc = nn.Linear(features, 10)
    for parameter in module.parameters():
        parameter.requires_grad = False
    for parameter in module.fc.parameters():
        parameter.requires_grad = True
    assert features == 512
    assert parameters(module) == network.params
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == classifier.params


# --- its history ---


def test_138_million_holds_for_vgg16_but_vgg19_has_143_7() -> None:
    """The note gives 138 M for `VGG-16/19`."""
    assert ARCHITECTURES["vgg16"].network().params == 138_357_544
    assert ARCHITECTURES["vgg19"].network().params == 143_667_240


def test_vggs_are_stacks_of_3x3_convolutions_and_pooling() -> None:
    for depth in (16, 19):
        layers = ARCHITECTURES[f"vgg{depth}"].network().layers
        convs = [layer.op for layer in layers if isinstance(layer.op, Conv)]
        weighted = [layer for layer in layers if layer.params]
        assert {conv.kernel for conv in convs} == {3}
        assert len(weighted) == depth


def test_alexnets_first_layer_gives_55_pixels_and_96_maps() -> None:
    """227 x 227, 96 kernels of 11 x 11, stride 4: the two-tower network of 2012."""
    op = Conv(96, kernel=11, stride=4)
    assert op.output_shape((3, 227, 227)) == (96, 55, 55)
    assert (227 - 11) / 4 + 1 == 55
    assert op.params((3, 227, 227)) == 34_944
    assert MaxPool(3, stride=2).output_shape((96, 55, 55)) == (96, 27, 27)


def test_the_papers_own_224_pixels_would_give_54() -> None:
    """Krizhevsky et al. 2012 print 224; the note has the 227 that their 55 follows from."""
    assert Conv(96, kernel=11, stride=4).output_shape((3, 224, 224)) == (96, 54, 54)


def test_the_96_filters_are_the_two_towers_and_torchvisions_single_tower_has_64() -> None:
    """torchvision's AlexNet is Krizhevsky's of 2014: 64 kernels, padding 2, images of 224 x 224."""
    network = ARCHITECTURES["alexnet"].network()
    first = network.layers[0]
    assert network.input_shape == (3, 224, 224)
    assert isinstance(first.op, Conv)
    assert (first.op.out_channels, first.op.kernel, first.op.stride, first.op.padding) == (64, 11, 4, 2)
    assert first.output_shape == (64, 55, 55)


def test_alexnets_classifier_is_4096_4096_1000() -> None:
    shapes = shapes_of("alexnet")
    assert [shapes[f"classifier.{place}"] for place in (1, 4, 6)] == [(4096,), (4096,), (1000,)]


def test_compound_scaling_changes_depth_width_and_resolution_together() -> None:
    rows = [COEFFICIENTS[f"b{number}"][:3] for number in range(8)]
    assert rows[0] == (1.0, 1.0, 224)
    for smaller, larger in pairwise(rows):
        assert all(after >= before for before, after in zip(smaller, larger, strict=True))
        assert larger[2] > smaller[2]


# --- kinds of layers ---


def conv_of(module: nn.Conv2d) -> Conv:
    """The layer with the module's settings."""
    sizes = (module.kernel_size, module.stride, module.padding, module.dilation)
    kernel, stride, padding, dilation = (tuple(map(int, size)) for size in sizes)
    return Conv(module.out_channels, kernel, stride, padding, dilation, module.groups, module.bias is not None)


@pytest.mark.parametrize(
    ("module", "x", "expected", "params"),
    [
        # 3x3, preserve size
        (nn.Conv2d(3, 64, 3, padding=1), (3, 32, 32), (64, 32, 32), 1_792),
        # 1x1, change channels
        (nn.Conv2d(64, 128, 1), (64, 32, 32), (128, 32, 32), 8_320),
    ],
)
def test_its_examples_of_convolutions(module: nn.Conv2d, x: Shape, expected: Shape, params: int) -> None:
    op = conv_of(module)
    assert op.output_shape(x) == tuple(module(torch.zeros(1, *x)).shape[1:]) == expected
    assert op.params(x) == parameters(module) == params


def test_its_downsampling_convolution_halves_the_size_but_loses_a_pixel() -> None:
    """`Conv2d(128, 256, 3, stride=2)` has no padding: 32 becomes 15; with padding 1, as in the CIFAR ResNet, 16."""
    module = nn.Conv2d(128, 256, 3, stride=2)
    op = conv_of(module)
    assert op.output_shape((128, 32, 32)) == tuple(module(torch.zeros(1, 128, 32, 32)).shape[1:]) == (256, 15, 15)
    assert op.output_shape((128, 33, 33)) == (256, 16, 16)
    assert Conv(256, kernel=3, stride=2, padding=1).output_shape((128, 32, 32)) == (256, 16, 16)
    assert op.params((128, 32, 32)) == parameters(module) == 295_168


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_same_padding_is_half_the_kernel(kernel: int) -> None:
    """`Padding: 'same' to preserve the size`, for the kernels that the note names."""
    assert Conv(8, kernel, padding=kernel // 2).output_shape((3, 32, 20)) == (8, 32, 20)


@pytest.mark.parametrize(
    ("op", "module", "expected"),
    [
        (MaxPool(2), nn.MaxPool2d(2), (64, 5, 5)),
        (AvgPool(2), nn.AvgPool2d(2), (64, 5, 5)),
        (MaxPool(3, stride=2), nn.MaxPool2d(3, stride=2), (64, 5, 5)),
        (MaxPool(3, stride=1), nn.MaxPool2d(3, stride=1), (64, 9, 9)),
        (AdaptiveAvgPool(1), nn.AdaptiveAvgPool2d((1, 1)), (64, 1, 1)),
    ],
)
def test_its_poolings(op: Op, module: nn.Module, expected: Shape) -> None:
    x = (64, 11, 11)
    assert op.output_shape(x) == tuple(module(torch.zeros(1, *x)).shape[1:]) == expected
    assert op.params(x) == parameters(module) == 0


def test_global_average_pooling_takes_any_size_to_one_value_per_channel() -> None:
    """`H x W x C -> 1 x 1 x C -> C`, in place of a fully connected layer."""
    for size in ((7, 7), (8, 5), (1, 1)):
        pooled = AdaptiveAvgPool(1).output_shape((256, *size))
        assert pooled == (256, 1, 1)
        assert Flatten().output_shape(pooled) == (256,)


def test_global_average_pooling_saves_most_of_a_classifier() -> None:
    assert Linear(10).params((256,)) == 2_570
    assert Linear(10).params((256 * 8 * 8,)) == 163_850


@pytest.mark.parametrize(
    ("op", "module", "params"),
    [
        (BatchNorm(), nn.BatchNorm2d(64), 128),
        (GroupNorm(32), nn.GroupNorm(32, 64), 128),
        # no scale and shift unless asked
        (InstanceNorm(), nn.InstanceNorm2d(64), 0),
        (InstanceNorm(affine=True), nn.InstanceNorm2d(64, affine=True), 128),
    ],
)
def test_its_normalisations_parameters(op: Op, module: nn.Module, params: int) -> None:
    assert op.params((64, 8, 8)) == parameters(module) == params
    assert op.output_shape((64, 8, 8)) == (64, 8, 8)


def test_batch_normalisation_gives_mean_0_and_deviation_1_per_batch() -> None:
    torch.manual_seed(0)
    x = 3 + 5 * torch.rand(16, 4, 8, 8)
    y = nn.BatchNorm2d(4).train()(x)
    assert y.mean((0, 2, 3)).abs().max() < 1e-5
    assert (y.std((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-4


def test_dropout2d_drops_whole_feature_maps() -> None:
    torch.manual_seed(0)
    y = nn.Dropout2d(0.25).train()(torch.ones(200, 64, 4, 4))
    per_map = y.flatten(2)
    assert ((per_map == 0).all(2) | (per_map == 1 / 0.75).all(2)).all()
    assert abs(float((per_map == 0).all(2).float().mean()) - 0.25) < 0.02


def test_the_simple_cnn_drops_single_values_at_the_notes_quarter() -> None:
    module, _ = models.build(ModelSpec(model="simple_cnn"))
    assert isinstance(module.dropout, nn.Dropout)
    assert module.dropout.p == 0.25


@pytest.mark.parametrize(
    "model",
    ["simple_cnn", "lenet5", "vgg_style", "resnet_cifar"],
)
def test_stride_is_1_for_convolutions_and_2_for_pooling(model: str) -> None:
    """The note's rule, which its own networks keep, but for the strided convolutions between the ResNet's stages."""
    layers = layers_of(model).values()
    strided = [layer.name for layer in layers if isinstance(layer.op, Conv) and layer.op.stride != 1]
    assert strided == (["layer2.0", "layer3.0"] if model == "resnet_cifar" else [])
    for layer in layers:
        if isinstance(layer.op, MaxPool):
            before, after = (math.prod(shape[1:]) for shape in (layer.input_shape, layer.output_shape))
            assert after <= before / 4


def test_filters_double_behind_each_pooling() -> None:
    """`32 -> 64 -> 128 -> 256`: by that rule a convolution's work is halved where the size is."""
    first, second = (Conv(n, kernel=3, padding=1, bias=False) for n in (64, 128))
    assert second.macs((64, 16, 16)) * 2 == first.macs((64, 32, 32))
    assert Conv(128, kernel=3, padding=1, bias=False).macs((128, 16, 16)) == first.macs((64, 32, 32))


# --- what it says of images ---


def test_an_image_under_20_pixels_is_still_taken() -> None:
    """`Very small images (<20x20): an MLP is enough` is a matter of taste, not of size: 10x10 is the least."""
    assert ARCHITECTURES["simple_cnn"].smallest_size() == 10
    assert ARCHITECTURES["simple_cnn"].network((19, 19)).macs > 0
