"""Every network of the catalogue against its torch module, layer by layer, and what it says to a wrong request."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import (
    convnext,
    densenet,
    efficientnet,
    mnasnet,
    mobilenetv2,
    mobilenetv3,
    regnet,
    resnet,
    shufflenetv2,
    vgg,
)

from cnnbench.analysis.counts import find
from cnnbench.errors import InputError, ShapeError, TooSmall
from cnnbench.networks import registry, training
from cnnbench.networks.architecture import Architecture
from cnnbench.networks.families.convnext import ConvNeXt
from cnnbench.networks.families.densenet import DenseNet
from cnnbench.networks.families.efficientnet import COEFFICIENTS, EfficientNetV2
from cnnbench.networks.families.mobilenet import MobileNetV3
from cnnbench.networks.families.regnet import RegNet
from cnnbench.networks.families.resnet import ResNet
from cnnbench.networks.families.shufflenet_v2 import ShuffleNetV2
from cnnbench.networks.families.vgg import VGG
from cnnbench.networks.layers import Conv, Linear, Shape
from cnnbench.networks.network import Network
from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.networks.training import step_memory
from cnnbench.records.record import CounterResults
from cnnbench.suite.case import ModelSpec
from cnnbench.worker import models
from cnnbench.worker.counters import collect as counters
from cnnbench.worker.counters.module import dispatched, parameters
from tests.test_layers import macs_of, params_of, run_in_training

TORCHVISIONS = [name for name, architecture in ARCHITECTURES.items() if architecture.from_torchvision]
OURS = [name for name, architecture in ARCHITECTURES.items() if not architecture.from_torchvision]

TRANSFORMERS = ("vit_", "swin_", "maxvit_")
"""torchvision's classifiers that are no convolutional networks."""

BATCH = 2


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """The module with shapes alone. RegNet works out its widths with torch, for which it needs numbers."""
    widths_of = regnet.BlockParams.from_init_params

    def with_numbers(*args: Any, **options: Any) -> Any:
        with torch.device("cpu"):
            return widths_of(*args, **options)

    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(regnet.BlockParams, "from_init_params", with_numbers)
        return build()


def built(name: str, size: Shape | None = None, classes: int | None = None) -> nn.Module:
    """The catalogue's module."""
    return models.build(ModelSpec(model=name, image_size=size, classes=classes))[0]


def agree(network: Network, module: nn.Module) -> None:
    """Asserts that parameters agree layer by layer, and in training MACs and what autograd keeps of a batch."""
    assert parameters(module) == params_of(network)
    macs, kept = run_in_training(module, torch.zeros(BATCH, *network.input_shape, device="meta"))
    assert macs == macs_of(network.layers, BATCH)
    assert kept == training.saved_bytes(network, BATCH)


def unusual(size: Shape) -> Shape:
    """A size that is no multiple of anything, and no square."""
    return tuple(side + more for side, more in zip(size, (5, 39), strict=False))


# --- the catalogue ---


def test_the_catalogue_has_all_convolutional_classifiers_and_segmentation_networks_of_torchvision() -> None:
    listed = [torchvision.models.list_models(module=m) for m in (torchvision.models, torchvision.models.segmentation)]
    assert set(TORCHVISIONS) == {name for name in chain(*listed) if not name.startswith(TRANSFORMERS)}


