"""Transforms of images as suites and commands name them: one call of torchvision.transforms.v2 in each line."""

import ast
import math
from typing import Any, NamedTuple

from cnnbench.errors import unknown

NAMES = (
    *("Resize", "CenterCrop", "RandomCrop", "RandomResizedCrop", "Pad", "RandomZoomOut"),
    *("RandomHorizontalFlip", "RandomVerticalFlip", "RandomRotation", "RandomAffine", "RandomPerspective"),
    *("ElasticTransform", "ColorJitter", "Grayscale", "RandomGrayscale", "RGB", "RandomChannelPermutation"),
    *("RandomPhotometricDistort", "RandomInvert", "RandomPosterize", "RandomSolarize", "RandomAdjustSharpness"),
    *("RandomAutocontrast", "RandomEqualize", "GaussianBlur", "GaussianNoise", "RandomErasing", "JPEG"),
    *("AutoAugment", "RandAugment", "TrivialAugmentWide", "AugMix"),
    *("ToTensor", "ToImage", "PILToTensor", "Normalize"),
)
"""Of torchvision.transforms.v2: those of one image that take nothing but numbers, words and lists."""
MODULES = ("transforms", "v2")
"""What may stand before a name, as in `transforms.RandomCrop(32, padding=4)`."""
MAX_LENGTH = 300
MAX_NUMBER = 10_000
EXAMPLE = "RandomCrop(32, padding=4)"


class Call(NamedTuple):
    """A transform's name and what it is given."""

    name: str
    positional: tuple[Any, ...]
    named: dict[str, Any]


def parse_transform(text: str) -> Call:
    """The call that a line names. Raises ValueError for anything but a known name, numbers, words and lists."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"expected a transform of at most {MAX_LENGTH} characters; got {len(text):,}")
    try:
        node = ast.parse(text.strip().removesuffix(","), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _not_a_call(text) from None
    function, given, named = (node.func, node.args, node.keywords) if isinstance(node, ast.Call) else (node, [], [])
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id in MODULES:
        name = function.attr
    elif isinstance(function, ast.Name):
        name = function.id
    else:
        raise _not_a_call(text)
    if name not in NAMES:
        raise ValueError(unknown("transform", name, NAMES))
    if any(keyword.arg is None for keyword in named):
        raise _not_a_call(text)
    positional = tuple(_literal(value, text) for value in given)
    return Call(name, positional, {str(keyword.arg): _literal(keyword.value, text) for keyword in named})


def check_transform(text: str) -> str:
    """The transform as it is written from then on: `RandomCrop(32, padding=4)`. Raises ValueError."""
    name, positional, named = parse_transform(text)
    return f"{name}({', '.join([*map(repr, positional), *(f'{key}={value!r}' for key, value in named.items())])})"


def _literal(node: ast.expr, text: str) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise _not_a_call(text) from None
    _check(value, text)
    return value


def _check(value: Any, text: str) -> None:
    if isinstance(value, list | tuple):
        for each in value:
            _check(each, text)
    elif isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= MAX_NUMBER):
        raise ValueError(f"expected numbers of at most {MAX_NUMBER:,}; got {text!r}")
    elif not isinstance(value, bool | int | float | str | None):
        raise _not_a_call(text)


def _not_a_call(text: str) -> ValueError:
    return ValueError(f"expected a transform of torchvision.transforms.v2 such as {EXAMPLE}; got {text!r}")
