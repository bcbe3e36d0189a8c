"""The names: every network that has a closed form, and what other names a model may have."""

import importlib.util
import re

from cnnbench.errors import InputError, unknown
from cnnbench.networks.architecture import Architecture
from cnnbench.networks.families.alexnet import AlexNet
from cnnbench.networks.families.cnn1d import CNN1D
from cnnbench.networks.families.convnext import VARIANTS, ConvNeXt
from cnnbench.networks.families.densenet import MEMBERS, DenseNet
from cnnbench.networks.families.efficientnet import COEFFICIENTS, EfficientNet
from cnnbench.networks.families.efficientnet_v2 import SETTINGS, EfficientNetV2
from cnnbench.networks.families.googlenet import GoogLeNet
from cnnbench.networks.families.inception_v3 import InceptionV3
from cnnbench.networks.families.lenet import lenet5
from cnnbench.networks.families.mlp import MLP
from cnnbench.networks.families.mnasnet import WIDTHS, MNASNet
from cnnbench.networks.families.mobilenet_v2 import MobileNetV2
from cnnbench.networks.families.mobilenet_v3 import BLOCKS, MobileNetV3
from cnnbench.networks.families.regnet import REGNET_X, REGNET_Y, Y_SE_RATIO, RegNet
from cnnbench.networks.families.resnet import BLOCKS_PER_STAGE, ResNet
from cnnbench.networks.families.resnet_cifar import ResNetCIFAR
from cnnbench.networks.families.shufflenet_v2 import CHANNELS, ShuffleNetV2
from cnnbench.networks.families.simple_cnn import simple_cnn
from cnnbench.networks.families.squeezenet import VERSIONS, SqueezeNet
from cnnbench.networks.families.vgg import CONVS_PER_STACK, VGG, VGGStyle
from cnnbench.networks.network import Describe

CIFAR = (3, 32, 32)
MNIST = (1, 28, 28)


def _our(name: str, describe: Describe, image: tuple[int, ...], source: str) -> Architecture:
    return Architecture(name=name, describe=describe, image=image, classes=10, source=source, from_torchvision=False)


def _imagenet(name: str, describe: Describe, source: str, size: int = 224) -> Architecture:
    return Architecture(name=name, describe=describe, image=(3, size, size), classes=1000, source=source)


LECUN = "LeCun et al. 1998, figure 2"
SIMONYAN = "Simonyan & Zisserman 2014, table 1"
HE = "He et al. 2015, table 1"

OURS = [
    _our("lenet5", lenet5, MNIST, LECUN),
    _our("lenet5_32", lenet5, (1, 32, 32), LECUN),
    _our("mlp", MLP(), MNIST, "the fully connected counterpart of simple_cnn"),
    _our("cnn1d", CNN1D(), (1, 1024), "after Kiranyaz et al. 2021, section 3"),
    _our("simple_cnn", simple_cnn, MNIST, "the two-convolution network of many introductions"),
    _our("vgg_style", VGGStyle(), CIFAR, "after Simonyan & Zisserman 2014, section 2"),
    _our("resnet_cifar", ResNetCIFAR(), CIFAR, "after He et al. 2015, section 4.2"),
    _our("resnet_cifar_gn", ResNetCIFAR("group"), CIFAR, "after He et al. 2015, and Wu & He 2018"),
    _our("resnet_cifar_in", ResNetCIFAR("instance"), CIFAR, "after He et al. 2015, and Ulyanov et al. 2016"),
]

