"""A network written down layer by layer, as its shapes are followed through it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cnnbench.archs.layers import Op, Shape, spelled
from cnnbench.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer at its place: named like torch's module, with its shapes and counts for one image."""

    name: str
    op: Op
    input_shape: Shape
    output_shape: Shape
    params: int
    macs: int

    @property
    def kind(self) -> str:
        """The name of the layer's kind, such as `Conv`."""
        return type(self.op).__name__


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network at one input size: what `Arch.network` gives."""

    name: str
    input_shape: Shape
    layers: tuple[Layer, ...]

    @property
    def params(self) -> int:
        """Learned parameters."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(layer.macs for layer in self.layers)

    def as_rows(self, batch: int = 1) -> list[dict[str, Any]]:
        """One row per layer; output shapes (N, C, H, W) and MACs are for `batch` images."""
        return [
            {
                "name": layer.name,
                "op": layer.kind,
                "output_shape": [batch, *layer.output_shape],
                "params": layer.params,
                "macs": layer.macs * batch,
            }
            for layer in self.layers
        ]


@dataclass(frozen=True)
class Net:
    """Follows one image's shape through a network and writes each layer down.

    Called as `x = net("conv1", Conv(64, kernel=7), x)`: takes a shape, gives the next.
    `net.inside("layer1.0")` is the same net where every name begins with `layer1.0.`.
    """

    name: str
    prefix: str = ""
    layers: list[Layer] = field(default_factory=list)

    def inside(self, name: str) -> "Net":
        """The same net, one module further in."""
        return Net(self.name, f"{self.prefix}{name}.", self.layers)

    def __call__(self, name: str, op: Op, x: Shape) -> Shape:
        """Write down a layer and give its output shape. Raises ShapeError, naming the layer."""
        full_name = self.prefix + name
        assert all(layer.name != full_name for layer in self.layers), f"two layers are called {full_name}"
        try:
            y = op.output_shape(x)
        except ShapeError as error:
            raise ShapeError(f"{self.name}: layer {full_name!r} ({type(op).__name__}): {error}") from None
        self.layers.append(
            Layer(
                name=full_name,
                op=op,
                input_shape=x,
                output_shape=y,
                params=op.params(x),
                macs=op.macs(x),
            )
        )
        return y


Describe = Callable[[Net, Shape, int], Shape]
"""A family member: writes its layers into the net for an image shape and a number of classes."""

LARGEST_SIZE_TRIED = 1024


@dataclass(frozen=True, kw_only=True)
class Arch:
    """A network of the catalogue, in closed form, with the defaults it is known by."""

    name: str
    describe: Describe
    image: Shape
    """(C, H, W) of the images it was made for."""
    classes: int
    source: str
    """The paper or page that the closed form was written from."""
    from_torchvision: bool = True
    """Whether the module is torchvision's own; else it is ours."""

    def network(self, image_size: tuple[int, int] | None = None, classes: int | None = None) -> Network:
        """The network for images of (height, width) and so many classes; its own defaults where not given.

        Raises ShapeError for an image too small, naming the layer and the smallest square size that works.
        """
        try:
            return self._follow(image_size or self.image_size, classes or self.classes)
        except ShapeError as error:
            height, width = image_size or self.image_size
            smallest = self.smallest_size()
            hint = f"; the smallest square image that works is {smallest}x{smallest}" if smallest else ""
            raise ShapeError(f"image of {height}x{width} is too small for {error}{hint}") from None

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) it was made for."""
        _, height, width = self.image
        return height, width

    def smallest_size(self) -> int | None:
        """The side of the smallest square image that leaves something for every layer."""
        for size in range(1, LARGEST_SIZE_TRIED + 1):
            try:
                self._follow((size, size), self.classes)
            except ShapeError:
                continue
            return size
        return None

    def _follow(self, image_size: tuple[int, int], classes: int) -> Network:
        net = Net(self.name)
        image = (self.image[0], *image_size)
        output = self.describe(net, image, classes)
        assert output == (classes,), f"{self.name} ends in {spelled(output)}, not in {classes} classes"
        return Network(name=self.name, input_shape=image, layers=tuple(net.layers))