def smallest_first(names: list[str]) -> list[Any]:
    """Names as parameters of a test: of each family, the member with the fewest layers is of the first tier."""
    layers = {name: len(ARCHITECTURES[name].network().layers) for name in names}
    family = {name: type(ARCHITECTURES[name].describe) for name in names}
    first = {
        min((name for name in names if family[name] is each), key=lambda name: layers[name]) for each in family.values()
    }
    return [name if name in first else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", smallest_first(TORCHVISIONS))
def test_a_closed_form_agrees_with_torchvisions_module(name: str) -> None:
    module = on_meta(lambda: built(name))
    architecture = ARCHITECTURES[name]
    agree(architecture.network(), module)
    size = unusual(architecture.image_size)
    network = architecture.network(size)
    assert network.input_shape == (3, *size)
    image = torch.zeros(1, 3, *size, device="meta")
    assert dispatched(module.eval(), image) == macs_of(network.inference, 1)


@pytest.mark.parametrize("classes", [None, 7])
@pytest.mark.parametrize("name", OURS)
def test_a_closed_form_agrees_with_our_own_module(name: str, classes: int | None) -> None:
    architecture = ARCHITECTURES[name]
    for size in (architecture.image_size, unusual(architecture.image_size)):
        agree(architecture.network(size, classes), on_meta(lambda size=size: built(name, size, classes)))  # type: ignore[misc]


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_the_catalogues_own_size_and_totals_are_those_of_torchvisions_weights(name: str) -> None:
    published = counters.published(ModelSpec(model=name))
    assert published is not None
    architecture = ARCHITECTURES[name]
    assert architecture.image_size == (published.image_size,) * 2
    said = CounterResults(
        closed_form=counters.closed_form(ModelSpec(model=name), architecture.image), counted={}, published=published
    )
    assert find(ModelSpec(model=name), said).disagreements == []


# --- the families ---


def variant(describe: Any, size: int = 224, classes: int = 1000) -> Architecture:
    return Architecture(name="variant", describe=describe, image=(3, size, size), classes=classes, source="")


def torchs_efficientnet_v2(size: str, width: float, depth: float, dropout: float) -> nn.Module:
    """EfficientNetV2 with its stages scaled, which torchvision has no argument for."""
    stages, _ = efficientnet._efficientnet_conf(f"efficientnet_v2_{size}")
    for stage in stages:
        stage.input_channels = stage.adjust_channels(stage.input_channels, width)
        stage.out_channels = stage.adjust_channels(stage.out_channels, width)
        stage.num_layers = math.ceil(stage.num_layers * depth)
    last = stages[0].adjust_channels(1280, width)
    return efficientnet.EfficientNet(stages, dropout, last_channel=last)  # type: ignore[no-any-return]


def torchs_mobilenet_v3(size: str, width: float) -> nn.Module:
    stages, last = mobilenetv3._mobilenet_v3_conf(f"mobilenet_v3_{size}", width_mult=width)
    return mobilenetv3.MobileNetV3(stages, last)  # type: ignore[no-any-return]


def torchs_regnet(*settings: float, se_ratio: float | None) -> nn.Module:
    return regnet.RegNet(regnet.BlockParams.from_init_params(*settings, se_ratio=se_ratio))  # type: ignore[no-any-return]


def torchs_convnext(blocks: tuple[int, ...], widths: tuple[int, ...], drop: float) -> nn.Module:
    stages = zip(widths, (*widths[1:], None), blocks, strict=True)
    return convnext.ConvNeXt([convnext.CNBlockConfig(*stage) for stage in stages], stochastic_depth_prob=drop)  # type: ignore[no-any-return]


def torchs_vgg(stacks: tuple[tuple[int, int], ...], batch_norm: bool) -> nn.Module:
    """Stacks of (convolutions, channels)."""
    rows = [row for convs, channels in stacks for row in (*(channels,) * convs, "M")]
    return vgg.VGG(vgg.make_layers(rows, batch_norm))  # type: ignore[no-any-return]


BASIC, BOTTLENECK = resnet.BasicBlock, resnet.Bottleneck

VARIANTS: dict[str, tuple[Architecture, Callable[[], nn.Module]]] = {
    "resnet 1-2-1-1": (
        variant(ResNet((1, 2, 1, 1), bottleneck=False)),
        lambda: resnet.ResNet(BASIC, [1, 2, 1, 1]),
    ),
    "resnet 3-4-8-3": (
        ARCHITECTURES["resnet50"].varied({"blocks": "3-4-8-3"}),
        lambda: resnet.ResNet(BOTTLENECK, [3, 4, 8, 3]),
    ),
    "resnet18 of half its depth": (
        ARCHITECTURES["resnet18"].varied({"depth": "0.5"}),
        lambda: resnet.ResNet(BASIC, [1, 1, 1, 1]),
    ),
    "resnext 8x6d": (
        ARCHITECTURES["resnet50"].varied({"groups": "8", "width_per_group": "6"}),
        lambda: resnet.ResNet(BOTTLENECK, [3, 4, 6, 3], groups=8, width_per_group=6),
    ),
    "mobilenet_v2 x0.75": (
        ARCHITECTURES["mobilenet_v2"].varied({"width": "0.75"}),
        lambda: mobilenetv2.MobileNetV2(width_mult=0.75),
    ),
    "mobilenet_v2 x1.4": (
        ARCHITECTURES["mobilenet_v2"].varied({"width": "1.4"}),
        lambda: mobilenetv2.MobileNetV2(width_mult=1.4),
    ),
    "mobilenet_v3_large x0.75": (
        variant(MobileNetV3("large", width=0.75)),
        partial(torchs_mobilenet_v3, "large", 0.75),
    ),
    "mobilenet_v3_small x0.35": (
        variant(MobileNetV3("small", width=0.35)),
        partial(torchs_mobilenet_v3, "small", 0.35),
    ),
    "mobilenet_v3_small x1.4": (
        ARCHITECTURES["mobilenet_v3_small"].varied({"width": "1.4"}),
        partial(torchs_mobilenet_v3, "small", 1.4),
    ),
    "mnasnet x0.35": (ARCHITECTURES["mnasnet1_0"].varied({"width": "0.35"}), lambda: mnasnet.MNASNet(0.35)),
    "mnasnet x2": (ARCHITECTURES["mnasnet0_5"].varied({"width": "2"}), lambda: mnasnet.MNASNet(2.0)),
    "efficientnet_v2_s x0.5, depth 0.4": (
        variant(EfficientNetV2("s", dropout=0.1, width=0.5, depth=0.4)),
        partial(torchs_efficientnet_v2, "s", 0.5, 0.4, 0.1),
    ),
    "efficientnet_v2_m x1.3, depth 0.5": (
        variant(EfficientNetV2("m", dropout=0.1, width=1.3, depth=0.5)),
        partial(torchs_efficientnet_v2, "m", 1.3, 0.5, 0.1),
    ),
    "shufflenet_v2 of other widths": (
        variant(ShuffleNetV2((24, 48, 96, 192, 512), (2, 3, 2))),
        lambda: shufflenetv2.ShuffleNetV2([2, 3, 2], [24, 48, 96, 192, 512]),
    ),
    "shufflenet_v2 of odd halves": (
        variant(ShuffleNetV2((12, 30, 62, 100, 77), (1, 3, 1), depth=1.3)),
        lambda: shufflenetv2.ShuffleNetV2([2, 4, 2], [12, 30, 62, 100, 77]),
    ),
    "densenet of three blocks": (
        variant(DenseNet(16, (2, 3, 2), 24), 96),
        lambda: densenet.DenseNet(16, (2, 3, 2), 24),
    ),
    "densenet of odd numbers": (
        variant(DenseNet(7, (2, 2, 1, 1), 13, bottleneck=2, depth=1.5), 97),
        lambda: densenet.DenseNet(7, (3, 3, 2, 2), 13, bn_size=2),
    ),
    "regnet x": (
        variant(RegNet(13, 24, 36.44, 2.49, 8)),
        partial(torchs_regnet, 13, 24, 36.44, 2.49, 8, se_ratio=None),
    ),
    "regnet of one width": (
        variant(RegNet(10, 8, 0.0, 2.5, 16, se_ratio=0.25)),
        partial(torchs_regnet, 10, 8, 0.0, 2.5, 16, se_ratio=0.25),
    ),
    "regnet of wide steps": (
        variant(RegNet(3, 64, 200.0, 3.0, 64, se_ratio=0.1)),
        partial(torchs_regnet, 3, 64, 200.0, 3.0, 64, se_ratio=0.1),
    ),
    "convnext of half its width": (
        variant(ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768), width=0.5, depth=0.4)),
        partial(torchs_convnext, (2, 2, 4, 2), (48, 96, 192, 384), 0.0),
    ),
    "convnext of three stages": (
        variant(ConvNeXt((1, 2, 1), (16, 32, 64), 0.2)),
        partial(torchs_convnext, (1, 2, 1), (16, 32, 64), 0.2),
    ),
    "vgg of four stacks": (
        variant(VGG((1, 2, 1, 3), batch_norm=True), 100),
        partial(torchs_vgg, ((1, 64), (2, 128), (1, 256), (3, 512)), True),
    ),
    "vgg11 of twice its depth": (
        ARCHITECTURES["vgg11"].varied({"depth": "2", "resolution": "64"}),
        partial(torchs_vgg, ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)), False),
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_familys_other_members_agree_with_torchvisions_constructor(name: str) -> None:
    architecture, build = VARIANTS[name]
    agree(architecture.network(), on_meta(build))


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_efficientnets_members_follow_from_b0_by_their_coefficients(name: str) -> None:
    width, depth, resolution, dropout = COEFFICIENTS[name]
    changes = {"width": width, "depth": depth, "resolution": resolution, "dropout": dropout}
    derived = ARCHITECTURES["efficientnet_b0"].varied({setting: str(value) for setting, value in changes.items()})
    member = ARCHITECTURES[f"efficientnet_{name}"]
    assert derived.image == member.image
    assert derived.network().layers == member.network().layers


