"""Options that several commands have, and the objects that they name."""

import math
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cnnbench.errors import InputError
from cnnbench.suite.parse import checked, parse_image_size, parse_inputs, parse_target

if TYPE_CHECKING:
    from cnnbench.networks.architecture import Architecture
    from cnnbench.report.charts import Chart
    from cnnbench.suite.case import Case, ModelSpec
    from cnnbench.suite.load import Suite

EXIT_DISAGREE, EXIT_NOT_ALL_MEASURED, EXIT_FAULT, EXIT_INTERRUPTED = 1, 3, 70, 130
PICTURES = (".png", ".svg")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AnyModel = Annotated[str, typer.Argument(help="A model's name; one without a closed form is traced.")]
ImageSize = Annotated[
    str | None,
    typer.Option(metavar="N|HxW|DxHxW", help="Image size, such as 224 or 480x640; the model's default if not given."),
]
Channels = Annotated[
    int | None,
    typer.Option(min=1, max=2**31 - 1, help="Channels of the images, where they cannot be read from the model."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="NAME=SHAPE", help="An input's shape without the batch, such as x=3x224x224; for each one."
    ),
]
Classes = Annotated[
    int | None, typer.Option(min=1, max=2**31 - 1, help="Number of classes; the model's default if not given.")
]
WhatIf = Annotated[
    str | None,
    typer.Option(metavar="NAME=VALUE,...", help="Settings of the family, such as width=0.75,depth=1.2,resolution=192."),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="FILE|DEFAULT", help="Weights: a file, or those published for it; random if not given."),
]
DATA = "DIR|digits|shapes|signals|words"
"""What names a data set."""
Data = Annotated[
    str,
    typer.Option(
        metavar=DATA,
        help="MNIST's or Fashion-MNIST's files, CIFAR-10's or -100's, or images in a folder for each class; or a name. "
        "With @resized behind it, images are resized to the model's; with @0..1, @-1..1 or @imagenet, they are "
        "normalised so.",
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        metavar="PACKAGE.MODULE:CALLABLE", help="Loss of a training step, of outputs and labels; else cross-entropy."
    ),
]

Trainable = Annotated[
    str,
    typer.Option(metavar="all|head|from:NAME", help="What a training step trains; from:layer3 is all from there on."),
]
FrozenNorm = Annotated[
    Literal["eval", "train"],
    typer.Option(metavar="eval|train", help="Mode of batch normalisation in what --trainable leaves out."),
]


def finite(value: float | None) -> float | None:
    """The value of an option. Raises typer.BadParameter for NaN and infinity, which no bounds keep out."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"expected a finite number; got {value}")
    return value


def check_output(path: Path, option: str, *, is_folder: bool = False) -> None:
    """Raises InputError, before anything is computed, where a file, or a folder and those around it, cannot be made."""
    absolute = path.absolute()
    around = next(each for each in (absolute, *absolute.parents) if each.exists()) if is_folder else absolute.parent
    if not around.is_dir():
        problem = f"{around} is no folder"
    elif not os.access(around, os.W_OK):
        problem = f"{around} cannot be written"
    elif not is_folder and absolute.is_dir():
        problem = "it is a folder"
    else:
        return
    raise InputError(
        f"{option}: expected a {'folder' if is_folder else 'file'} that can be written; got {path}: {problem}"
    )


def size_of(image_size: str | None) -> tuple[int, ...] | None:
    """The value of --image-size. Raises InputError."""
    return checked(parse_image_size, image_size, "--image-size") if image_size else None


def architecture_of(model: str, what_if: str | None) -> "Architecture":
    """The closed form of a model, varied by --what-if. Raises InputError."""
    from cnnbench.networks import registry

    architecture = registry.get(model)
    return architecture.varied(checked(_settings, what_if, "--what-if")) if what_if else architecture


def _settings(text: str) -> dict[str, str]:
    """{"width": "0.75"} from `width=0.75`. Raises ValueError."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(name.strip() and value.strip() for name, _, value in pairs):
        raise ValueError(f"expected settings such as width=0.75,depth=1.2,resolution=192; got {text!r}")
    return {name.strip(): value.strip() for name, _, value in pairs}


def spec(
    model: str,
    image_size: str | None,
    classes: int | None,
    seed: int = 0,
    channels: int | None = None,
    inputs: list[str] | None = None,
    weights: str | None = None,
    loss: str | None = None,
) -> "ModelSpec":
    """The model that a command names. Raises InputError."""
    from cnnbench.networks import registry
    from cnnbench.suite.case import ModelSpec

    name = checked(registry.check_name, model, "MODEL")
    registry.file_of(name)  # that it is there, where it is one of a package
    return ModelSpec.checked(
        name,
        size_of(image_size),
        classes,
        seed,
        channels=channels,
        inputs=checked(parse_inputs, inputs, "--input") if inputs else None,
        weights=weights,
        loss=checked(registry.check_loss, loss, "--loss") if loss else None,
    )


def select_cases(suite: str, only: list[str] | None, target: str | None = None) -> "tuple[Suite, list[Case]]":
    """A suite, and its cases that --only selects; with a target its services alone, asked there. Raises InputError."""
    from cnnbench.suite.load import aimed, load_suite, select
    from cnnbench.suite.runtimes import TARGET

    loaded = load_suite(suite)
    if target is not None:
        os.environ[TARGET] = checked(parse_target, target, "--target")
        loaded = aimed(loaded)
    return loaded, checked(partial(select, loaded.cases), only or [], "--only")


def select_timed(suite: str, only: list[str] | None) -> "tuple[Suite, list[Case]]":
    """The same for what compares times of calls, which services have none of. Raises InputError."""
    loaded, cases = select_cases(suite, only)
    if served := next((case.id for case in cases if case.workload == "serving"), None):
        raise InputError(f"{served}: expected cases whose calls are timed; a service is not: leave it out with --only")
    return loaded, cases


def console() -> Any:
    """The terminal; a wide one where output is redirected, coloured or not, so that no table is truncated."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160)


def check_picture(file: Path, option: str) -> None:
    """Raises InputError for what is no picture's name."""
    if file.suffix not in PICTURES or not file.absolute().parent.is_dir():
        raise InputError(f"{option} {file}: expected a file .png or .svg in a folder that exists")


def write_picture(file: Path, drawn: "Chart") -> None:
    """The chart as its file's name says. Raises OSError."""
    from cnnbench.records import files

    files.write(file, drawn.png if file.suffix == ".png" else drawn.svg)
