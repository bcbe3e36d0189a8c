"""A network written down layer by layer, as its values are followed through it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from cnnbench.errors import ShapeError
from cnnbench.networks.layers import Op, Shape, Value
from cnnbench.networks.units import FLOAT_BYTES, FLOP_PER_MAC


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer at its place: named like torch's module, with its counts for one image."""

    name: str
    op: Op
    inputs: tuple[Value, ...]
    """The input that its formulas are of, then those it is joined with."""
    output: Value
    training_only: bool = False
    """Whether it is passed in training alone, like an auxiliary head. Its parameters count all the same."""

    @property
    def kind(self) -> str:
        """The name of the layer's kind, such as `Conv`."""
        return type(self.op).__name__

    @property
    def input_shape(self) -> Shape:
        """(C, H, W) of the first input."""
        return self.inputs[0].shape

    @property
    def output_shape(self) -> Shape:
        """(C, H, W) of what comes out."""
        return self.output.shape

    @property
    def params(self) -> int:
        """Learned parameters."""
        return self.op.params(self.input_shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of its forward pass, for one image."""
        return self.op.macs(self.input_shape)

    @property
    def elementwise(self) -> int:
        """Other arithmetic for one image in inference."""
        return self.op.elementwise(self.input_shape)

    @property
    def weight_bytes(self) -> int:
        """Of its parameters in float32."""
        return self.params * FLOAT_BYTES

    @property
    def activation_bytes(self) -> int:
        """Of what comes out for one image in float32; none where it lies in the memory of what went in."""
        return 0 if self._idle else self.output.bytes

    def moved_bytes(self, batch: int = 1) -> int:
        """Read and written for `batch` images, if nothing stays in a cache: its inputs, its weights, its output."""
        if self._idle and not self.elementwise:
            return 0
        return batch * (sum(value.bytes for value in self.inputs) + self.output.bytes) + self.weight_bytes

    def flops(self, batch: int = 1) -> int:
        """Forward arithmetic in inference for `batch` images: two for each MAC, and the element-wise operations."""
        return batch * (FLOP_PER_MAC * self.macs + self.elementwise)

    @property
    def _idle(self) -> bool:
        """Whether inference allocates nothing for it."""
        return self.op.in_place or self.op.only_trains


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network at one input size: what `Arch.network` gives, or what was read off a module."""

    name: str
    input_shape: Shape
    layers: tuple[Layer, ...]
    training_problem: str | None = None
    """Why it cannot be trained at this size, though inference works: an auxiliary head for which it is too small."""

    @property
    def inference(self) -> tuple[Layer, ...]:
        """The layers that an image passes in inference."""
        return tuple(layer for layer in self.layers if not layer.training_only)

    @property
    def params(self) -> int:
        """Learned parameters, auxiliary heads' included."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image in inference."""
        return sum(layer.macs for layer in self.inference)

    @property
    def elementwise(self) -> int:
        """Other arithmetic for one image in inference."""
        return sum(layer.elementwise for layer in self.inference)

    @property
    def weight_bytes(self) -> int:
        """Of all parameters in float32."""
        return self.params * FLOAT_BYTES

    @property
    def activation_bytes(self) -> int:
        """Of all that layers put out for one image in inference, in float32."""
        return sum(layer.activation_bytes for layer in self.inference)

    def moved_bytes(self, batch: int = 1) -> int:
        """Read and written by all layers for `batch` images in inference, if nothing stays in a cache."""
        return sum(layer.moved_bytes(batch) for layer in self.inference)

    def flops(self, batch: int = 1) -> int:
        """Arithmetic for `batch` images in inference."""
        return sum(layer.flops(batch) for layer in self.inference)

    def storage_bytes(self, storage: int) -> int:
        """Of the memory that several values may lie in, for one image: as large as the value it was made for."""
        shape = self.layers[storage - 1].output_shape if storage else self.input_shape
        return math.prod(shape) * FLOAT_BYTES

    def as_rows(self, batch: int = 1) -> list[dict[str, Any]]:
        """One row per layer; output shapes (N, C, H, W) and work are for `batch` images."""
        return [
            {
                "name": layer.name,
                "op": layer.kind,
                "output_shape": [batch, *layer.output_shape],
                "params": layer.params,
                "macs": layer.macs * batch,
                "elementwise": layer.elementwise * batch,
                "weight_bytes": layer.weight_bytes,
                "activation_bytes": layer.activation_bytes * batch,
                "moved_bytes": layer.moved_bytes(batch),
                "training_only": layer.training_only,
            }
            for layer in self.layers
        ]


@dataclass
class _Written:
    """What has been written down so far."""

    layers: list[Layer] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    training_problem: str | None = None


@dataclass(frozen=True)
class Net:
    """Follows one image through a network and writes each layer down.

    Called as `x = net("conv1", Conv(64, kernel=7), x)`: takes a value, gives the next.
    `net.inside("layer1.0")` is the same net where every name begins with `layer1.0.`.
    """

    name: str
    prefix: str = ""
    is_training_only: bool = False
    written: _Written = field(default_factory=_Written)

    def inside(self, name: str) -> "Net":
        """The same net, one module further in."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def training_only(self) -> "Net":
        """The same net, for layers that are passed in training alone."""
        return replace(self, is_training_only=True)

    def __call__(self, name: str, op: Op, x: Value) -> Value:
        """Write down a layer and give what comes out. Raises ShapeError, naming the layer."""
        full_name = self.prefix + name
        assert full_name not in self.written.names, f"two layers are called {full_name}"
        shape = self.shape_after(full_name, op, x.shape)
        place = len(self.written.layers)
        requires_grad = any(value.requires_grad for value in (x, *op.others)) or bool(op.param_terms(x.shape))
        y = Value(shape, place, x.storage if op.in_place else place + 1, requires_grad)
        inputs = (x, *op.others)
        layer = Layer(name=full_name, op=op, inputs=inputs, output=y, training_only=self.is_training_only)
        self.written.names.add(full_name)
        self.written.layers.append(layer)
        return y

    def shape_after(self, name: str, op: Op, x: Shape) -> Shape:
        """The layer's output shape. Raises ShapeError, unless the layer is for training alone: then it is noted."""
        try:
            op.check(x)
        except ShapeError as error:
            problem = f"{self.name}: layer {name!r} ({type(op).__name__}): {error}"
            if not self.is_training_only:
                raise type(error)(problem) from None
            self.written.training_problem = self.written.training_problem or problem
            return tuple(max(1, size) for size in op.output_shape(x))  # goes on, to count the parameters
        return op.output_shape(x)

    def network(self, input_shape: Shape) -> Network:
        """All that was written down."""
        return Network(
            name=self.name,
            input_shape=input_shape,
            layers=tuple(self.written.layers),
            training_problem=self.written.training_problem,
        )


Describe = Callable[[Net, Value, int], Value]
"""A member of a family: adds its layers to the net, from an image (C, H, W) to a vector (classes,)."""
