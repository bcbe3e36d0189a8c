"""Each layer's formulas against torch: what comes out, what it holds, what it computes, what autograd keeps of it.

First layer by layer, then in random networks that are built twice, as a torch module and by a `Net`.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.shufflenetv2 import channel_shuffle
from torchvision.ops import StochasticDepth as TorchStochasticDepth

from cnnbench.errors import ShapeError, TooSmall
from cnnbench.networks import training
from cnnbench.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dropout,
    Flatten,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LayerScale,
    Linear,
    MatMul,
    MaxPool,
    Op,
    PerAxis,
    Permute,
    Resize,
    Scale,
    Shape,
    Shuffle,
    Split,
    StochasticDepth,
    Value,
    written_out,
)
from cnnbench.networks.network import Layer, Net, Network
from cnnbench.records.record import Counts
from cnnbench.worker.counters import module as own

BATCH = 2

# --- torch's word ---

CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d}
MAX_POOLS: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d}
AVG_POOLS: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d}
ADAPTIVE_POOLS: dict[int, Any] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d}
LINEAR = {1: "linear", 2: "bilinear"}
BATCH_NORMS: dict[int, Any] = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
INSTANCE_NORMS: dict[int, Any] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d}

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": nn.functional.relu6,
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "sigmoid": torch.sigmoid,
    "hardswish": nn.functional.hardswish,
    "hardsigmoid": nn.functional.hardsigmoid,
    "tanh": torch.tanh,
    "softmax": lambda x: torch.softmax(x, 1),
}
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "relu6": lambda x: nn.functional.relu6(x, inplace=True),
    "silu": lambda x: nn.functional.silu(x, inplace=True),
    "gelu": torch._C._nn.gelu_,  # type: ignore[attr-defined]
    "sigmoid": torch.sigmoid_,
    "hardswish": lambda x: nn.functional.hardswish(x, inplace=True),
    "hardsigmoid": lambda x: nn.functional.hardsigmoid(x, inplace=True),
    "tanh": torch.tanh_,
}


class OpResult(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def grouped(x: Tensor, groups: int) -> Tensor:
    """A view (N, groups, C / groups, ...)."""
    return x.view(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


class TorchLayerScale(nn.Module):
    """A learned factor per channel, as torchvision's ConvNeXt has it."""

    def __init__(self, channels: int, axes: int) -> None:
        super().__init__()
        self.layer_scale = nn.Parameter(torch.ones(channels, *(1,) * axes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer_scale * x


def as_torch(op: Op, x: Shape) -> nn.Module:
    """The torch module with the layer's settings, for images of shape x."""
    axes = len(x) - 1
    made: nn.Module
    match op:
        case Conv():
            options = (op.kernel, op.stride, op.padding, op.dilation, op.groups, op.bias)
            made = CONVS[axes](x[0], op.out_channels, *options)
        case Linear():
            made = nn.Linear(x[-1], op.out_features, op.bias)
        case MaxPool():
            made = MAX_POOLS[axes](op.kernel, op.stride, op.padding, ceil_mode=op.ceil)
        case AvgPool():
            made = AVG_POOLS[axes](op.kernel, op.stride, op.padding, ceil_mode=op.ceil)
        case AdaptiveAvgPool():
            made = ADAPTIVE_POOLS[axes](op.size)
        case Resize():
            made = OpResult(lambda images: nn.functional.interpolate(images, op.size, mode=LINEAR[axes]))
        case BatchNorm():
            made = BATCH_NORMS[axes](x[0], affine=op.affine)
        case GroupNorm():
            made = nn.GroupNorm(op.groups, x[0], affine=op.affine)
        case InstanceNorm():
            made = INSTANCE_NORMS[axes](x[0], affine=op.affine)
        case LayerNorm():
            made = nn.LayerNorm(x[-op.axes :], elementwise_affine=op.affine)
        case Activation():
            made = OpResult((IN_PLACE if op.inplace else FUNCTIONS)[op.function])
        case Dropout():
            made = nn.Dropout(op.p, op.inplace)
        case StochasticDepth():
            made = TorchStochasticDepth(op.p, "row")
        case LayerScale():
            made = TorchLayerScale(x[0], axes)
        case Shuffle():
            made = OpResult(lambda images: channel_shuffle(images, op.groups))
        case Flatten():
            made = nn.Flatten()
        case Permute():
            made = OpResult(lambda images: images.permute(0, *(axis + 1 for axis in op.order)))
        case _:
            raise NotImplementedError(op)
    return made


def kept_by_autograd(forward: Callable[[], Any]) -> dict[int, Tensor]:
    """What autograd keeps of a forward pass: a tensor for each piece of memory."""
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no piece of memory is given out twice

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(memory_of(tensor), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return kept


def memory_of(tensor: Tensor) -> int:
    """What tells a tensor's piece of memory from others, on any device."""
    return int(tensor.untyped_storage()._cdata)


def bytes_beside(kept: Mapping[int, Tensor], own: Iterable[Tensor]) -> int:
    """Bytes of what is kept in other memory than that of `own`."""
    not_counted = {memory_of(tensor) for tensor in own}
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in not_counted)


def kept_of_module(module: nn.Module, images: Tensor) -> int:
    """Bytes that autograd keeps of a module in training, beside its parameters and buffers."""
    return bytes_beside(kept_by_autograd(lambda: module.train()(images)), (*module.parameters(), *module.buffers()))


def run_in_training(module: nn.Module, images: Tensor) -> tuple[Counts, int]:
    """MACs by submodule of a forward pass in training, auxiliary heads included, and what autograd keeps of it."""
    with FlopCounterMode(display=False) as counter:
        kept = kept_of_module(module, images)
    return own.by_module(module, counter), kept


def macs_of(layers: Iterable[Layer], batch: int) -> Counts:
    """The same MACs by the formulas; zeros are left out."""
    return {layer.name: (0, batch * layer.macs) for layer in layers if layer.macs}


def params_of(network: Network) -> Counts:
    """Parameters by the formulas; zeros are left out."""
    return {layer.name: (layer.params, 0) for layer in network.layers if layer.params}


def refuses(op: Op, x: Shape) -> bool:
    """Whether the layer cannot take images of shape x."""
    try:
        op.check(x)
    except ShapeError:
        return True
    return False


def agree(op: Op, x: Shape, module: Callable[[], nn.Module], others: Sequence[Tensor] = ()) -> None:
    """Asserts that the layer's formulas for images of shape x are true of the module, or that both refuse them.

    `others` are the tensors that the module joins with its input.
    """
    built: nn.Module | None
    try:
        built = module()
        expected = tuple(built(torch.rand(BATCH, *x)).shape[1:])
    except (RuntimeError, ValueError):
        built = None
    assert refuses(op, x) == (built is None), "torch" + (" takes it" if built else " does not take it")
    if built is None:
        return
    assert op.output_shape(x) == expected
    assert op.params(x) == sum(parameter.numel() for parameter in built.parameters())
    macs = {"": (0, BATCH * op.macs(x))} if op.macs(x) else {}
    assert own.dispatched(built, torch.rand(BATCH, *x)) == macs
    agree_in_what_is_kept(op, x, built.train(), others)


def agree_in_what_is_kept(op: Op, x: Shape, module: nn.Module, others: Sequence[Tensor]) -> None:
    """Asserts that autograd keeps of input, output and others what the layer says, and as many bytes beside them."""
    images = torch.rand(BATCH, *x, requires_grad=True).clone()
    outputs: list[Tensor] = []
    kept = kept_by_autograd(lambda: outputs.append(module(images)))
    (output,) = outputs
    saved = op.saved(x)
    expected = [images] * saved.input + [output] * saved.output + [*others] * saved.others
    known = {memory_of(tensor) for tensor in (images, output, *others)}
    assert kept.keys() & known == {memory_of(tensor) for tensor in expected}
    beside = bytes_beside(kept, (images, output, *others, *module.parameters(), *module.buffers()))
    assert beside == BATCH * saved.bytes_per_image + saved.bytes_per_batch
    assert (memory_of(output) == memory_of(images)) == op.in_place


def evaluated(text: str) -> int:
    """The value of a sum of products such as `3*3*32*64 + 64`; 0 for an empty one."""
    if not text:
        return 0
    assert re.fullmatch(r"\d+(\*\d+)*( \+ \d+(\*\d+)*)*", text)
    return sum(math.prod(int(factor) for factor in term.split("*")) for term in text.split(" + "))


# --- layer by layer ---

small = st.integers(1, 3)
channels = st.integers(1, 6)


def sides(largest: int = 9, axes: tuple[int, int] = (1, 2)) -> st.SearchStrategy[tuple[int, ...]]:
    """One or two spatial sizes."""
    return st.lists(st.integers(1, largest), min_size=axes[0], max_size=axes[1]).map(tuple)


def per_axis(values: st.SearchStrategy[int], axes: int) -> st.SearchStrategy[PerAxis]:
    """One value for all axes, or one for each."""
    return st.one_of(values, st.tuples(*(values,) * axes))


def shapes(axes: tuple[int, int] = (0, 3)) -> st.SearchStrategy[Shape]:
    """Any small shape: channels, and so many axes."""
    return st.tuples(channels, sides(4, axes)).map(lambda parts: (parts[0], *parts[1]))


@st.composite
def convs(draw: st.DrawFn) -> tuple[Conv, Shape]:
    """A convolution and the shape of its images, which need not fit."""
    size = draw(sides())
    axes = len(size)
    groups = draw(small)
    ins, outs = (draw(st.one_of(small.map(lambda n: n * groups), channels)) for _ in range(2))
    kernel, stride, dilation = (draw(per_axis(small, axes)) for _ in range(3))
    padding = draw(per_axis(st.integers(0, 2), axes))
    return Conv(outs, kernel, stride, padding, dilation, groups, draw(st.booleans())), (ins, *size)


@st.composite
def pools(draw: st.DrawFn, kind: type[MaxPool] | type[AvgPool]) -> tuple[Op, Shape]:
    """A pooling and the shape of its images; torch takes a padding of half the window at most."""
    size = draw(sides())
    axes = len(size)
    kernel = draw(per_axis(st.integers(1, 4), axes))
    stride = draw(st.one_of(st.none(), per_axis(small, axes)))
    padding = draw(per_axis(st.integers(0, 2), axes))
    kernels, paddings = (v if isinstance(v, tuple) else (v,) * axes for v in (kernel, padding))
    assume(all(2 * p <= k for k, p in zip(kernels, paddings, strict=True)))
    return kind(kernel, stride, padding, draw(st.booleans())), (draw(small), *size)


@settings(max_examples=150, deadline=None)
@given(convs())
def test_a_convolutions_formulas_agree_with_torch(case: tuple[Conv, Shape]) -> None:
    op, x = case
    agree(op, x, lambda: as_torch(op, x))


@settings(max_examples=30, deadline=None)
@given(st.builds(Linear, channels, st.booleans()), shapes())
def test_a_fully_connected_layers_formulas_agree_with_torch(op: Linear, x: Shape) -> None:
    agree(op, x, lambda: as_torch(op, x))


@settings(max_examples=150, deadline=None)
@given(st.one_of(pools(MaxPool), pools(AvgPool)))
def test_a_poolings_formulas_agree_with_torch(case: tuple[Op, Shape]) -> None:
    op, x = case
    agree(op, x, lambda: as_torch(op, x))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_adaptive_poolings_formulas_agree_with_torch(data: st.DataObject) -> None:
    x = data.draw(shapes((1, 2)))
    op = AdaptiveAvgPool(data.draw(per_axis(st.one_of(st.just(1), st.integers(1, 5)), len(x) - 1)))
    agree(op, x, lambda: as_torch(op, x))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_resizings_formulas_agree_with_torch(data: st.DataObject) -> None:
    x = data.draw(shapes((1, 2)))
    op = Resize(data.draw(per_axis(st.integers(1, 5), len(x) - 1)))
    agree(op, x, lambda: as_torch(op, x))


@settings(max_examples=30, deadline=None)
@given(st.builds(BatchNorm, st.booleans()), shapes((0, 2)))
def test_batch_normalisations_formulas_agree_with_torch(op: BatchNorm, x: Shape) -> None:
    agree(op, x, lambda: as_torch(op, x))


@settings(max_examples=50, deadline=None)
@given(st.builds(GroupNorm, small, st.booleans()), shapes())
def test_group_normalisations_formulas_agree_with_torch(op: GroupNorm, x: Shape) -> None:
    agree(op, x, lambda: as_torch(op, x))


@settings(max_examples=30, deadline=None)
@given(st.builds(InstanceNorm, st.booleans()), shapes((1, 2)))
def test_instance_normalisations_formulas_agree_with_torch(op: InstanceNorm, x: Shape) -> None:
    assume(math.prod(x[1:]) > 1)
    agree(op, x, lambda: as_torch(op, x))


def test_instance_normalisation_refuses_a_single_value_as_torch_does() -> None:
    agree(InstanceNorm(), (4, 1, 1), lambda: nn.InstanceNorm2d(4))


@settings(max_examples=80, deadline=None)
@given(st.builds(LayerNorm, small, st.booleans()), shapes((1, 3)))
def test_layer_normalisations_formulas_agree_with_torch(op: LayerNorm, x: Shape) -> None:
    if op.axes > len(x):
        assert refuses(op, x)
    else:
        agree(op, x, lambda: as_torch(op, x))


@pytest.mark.parametrize(
    "op", [*(Activation(name) for name in FUNCTIONS), *(Activation(name, inplace=True) for name in IN_PLACE)], ids=repr
)
def test_an_activations_formulas_agree_with_torch(op: Activation) -> None:
    agree(op, (3, 4, 5), lambda: as_torch(op, (3, 4, 5)))


@settings(max_examples=20, deadline=None)
@given(st.builds(Dropout, st.sampled_from([0.0, 0.1, 0.5, 0.99]), st.booleans()), shapes())
def test_dropouts_formulas_agree_with_torch(op: Dropout, x: Shape) -> None:
    agree(op, x, lambda: as_torch(op, x))


@settings(max_examples=20, deadline=None)
@given(st.builds(StochasticDepth, st.sampled_from([0.0, 0.1, 0.5, 1.0])), shapes())
def test_stochastic_depths_formulas_agree_with_torch(op: StochasticDepth, x: Shape) -> None:
    agree(op, x, lambda: as_torch(op, x))


@settings(max_examples=20, deadline=None)
@given(shapes((1, 2)))
def test_layer_scales_formulas_agree_with_torch(x: Shape) -> None:
    agree(LayerScale(), x, lambda: as_torch(LayerScale(), x))


wide = st.lists(st.integers(2, 4), min_size=1, max_size=3).map(tuple)
"""Shapes without an axis of 1, which torch would repeat to fit."""


@settings(max_examples=60, deadline=None)
@given(wide, st.data(), st.booleans(), st.booleans())
def test_an_additions_formulas_agree_with_torch(x: Shape, data: st.DataObject, same: bool, inplace: bool) -> None:
    other = x if same else data.draw(st.tuples(*(st.integers(2, 4) for _ in x)))
    y = torch.rand(BATCH, *other, requires_grad=True)
    op = Add((Value(other),), inplace)
    agree(op, x, lambda: OpResult((lambda images: images.add_(y)) if inplace else (lambda images: images + y)), [y])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=2, max_size=3).map(tuple), st.integers(0, 1))
