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
MAX_SETTING, MAX_OF_SEVERAL, MAX_VALUES = 10**6, 10**4, 16
INPUT_SETTINGS = ("resolution", "channels", "classes")
"""Settings of every network, besides its family's."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network in closed form. A family with settings is a frozen dataclass whose fields they are."""

    name: str
    describe: Describe
    image: Shape
    """Default (C, H, W) of images, or (C, L) of signals."""
    classes: int
    source: str
    """The paper or page that the closed form follows."""
    from_torchvision: bool = True
    """Whether the module is torchvision's; else it is cnnbench's."""

    @property
    def image_size(self) -> Shape:
        """Default (height, width), or (length,)."""
        return self.image[1:]

    def network(self, image_size: Shape | None = None, classes: int | None = None) -> Network:
        """The network at an image size and a number of classes, by default its own.

        A size of one number is used for all sides. Raises ShapeError for an image that is too small, naming the layer
        and the smallest square size that works.
        """
        size = self.full_size(image_size)
        classes = self.classes if classes is None else _checked("classes", classes)
        try:
            return self._follow(size, classes)
        except TooSmall as error:
            smallest = self.smallest_size()
            what, square = ("signal", "") if len(size) == 1 else ("image", "square ")
            hint = f"; the smallest {square}{what} that works is {spelled((smallest,) * len(size))}" if smallest else ""
            raise TooSmall(f"{what} of {spelled(size)} is too small for {error}{hint}") from None

    def full_size(self, image_size: Shape | None) -> Shape:
        """One number per side: (224,) becomes (224, 224), None the default. Raises ShapeError if they do not fit."""
        if image_size is None:
            return self.image_size
        size = tuple(_checked("image size", side) for side in image_size)
        sides = len(self.image_size)
        if len(size) == 1:
            return size * sides
        if len(size) != sides:
            raise ShapeError(f"{self.name}: expected an image size of {sides} number(s); got {spelled(size)}")
        return size

    def smallest_size(self) -> int | None:
        """The side of the smallest square image that inference can take."""
        for size in range(1, MAX_SIZE_TRIED + 1):
            try:
                self._follow((size,) * len(self.image_size), self.classes)
            except TooSmall:
                continue
            return size
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of its family that are numbers or several of them, with this member's values."""
        fields = dataclasses.fields(self.describe) if dataclasses.is_dataclass(self.describe) else ()
        values = {field.name: getattr(self.describe, field.name) for field in fields}
        return {name: value for name, value in values.items() if type(value) in (int, float, tuple)}

    def varied(self, changes: Mapping[str, str]) -> "Architecture":
        """The same family with other settings, such as {"width": "0.75", "resolution": "192"}. Raises InputError."""
        kinds = {name: type(value) for name, value in self.settings.items()} | dict.fromkeys(INPUT_SETTINGS, int)
        values: dict[str, Any] = {}
        for name, text in changes.items():
            if name not in kinds:
                raise InputError(f"{self.name}: {unknown('setting', name, kinds)}")
            values[name] = _number(name, text, kinds[name])
        own = {name: value for name, value in values.items() if name not in INPUT_SETTINGS}
        channels, *size = self.image
        if "resolution" in values:
            size = [values["resolution"]] * len(size)
        try:
            describe = dataclasses.replace(self.describe, **own) if own else self.describe  # type: ignore[type-var]
        except ValueError as error:
            raise InputError(f"{self.name}: {error}") from None
        return dataclasses.replace(
            self,
            name=f"{self.name}[{','.join(f'{name}={text}' for name, text in changes.items())}]",
            describe=describe,
            image=(values.get("channels", channels), *size),
            classes=values.get("classes", self.classes),
            from_torchvision=False,
        )

    def _follow(self, image_size: Shape, classes: int) -> Network:
        net = Net(self.name)
        image = Value((self.image[0], *image_size))
        output = self.describe(net, image, classes)
        is_expected = output.shape in ((classes,), (classes, *image_size))
        assert is_expected, f"{self.name} ends in {spelled(output.shape)}, not in {classes} classes"
        return net.network(image.shape)


def ours(name: str, describe: Describe, image: Shape, source: str) -> Architecture:
    """A network for ten classes whose module is cnnbench's own."""
    return Architecture(name=name, describe=describe, image=image, classes=10, source=source, from_torchvision=False)


def imagenet(name: str, describe: Describe, source: str, size: int = 224) -> Architecture:
    """A network of torchvision's, for ImageNet's 1000 classes."""
    return Architecture(name=name, describe=describe, image=(3, size, size), classes=1000, source=source)


def _checked(what: str, value: object) -> int:
    """A whole number of at least 1. Raises ShapeError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ShapeError(f"{what}: expected a whole number of at least 1; got {value!r}")
    return value


def _number(name: str, text: str, kind: type[Any]) -> Any:
    """A positive number, or several such as 3-4-6-3. Raises InputError."""
    try:
        values = [int(part) for part in text.split("-")] if kind is tuple else [kind(text)]
    except ValueError:
        values = []
    if not 0 < len(values) <= MAX_VALUES or not all(math.isfinite(value) and value > 0 for value in values):
        shape = {int: "a whole number", float: "a number", tuple: "whole numbers such as 3-4-6-3"}[kind]
        raise InputError(f"{name}: expected {shape} above zero; got {text!r}")
    most = MAX_OF_SEVERAL if kind is tuple else MAX_SETTING
    if max(values) > most:
        raise InputError(f"{name}: expected {most:,} at most; got {text!r}")
    return tuple(values) if kind is tuple else values[0]
