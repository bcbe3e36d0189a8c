"""An ONNX graph that is being written, node by node, and the tensors in it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partialmethod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
"""The first whose ScatterElements adds, and whose reductions take their axes as an input."""
IR_VERSION = 10
AFFINE = "Affine"
"""In the names of depthwise convolutions that stand for numbers of each channel."""
BATCH = "batch"
"""Name of the one dimension that is not known when the graph is written."""

Size = int | None
"""Of a dimension; None is the batch."""
INTEGERS = ("bool", "uint8", "int8", "int16", "int32", "int64")
"""Types without gradients, in the order in which numpy and torch promote them."""


class NoRule(Exception):
    """What a rule does not know, such as a setting of its operator; the message names it."""


@dataclass(frozen=True)
class Tensor:
    """A tensor in the graph; None in its shape is the batch."""

    name: str
    shape: tuple[Size, ...]
    dtype: str = "float32"
    varies: bool = False
    """Whether it depends on something that a gradient is wanted of."""
    origin: str = ""
    """The traced operator that put it out: one that changes nothing puts out its argument."""

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    def known(self, axis: int) -> int:
        """The size of an axis that is not the batch."""
        size = self.shape[axis]
        if size is None:
            raise NoRule(f"an axis whose size depends on the batch (axis {axis} of {self.name})")
        return size

    def spatial(self) -> tuple[int, ...]:
        """The sizes behind batch and channels: (H, W), or (L,)."""
        return tuple(self.known(axis) for axis in range(2, self.ndim))


@dataclass
class Graph:
    """Nodes, constants, inputs and outputs, in the order in which they were written.

    `scope` begins the name of each node, so that a profile of the graph can be read.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    scope: str = ""
    first_input: Tensor | None = None
    """The images, or the first of several inputs: what says how large the batch is."""
    merged: set[str] = field(default_factory=set)
    """Tensors whose first axis is not the batch, but depends on it: images times windows, for example."""
    notes: list[Mapping[str, Any]] = field(default_factory=list)
    """What groups of nodes compute, for whoever writes them anew."""
    draws: int = 0
    """Places that draw random numbers, so far."""
    draw_keys: tuple[Tensor, ...] = ()
    """What is the same in all of them."""
    _known: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)
    _made: set[str] = field(default_factory=set)
    """What nodes put out."""
    _renamed: dict[str, str] = field(default_factory=dict)
    """What outputs are called, by what they were called first."""
    _with_axes: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """Scalars that were given axes, by their names and how many."""
    _batch_size: Tensor | None = None
    _count: int = 0

    def __call__(
        self, operator: str, x: Tensor, *others: Tensor | None, shape: Sequence[Size] | None = None, **attributes: Any
    ) -> Tensor:
        """Append a node with one output, of x's shape if none is given. An input that is None is left out."""
        return self.several(operator, x, *others, shapes=[x.shape if shape is None else shape], **attributes)[0]

    def several(
        self,
        operator: str,
        *inputs: Tensor | None,
        shapes: Sequence[Sequence[Size]],
        label: str | None = None,
        **attributes: Any,
    ) -> list[Tensor]:
        """Append a node with as many outputs as shapes; its name has the label, or else the operator."""
        self._count += 1
        name = f"{self.scope or 'step'}/{label or operator}_{self._count}"
        outputs = [Tensor(name if i == 0 else f"{name}:{i}", tuple(shape)) for i, shape in enumerate(shapes)]
        self._made |= {output.name for output in outputs}
        read, written = ([value.name if value else "" for value in values] for values in (inputs, outputs))
        while read and not read[-1]:
            read.pop()
        self.nodes.append(helper.make_node(operator, read, written, name=name, **attributes))
        return outputs

    def add_to_product(self, y: Tensor, x: Tensor, scale: float) -> Tensor:
        """y + scale * x, of one shape, computed by the product that y is; it must be an `is_open_product`."""
        place = self._open_product(y)
        assert place is not None
        node = self.nodes.pop(place)
        node.input.append(x.name)
        node.attribute.append(helper.make_attribute("beta", float(scale)))
        self.nodes.append(node)  # behind what makes x
        return y

    def sum_as_product(self, y: Tensor, x: Tensor, scale: float) -> Tensor:
        """y + scale * x, of one known shape, by one product of matrices.

        It needs one array more than x and y. `Mul` and `Add`, which ONNX Runtime computes in arrays of their own on the
        CPU, need two.
        """
        one, flat = self.constant(np.ones((1, 1), np.float32)), (1, math.prod(size or 0 for size in y.shape))
        sum_ = self("Gemm", one, self.reshape(x, flat), self.reshape(y, flat), shape=flat, alpha=float(scale))
        return self.reshape(sum_, y.shape)

    def is_open_product(self, y: Tensor) -> bool:
        """Whether y is a product of matrices without a summand that nothing reads yet."""
        return self._open_product(y) is not None

    def _open_product(self, y: Tensor) -> int | None:
        for place in reversed(range(len(self.nodes))):
            node = self.nodes[place]
            if y.name in node.output:
                return place if node.op_type == "Gemm" and len(node.input) == 2 else None
            if y.name in node.input:
                return None
        return None

    def input(self, name: str, shape: Sequence[Size], dtype: str = "float32") -> Tensor:
        """Declare an input."""
        self.inputs.append(_info(name, shape, dtype))
        return Tensor(name, tuple(shape), dtype)

    def output(self, tensor: Tensor, name: str) -> None:
        """Declare an output under a name of its own."""
        if tensor.name in self._made and tensor.name not in self._renamed:
            self._renamed[tensor.name] = name
        else:
            self.nodes.append(helper.make_node("Identity", [tensor.name], [name], name=f"output/{name}"))
        self.outputs.append(_info(name, tensor.shape, tensor.dtype))

    def constant(self, values: NDArray[Any] | float | Sequence[float]) -> Tensor:
        """A constant; the same values stand in the file once. Numbers become float32."""
        array = np.asarray(values)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"constant_{len(self._known)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return Tensor(self._known[key], array.shape, str(array.dtype))

    def noted(self, what: str, output: Tensor, inputs: Sequence[Tensor | None], settings: Mapping[str, Any]) -> Tensor:
        """The output itself, with a note of what it is and of what it was computed."""
        given = [each and {"name": each.name, "shape": each.shape} for each in inputs]
        self.notes.append({"what": what, "output": output.name, "inputs": given, "settings": settings})
        return output

    def integers(self, values: Sequence[int]) -> Tensor:
        """A constant vector of int64, such as axes or a shape."""
        return self.constant(np.asarray(values, np.int64))

    def model(self, name: str, metadata: dict[str, str]) -> onnx.ModelProto:
        """The finished model."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [self._renamed.get(each, each) for each in names]
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="cnnbench"
        )
        helper.set_model_props(model, metadata)
        return model

    # What several gradients need, by the names of their ONNX operators.

    def _elementwise(self, operator: str, a: Tensor, b: Tensor | float) -> Tensor:
        """Broadcast; a number is a constant. A scalar gets as many axes as a tensor that ends with axes of 1.

        Else ONNX Runtime goes from value to value there: a weight of (2048, 1024, 1, 1) times a scalar took 28 ms for
        0.3 (two threads, ONNX Runtime 1.31).
        """
        a, b = self.alike(a, b)
        first, second = self._axes_as(a, b), self._axes_as(b, a)
        return self.typed(a.dtype, operator, first, second, shape=broadcast(a.shape, b.shape))

    add = partialmethod(_elementwise, "Add")
    sub = partialmethod(_elementwise, "Sub")
    mul = partialmethod(_elementwise, "Mul")
    div = partialmethod(_elementwise, "Div")

    def typed(self, dtype: str, operator: str, *inputs: Tensor | None, **options: Any) -> Tensor:
        """Append a node that puts out another type than float32."""
        first, *others = inputs
        assert first is not None
        return replace(self(operator, first, *others, **options), dtype=dtype)

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        """x in another type."""
        if x.dtype == dtype:
            return x
        return self.typed(dtype, "Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def alike(self, a: Tensor, b: Tensor | float) -> tuple[Tensor, Tensor]:
        """Both in the type that they are computed in; a number takes the tensor's."""
        if not isinstance(b, Tensor):
            whole = a.dtype in INTEGERS and isinstance(b, int)
            b = self.constant(np.asarray(b, a.dtype if whole else np.float32))
        if a.dtype == b.dtype:
            return a, b
        both = (a.dtype, b.dtype)
        common = max(both, key=INTEGERS.index) if set(both) <= set(INTEGERS) else "float32"
        return self.cast(a, common), self.cast(b, common)

    def zeros_like(self, x: Tensor) -> Tensor:
        """Zeros (float32) of x's shape."""
        if None in x.shape:
            return self.mul(self.cast(x, "float32"), 0.0)
        return self.constant(np.zeros([x.known(axis) for axis in range(x.ndim)], np.float32))

    def spread(self, x: Tensor, shape: Sequence[Size], like: Tensor | None = None) -> Tensor:
        """x repeated along its axes of 1 and new first ones; `like` has that shape, if the batch is among them."""
        if x.shape == tuple(shape):
            return x
        if like is not None and None in shape:
            target = self.typed("int64", "Shape", like, shape=(len(shape),))
        else:
            own = (1,) * (len(shape) - x.ndim) + x.shape
            sizes = [self.integers([1 if size is None else size]) for size in shape]
            for axis, size in enumerate(shape):
                if size is None and own[axis] is not None:
                    sizes[axis] = self.batch()
            target = self.concat(sizes, 0) if None in shape else self.integers([size or 0 for size in shape])
        return self.typed(x.dtype, "Expand", x, target, shape=shape)

    def batch(self) -> Tensor:
        """The number of images (1) int64."""
        if self.first_input is None:
            raise NoRule("a tensor as long as the batch, where there are no images")
        return self.typed("int64", "Shape", self.first_input, shape=(1,), start=0, end=1)

    def size(self, x: Tensor) -> Tensor:
        """How many values x has () float32."""
        return self("Cast", self.typed("int64", "Size", x, shape=()), to=TensorProto.FLOAT)

    def _axes_as(self, scalar: Tensor, other: Tensor) -> Tensor:
        if scalar.ndim or not other.ndim or other.shape[-1] != 1:
            return scalar
        key = (scalar.name, other.ndim)
        if key not in self._with_axes:
            self._with_axes[key] = self.reshape(scalar, (1,) * other.ndim)
        return self._with_axes[key]

    def affine(self, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """scale x + offset, with numbers (1, C, 1, ...) for each channel of x (N, C, ...).

        As a depthwise convolution with a kernel of 1, which is one pass for the two of a product and a sum.
        """
        channels, spatial = x.known(1), x.ndim - 2
        if spatial not in (1, 2):
            return self.add(self.mul(x, scale), offset)
        weight = self.reshape(scale, (channels, 1, *(1 for _ in range(spatial))))
        bias = self.reshape(offset, (channels,))
        return self.several("Conv", x, weight, bias, shapes=[x.shape], label=AFFINE, group=channels)[0]

    def _reduce(self, operator: str, x: Tensor, axes: Sequence[int], *, keep: bool = False) -> Tensor:
        """Over axes, which stay as axes of 1 if they are kept; over none, x itself: ONNX would take that for all."""
        if not axes:
            return x
        shape = [1 if i in axes else size for i, size in enumerate(x.shape) if keep or i not in axes]
        return self(operator, x, self.integers(axes), shape=shape, keepdims=int(keep))

    sum = partialmethod(_reduce, "ReduceSum")
    mean = partialmethod(_reduce, "ReduceMean")

    def reshape(self, x: Tensor, shape: Sequence[Size]) -> Tensor:
        """The same values in another shape, with at most one None, for the batch or what it is merged with."""
        if tuple(shape) == x.shape:
            return x
        target = [-1 if size is None else size for size in shape]
        if target.count(-1) > 1:
            raise NoRule(f"a view with two axes that depend on the batch, {tuple(shape)}")
        return self.typed(x.dtype, "Reshape", x, self.integers(target), shape=shape)

    def transpose(self, x: Tensor, order: Sequence[int]) -> Tensor:
        """Axes in another order."""
        if list(order) == list(range(x.ndim)):
            return x
        return self.typed(x.dtype, "Transpose", x, shape=[x.shape[axis] for axis in order], perm=list(order))

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """Matrix product of the last two axes; the others broadcast."""
        batch = broadcast(a.shape[:-2], b.shape[:-2])
        return self("MatMul", a, b, shape=(*batch, a.shape[-2], b.shape[-1]))

    def window(
        self, x: Tensor, axes: Sequence[int], starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]
    ) -> Tensor:
        """`sizes` entries of each of some axes of known size, from `starts` on, `steps` apart."""
        if not any(starts) and [x.shape[axis] for axis in axes] == list(sizes) and all(step == 1 for step in steps):
            return x
        shape = list(x.shape)
        for axis, size in zip(axes, sizes, strict=True):
            shape[axis] = size
        stops = [start + (size - 1) * step + 1 for start, size, step in zip(starts, sizes, steps, strict=True)]
        bounds = [self.integers(values) for values in (starts, stops, axes, steps)]
        return self.typed(x.dtype, "Slice", x, *bounds, shape=shape)

    def pad(self, x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
        """Zeros around the spatial axes; fewer than none cuts off."""
        if not any((*before, *after)):
            return x
        shape = (*x.shape[:2], *(size + a + b for size, a, b in zip(x.spatial(), before, after, strict=True)))
        return self("Pad", x, self.integers([0, 0, *before, 0, 0, *after]), shape=shape)

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """Parts one after the other."""
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        shape[axis] = sum(part.known(axis) for part in parts)
        return self.typed(parts[0].dtype, "Concat", *parts, shape=shape, axis=axis)

    def where(self, condition: Tensor, x: Tensor, otherwise: Tensor | float) -> Tensor:
        """x where the condition holds; the three broadcast."""
        x, other = self.alike(x, otherwise)
        shape = broadcast(condition.shape, broadcast(x.shape, other.shape))
        return self.typed(x.dtype, "Where", condition, x, other, shape=shape)

    def batch_size(self, x: Tensor) -> Tensor:
        """The size of x's first axis () float32; where that is the batch, it is written once."""
        if x.shape[0] is not None:
            return self.constant(float(x.shape[0]))
        if x.name in self.merged:
            own = self("Squeeze", self("Shape", x, shape=(1,), start=0, end=1), shape=())
            return self("Cast", own, shape=(), to=TensorProto.FLOAT)
        if self._batch_size is None:
            size = self("Shape", x, shape=(1,), start=0, end=1)
            scalar = self("Squeeze", size, shape=())
            self._batch_size = self("Cast", scalar, shape=(), to=TensorProto.FLOAT)
        return self._batch_size


def broadcast(a: Sequence[Size], b: Sequence[Size]) -> tuple[Size, ...]:
    """The shape of an elementwise operation: as numpy's, with None for the batch."""
    length = max(len(a), len(b))
    pairs = zip((1,) * (length - len(a)) + tuple(a), (1,) * (length - len(b)) + tuple(b), strict=True)
    shape = []
    for one, other in pairs:
        if one != other and 1 not in (one, other):
            raise NoRule(f"shapes that do not broadcast, {tuple(a)} and {tuple(b)}")
        shape.append(other if one == 1 else one)
    return tuple(shape)


def _info(name: str, shape: Sequence[Size], dtype: str) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, [BATCH if size is None else size for size in shape])
