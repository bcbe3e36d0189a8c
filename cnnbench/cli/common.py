"""What the commands share: options, and the way words become values."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from cnnbench.errors import InputError
from cnnbench.suite.parse import parse_image_size

S = TypeVar("S")
T = TypeVar("T")

EXIT_DISAGREE, EXIT_NOT_ALL_MEASURED, EXIT_FAULT, EXIT_INTERRUPTED = 1, 3, 70, 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
ImageSize = Annotated[
    str | None,
    typer.Option(metavar="N|HxW", help="Image size, such as 224 or 480x640; the model's own if not given."),
]
Classes = Annotated[int | None, typer.Option(min=1, help="Number of classes; the model's own if not given.")]
WhatIf = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=VALUE,...", help="Other settings of the family, such as width=0.75,depth=1.2,resolution=192."
    ),
]


def size_of(image_size: str | None) -> tuple[int, ...] | None:
    """The value of --image-size. Raises InputError."""
    return parse(parse_image_size, image_size, "--image-size") if image_size else None


def architecture_of(model: str, what_if: str | None) -> Any:
    """The closed form of a model, in other settings where asked. Raises InputError."""
    from cnnbench.networks import registry

    architecture = registry.get(model)
    return architecture.varied(parse(_settings, what_if, "--what-if")) if what_if else architecture


def _settings(text: str) -> dict[str, str]:
    """{"width": "0.75"} from `width=0.75`. Raises ValueError."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(name.strip() and value.strip() for name, _, value in pairs):
        raise ValueError(f"expected settings such as width=0.75,depth=1.2,resolution=192; got {text!r}")
    return {name.strip(): value.strip() for name, _, value in pairs}


def spec(model: str, image_size: str | None, classes: int | None, seed: int = 0) -> Any:
    """A model as the command line names it, its sizes checked where its closed form is known."""
    from cnnbench.networks import registry
    from cnnbench.suite.case import ModelSpec

    parse(registry.check_name, model, "MODEL")
    size = registry.full_size(model, size_of(image_size))
    architecture = registry.find(model)
    if architecture:
        architecture.network(size, classes)
        classes = classes or architecture.classes
    return ModelSpec(model=model, image_size=size, classes=classes, seed=seed)


def parse(parser: Callable[[S], T], text: S, option: str) -> T:
    """What the parser makes of an option's value. Raises InputError, naming the option."""
    try:
        return parser(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from None


def console() -> Any:
    """The terminal; where output goes elsewhere, wide enough that no table is cut."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)