TORCHVISIONS = [
    _imagenet("alexnet", AlexNet(), "Krizhevsky 2014, section 5"),
    *(_imagenet(f"vgg{d}", VGG(convs), SIMONYAN) for d, convs in CONVS_PER_STACK.items()),
    *(_imagenet(f"vgg{d}_bn", VGG(convs, batch_norm=True), SIMONYAN) for d, convs in CONVS_PER_STACK.items()),
    *(_imagenet(f"resnet{d}", ResNet(blocks, bottleneck=d >= 50), HE) for d, blocks in BLOCKS_PER_STAGE.items()),
    *(
        _imagenet(
            f"resnext{d}_{groups}x{width}d",
            ResNet(BLOCKS_PER_STAGE[d], bottleneck=True, groups=groups, width_per_group=width),
            "Xie et al. 2016, table 1",
        )
        for d, groups, width in ((50, 32, 4), (101, 32, 8), (101, 64, 4))
    ),
    *(
        _imagenet(
            f"wide_resnet{d}_2",
            ResNet(BLOCKS_PER_STAGE[d], bottleneck=True, width_per_group=128),
            "Zagoruyko & Komodakis 2016, section 2",
        )
        for d in (50, 101)
    ),
    _imagenet("googlenet", GoogLeNet(), "Szegedy et al. 2014, table 1"),
    _imagenet("inception_v3", InceptionV3(), "Szegedy et al. 2015, table 1", 299),
    *(_imagenet(f"densenet{depth}", DenseNet(*row), "Huang et al. 2016, table 1") for depth, row in MEMBERS.items()),
    *(_imagenet(f"squeezenet{version}", SqueezeNet(version), "Iandola et al. 2016, table 1") for version in VERSIONS),
    *(
        _imagenet(f"shufflenet_v2_{name}", ShuffleNetV2(widths), "Ma et al. 2018, table 5")
        for name, widths in CHANNELS.items()
    ),
    _imagenet("mobilenet_v2", MobileNetV2(), "Sandler et al. 2018, table 2"),
    *(
        _imagenet(f"efficientnet_{letter}", EfficientNet(width, depth, dropout), "Tan & Le 2019, table 1", resolution)
        for letter, (width, depth, resolution, dropout) in COEFFICIENTS.items()
    ),
    *(
        _imagenet(f"mobilenet_v3_{size}", MobileNetV3(size), f"Howard et al. 2019, table {table}")
        for table, size in enumerate(BLOCKS, start=1)
    ),
    *(_imagenet(f"mnasnet{name}", MNASNet(width), "Tan et al. 2018, table 2 (B1)") for name, width in WIDTHS.items()),
    *(
        _imagenet(
            f"efficientnet_v2_{size}", EfficientNetV2(size, dropout=dropout), "Tan & Le 2021, table 4", resolution
        )
        for size, (resolution, dropout) in SETTINGS.items()
    ),
    *(
        _imagenet(f"regnet_x_{name}", RegNet(*row), "Radosavovic et al. 2020, figure 15")
        for name, row in REGNET_X.items()
    ),
    *(
        _imagenet(
            f"regnet_y_{name}",
            RegNet(*row, se_ratio=Y_SE_RATIO),
            "Singh et al. 2022" if name == "128gf" else "Radosavovic et al. 2020, figure 16",
            384 if name == "128gf" else 224,
        )
        for name, row in REGNET_Y.items()
    ),
    *(_imagenet(f"convnext_{name}", ConvNeXt(*row), "Liu et al. 2022, table 9") for name, row in VARIANTS.items()),
]

ARCHITECTURES: dict[str, Architecture] = {}
for _architecture in (*OURS, *TORCHVISIONS):
    assert _architecture.name not in ARCHITECTURES, f"{_architecture.name} stands twice in the catalogue"
    ARCHITECTURES[_architecture.name] = _architecture

FORMS = "a name from `cnnbench list models`, torchvision/NAME, timm/NAME, or package.module:callable"


def find(model: str) -> Architecture | None:
    """The closed form of a model, or None for one that has none. `torchvision/resnet18` is `resnet18`."""
    if model.startswith("torchvision/"):
        architecture = ARCHITECTURES.get(model.removeprefix("torchvision/"))
        return architecture if architecture and architecture.from_torchvision else None
    return ARCHITECTURES.get(model)


def get(model: str) -> Architecture:
    """The closed form of a model. Raises InputError, with the nearest name."""
    architecture = find(model)
    if architecture is None:
        raise InputError(unknown("model with a closed form", model, ARCHITECTURES))
    return architecture


def full_size(model: str, image_size: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """One number for each side of a model's images: (224,) is (224, 224); its own, or None, where none is given.

    Raises ShapeError for a number of sides that the model's images do not have.
    """
    architecture = find(model)
    if architecture is not None:
        return architecture.full_size(image_size)
    return image_size * 2 if image_size is not None and len(image_size) == 1 else image_size


def check_name(model: str) -> str:
    """The name itself, if it may name a model. Raises ValueError, with the nearest name.

    Whether torchvision or timm has such a model, or the user's callable exists, is found out where they are imported.
    """
    if model in ARCHITECTURES:
        return model
    if re.fullmatch(r"torchvision/\w+", model):
        return model
    if re.fullmatch(r"timm/[\w.]+", model):
        if importlib.util.find_spec("timm") is None:
            raise ValueError(f"{model!r} needs timm, which is not installed here: pip install timm")
        return model
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", model):
        return model
    raise ValueError(f"{unknown('model', model, ARCHITECTURES)}; a model is {FORMS}")