def test_a_scalings_formulas_agree_with_torch(x: Shape, more: int) -> None:
    factors = (x[0] + more, *(1 for _ in x[1:]))
    y = torch.rand(BATCH, *factors, requires_grad=True)
    agree(Scale((Value(factors),)), x, lambda: OpResult(lambda images: images * y), [y])


@settings(max_examples=60, deadline=None)
@given(wide, st.lists(st.tuples(channels, st.one_of(st.none(), wide)), max_size=3))
def test_a_concatenations_formulas_agree_with_torch(x: Shape, behind: list[tuple[int, Shape | None]]) -> None:
    others = [(count, *(x[1:] if size is None else size)) for count, size in behind]
    ys = [torch.rand(BATCH, *other, requires_grad=True) for other in others]
    op = Concat(tuple(Value(other) for other in others))
    agree(op, x, lambda: OpResult(lambda images: torch.cat([images, *ys], 1)), ys)


@settings(max_examples=40, deadline=None)
@given(shapes(), small, st.integers(0, 2))
def test_a_splits_formulas_agree_with_torch(x: Shape, parts: int, part: int) -> None:
    assume(part < parts)
    agree(Split(parts, part), x, lambda: OpResult(lambda images: grouped(images, parts)[:, part]))


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(3, 12), *(small,) * 2), st.integers(2, 4))
def test_a_shuffles_formulas_agree_with_torch(x: Shape, groups: int) -> None:
    assume(1 < groups < x[0])  # else there is nothing to shuffle, and torch copies nothing
    agree(Shuffle(groups), x, lambda: as_torch(Shuffle(groups), x))