def first_conv(module: nn.Module) -> tuple[nn.Module, str, nn.Conv2d]:
    """The first convolution, and where it is."""
    name, conv = next((name, child) for name, child in module.named_modules() if isinstance(child, nn.Conv2d))
    parent, _, attribute = name.rpartition(".")
    return module.get_submodule(parent), attribute, conv


@pytest.mark.parametrize(
    "name", ["alexnet", "vgg11", "resnet18", "squeezenet1_1", "mobilenet_v3_small", "convnext_tiny"]
)
def test_other_channels_change_the_first_convolution_alone(name: str) -> None:
    def with_other_channels() -> nn.Module:
        module = built(name)
        parent, attribute, conv = first_conv(module)
        window: Any = {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding}
        setattr(parent, attribute, nn.Conv2d(1, conv.out_channels, **window, bias=conv.bias is not None))
        return module

    network = ARCHITECTURES[name].varied({"channels": "1"}).network()
    assert network.input_shape[0] == 1
    agree(network, on_meta(with_other_channels))


@pytest.mark.parametrize(
    "name", [*("googlenet", "inception_v3", "squeezenet1_0", "resnet18", "mnasnet0_5"), "deeplabv3_mobilenet_v3_large"]
)
def test_other_classes_agree_with_torchvisions_module(name: str) -> None:
    module = on_meta(lambda: built(name, classes=13))
    agree(ARCHITECTURES[name].network(classes=13), module)
    agree(ARCHITECTURES[name].varied({"classes": "13"}).network(), module)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet", "convnext_tiny"])
