"""The names: every network that has a closed form, and what other names a model may have."""

import importlib.util
import re

from cnnbench.archs.alexnet import alexnet
from cnnbench.archs.efficientnet import COEFFICIENTS, efficientnet
from cnnbench.archs.lenet import lenet5
from cnnbench.archs.mobilenet import mobilenet_v2
from cnnbench.archs.network import Arch, Describe
from cnnbench.archs.resnet import BLOCKS_PER_STAGE, BasicBlock, Bottleneck, resnet, resnet_cifar
from cnnbench.archs.simple_cnn import simple_cnn
from cnnbench.archs.vgg import CONVS_PER_STACK, vgg, vgg_style
from cnnbench.errors import InputError, unknown

IMAGENET = (3, 224, 224)
CIFAR = (3, 32, 32)
MNIST = (1, 28, 28)


def _ours() -> list[Arch]:
    return [
        Arch(
            name="lenet5",
            describe=lenet5,
            image=MNIST,
            classes=10,
            source="LeCun et al. 1998, figure 2",
            from_torchvision=False,
        ),
        Arch(
            name="simple_cnn",
            describe=simple_cnn,
            image=MNIST,
            classes=10,
            source="the two-convolution network of many introductions",
            from_torchvision=False,
        ),
        Arch(
            name="vgg_style",
            describe=vgg_style,
            image=CIFAR,
            classes=10,
            source="after Simonyan & Zisserman 2014, section 2",
            from_torchvision=False,
        ),
        Arch(
            name="resnet_cifar",
            describe=resnet_cifar,
            image=CIFAR,
            classes=10,
            source="after He et al. 2015, section 4.2",
            from_torchvision=False,
        ),
    ]


def _torchvisions() -> list[Arch]:
    def imagenet(name: str, describe: Describe, source: str, size: int = 224) -> Arch:
        return Arch(name=name, describe=describe, image=(3, size, size), classes=1000, source=source)

    he = "He et al. 2015, table 1"
    return [
        imagenet("alexnet", alexnet, "Krizhevsky 2014, section 5"),
        *(imagenet(f"vgg{d}", vgg(d), "Simonyan & Zisserman 2014, table 1") for d in CONVS_PER_STACK),
        *(
            imagenet(f"vgg{d}_bn", vgg(d, batch_norm=True), "Simonyan & Zisserman 2014, table 1")
            for d in CONVS_PER_STACK
        ),
        *(
            imagenet(f"resnet{d}", resnet(blocks, BasicBlock() if d < 50 else Bottleneck()), he)
            for d, blocks in BLOCKS_PER_STAGE.items()
        ),
        *(
            imagenet(
                f"resnext{d}_{groups}x{width}d",
                resnet(BLOCKS_PER_STAGE[d], Bottleneck(groups, width)),
                "Xie et al. 2016, table 1",
            )
            for d, groups, width in ((50, 32, 4), (101, 32, 8), (101, 64, 4))
        ),
        *(
            imagenet(
                f"wide_resnet{d}_2",
                resnet(BLOCKS_PER_STAGE[d], Bottleneck(width_per_group=128)),
                "Zagoruyko & Komodakis 2016, section 2",
            )
            for d in (50, 101)
        ),
        imagenet("mobilenet_v2", mobilenet_v2(), "Sandler et al. 2018, table 2"),
        *(
            imagenet(
                f"efficientnet_{letter}",
                efficientnet(width, depth, dropout),
                "Tan & Le 2019, table 1",
                resolution,
            )
            for letter, (width, depth, resolution, dropout) in COEFFICIENTS.items()
        ),
    ]


ARCHS: dict[str, Arch] = {}
for _arch in (*_ours(), *_torchvisions()):
    assert _arch.name not in ARCHS, f"{_arch.name} stands twice in the catalogue"
    ARCHS[_arch.name] = _arch

FORMS = "a name from `cnnbench list models`, torchvision/NAME, timm/NAME, or package.module:callable"


def find(model: str) -> Arch | None:
    """The closed form of a model, or None for one that has none. `torchvision/resnet18` is `resnet18`."""
    if model.startswith("torchvision/"):
        arch = ARCHS.get(model.removeprefix("torchvision/"))
        return arch if arch and arch.from_torchvision else None
    return ARCHS.get(model)


def get(model: str) -> Arch:
    """The closed form of a model. Raises InputError, with the nearest name."""
    arch = find(model)
    if arch is None:
        raise InputError(unknown("model with a closed form", model, ARCHS))
    return arch


def check_name(model: str) -> str:
    """The name itself, if it may name a model. Raises ValueError, with the nearest name.

    Whether torchvision or timm has such a model, or the user's callable exists, is found out where they are imported.
    """
    if model in ARCHS:
        return model
    if re.fullmatch(r"torchvision/\w+", model):
        return model
    if re.fullmatch(r"timm/[\w.]+", model):
        if importlib.util.find_spec("timm") is None:
            raise ValueError(f"{model!r} needs timm, which is not installed here: pip install timm")
        return model
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", model):
        return model
    raise ValueError(f"{unknown('model', model, ARCHS)}; a model is {FORMS}")