@settings(max_examples=20, deadline=None)
@given(shapes())
def test_flattening_agrees_with_torch(x: Shape) -> None:
    agree(Flatten(), x, lambda: as_torch(Flatten(), x))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_permutation_agrees_with_torch(order: tuple[int, ...]) -> None:
    agree(Permute(order), (2, 3, 4), lambda: as_torch(Permute(order), (2, 3, 4)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_only_a_permutation_of_all_axes_is_taken_as_torch_does(order: list[int]) -> None:
    op = Permute(tuple(order))
    agree(op, (2, 3, 4), lambda: as_torch(op, (2, 3, 4)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 4), max_size=2).map(tuple), small, st.integers(1, 2), st.integers(1, 2), small)
def test_a_matrix_products_formulas_agree_with_torch(
    before: Shape, rows: int, inner: int, others_inner: int, columns: int
) -> None:
    x, other = (*before, rows, inner), (*before, others_inner, columns)
    y = torch.rand(BATCH, *other, requires_grad=True)
    agree(MatMul((Value(other),)), x, lambda: OpResult(lambda images: images @ y), [y])


def test_a_matrix_product_refuses_other_leading_axes_as_torch_does() -> None:
    y = torch.rand(BATCH, 3, 4, 5)
    agree(MatMul((Value((3, 4, 5)),)), (2, 6, 4), lambda: OpResult(lambda images: images @ y), [y])


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        convs(),
        st.tuples(st.builds(Linear, channels, st.booleans()), shapes()),
        st.tuples(st.builds(BatchNorm, st.booleans()), shapes()),
        st.tuples(st.builds(LayerNorm, st.just(1), st.booleans()), shapes()),
        st.tuples(st.just(LayerScale()), shapes()),
    )
)
def test_parameters_written_out_come_to_their_number(case: tuple[Op, Shape]) -> None:
    op, x = case
    assert evaluated(written_out(op.param_terms(x))) == op.params(x)


