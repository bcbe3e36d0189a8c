"""The registry of networks with a closed form, and the other names that a model may have."""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from cnnbench.errors import InputError, unknown
from cnnbench.networks.architecture import Architecture

FAMILIES = (
    *("small", "vgg", "resnet", "inception", "densenet", "squeezenet", "shufflenet_v2", "mobilenet", "efficientnet"),
    *("regnet", "convnext", "segmentation"),
)
"""The modules of `cnnbench.networks.families`; each lists its members in `NETWORKS`."""

ARCHITECTURES: dict[str, Architecture] = {}
for _family in FAMILIES:
    for _member in import_module(f"cnnbench.networks.families.{_family}").NETWORKS:
        assert _member.name not in ARCHITECTURES, f"{_member.name} is registered twice"
        ARCHITECTURES[_member.name] = _member

FORMS = (
    "a name from `cnnbench list models`, torchvision/NAME[/heads], timm/NAME, package.module:callable, "
    "path/to/net.onnx, package:path/to/net.onnx in an installed package, or path/to/program.pt2"
)
_CALLABLE = r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"
_IN_PACKAGE = re.compile(r"([A-Za-z_]\w*):(.+\.onnx)")
_OTHER_NAMES = re.compile(rf"torchvision/\w+(/heads)?|timm/[\w.]+|{_CALLABLE}")

_DETECTION = re.compile(r"torchvision/(fasterrcnn|maskrcnn|keypointrcnn|retinanet|fcos|ssd300|ssdlite320)_")
HEADS = "/heads"
"""Behind the name of a detection network: the network up to its heads."""


def find(model: str) -> Architecture | None:
    """The closed form of a model, or None for one that has none. `torchvision/resnet18` is `resnet18`."""
    if model.startswith("torchvision/"):
        architecture = ARCHITECTURES.get(model.removeprefix("torchvision/"))
        return architecture if architecture and architecture.from_torchvision else None
    return ARCHITECTURES.get(model)


def get(model: str) -> Architecture:
    """The closed form of a model. Raises InputError, with the nearest name."""
    if architecture := find(model):
        return architecture
    raise InputError(unknown("model with a closed form", model, ARCHITECTURES))


def full_size(model: str, image_size: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """One number for each side of a model's images: (224,) is (224, 224); its own, or None, where none is given.

    Raises ShapeError for a number of sides that the model's images do not have.
    """
    if architecture := find(model):
        return architecture.full_size(image_size)
    return image_size * 2 if image_size is not None and len(image_size) == 1 else image_size


def is_onnx_file(model: str) -> bool:
    """Whether it is the name of an ONNX file."""
    return model.endswith(".onnx")


def is_in_package(model: str) -> bool:
    """Whether it is the name of an ONNX file in an installed package: `package:path/to/net.onnx`."""
    return _IN_PACKAGE.fullmatch(model) is not None and not Path(model).is_file()


def file_of(model: str) -> Path:
    """The file of a model that is one: its name, or what is in the package, which is not imported.

    Raises InputError with what to install where the package, or the file in it, is not there.
    """
    if not is_in_package(model):
        return Path(model)
    package, _, path = model.partition(":")
    try:
        found = find_spec(package)
    except ValueError:  # of a module without a file, such as __main__
        found = None
    if found is None:
        raise InputError(f"{model!r} needs the package {package}, which is not installed here: pip install {package}")
    for folder in found.submodule_search_locations or ():
        if (file := Path(folder, path)).is_file():
            return file
    raise InputError(f"{model!r}: the package {package} that is installed here has no such file")


def is_program_file(model: str) -> bool:
    """Whether it is the name of a file that torch.export has saved."""
    return model.endswith(".pt2")


def is_detection(model: str) -> bool:
    """Whether it is the name of a detection network of torchvision's: all of it, or `NAME/heads`, up to its heads."""
    return _DETECTION.match(model) is not None


def has_post_processing(model: str) -> bool:
    """Whether it is a detection network with what comes after its heads."""
    return is_detection(model) and not model.endswith(HEADS)


def check_name(model: str) -> str:
    """The name itself, if it may name a model. Raises ValueError, with the nearest name.

    Whether torchvision or timm has such a model, or the user's callable exists, is found out where they are imported;
    whether a package has a file, by `file_of`.
    """
    if is_onnx_file(model) or is_program_file(model):
        if not Path(model).is_file() and not is_in_package(model):
            raise ValueError(f"{model!r}: there is no such file")
        return model
    if model not in ARCHITECTURES and not _OTHER_NAMES.fullmatch(model):
        raise ValueError(f"{unknown('model', model, ARCHITECTURES)}; a model is {FORMS}")
    if model.startswith("timm/") and find_spec("timm") is None:
        raise ValueError(f"{model!r} needs timm, which is not installed here: pip install timm")
    return model


def check_loss(name: str) -> str:
    """The name itself, if it may name a loss. Raises ValueError."""
    if not re.fullmatch(_CALLABLE, name):
        raise ValueError(f"expected package.module:callable of a loss(outputs, labels); got {name!r}")
    return name