def test_a_rectangular_image_agrees_with_torchvisions_module(name: str) -> None:
    agree(ARCHITECTURES[name].network((161, 96)), on_meta(lambda: built(name)))


def test_height_comes_before_width() -> None:
    layers = {layer.name: layer for layer in ARCHITECTURES["resnet18"].network((64, 128)).layers}
    assert layers["conv1"].output_shape == (64, 32, 64)


def test_one_number_stands_for_all_sides() -> None:
    assert ARCHITECTURES["resnet18"].network((96,)) == ARCHITECTURES["resnet18"].network((96, 96))
    assert ARCHITECTURES["resnet18"].network() == ARCHITECTURES["resnet18"].network((224,))


# --- settings ---


def test_a_varied_network_says_what_it_was_varied_in() -> None:
    varied = ARCHITECTURES["mobilenet_v2"].varied(
        {"width": "0.75", "resolution": "192", "channels": "1", "classes": "10"}
    )
    assert varied.name == "mobilenet_v2[width=0.75,resolution=192,channels=1,classes=10]"
    assert (varied.image, varied.classes) == ((1, 192, 192), 10)
    assert not varied.from_torchvision
    assert varied.network().layers[-1].output_shape == (10,)


def test_the_settings_of_a_network_are_its_familys_numbers() -> None:
    assert ARCHITECTURES["resnet50"].settings == {
        "blocks": (3, 4, 6, 3), "groups": 1, "width_per_group": 64, "width": 1.0, "depth": 1.0,
    }  # fmt: skip
    assert ARCHITECTURES["lenet5"].settings == {}