@settings(max_examples=40, deadline=None)
@given(convs())
def test_macs_written_out_come_to_their_number(case: tuple[Conv, Shape]) -> None:
    op, x = case
    assume(not refuses(op, x))
    assert evaluated(written_out(op.mac_terms(x))) == op.macs(x) > 0


@pytest.mark.parametrize(
    ("op", "x", "params", "macs"),
    [
        (Conv(64, kernel=3), (32, 13, 13), "3*3*32*64 + 64", "11*11*64*3*3*32"),
        (Conv(64, kernel=3, groups=4, bias=False), (32, 13, 13), "3*3*8*64", "11*11*64*3*3*8"),
        (Conv(16, kernel=7), (1, 100), "7*1*16 + 16", "94*16*7*1"),
        (Linear(128), (1600,), "1600*128 + 128", "1600*128"),
        (Linear(5, bias=False), (7, 7, 3), "3*5", "7*7*3*5"),
        (BatchNorm(), (64, 8, 8), "2*64", ""),
        (BatchNorm(affine=False), (64, 8, 8), "", ""),
        (LayerNorm(2), (3, 4, 5), "2*4*5", ""),
        (LayerScale(), (96, 7, 7), "96", ""),
        (MatMul((Value((2, 4, 5)),)), (2, 3, 4), "", "2*3*4*5"),
    ],
)
def test_a_formula_is_written_out_as_people_write_it(op: Op, x: Shape, params: str, macs: str) -> None:
    assert written_out(op.param_terms(x)) == params
    assert written_out(op.mac_terms(x)) == macs


