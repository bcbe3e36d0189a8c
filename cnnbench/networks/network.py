"""A network as a list of layers, recorded while values are followed through it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from cnnbench.errors import ShapeError
from cnnbench.networks.layers import Conv, Op, Saved, Shape, Value, WorkKind
from cnnbench.networks.units import FLOAT_BYTES, FLOP_PER_MAC


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a network, named like torch's module, with its counts for one image."""

    name: str
    op: Op
    inputs: tuple[Value, ...]
    """The input that its formulas refer to, then those joined with it."""
    output: Value
    training_only: bool = False
    """Whether only training runs it, like an auxiliary head. Its parameters count all the same."""
    frozen: bool = False
    """Whether training leaves its weight as it is."""
    shared: int = 0
    """How many of its parameters are those of a layer before it, with which they count."""
    trained: int | None = None
    """How many of its other parameters training changes, where its weight does not tell: a bias beside a frozen one."""

    @property
    def kind(self) -> str:
        """The name of its operation, such as `Conv`."""
        return type(self.op).__name__

    @property
    def work(self) -> WorkKind:
        """The kind of its work.

        A depthwise convolution has one input channel per group, so each value that is read serves one output channel
        only; a 1x1 convolution is a matrix product (Howard et al., "MobileNets", 2017, section 3.1).
        """
        if not isinstance(self.op, Conv):
            return self.op.work
        if self.op.groups > 1:
            is_depthwise = self.op.groups == self.input_shape[0]
            return "depthwise convolutions" if is_depthwise else "grouped convolutions"
        return "1x1 convolutions" if self.op.kernel in (1, (1,), (1, 1)) else "convolutions"

    @property
    def input_shape(self) -> Shape:
        """(C, H, W) of the first input."""
        return self.inputs[0].shape

    @property
    def output_shape(self) -> Shape:
        """(C, H, W) of the output."""
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
        """Other operations for one image in inference."""
        return self.op.elementwise(self.input_shape)

    @property
    def saved(self) -> Saved:
        """What PyTorch's autograd keeps for its backward pass; nothing where it has none."""
        if not self.output.requires_grad:
            return Saved()
        saved = self.op.saved(self.input_shape)
        if saved.others:  # each is kept for the other's gradient
            needed = [value.requires_grad for value in self.inputs]
            saved = saved._replace(input=any(needed[1:]), others=needed[0])
        return saved

    @property
    def trained_params(self) -> int:
        """Parameters that training changes, but for those of a layer before it."""
        return (0 if self.frozen else self.params - self.shared) if self.trained is None else self.trained

    @property
    def trains_weight(self) -> bool:
        """Whether training computes the gradient of its weight, which may be that of a layer before it."""
        return bool(self.params) and not self.frozen

    @property
    def trains(self) -> bool:
        """Whether training changes a parameter of it."""
        return self.trains_weight or bool(self.trained_params)

    @property
    def weight_bytes(self) -> int:
        """Of its parameters in float32."""
        return self.params * FLOAT_BYTES

    @property
    def activation_bytes(self) -> int:
        """Of its output for one image in float32; none where it shares the input's memory."""
        return 0 if self._idle else self.output.bytes

    def moved_bytes(self, batch: int = 1) -> int:
        """Bytes read and written for `batch` images if nothing stays in a cache: inputs, weights and output."""
        if self._idle and not self.elementwise:
            return 0
        return batch * (sum(value.bytes for value in self.inputs) + self.output.bytes) + self.weight_bytes

    def flops(self, batch: int = 1) -> int:
        """Operations for `batch` images in inference: two for each MAC, and the element-wise ones."""
        return batch * (FLOP_PER_MAC * self.macs + self.elementwise)

    @property
    def _idle(self) -> bool:
        """Whether it allocates nothing in inference."""
        return self.op.in_place or self.op.only_trains


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network at one input size, from `Architecture.network` or traced from a module."""

    name: str
    input_shape: Shape
    further_inputs: tuple[Shape, ...] = ()
    """Of a module that takes more than one."""
    layers: tuple[Layer, ...]
    training_problem: str | None = None
    """Why it cannot be trained at this size, though inference works: the image is too small for an auxiliary head."""

    @property
    def inference(self) -> tuple[Layer, ...]:
        """The layers that inference runs."""
        return tuple(layer for layer in self.layers if not layer.training_only)

    @property
    def params(self) -> int:
        """Learned parameters, auxiliary heads' included; those of several layers count once."""
        return sum(layer.params - layer.shared for layer in self.layers)

    @property
    def trained_params(self) -> int:
        """Parameters that training changes."""
        return sum(layer.trained_params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image in inference."""
        return sum(layer.macs for layer in self.inference)

    @property
    def elementwise(self) -> int:
        """Other operations for one image in inference."""
        return sum(layer.elementwise for layer in self.inference)

    @property
    def weight_bytes(self) -> int:
        """Of all parameters in float32."""
        return self.params * FLOAT_BYTES

    @property
    def activation_bytes(self) -> int:
        """Of all outputs for one image in inference, in float32."""
        return sum(layer.activation_bytes for layer in self.inference)

    def moved_bytes(self, batch: int = 1) -> int:
        """Bytes read and written for `batch` images in inference if nothing stays in a cache."""
        return sum(layer.moved_bytes(batch) for layer in self.inference)

    def flops(self, batch: int = 1) -> int:
        """Operations for `batch` images in inference."""
        return sum(layer.flops(batch) for layer in self.inference)

    @property
    def input_storages(self) -> range:
        """Of the image, 0, and of each further input below it; the caller keeps them alive."""
        return range(0, -1 - len(self.further_inputs), -1)

    def storage_bytes(self, storage: int) -> int:
        """Of one storage for one image: the size of the value that it was allocated for."""
        inputs = (self.input_shape, *self.further_inputs)
        shape = self.layers[storage - 1].output_shape if storage > 0 else inputs[-storage]
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


@dataclass(frozen=True)
class Net:
    """Follows one image through a network and records each layer.

    Called as `x = net("conv1", Conv(64, kernel=7), x)`: takes a value, returns the next.
    `net.inside("layer1.0")` is the same net with `layer1.0.` before every name.
    """

    name: str
    prefix: str = ""
    is_training_only: bool = False
    layers: dict[str, Layer] = field(default_factory=dict)
    """Recorded so far, by name."""
    training_problems: list[str] = field(default_factory=list)

    def inside(self, name: str) -> "Net":
        """The same net, one module further in."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def training_only(self) -> "Net":
        """The same net, for layers that only training runs."""
        return replace(self, is_training_only=True)

    def __call__(self, name: str, op: Op, x: Value) -> Value:
        """Record a layer and return its output. Raises ShapeError, naming the layer."""
        full_name, inputs, index = self.prefix + name, (x, *op.others), len(self.layers)
        assert full_name not in self.layers, f"two layers are called {full_name}"
        shape = self.shape_after(full_name, op, x.shape)
        requires_grad = any(value.requires_grad for value in inputs) or bool(op.param_terms(x.shape))
        y = Value(shape, index, x.storage if op.in_place else index + 1, requires_grad)
        layer = Layer(name=full_name, op=op, inputs=inputs, output=y, training_only=self.is_training_only)
        self.layers[full_name] = layer
        return y

    def shape_after(self, name: str, op: Op, x: Shape) -> Shape:
        """The layer's output shape. Raises ShapeError, unless only training runs the layer: then it is recorded."""
        try:
            op.check(x)
        except ShapeError as error:
            problem = f"{self.name}: layer {name!r} ({type(op).__name__}): {error}"
            if not self.is_training_only:
                raise type(error)(problem) from None
            self.training_problems.append(problem)
            return tuple(max(1, size) for size in op.output_shape(x))  # goes on, to count the parameters
        return op.output_shape(x)

    def network(self, input_shape: Shape, *further_inputs: Shape) -> Network:
        """All layers recorded."""
        return Network(
            name=self.name,
            input_shape=input_shape,
            further_inputs=further_inputs,
            layers=tuple(self.layers.values()),
            training_problem=self.training_problems[0] if self.training_problems else None,
        )


Describe = Callable[[Net, Value, int], Value]
"""A member of a family: adds its layers to the net, from an image (C, H, W) to logits: (classes,), or of each pixel
(classes, H, W)."""
