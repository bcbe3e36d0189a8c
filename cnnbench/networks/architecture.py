"""A registered network: its closed form, its default sizes, and the settings of its family."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cnnbench.errors import InputError, ShapeError, TooSmall, unknown
from cnnbench.networks.layers import Shape, Value, spelled
from cnnbench.networks.network import Describe, Net, Network

MAX_SIZE_TRIED = 1024
MAX_SETTING = 10**6
"""Far beyond any network, and small enough to compute with."""

INPUT_SETTINGS = ("resolution", "channels", "classes")
"""What can be varied in every network: its images and its classes."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network in closed form. A family with settings is a frozen dataclass whose fields they are."""

    name: str
    describe: Describe
    image: Shape
    """(C, H, W) of the images it was made for, or (C, L) of the signals."""
    classes: int
    source: str
    """The paper or page that the closed form was written from."""
    from_torchvision: bool = True
    """Whether the module is torchvision's own; else it is ours."""

    @property
    def image_size(self) -> Shape:
        """(height, width) it was made for, or (length,)."""
        return self.image[1:]

    def network(self, image_size: Shape | None = None, classes: int | None = None) -> Network:
        """The network for images of (height, width) and so many classes; its own defaults where not given.

        A single number stands for all sides. Raises ShapeError for an image too small, naming the layer and the
        smallest square size that works.
        """
        size = self.full_size(image_size)
        classes = self.classes if classes is None else _whole("classes", classes)
        try:
            return self._follow(size, classes)
        except TooSmall as error:
            smallest = self.smallest_size()
            what, square = ("signal", "") if len(size) == 1 else ("image", "square ")
            hint = f"; the smallest {square}{what} that works is {spelled((smallest,) * len(size))}" if smallest else ""
            raise TooSmall(f"{what} of {spelled(size)} is too small for {error}{hint}") from None

    def full_size(self, image_size: Shape | None) -> Shape:
        """One number for each side: (224,) is (224, 224), None its own. Raises ShapeError if the sides are too many."""
        if image_size is None:
            return self.image_size
        size = tuple(_whole("image size", side) for side in image_size)
        sides = len(self.image_size)
        if len(size) == 1:
            return size * sides
        if len(size) != sides:
            raise ShapeError(f"{self.name}: expected an image size of {sides} number(s); got {spelled(size)}")
        return size

    def smallest_size(self) -> int | None:
        """The side of the smallest square image that leaves something for every layer of inference."""
        for size in range(1, MAX_SIZE_TRIED + 1):
            try:
                self._follow((size,) * len(self.image_size), self.classes)
            except TooSmall:
                continue
            return size
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """What its family can be varied in, with the values of this member."""
        if not dataclasses.is_dataclass(self.describe):
            return {}
        fields = {field.name: getattr(self.describe, field.name) for field in dataclasses.fields(self.describe)}
        return {name: value for name, value in fields.items() if _parser(value)}

    def varied(self, changes: Mapping[str, str]) -> "Architecture":
        """The same family with other settings, such as {"width": "0.75", "resolution": "192"}.

        Raises InputError for a setting that it does not have, or a value that means nothing.
        """
        settings = self.settings
        own: dict[str, Any] = {}
        general: dict[str, int] = {}
        for name, text in changes.items():
            if name in INPUT_SETTINGS:
                general[name] = _number(name, text, int)
            elif name in settings:
                own[name] = _number(name, text, _parser(settings[name]))
            else:
                raise InputError(f"{self.name}: {unknown('setting', name, (*settings, *INPUT_SETTINGS))}")
        channels, *size = self.image
        if "resolution" in general:
            size = [general["resolution"]] * len(size)
        try:
            describe = dataclasses.replace(self.describe, **own) if own else self.describe  # type: ignore[type-var]
        except ValueError as error:
            raise InputError(f"{self.name}: {error}") from None
        return dataclasses.replace(
            self,
            name=f"{self.name}[{','.join(f'{name}={text}' for name, text in changes.items())}]",
            describe=describe,
            image=(general.get("channels", channels), *size),
            classes=general.get("classes", self.classes),
            from_torchvision=False,
        )

    def _follow(self, image_size: Shape, classes: int) -> Network:
        net = Net(self.name)
        image = Value((self.image[0], *image_size))
        output = self.describe(net, image, classes)
        assert output.shape == (classes,), f"{self.name} ends in {spelled(output.shape)}, not in {classes} classes"
        return net.network(image.shape)


def ours(name: str, describe: Describe, image: Shape, source: str) -> Architecture:
    """A network for ten classes whose module is cnnbench's own."""
    return Architecture(name=name, describe=describe, image=image, classes=10, source=source, from_torchvision=False)


def imagenet(name: str, describe: Describe, source: str, size: int = 224) -> Architecture:
    """A network of torchvision's, for ImageNet's 1000 classes."""
    return Architecture(name=name, describe=describe, image=(3, size, size), classes=1000, source=source)


def _whole(what: str, value: object) -> int:
    """The value, if it is a whole number of at least 1. Raises ShapeError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ShapeError(f"{what}: expected a whole number of at least 1; got {value!r}")
    return value


def _parser(value: object) -> type[Any] | None:
    """How a setting like `value` is read; None if it is not one that a user can give."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return type(value)
    return tuple if isinstance(value, tuple) and all(type(part) is int for part in value) else None


def _number(name: str, text: str, kind: type[Any] | None) -> Any:
    """A number, or several such as 3-4-6-3, above zero. Raises InputError."""
    try:
        values = [int(part) for part in text.split("-")] if kind is tuple else [(kind or float)(text)]
    except ValueError:
        values = []
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        shape = {int: "a whole number", float: "a number", tuple: "whole numbers such as 3-4-6-3"}[kind or float]
        raise InputError(f"{name}: expected {shape} above zero; got {text!r}")
    if max(values) > MAX_SETTING:
        raise InputError(f"{name}: expected {MAX_SETTING:,} at most; got {text!r}")
    return tuple(values) if kind is tuple else values[0]