@pytest.mark.parametrize(
    ("op", "x", "count"),
    [
        # an addition for each of 64 x 11 x 11 values
        (Conv(64, kernel=3), (32, 13, 13), 7_744),
        (Conv(64, kernel=3, bias=False), (32, 13, 13), 0),
        (Linear(10), (128,), 10),
        (Linear(10), (7, 7, 128), 490),
        (Linear(10, bias=False), (128,), 0),
        # the largest of nine is found with eight comparisons, for each of 2 x 2 x 2 windows
        (MaxPool(3), (2, 6, 6), 64),
        (MaxPool((1, 2)), (2, 6, 6), 2 * 6 * 3),
        # the mean of nine: eight additions and a division
        (AvgPool(3), (2, 6, 6), 72),
        (AdaptiveAvgPool(1), (2, 6, 6), 72),
        # 5 values in 2 parts: 0 to 2, and 2 to 4: six
        (AdaptiveAvgPool(2), (1, 5), 6),
        (AdaptiveAvgPool(2), (1, 5, 5), 36),
        # four neighbours, each times its weight, and three additions; two neighbours of a signal
        (Resize(4), (3, 2, 2), 7 * 48),
        (Resize(4), (3, 9), 3 * 12),
        (BatchNorm(), (3, 4, 4), 96),
        # with statistics: 5, and a product and an addition for the scale and the shift
        (GroupNorm(3), (3, 4, 4), 7 * 48),
        (GroupNorm(3, affine=False), (3, 4, 4), 5 * 48),
        (InstanceNorm(), (3, 4, 4), 5 * 48),
        (InstanceNorm(affine=True), (3, 4, 4), 7 * 48),
        (LayerNorm(), (4, 4, 3), 7 * 48),
        (LayerNorm(affine=False), (4, 4, 3), 5 * 48),
        (Activation(), (3, 4, 4), 48),
        (Activation("gelu", inplace=True), (3, 4, 4), 48),
        (LayerScale(), (3, 4, 4), 48),
        (Add((Value((3, 4, 4)),)), (3, 4, 4), 48),
        (Scale((Value((3, 1, 1)),)), (3, 4, 4), 48),
        (Concat((Value((3, 4, 4)),)), (3, 4, 4), 0),
        (Dropout(0.5), (3, 4, 4), 0),
        (StochasticDepth(0.5), (3, 4, 4), 0),
        (Flatten(), (3, 4, 4), 0),
        (Permute((1, 2, 0)), (3, 4, 4), 0),
        (Split(3, 0), (3, 4, 4), 0),
        (Shuffle(3), (3, 4, 4), 0),
        (MatMul((Value((4, 5)),)), (3, 4), 0),
    ],
)
def test_other_arithmetic_is_what_it_is_by_hand(op: Op, x: Shape, count: int) -> None:
    assert op.elementwise(x) == count