def doubled(value: Any) -> str:
    """Twice a setting's value, as a user writes it."""
    return "-".join(str(2 * part) for part in value) if isinstance(value, tuple) else str(2 * value or 1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_setting_changes_the_network_or_is_refused(name: str) -> None:
    architecture = ARCHITECTURES[name]
    own = architecture.network().layers
    for setting, value in architecture.settings.items():
        try:
            varied = architecture.varied({setting: doubled(value)}).network()
        except InputError:
            continue
        assert varied.layers != own, f"{setting} changes nothing"


@pytest.mark.parametrize("name", [name for name, each in ARCHITECTURES.items() if each.settings.get("width") == 1.0])
def test_eight_times_the_width_is_eight_times_the_channels_of_each_layer(name: str) -> None:
    """At width 1, a number of channels that is wrong by a few is rounded to the right one."""
    layers, wide = ARCHITECTURES[name].network().layers, ARCHITECTURES[name].varied({"width": "8"}).network().layers
    for layer, other in zip(layers, wide, strict=True):
        if isinstance(layer.op, Conv | Linear) and not layer.name.endswith("fc1"):  # which is rounded by itself
            values = math.prod(layer.output_shape)
            assert math.prod(other.output_shape) in (values, 8 * values), layer.name


@pytest.mark.parametrize(("name", "setting"), [("resnet50", "width"), ("resnet34", "depth"), ("mlp", "hidden")])
def test_twice_a_setting_is_more_parameters(name: str, setting: str) -> None:
    architecture = ARCHITECTURES[name]
    assert (
        architecture.varied({setting: doubled(architecture.settings[setting])}).network().params
        > 1.5 * architecture.network().params
    )


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mobilenet_v2", {"widht": "2"}, "mobilenet_v2: expected a setting, one of .*'widht' .did you mean 'width'"),
        ("lenet5", {"width": "2"}, "expected a setting, one of channels, classes, resolution; got 'width'"),
        ("resnet50", {"bottleneck": "1"}, "expected a setting, one of .*; got 'bottleneck'"),
        ("mobilenet_v3_small", {"size": "large"}, "expected a setting, one of .*; got 'size'"),
        ("mobilenet_v2", {"width": "0"}, "width: expected a number above zero; got '0'"),
        ("mobilenet_v2", {"width": "-1.5"}, "width: expected a number above zero; got '-1.5'"),
        ("mobilenet_v2", {"width": "inf"}, "width: expected a number above zero; got 'inf'"),
        ("mobilenet_v2", {"width": "nan"}, "width: expected a number above zero; got 'nan'"),
        ("mobilenet_v2", {"width": "wide"}, "width: expected a number above zero; got 'wide'"),
        ("mobilenet_v2", {"width": ""}, "width: expected a number above zero; got ''"),
        ("mobilenet_v2", {"resolution": "224.5"}, "resolution: expected a whole number above zero; got '224.5'"),
        ("mobilenet_v2", {"resolution": "0"}, "resolution: expected a whole number above zero; got '0'"),
        ("mobilenet_v2", {"classes": "-3"}, "classes: expected a whole number above zero; got '-3'"),
        ("mobilenet_v2", {"channels": "1.0"}, "channels: expected a whole number above zero; got '1.0'"),
        ("resnet50", {"groups": "2.5"}, "groups: expected a whole number above zero; got '2.5'"),
        ("resnet50", {"blocks": "3-4-x-3"}, "blocks: expected whole numbers such as 3-4-6-3 above zero; got '3-4-x-3'"),
        ("resnet50", {"blocks": "3-0-6-3"}, "blocks: expected whole numbers such as 3-4-6-3 above zero; got '3-0-6-3'"),
        ("shufflenet_v2_x1_0", {"widths": "24-48-96"}, "shufflenet_v2_x1_0: widths: expected 5, of stem, stages, head"),
        ("shufflenet_v2_x1_0", {"widths": "24-45-90-180-9"}, "widths: expected even ones for the stages"),
        ("convnext_tiny", {"widths": "96-192"}, "convnext_tiny: widths: expected one for each of 4 stages; got 2"),
        ("convnext_tiny", {"widths": "96-192-384-77"}, "widths: expected multiples of 8; got 96-192-384-77"),
        ("convnext_tiny", {"drop": "1.5"}, "drop: expected a probability; got 1.5"),
        ("densenet121", {"compression": "1.5"}, "densenet121: compression: expected 1 at most; got 1.5"),
        ("vgg11", {"convs": "1-1-1-1-1-1"}, "vgg11: convs: expected 5 stacks at most; got 6"),
        ("regnet_x_400mf", {"w_0": "20"}, "regnet_x_400mf: w_0: expected a multiple of 8; got 20"),
        ("regnet_x_400mf", {"w_m": "0.5"}, "w_m: expected more than 1; got 0.5"),
        ("mlp", {"hidden": "1000001"}, "hidden: expected 1,000,000 at most; got '1000001'"),
        ("resnet50", {"blocks": "3-4-10001-3"}, "blocks: expected 10,000 at most; got '3-4-10001-3'"),
        ("resnet50", {"blocks": "1" + 16 * "-1"}, "blocks: expected whole numbers such as 3-4-6-3 above zero; got"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(name: str, changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        ARCHITECTURES[name].varied(changes)
    assert "\n" not in str(refused.value)


def test_the_largest_setting_is_none_too_large() -> None:
    assert ARCHITECTURES["mlp"].varied({"hidden": "1000000", "classes": "1"}).settings == {"hidden": 10**6}
    assert ARCHITECTURES["resnet50"].varied({"blocks": "3-4-10000-3"}).settings["blocks"] == (3, 4, 10**4, 3)


def test_a_model_is_found_by_either_name_and_one_number_is_for_both_sides_of_unknown_ones_too() -> None:
    assert registry.find("torchvision/resnet18") is ARCHITECTURES["resnet18"]
    assert registry.find("torchvision/lenet5") is None
    assert registry.full_size("resnet18", (96,)) == (96, 96) == registry.full_size("a:b", (96,))
    assert [registry.full_size("a:b", size) for size in (None, (5, 6), (4, 5, 6))] == [None, (5, 6), (4, 5, 6)]


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_v2_s", "mnasnet1_0"])
def test_a_dropout_above_one_is_no_probability(name: str) -> None:
    with pytest.raises(InputError, match="dropout: expected a probability"):
        ARCHITECTURES[name].varied({"dropout": "1.5"})


def test_a_layer_without_channels_is_refused() -> None:
    """64 / 2 channels times 1 / 64 are none."""
    with pytest.raises(InputError):
        ARCHITECTURES["resnet50"].varied({"width_per_group": "1", "width": "0.5"}).network()


@pytest.mark.parametrize(("name", "setting"), [("mobilenet_v2", "width"), ("regnet_y_400mf", "se_ratio")])
def test_a_number_too_large_for_any_network_is_one_clear_line(name: str, setting: str) -> None:
    with pytest.raises(InputError):
        ARCHITECTURES[name].varied({setting: "1e308"}).network()


def test_channels_that_groups_do_not_divide_are_named_with_their_layer() -> None:
    message = r"resnet_cifar_gn\[width=0\.25\]: layer 'bn1' \(GroupNorm\): 16 channels cannot be split into 32 groups"
    with pytest.raises(ShapeError, match=message):
        ARCHITECTURES["resnet_cifar_gn"].varied({"width": "0.25"}).network()


# --- sizes ---


@pytest.mark.parametrize(
    ("size", "classes", "message"),
    [
        ((0,), None, "image size: expected a whole number of at least 1; got 0"),
        ((224, -1), None, "image size: expected a whole number of at least 1; got -1"),
        ((224.5, 224), None, "image size: expected a whole number of at least 1; got 224.5"),
        (("224",), None, "image size: expected a whole number of at least 1; got '224'"),
        ((True,), None, "image size: expected a whole number of at least 1; got True"),
        ((3, 224, 224), None, r"resnet18: expected an image size of 2 number\(s\); got 3x224x224"),
        ((), None, r"resnet18: expected an image size of 2 number\(s\); got"),
        (None, 0, "classes: expected a whole number of at least 1; got 0"),
        (None, -5, "classes: expected a whole number of at least 1; got -5"),
        (None, 2.5, "classes: expected a whole number of at least 1; got 2.5"),
        (None, True, "classes: expected a whole number of at least 1; got True"),
    ],
)
def test_a_size_or_classes_that_mean_nothing_are_one_clear_line(size: Any, classes: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message) as refused:
        ARCHITECTURES["resnet18"].network(size, classes)
    assert "\n" not in str(refused.value)


def test_a_signal_has_a_single_side() -> None:
    with pytest.raises(ShapeError, match=r"cnn1d: expected an image size of 1 number\(s\); got 32x32"):
        ARCHITECTURES["cnn1d"].network((32, 32))


SMALLEST = {
    "lenet5": 16,
    "simple_cnn": 10,
    "vgg_style": 8,
    "cnn1d": 8,
    "alexnet": 63,
    "vgg11": 32,
    "googlenet": 15,
    "inception_v3": 75,
    "squeezenet1_0": 21,
    "squeezenet1_1": 17,
    "densenet121": 29,
    "convnext_tiny": 32,
}


def accepts(name: str, size: int) -> bool:
    """Whether the module takes a square image of this size in inference, on the CPU's own kernels."""
    sides = (size,) * len(ARCHITECTURES[name].image_size)
    try:
        module = on_meta(lambda: built(name, sides)).to_empty(device="cpu").eval()
        with torch.inference_mode():
            module(torch.zeros(1, ARCHITECTURES[name].image[0], *sides))
    except (RuntimeError, ValueError):
        return False
    return True


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_size_is_the_smallest_that_torch_accepts(name: str) -> None:
    smallest = ARCHITECTURES[name].smallest_size()
    assert smallest == SMALLEST[name]
    assert accepts(name, smallest)
    assert not accepts(name, smallest - 1)


def test_instance_normalisation_needs_more_than_one_pixel_as_torch_says() -> None:
    assert [size for size in range(1, 8) if accepts("resnet_cifar_in", size)] == [5, 6, 7]
    assert ARCHITECTURES["resnet_cifar_in"].smallest_size() == 5


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (
            "alexnet",
            (20, 20),
            r"image of 20x20 is too small for alexnet: layer 'features\.5' \(MaxPool\): nothing is left: its input is "
            r"192x1x1, its window 3 wide with padding 0; the smallest square image that works is 63x63",
        ),
        ("inception_v3", (74, 300), r"image of 74x300 is too small for inception_v3: layer '.*75x75"),
        ("googlenet", (14, 14), r"image of 14x14 is too small for googlenet: layer '.*15x15"),
        ("lenet5", (28, 9), r"image of 28x9 is too small for lenet5: layer 'conv2' \(Conv\): .*16x16"),
        ("cnn1d", (7,), r"signal of 7 is too small for cnn1d: layer '.*; the smallest signal that works is 8$"),
    ],
)
def test_an_image_too_small_names_the_layer_and_the_smallest_size(name: str, size: Shape, message: str) -> None:
    with pytest.raises(TooSmall, match=message) as refused:
        ARCHITECTURES[name].network(size)
    assert "\n" not in str(refused.value)


def test_inception_at_96_pixels_infers_but_its_auxiliary_head_cannot_be_trained() -> None:
    network = ARCHITECTURES["inception_v3"].network((96, 96))
    assert accepts("inception_v3", 96)
    assert network.macs > 0
    assert network.params == ARCHITECTURES["inception_v3"].network().params
    asked: list[Callable[[], object]] = [
        lambda: training.work(network),
        lambda: training.saved_bytes(network, 2),
        lambda: step_memory(network, 2, "sgd"),
    ]
    for ask in asked:
        with pytest.raises(ShapeError, match=r"inception_v3: layer 'AuxLogits\.avgpool' .*large enough for inference"):
            ask()


def test_inception_trains_from_the_size_at_which_torchs_auxiliary_head_does() -> None:
    module = on_meta(lambda: built("inception_v3")).train()
    architecture = ARCHITECTURES["inception_v3"]
    module(torch.zeros(2, 3, 299, 299, device="meta"))
    assert architecture.network((299,)).training_problem is None
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        module(torch.zeros(2, 3, 298, 298, device="meta"))
    assert architecture.network((298,)).training_problem is not None


def test_a_segmentation_network_puts_out_the_logits_of_each_pixel_and_its_auxiliary_head_always_runs() -> None:
    network = ARCHITECTURES["fcn_resnet50"].network((64, 96), 5)
    module = on_meta(lambda: built("fcn_resnet50", classes=5)).eval()
    outputs = module(torch.zeros(1, 3, 64, 96, device="meta"))
    ends = {layer.name: (1, *layer.output_shape) for layer in network.inference}
    assert {"out": ends["interpolate"], "aux": ends["aux_interpolate"]} == {k: v.shape for k, v in outputs.items()}


def test_a_segmentation_network_has_a_published_miou_and_no_accuracy() -> None:
    found = counters.published(ModelSpec(model="fcn_resnet50"))
    assert found is not None
    assert (found.miou_percent, found.top1_percent, found.image_size) == (60.5, None, 520)


def test_a_network_with_another_end_than_its_classes_is_our_mistake() -> None:
    architecture = dataclasses.replace(ARCHITECTURES["resnet18"], describe=lambda net, x, classes: x)
    with pytest.raises(AssertionError, match="resnet18 ends in 3x224x224, not in 1000 classes"):
        architecture.network()