@pytest.mark.parametrize(
    ("op", "x", "message"),
    [
        (Conv(4, 3, groups=2), (3, 8, 8), "3 -> 4 channels cannot be split into 2 groups"),
        (Conv(3, 3, groups=2), (4, 8, 8), "4 -> 3 channels cannot be split into 2 groups"),
        (Conv(4, 3), (3,), "expected channels and at least one spatial axis, got 3"),
        (MaxPool(2), (3,), "expected channels and at least one spatial axis, got 3"),
        (Conv(4, 5, padding=1), (3, 2, 9), "nothing is left: its input is 3x2x9, its window 5 wide with padding 1"),
        (Conv(4, 3, dilation=2), (3, 4), "its window 3 wide with padding 0 and dilation 2"),
        (AvgPool(5), (3, 4, 4), "nothing is left: its input is 3x4x4, its window 5 wide with padding 0"),
        (GroupNorm(4), (6, 8, 8), "6 channels cannot be split into 4 groups"),
        (Shuffle(2), (5, 8, 8), "5 channels cannot be split into 2 groups"),
        (Split(2, 0), (5, 8, 8), "5 channels cannot be split into 2 parts"),
        (LayerNorm(3), (5, 8), "expected 3 axes at least, got 5x8"),
        (Add((Value((4, 2, 2)),)), (4, 2, 3), "cannot add 4x2x3 and 4x2x2"),
        (Scale((Value((3, 1, 1)),)), (4, 2, 3), "cannot scale 4x2x3 by 3x1x1"),
        (Scale((Value((4,)),)), (4, 2, 3), "cannot scale 4x2x3 by 4"),
        (Concat((Value((4, 2, 3)), Value((4, 2, 2)))), (1, 2, 3), "cannot put 4x2x2 behind 1x2x3"),
        (Permute((1, 2, 2)), (4, 2, 3), "cannot put the axes of 4x2x3 in the order (1, 2, 2)"),
        (MatMul((Value((5, 6)),)), (3, 4), "cannot multiply 3x4 by 5x6"),
    ],
)
def test_shapes_that_do_not_fit_say_so(op: Op, x: Shape, message: str) -> None:
    with pytest.raises(ShapeError, match=re.escape(message)):
        op.check(x)


def test_only_what_leaves_nothing_of_an_image_is_too_small_for_a_larger_one_to_help() -> None:
    with pytest.raises(TooSmall):
        Conv(4, 3).check((3, 2, 2))
    with pytest.raises(ShapeError) as refused:
        Conv(4, 3, groups=2).check((3, 2, 8))
    assert refused.type is TooSmall  # the size is looked at first
    with pytest.raises(ShapeError) as refused:
        Conv(4, 3, groups=2).check((3, 8, 8))
    assert refused.type is ShapeError


def test_settings_for_another_number_of_axes_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match=r"\(3, 3\) does not fit 1 spatial axes"):
        Conv(4, (3, 3)).check((3, 8))


# --- layers in networks ---


def test_a_layer_written_down_twice_is_our_mistake() -> None:
    net = Net("twice")
    x = Value((3, 4, 4))
    net("pool", AdaptiveAvgPool(1), x)
    net.inside("head")("pool", AdaptiveAvgPool(1), x)
    with pytest.raises(AssertionError, match="two layers are called pool"):
        net("pool", AdaptiveAvgPool(1), x)
    with pytest.raises(AssertionError, match=r"two layers are called head\.pool"):
        net.inside("head")("pool", AdaptiveAvgPool(1), x)


def test_a_networks_totals_are_those_of_its_layers_by_hand() -> None:
    net, x = Net("net"), Value((3, 8, 8))
    y = net("conv", Conv(4, 3, padding=1), x)
    y = net("drop", Dropout(0.5), net("relu", Activation(inplace=True), y))
    y = net("flat", Flatten(), net("pool", AdaptiveAvgPool(1), y))
    net.training_only().inside("aux")("fc", Linear(5), y)
    net("fc", Linear(2), y)
    network = net.network(x.shape, (7,))
    rows = [
        (layer.name, layer.params, layer.macs, layer.elementwise, layer.activation_bytes, layer.moved_bytes(2))
        for layer in network.layers
    ]
    assert rows == [
        ("conv", 3 * 3 * 3 * 4 + 4, 64 * 4 * 27, 256, 1024, 2 * (768 + 1024) + 448),
        ("relu", 0, 0, 256, 0, 2 * (1024 + 1024)),
        ("drop", 0, 0, 0, 0, 0),
        ("pool", 0, 0, 256, 16, 2 * (1024 + 16)),
        ("flat", 0, 0, 0, 0, 0),
        ("aux.fc", 25, 20, 5, 20, 2 * (16 + 20) + 100),
        ("fc", 10, 8, 2, 8, 2 * (16 + 8) + 40),
    ]
    assert [layer.name for layer in network.inference] == ["conv", "relu", "drop", "pool", "flat", "fc"]
    assert (network.params, network.trained_params, network.weight_bytes) == (147, 147, 588)
    assert (network.macs, network.elementwise, network.activation_bytes) == (6920, 770, 1048)
    assert (network.moved_bytes(2), network.flops(3)) == (10_296, 3 * (2 * 6920 + 770))
    assert network.layers[0].flops(3) == 3 * (2 * 6912 + 256)
    assert [row["moved_bytes"] for row in network.as_rows(2)] == [row[-1] for row in rows]
    assert network.as_rows(2)[-2] == {
        "name": "aux.fc", "op": "Linear", "output_shape": [2, 5], "params": 25, "macs": 40, "elementwise": 10,
        "weight_bytes": 100, "activation_bytes": 40, "moved_bytes": 172, "training_only": True,
    }  # fmt: skip
    assert (network.moved_bytes(), network.flops(), network.as_rows()[0]["macs"]) == (
        768 + 1024 + 448 + 2048 + 1040 + 64, 2 * 6920 + 770, 6912
    )  # fmt: skip
    assert list(network.input_storages) == [0, -1]
    assert [network.storage_bytes(each) for each in (0, -1, 1)] == [768, 28, 1024]


@dataclass(frozen=True)
class Residual:
    """A body whose output is added to its input."""

    body: tuple[Op, ...]
    inplace: bool


@dataclass(frozen=True)
class Squeeze:
    """Squeeze-and-excitation."""

    squeezed: int


@dataclass(frozen=True)
class Branches:
    """Bodies side by side, their outputs behind one another."""

    bodies: tuple[tuple[Op, ...], ...]


@dataclass(frozen=True)
class Halves:
    """The first half of the channels as it is, the second through a body; then shuffled."""

    body: tuple[Op, ...]


Part = Op | Residual | Squeeze | Branches | Halves


class TorchResidual(nn.Module):
    def __init__(self, body: nn.Module, inplace: bool) -> None:
        super().__init__()
        self.body, self.inplace = body, inplace

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        total: Tensor = y.add_(x) if self.inplace else y + x
        return total


class TorchSqueeze(nn.Module):
    def __init__(self, factors: nn.Module) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = x * self.factors(x)
        return scaled


class TorchBranches(nn.Module):
    def __init__(self, bodies: list[nn.Module]) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([body(x) for body in self.bodies], 1)


class TorchHalves(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return grouped(torch.cat([left, self.body(right)], 1), 2).transpose(1, 2).flatten(1, 2)


def grown(net: Net, x: Value, parts: Sequence[Part]) -> tuple[nn.Sequential, Value]:
    """The parts one behind the other: as a torch module, and written down in the net."""
    modules: list[nn.Module] = []
    for place, part in enumerate(parts):
        inner = net.inside(f"{place}")
        match part:
            case Residual():
                body, y = grown(inner.inside("body"), x, part.body)
                x = inner("add", Add((x,), part.inplace), y)
                modules.append(TorchResidual(body, part.inplace))
            case Squeeze():
                steps = (
                    AdaptiveAvgPool(1),
                    Conv(part.squeezed, 1),
                    Activation("relu", inplace=True),
                    Conv(x.channels, 1),
                    Activation("sigmoid"),
                )
                factors, s = grown(inner.inside("factors"), x, steps)
                x = inner("scale", Scale((s,)), x)
                modules.append(TorchSqueeze(factors))
            case Branches():
                branches = [grown(inner.inside(f"bodies.{number}"), x, body) for number, body in enumerate(part.bodies)]
                (_, first), *others = branches
                x = inner("cat", Concat(tuple(y for _, y in others)), first)
                modules.append(TorchBranches([body for body, _ in branches]))
            case Halves():
                left, right = inner("left", Split(2, 0), x), inner("right", Split(2, 1), x)
                body, y = grown(inner.inside("body"), right, part.body)
                x = inner("shuffle", Shuffle(2), inner("cat", Concat((y,)), left))
                modules.append(TorchHalves(body))
            case _:
                y = net(f"{place}", part, x)
                modules.append(as_torch(part, x.shape))
                x = y
    return nn.Sequential(*modules), x


@dataclass(frozen=True)
class Case:
    """A random network, for images of shape `image` in batches."""

    image: Shape
    parts: tuple[Part, ...]
    batch: int


@st.composite
def networks(draw: st.DrawFn) -> Case:
    """Up to seven parts, each of which fits the one before, then a mean and a classifier."""
    axes = draw(st.integers(1, 2))
    image = (draw(small), *draw(st.tuples(*(st.integers(5, 12),) * axes)))
    parts: list[Part] = []
    x = Value(image)
    kinds: list[Callable[[st.DrawFn, Shape], Part]] = [
        draw_conv, draw_conv, draw_norm, draw_activation, draw_pool, draw_dropout,
        draw_residual, draw_squeeze, draw_branches, draw_halves,
    ]  # fmt: skip
    for _ in range(draw(st.integers(1, 7))):
        part = draw(st.sampled_from(kinds))(draw, x.shape)
        if isinstance(part, Activation) and part.inplace and not (parts and _may_be_overwritten(parts[-1])):
            part = Activation(part.function)
        try:
            _, x = grown(Net("draft"), x, [part])
        except ShapeError:
            continue
        parts.append(part)
    parts += [AdaptiveAvgPool(1), Flatten(), Linear(draw(small))]
    return Case(image, tuple(parts), draw(st.integers(2, 3)))


def _may_be_overwritten(part: Part) -> bool:
    """Whether nothing keeps what the part puts out."""
    return isinstance(part, (Conv, BatchNorm, GroupNorm, InstanceNorm, LayerNorm, Residual))


def draw_conv(draw: st.DrawFn, x: Shape) -> Conv:
    groups = draw(st.sampled_from([groups for groups in {1, 2, x[0]} if x[0] % groups == 0]))
    settings = draw(small), draw(st.integers(1, 2)), draw(st.integers(0, 1)), draw(st.integers(1, 2))
    return Conv(groups * draw(small), *settings, groups, draw(st.booleans()))


def _same(draw: st.DrawFn, ins: int, outs: int) -> Conv:
    """A convolution that keeps the spatial size."""
    groups = draw(st.sampled_from([groups for groups in range(1, ins + 1) if ins % groups == outs % groups == 0]))
    padding = draw(st.integers(0, 2))
    return Conv(
        outs, kernel=3 if padding else 1, padding=padding, dilation=padding or 1, groups=groups,
        bias=draw(st.booleans()),
    )  # fmt: skip


def draw_norm(draw: st.DrawFn, x: Shape) -> Op:
    affine = draw(st.booleans())
    groups = draw(st.sampled_from([groups for groups in range(1, x[0] + 1) if x[0] % groups == 0]))
    norms = [BatchNorm(affine), GroupNorm(groups, affine), LayerNorm(1, affine)]
    return draw(st.sampled_from([*norms, InstanceNorm(affine)] if math.prod(x[1:]) > 1 else norms))


def draw_activation(draw: st.DrawFn, x: Shape) -> Op:
    inplace = draw(st.booleans())
    return Activation(draw(st.sampled_from(sorted(IN_PLACE if inplace else FUNCTIONS))), inplace)


def draw_pool(draw: st.DrawFn, x: Shape) -> Op:
    if draw(st.integers(0, 3)) == 0:
        return AdaptiveAvgPool(draw(per_axis(small, len(x) - 1)))
    kind = draw(st.sampled_from([MaxPool, AvgPool]))
    padding = draw(st.integers(0, 1))
    return kind(draw(st.integers(2, 3)), draw(st.one_of(st.none(), st.integers(1, 2))), padding, draw(st.booleans()))


def draw_dropout(draw: st.DrawFn, x: Shape) -> Op:
    kind = draw(st.sampled_from([Dropout, StochasticDepth, LayerScale]))
    return LayerScale() if kind is LayerScale else kind(draw(st.sampled_from([0.0, 0.3])))


def draw_residual(draw: st.DrawFn, x: Shape) -> Residual:
    inner = draw(small)
    first = _same(draw, x[0], inner)
    norm = draw_norm(draw, (inner, *x[1:]))
    body = (first, norm, draw_activation(draw, x), _same(draw, inner, x[0]))
    return Residual(body, draw(st.booleans()))


def draw_squeeze(draw: st.DrawFn, x: Shape) -> Squeeze:
    return Squeeze(draw(small))


def draw_branches(draw: st.DrawFn, x: Shape) -> Branches:
    bodies = draw(st.integers(1, 3))
    return Branches(tuple((_same(draw, x[0], draw(small)), draw_activation(draw, x)) for _ in range(bodies)))


def draw_halves(draw: st.DrawFn, x: Shape) -> Part:
    if x[0] % 2:
        return draw_conv(draw, x)
    return Halves((_same(draw, x[0] // 2, x[0] // 2), draw_activation(draw, x)))


@cache
def weight_gradient_factor(groups: int) -> int:
    """How many times too large torch's counter takes a grouped convolution's weight gradient: 1 where it is right.

    In torch 2.14 it is `groups` times too large.
    """
    module = nn.Conv1d(groups, groups, 1, groups=groups)
    return own.backward(module, torch.zeros(1, groups, 1))[""][1] // groups


def backward_by_torch(layer: Layer) -> int:
    """What torch's counter makes of a layer's backward pass, its known mistake included."""
    groups = layer.op.groups if isinstance(layer.op, Conv) else 1
    too_many = weight_gradient_factor(groups) - 1
    return training.backward_macs(layer) + too_many * training.weight_gradient_macs(layer)


def test_torchs_counter_takes_grouped_weight_gradients_for_right_or_groups_times_too_large() -> None:
    assert weight_gradient_factor(1) == 1
    assert weight_gradient_factor(4) in (1, 4)


@settings(max_examples=60, deadline=None)
@given(networks())
def test_a_random_networks_formulas_agree_with_torch(case: Case) -> None:
    net = Net("random")
    module, y = grown(net, Value(case.image), case.parts)
    network: Network = net.network(case.image)

    with torch.no_grad():
        assert module.eval()(torch.rand(BATCH, *case.image)).shape == (BATCH, *y.shape)
    assert params_of(network) == own.parameters(module)
    images = torch.rand(case.batch, *case.image)
    macs, kept = run_in_training(module, images)
    assert macs == macs_of(network.layers, case.batch)
    assert kept == training.saved_bytes(network, case.batch)
    assert own.dispatched(module.eval(), images) == macs
    assert own.backward(module, images) == {
        layer.name: (0, backward_by_torch(layer)) for layer in network.layers if layer.macs
    }
