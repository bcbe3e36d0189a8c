"""Each gradient rule against torch's autograd in float64, on random shapes and settings, run in ONNX Runtime."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cnnbench.worker.export.training.rules import RULES
from cnnbench.worker.export.training.rules.rule import OpResult, ScaledGradient, materialise
from cnnbench.worker.graphs.convolution import forward, input_gradient, weight_gradient
from cnnbench.worker.graphs.convolution.forward import Settings
from cnnbench.worker.graphs.elementary import FORMULATIONS as EVERYWHERE
from cnnbench.worker.graphs.graph import Graph, NoRule, Tensor, broadcast

settings.register_profile(
    "rules", max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("rules")

TOLERANCE = 2e-4
"""Of the largest value: rounding of float32 in sums of a few hundred terms."""

small = st.integers(1, 3)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


class Noted(Graph):
    """A graph that keeps the tensors that its nodes put out."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Tensor] = []

    def several(self, *inputs: Any, **options: Any) -> list[Tensor]:
        self.made += (outputs := super().several(*inputs, **options))
        return outputs


def computed(graph: Graph, outputs: Sequence[Tensor], feed: dict[str, np.ndarray[Any, Any]]) -> list[Any]:
    for index, output in enumerate(outputs):
        graph.output(output, f"result_{index}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = graph.model("test", {})
    if isinstance(graph, Noted):
        assert misstated(graph, model, {name: value.shape for name, value in feed.items()}) == []
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def misstated(graph: Noted, model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Nodes that put out another shape than is said of it, as far as onnx infers it from the inputs' shapes."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for value in sized.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            dim.dim_value = size
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    found: dict[str, list[int]] = {}
    for value in (*inferred.value_info, *inferred.output):
        if value.type.tensor_type.HasField("shape"):
            found[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    pairs = [(each, found.get(graph._renamed.get(each.name, each.name))) for each in graph.made]
    return [
        f"{each.name}: {each.shape}, not {tuple(dims)}"
        for each, dims in pairs
        if dims is not None
        and (len(dims) != each.ndim or any(a and b and a != b for a, b in zip(each.shape, dims, strict=True)))
    ]


def check(
    rule: str,
    reference: Callable[..., Any],
    *args: Any,
    batched: Sequence[int] = (0,),
    output: int = 0,
    rule_args: Sequence[Any] | None = None,
    **options: Any,
) -> None:
    """Output and all gradients of a rule against torch's operator, on the given arguments.

    `batched` are the places of tensors whose first axis is the batch, which the graph does not know.
    """
    flat = [a for arg in args for a in (arg if isinstance(arg, list) else [arg])]
    tensors = [a for a in flat if isinstance(a, torch.Tensor)]
    doubles = {id(t): t.double().requires_grad_() for t in tensors}

    def swapped(values: Any, by: Callable[[Any], Any]) -> Any:
        if isinstance(values, list) and values and isinstance(values[0], torch.Tensor):
            return [by(value) for value in values]
        return by(values) if isinstance(values, torch.Tensor) else values

    y = reference(*(swapped(arg, lambda t: doubles[id(t)]) for arg in args), **options)
    ys = y if isinstance(y, (tuple, list)) else [y]
    dy = random(*ys[output].shape, seed=7)
    expected = torch.autograd.grad(ys[output], list(doubles.values()), dy.double(), allow_unused=True)

    graph = Noted()
    inputs = {
        id(t): replace(graph.input(f"x{i}", _unknown(t.shape, i in batched)), varies=True)
        for i, t in enumerate(tensors)
    }
    has_batch = bool(batched)
    shapes = [_unknown(each.shape, has_batch) for each in ys]
    given_args = rule_args if rule_args is not None else args
    op_result: OpResult = RULES[rule](
        graph, shapes, *(swapped(a, lambda t: inputs[id(t)]) for a in given_args), **options
    )
    gradient = graph.input("dy", shapes[output])
    gradients = {
        argument.name: materialise(graph, gradient)
        for argument, gradient in op_result.argument_gradients(
            graph, [gradient if i == output else None for i in range(len(op_result.outputs))]
        )
    }
    wanted = [(gradients[f"x{i}"], e) for i, e in enumerate(expected) if e is not None]
    feed = {f"x{i}": t.numpy() for i, t in enumerate(tensors)} | {"dy": dy.numpy()}
    found = computed(graph, [op_result.outputs[output], *(g for g, _ in wanted)], feed)
    for tensor, ours in zip([op_result.outputs[output], *(g for g, _ in wanted)], found, strict=True):
        assert all(size in (None, own) for size, own in zip(tensor.shape, ours.shape, strict=True))
    for ours, theirs in zip(found, [ys[output], *(e for _, e in wanted)], strict=True):
        assert ours.shape == tuple(theirs.shape)
        scale = max(float(theirs.detach().abs().max()), 1e-3)
        assert float(np.abs(ours - theirs.detach().numpy()).max()) <= TOLERANCE * scale


def _unknown(shape: Sequence[int], batch: bool) -> tuple[int | None, ...]:
    return (None, *shape[1:]) if batch and len(shape) else tuple(shape)


Convolution = tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]
"""Input, weight, bias, and the arguments of torch's function."""


@st.composite
def convolutions(
    draw: st.DrawFn,
    sides: int = 2,
    groups: int | None = None,
    longest: int = 4,
    longest_stride: int = 3,
    depthwise: bool = False,
    within: bool = False,
) -> Convolution:
    """Within: no window lies beside the input as a whole."""
    groups = groups or draw(st.integers(1, 4))
    each = st.tuples(*(small for _ in range(sides)))
    kernel = draw(st.tuples(*(st.integers(1, longest) for _ in range(sides))))
    dilation = draw(each)
    stride = draw(st.tuples(*(st.integers(1, longest_stride) for _ in range(sides))))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(draw(st.integers(0, r if within else max(r, 1))) for r in reach)
    size = [max(draw(st.integers(1, 9)), r + 1 - 2 * p) for r, p in zip(reach, padding, strict=True)]
    per_group_in, per_group_out = (1, 1) if depthwise else (draw(small), draw(small))
    x = random(draw(small), groups * per_group_in, *size)
    w = random(groups * per_group_out, per_group_in, *kernel, seed=1)
    b = random(groups * per_group_out, seed=2)
    return x, w, b, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


@given(convolutions())
def test_convolution(case: Convolution) -> None:
    x, w, b, options = case
    check("aten.conv2d.default", F.conv2d, x, w, b, **options)


@given(convolutions(sides=1))
def test_convolution_of_signals(case: Convolution) -> None:
    x, w, b, options = case
    check("aten.conv1d.default", F.conv1d, x, w, b, **options)


@given(small, st.integers(1, 5), st.integers(1, 5), st.integers(1, 2), st.integers(0, 2), st.integers(3, 9))
def test_depthwise_convolution(n: int, channels: int, kernel: int, stride: int, padding: int, size: int) -> None:
    assume(size + 2 * padding >= kernel)
    x, w = random(n, channels, size, size + 1), random(channels, 1, kernel, kernel, seed=1)
    check("aten.conv2d.default", F.conv2d, x, w, None, stride=[stride] * 2, padding=[padding] * 2, groups=channels)


@given(convolutions(longest=2), st.booleans())
def test_a_convolution_takes_a_gradient_whose_factor_is_still_to_come(case: Convolution, has_bias: bool) -> None:
    x, w, b, options = case
    arguments = {"x": x, "w": w, "b": b} if has_bias else {"x": x, "w": w}
    doubles = {name: t.double().requires_grad_() for name, t in arguments.items()}
    y = F.conv2d(doubles["x"], doubles["w"], doubles.get("b"), **options)
    factor, rest = random(1, y.shape[1], 1, 1, seed=3), random(*y.shape, seed=4)
    expected = torch.autograd.grad(y, list(doubles.values()), (factor * rest).double())
    g = Graph()
    inputs = [replace(g.input(name, _unknown(t.shape, name == "x")), varies=True) for name, t in arguments.items()]
    op_result = RULES["aten.conv2d.default"](g, [], *inputs, *([] if has_bias else [None]), **options)
    if not op_result.takes_scaled:
        reject()
    dy = ScaledGradient(g.input("rest", _unknown(rest.shape, True)), g.input("factor", tuple(factor.shape)))
    gradients = [materialise(g, gradient) for _, gradient in op_result.argument_gradients(g, [dy])]
    feed = {name: t.numpy() for name, t in (arguments | {"rest": rest, "factor": factor}).items()}
    for ours, theirs in zip(computed(g, gradients, feed), expected, strict=True):
        assert float(np.abs(ours - theirs.numpy()).max()) <= TOLERANCE * max(float(theirs.abs().max()), 1e-3)


def test_convolution_with_padding_by_name() -> None:
    x, w = random(2, 3, 7, 6), random(4, 3, 3, 5)
    for padding in ("same", "valid"):
        check("aten.conv2d.padding", F.conv2d, x, w, None, [1, 1], padding)
    check("aten.conv2d.padding", F.conv2d, x, w, None, [1], "same", [2])
    check("aten.conv2d.default", F.conv2d, x, w)
    check("aten.conv2d.default", F.conv2d, x, w, random(4), [2], [1])


Formulation = Callable[[Graph, Tensor, Tensor, Tensor, Settings], Tensor]
"""Writes into the graph, of dy, x and the weight, what it computes."""


def _forward(formulation: Callable[..., Tensor]) -> Formulation:
    return lambda g, _, x, w, s: formulation(g, x, w, None, s)


FORMULATIONS: dict[str, tuple[str, Formulation, st.SearchStrategy[Convolution]]] = {
    "by images": ("y", _forward(forward.by_images), convolutions()),
    "as one image": ("y", _forward(forward.as_one_image), convolutions(groups=1)),
    "bands": ("y", _forward(forward.banded), convolutions(depthwise=True)),
    "convolution": ("x", input_gradient.by_convolution, convolutions(groups=1, longest_stride=1)),
    "depthwise": ("x", input_gradient.by_convolution, convolutions(depthwise=True, longest_stride=1)),
    "transposed": ("x", input_gradient.by_transposed_convolution, convolutions()),
    "products": ("w", weight_gradient.by_products, convolutions()),
    "products of images": ("w", weight_gradient.by_images, convolutions(groups=1, longest=1)),
    "channels first": ("w", partial(weight_gradient.by_convolution, place=0), convolutions(groups=1, within=True)),
    "channels last": ("w", partial(weight_gradient.by_convolution, place=2), convolutions(groups=1, within=True)),
    "rows": ("w", weight_gradient.by_rows, convolutions(depthwise=True, within=True)),
    "channels": ("w", weight_gradient.by_channels, convolutions(depthwise=True, within=True)),
    "columns": ("w", weight_gradient.by_columns, convolutions(depthwise=True)),
    "windows": ("w", weight_gradient.by_windows, convolutions()),
}
"""By name: whether it computes the output or the input's or the weight's gradient, and convolutions that it can do."""


@pytest.mark.parametrize("name", FORMULATIONS)
@given(data=st.data())
def test_every_formulation_of_a_convolution_and_its_gradients(name: str, data: st.DataObject) -> None:
    what, formulation, cases = FORMULATIONS[name]
    x, w, _, options = data.draw(cases)
    s = Settings(tuple(w.shape[2:]), options["stride"], options["padding"], options["dilation"], options["groups"])
    doubles = {"x": x.double().requires_grad_(), "w": w.double().requires_grad_()}
    y = F.conv2d(doubles["x"], doubles["w"], None, **options)
    dy = random(*y.shape, seed=3)
    expected = y.detach() if what == "y" else torch.autograd.grad(y, doubles[what], dy.double())[0]
    graph = Graph()
    dy_in, x_in = (graph.input(name, _unknown(t.shape, True)) for name, t in (("dy", dy), ("x", x)))
    result = formulation(graph, dy_in, x_in, graph.input("w", tuple(w.shape)), s)
    (found,) = computed(graph, [result], {"dy": dy.numpy(), "x": x.numpy(), "w": w.numpy()})
    assert found.shape == tuple(expected.shape)
    assert float(np.abs(found - expected.numpy()).max()) <= TOLERANCE * max(float(expected.abs().max()), 1e-3)


CHOSEN = {
    "by images": (256, 256, 3, 28, 1),
    "as one image": (256, 256, 3, 14, 1),
    "bands": (6, 6, 3, 18, 6),
    "convolution": (16, 8, 3, 14, 1),
    "transposed": (6, 16, 5, 12, 1),
    "depthwise": (6, 6, 5, 12, 6),
    "rows": (8, 8, 3, 14, 8),
    "products": (8, 8, 3, 80, 8),
    "channels first": (3, 8, 3, 14, 1),
    "channels last": (16, 8, 3, 14, 1),
    "products of images": (16, 8, 1, 28, 1),
}
"""By formulation, a convolution that it is the fastest for: input and output channels, kernel, size, groups."""


def chosen(name: str, image: Sequence[int], weight: Sequence[int], stride: int, padding: Sequence[int]) -> None:
    """A formulation is the fastest for images (C, ...) and a weight: the same operators are written as by it."""
    what, formulation, _ = FORMULATIONS[name.partition(" everywhere")[0]]
    choice = {"y": _forward(forward.fastest), "x": input_gradient.fastest, "w": weight_gradient.fastest}[what]
    if name.endswith(" everywhere"):
        choice = EVERYWHERE["weight gradient"]
    sides = len(image) - 1
    s = Settings(tuple(weight[2:]), (stride,) * sides, tuple(padding), (1,) * sides, image[0] // weight[1])
    written = []
    for function in (choice, formulation):
        g = Graph()
        dy, x = g.input("dy", (None, weight[0], *s.out(image[1:]))), g.input("x", (None, *image))
        function(g, dy, x, g.input("w", weight), s)
        written.append([node.op_type for node in g.nodes])
    assert written[0] == written[1]


@pytest.mark.parametrize("name", CHOSEN)
def test_the_formulation_is_chosen_by_the_shape(name: str) -> None:
    channels, kernels, kernel, size, groups = CHOSEN[name]
    weight = (kernels, channels // groups, kernel, kernel)
    chosen(name, (channels, size, size), weight, 1, [kernel // 2] * 2)


BOUNDS: list[tuple[str, tuple[int, ...], tuple[int, ...], int, tuple[int, ...]]] = [
    ("bands", (6, 18, 18), (6, 1, 3, 3), 1, (1, 1)),
    ("by images", (6, 19, 18), (6, 1, 3, 3), 1, (1, 1)),  # higher than six kernels
    ("by images", (6, 18, 18), (6, 1, 3, 3), 2, (1, 1)),
    ("by images", (6, 18, 18), (12, 1, 3, 3), 1, (1, 1)),  # two kernels for each channel
    ("by images", (1, 18, 18), (1, 1, 3, 3), 1, (1, 1)),  # one group
    ("by images", (6, 18), (6, 1, 3), 1, (1,)),
    ("bands", (6, 19, 19), (6, 1, 11, 11), 1, (5, 5)),
    ("by images", (6, 20, 20), (6, 1, 11, 11), 1, (5, 5)),  # whose matrix is larger than 2 MiB
    ("as one image", (256, 20, 22), (256, 256, 2, 2), 1, (0, 0)),
    ("by images", (256, 21, 21), (256, 256, 2, 2), 1, (0, 0)),  # 400 positions
    ("by images", (256, 20, 22), (255, 256, 2, 2), 1, (0, 0)),  # less than 2**18 weights
    ("by images", (512, 14, 14), (512, 512, 1, 1), 1, (0, 0)),
    ("by images", (256, 14, 14), (512, 128, 3, 3), 1, (1, 1)),  # two groups
    ("as one image", (256, 16), (256, 256, 4), 1, (0,)),
    ("by images", (64, 4, 4, 4), (64, 64, 4, 4, 4), 1, (0, 0, 0)),
    ("convolution", (8, 14, 14), (16, 8, 3, 3), 1, (1, 1)),
    ("transposed", (7, 14, 14), (16, 7, 3, 3), 1, (1, 1)),  # few channels
    ("convolution", (7, 14, 14), (16, 7, 1, 1), 1, (0, 0)),
    ("transposed", (8, 14, 14), (16, 8, 3, 3), 2, (1, 1)),
    ("transposed", (16, 14, 14), (16, 8, 3, 3), 1, (1, 1)),  # two groups
    ("transposed", (6, 14, 14), (6, 1, 3, 3), 2, (1, 1)),
    ("rows", (8, 64, 70), (8, 1, 3, 3), 1, (1, 1)),
    ("rows", (8, 64, 64), (8, 1, 3, 3), 2, (1, 1)),
    ("products", (8, 65, 60), (8, 1, 3, 3), 1, (1, 1)),
    ("rows", (8, 20, 50), (8, 1, 8, 8), 1, (4, 4)),
    ("rows", (8, 35, 20), (8, 1, 8, 8), 1, (0, 7)),
    ("products", (8, 32, 40), (8, 1, 8, 8), 1, (4, 4)),  # whose matrix of rows is larger than 2 MiB
    ("channels", (8, 40, 40), (8, 1, 13, 5), 1, (6, 2)),  # 65 elements
    ("products", (8, 30), (8, 1, 3), 1, (1,)),
    ("products", (8, 14, 14), (8, 1, 3, 3), 1, (3, 1)),  # windows beside the image
    ("channels last", (8, 14, 14), (16, 8, 3, 3), 1, (2, 2)),
    ("products", (8, 14, 14), (16, 8, 3, 3), 1, (2, 3)),
    ("channels first", (7, 14, 14), (16, 7, 3, 3), 1, (1, 1)),
    ("channels first", (7, 14), (16, 7, 3), 1, (1,)),
    ("products", (16, 6, 6, 6), (16, 16, 2, 2, 2), 1, (0, 0, 0)),
    ("products", (16, 14, 14), (16, 8, 3, 3), 1, (1, 1)),
    ("products of images", (16, 20, 20), (8, 16, 1, 1), 1, (0, 0)),
    ("products", (16, 19, 21), (8, 16, 1, 1), 1, (0, 0)),
    ("products", (16, 20, 20), (8, 8, 1, 1), 1, (0, 0)),
    ("products everywhere", (8, 14, 14), (16, 8, 1, 1), 1, (0, 0)),
    ("windows everywhere", (8, 14, 14), (16, 8, 1, 3), 1, (0, 1)),
    ("columns everywhere", (8, 64, 64), (8, 1, 3, 3), 1, (1, 1)),
    ("windows everywhere", (8, 64, 65), (8, 1, 3, 3), 1, (1, 1)),
    ("windows everywhere", (8, 30), (8, 1, 3), 1, (1,)),
]
"""On both sides of each bound; `everywhere` is for other providers than the CPU's."""


@pytest.mark.parametrize("case", BOUNDS, ids=str)
def test_the_formulation_changes_at_each_bound(case: tuple[Any, ...]) -> None:
    chosen(*case)


@pytest.mark.parametrize(
    ("shape", "operators"), [((2, 1, 16, 16), "Reshape MatMul Reshape"), ((2, 1, 1, 257), "Slice"), ((2, 3, 1, 1), "")]
)
def test_a_kernel_is_turned_around_by_a_product_up_to_256_elements(shape: tuple[int, ...], operators: str) -> None:
    g = Graph()
    result = input_gradient.flipped(g, g.input("w", shape))
    assert [node.op_type for node in g.nodes] == operators.split()
    w = random(*shape).numpy()
    np.testing.assert_array_equal(computed(g, [result], {"w": w})[0], w[:, :, ::-1, ::-1])


def test_a_matrix_of_at_most_two_mebibytes_stands_in_the_file() -> None:
    s = Settings((8, 8), (1, 1), (0, 0), (1, 1), 1)
    assert [forward.joins_few(32, rows, s) for rows in (32, 33)] == [True, False]


def test_the_input_s_gradient_of_heavy_weights_is_convolved_as_one_image() -> None:
    g = Graph()
    dy, x = (g.input(name, (None, 256, 14, 14)) for name in ("dy", "x"))
    input_gradient.fastest(g, dy, x, g.input("w", (256, 256, 3, 3)), Settings((3, 3), (1, 1), (1, 1), (1, 1), 1))
    (found,) = [node for node in g.nodes if node.op_type == "Conv"]
    assert {a.name: list(a.ints) for a in found.attribute}["kernel_shape"] == [1, 3, 3]


@given(small, small, st.integers(1, 3), st.integers(1, 3), st.integers(0, 1), st.booleans(), st.integers(4, 9))
def test_max_pooling(n: int, channels: int, kernel: int, stride: int, padding: int, ceil: bool, size: int) -> None:
    padding = min(padding, kernel // 2)
    x = random(n, channels, size, size + 1)
    args = (x, [kernel] * 2, [stride] * 2, [padding] * 2, [1, 1], ceil)
    check("aten.max_pool2d.default", F.max_pool2d, *args)


@given(small, st.integers(2, 7), st.integers(2, 7), st.sampled_from([(2, 2), (2, 1), (3, 2)]))
def test_of_equal_values_in_a_window_the_first_has_max_poolings_gradient(
    n: int, height: int, width: int, window: tuple[int, int]
) -> None:
    assume(min(height, width) >= window[0])
    x = random(n, 2, height, width).round()  # few different values, negative ones too
    check("aten.max_pool2d.default", F.max_pool2d, x, [window[0]] * 2, [window[1]] * 2)


@given(small, small, st.integers(1, 3), st.integers(1, 3), st.integers(0, 1), st.booleans(), st.booleans())
def test_average_pooling(n: int, channels: int, kernel: int, stride: int, padding: int, ceil: bool, pad: bool) -> None:
    padding = min(padding, kernel // 2)
    x = random(n, channels, 7, 6)
    check("aten.avg_pool2d.default", F.avg_pool2d, x, [kernel] * 2, [stride] * 2, [padding] * 2, ceil, pad)


@given(small, st.integers(1, 8), st.integers(1, 8))
def test_adaptive_average_pooling(n: int, height: int, width: int) -> None:
    check("aten.adaptive_avg_pool2d.default", F.adaptive_avg_pool2d, random(n, 2, 7, 5), [height, width])


def test_pooling_of_signals() -> None:
    x = random(2, 3, 11)
    check("aten.max_pool1d.default", F.max_pool1d, x, [2], [2])
    check("aten.avg_pool1d.default", F.avg_pool1d, x, [3], [2], [1])
    check("aten.adaptive_avg_pool1d.default", F.adaptive_avg_pool1d, x, [1])


ACTIVATIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "aten.relu.default": (F.relu, ()),
    "aten.hardtanh.default": (F.hardtanh, (0.0, 6.0)),
    "aten.relu6.default": (F.relu6, ()),
    "aten.sigmoid.default": (torch.sigmoid, ()),
    "aten.silu.default": (F.silu, ()),
    "aten.tanh.default": (torch.tanh, ()),
    "aten.hardsigmoid.default": (F.hardsigmoid, ()),
    "aten.hardswish.default": (F.hardswish, ()),
    "aten.gelu.default": (F.gelu, ()),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_also_where_they_bend(name: str) -> None:
    operator, args = ACTIVATIONS[name]
    bends = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, 6.0, 1e-30, -1e-30, 5.9999995, 80.0, -80.0])
    check(name, operator, torch.cat([4 * random(50), bends]).reshape(1, -1), *args)
    check(name, operator, random(2, 30), *args)  # where small differences are not hidden by large values
    if name == "aten.hardtanh.default":
        check(name, operator, 2 * random(2, 30), -1.0, 1.0)
        check(name, operator, 2 * random(2, 30))
    if name == "aten.gelu.default":
        check(name, operator, 2 * random(2, 30), approximate="tanh")


SHAPES = [
    ((2, 3, 4), (2, 3, 4)),
    ((2, 3, 4), (2, 3, 1)),
    ((2, 3, 4), (1, 3, 4)),
    ((2, 3, 4), (4,)),
    ((2, 3, 1), (2, 1, 4)),
]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("aten.add.Tensor", torch.add),
        ("aten.sub.Tensor", torch.sub),
        ("aten.mul.Tensor", torch.mul),
        ("aten.div.Tensor", torch.div),
    ],
)
def test_elementwise_operators_of_two_tensors(
    name: str, operator: Callable[..., Any], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    check(name, operator, random(*shapes[0]), random(*shapes[1], seed=5) + 3.0, batched=())
    if name in ("aten.add.Tensor", "aten.sub.Tensor"):
        check(name, operator, random(*shapes[0]), random(*shapes[1], seed=5), batched=(), alpha=2)


def test_elementwise_operators_with_a_number() -> None:
    for name, operator in (("add", torch.add), ("sub", torch.sub), ("mul", torch.mul), ("div", torch.div)):
        check(f"aten.{name}.Tensor", operator, random(2, 3), 2.5)
    for name, operator in (("add", torch.add), ("sub", torch.sub)):
        check(f"aten.{name}.Tensor", operator, random(2, 3), 2.5, alpha=3)
    check("aten.sub.Tensor", lambda number, x: number - x, 2.5, random(2, 3), batched=())  # `1 - p`, in many a loss
    check("aten.add.Tensor", lambda number, x: number + x, 2, random(2, 3), batched=())


def test_operators_that_only_move_values() -> None:
    x = random(2, 3, 4, 6)
    check("aten.view.default", torch.reshape, x, [2, 12, 6])
    check("aten.permute.default", torch.permute, x, [0, 2, -1, 1])
    check("aten.transpose.int", torch.transpose, x, 1, 2)
    check("aten.cat.default", torch.cat, [x, random(2, 5, 4, 6, seed=1), random(2, 1, 4, 6)], 1, batched=(0, 1, 2))
    check("aten.stack.default", torch.stack, [random(3), random(3, seed=1)], 0, batched=())
    check("aten.unsqueeze.default", torch.unsqueeze, x, 2)
    check("aten.mean.dim", torch.mean, x, [2, 3])
    check("aten.mean.dim", torch.mean, x, [-1], True)
    check("aten.sum.default", torch.sum, random(3, 4), batched=())
    check("aten.slice.Tensor", lambda t, _axis, start, end: t[:, start:end], x, 1, 1, 3)
    check("aten.cat.default", torch.cat, [random(2, 3), random(1, 3, seed=1)], batched=())
    check("aten.cat.default", torch.cat, [x, random(2, 3, 4, 1, seed=1)], -1, batched=(0, 1))
    check("aten.stack.default", torch.stack, [x, random(2, 3, 4, 6, seed=1)], -1, batched=(0, 1))
    check("aten.stack.default", torch.stack, [random(3), random(3, seed=1)], batched=())
    for part in range(2):
        check("aten.split.Tensor", torch.split, x, 2, 1, output=part)
        check("aten.split.Tensor", torch.split, x, 5, -1, output=part)
        check("aten.split.Tensor", torch.split, random(3, 2), 2, output=part, batched=())


def test_fully_connected_layers() -> None:
    check("aten.linear.default", F.linear, random(5, 7), random(3, 7, seed=1), random(3, seed=2))
    check("aten.linear.default", F.linear, random(2, 4, 5, 7), random(3, 7, seed=1))
    check("aten.linear.default", F.linear, random(2, 4, 7), random(3, 7, seed=1), random(3, seed=2))
    check("aten.linear.default", F.linear, random(7), random(3, 7, seed=1), random(3, seed=2), batched=())
    check("aten.linear.default", F.linear, random(5, 7), random(7, seed=1))
    check("aten.linear.default", F.linear, random(2, 5, 7), random(7, seed=1), random(seed=2))


def test_layer_group_and_instance_normalisation() -> None:
    x = random(3, 6, 5, 4)
    check("aten.layer_norm.default", F.layer_norm, x, [4], random(4) + 2, random(4, seed=1), 1e-6)
    check("aten.layer_norm.default", F.layer_norm, x, [5, 4])
    check("aten.group_norm.default", F.group_norm, x, 3, random(6) + 2, random(6, seed=1), 1e-5)

    def instances(x: Any, w: Any, b: Any, *_: Any) -> Any:
        return F.instance_norm(x, None, None, w, b)

    statistics = (None, None, True, 0.1, 1e-5)
    check("aten.instance_norm.default", instances, x, random(6) + 2, random(6, seed=1), *statistics)
    for small_values in (1e-3 * x, 1e-3 * random(3, 6)):  # to whose variance the epsilon is added; only a weight
        check("aten.layer_norm.default", F.layer_norm, small_values, [small_values.shape[-1]])
        check("aten.group_norm.default", F.group_norm, small_values, 2, random(6) + 2)
    check("aten.instance_norm.default", instances, 1e-3 * x, None, None, *statistics)
    check("aten.group_norm.default", F.group_norm, x, 3, None, random(6))
    of_all = random(5, 4), [5, 4], random(5, 4, seed=1) + 2, random(5, 4, seed=2)
    check("aten.layer_norm.default", F.layer_norm, *of_all, batched=())  # as a weight may be, which is no batch


@given(st.integers(2, 4), st.integers(1, 4), st.integers(1, 5))
def test_batch_normalisation_with_its_running_statistics(n: int, channels: int, size: int) -> None:
    x, w, b = random(n, channels, size, size + 1) * 2 + 1, random(channels) + 2, random(channels, seed=1)
    mean, variance = random(channels, seed=2), random(channels, seed=3).abs() + 0.5

    def reference(x: Any, w: Any, b: Any, mean: Any, variance: Any, *_: Any) -> Any:
        kept = mean.detach().clone(), variance.detach().clone()
        y = F.batch_norm(x, *kept, w, b, True, 0.1, 1e-5)
        return y, mean, variance, *kept

    check("aten._native_batch_norm_legit_functional.default", reference, x, w, b, mean, variance, True, 0.1, 1e-5)
    for values in (1e-3 * x, x.reshape(n, channels, -1), x[..., 0, 0].contiguous()):  # and lines, and vectors
        if values.numel() > 2 * channels:
            parameters = (None, None, mean, variance, True, 0.1, 1e-5)
            check("aten._native_batch_norm_legit_functional.default", reference, values, *parameters)
    graph = Graph()
    inputs = [graph.input(f"x{i}", _unknown(t.shape, i == 0)) for i, t in enumerate((x, w, b, mean, variance))]
    op_result = RULES["aten._native_batch_norm_legit_functional.default"](graph, [], *inputs, True, 0.1, 1e-5)
    feed = {f"x{i}": t.numpy() for i, t in enumerate((x, w, b, mean, variance))}
    found = computed(graph, op_result.others[2:], feed)
    for ours, theirs in zip(found, reference(x, w, b, mean, variance)[3:], strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


def first(g: Graph, x: Tensor) -> Tensor:
    """Its first column, as an axis of 1."""
    return g.window(x, [2], [0], [1], [1])


X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7
COLUMN = np.asarray([[[2.0], [3.0], [5.0]]], np.float32)
Written = tuple[Callable[[Graph, Tensor], Tensor], str, Callable[[Any], Any]]


def by_channel(shape: tuple[int | None, ...], operators: str) -> Written:
    """X in another shape, times a number and plus one for each channel."""
    numbers = COLUMN.reshape(1, 3, *(1 for _ in shape[2:]))

    def write(g: Graph, x: Tensor) -> Tensor:
        return g.affine(g.reshape(x, shape), g.constant(numbers), g.constant(numbers - 1))

    return write, operators, lambda x: (x * COLUMN + COLUMN - 1).reshape(-1, *shape[1:])


WRITTEN: dict[str, Written] = {
    "a number added": (lambda g, x: g.add(x, g.constant(1.5)), "Add", lambda x: x + 1.5),
    "two numbers": (lambda g, _: g.div(g.constant(3.0), 2.0), "Div", lambda _: np.float32(1.5)),
    "a number and axes of 1": (
        lambda g, x: g.sub(g.mul(first(g, x), 2.0), 2.0),
        "Slice Reshape Mul Sub",
        lambda x: 2 * x[..., :1] - 2,
    ),
    "the same type": (lambda g, x: g.cast(x, "float32"), "", lambda x: x),
    "another type": (lambda g, x: g.cast(x, "int64"), "Cast", lambda x: x.astype(np.int64)),
    "zeros": (lambda g, x: g.zeros_like(x), "Mul", np.zeros_like),
    "zeros of known sizes": (
        lambda g, _: g.zeros_like(g.constant(COLUMN)),
        "",
        lambda _: np.zeros((1, 3, 1), np.float32),
    ),
    "spread over nothing": (lambda g, x: g.spread(x, x.shape), "", lambda x: x),
    "spread like another": (
        lambda g, x: g.spread(first(g, x), x.shape, x),
        "Slice Shape Expand",
        lambda x: np.repeat(x[..., :1], 4, 2),
    ),
    "spread of the batch": (
        lambda g, x: g.spread(first(g, x), x.shape),
        "Slice Concat Expand",
        lambda x: np.repeat(x[..., :1], 4, 2),
    ),
    "spread over the batch": (
        lambda g, x: g.spread(g.constant(COLUMN[0]), x.shape),
        "Shape Concat Expand",
        lambda x: np.broadcast_to(COLUMN, (2, 3, 4)),
    ),
    "spread over known sizes": (
        lambda g, x: g.spread(g.constant(COLUMN[0]), (2, 3, 4), x),
        "Expand",
        lambda x: np.broadcast_to(COLUMN, (2, 3, 4)),
    ),
    "the batch": (lambda g, _: g.batch(), "Shape", lambda _: np.asarray([2])),
    "how many values": (lambda g, x: g.size(x), "Size Cast", lambda _: np.float32(24)),
    "the size of a first axis": (lambda g, _: g.batch_size(g.constant(COLUMN[0])), "", lambda _: np.float32(3)),
    "for each channel of lines": by_channel((None, 3, 4), "Reshape Reshape Conv"),
    "for each channel of images": by_channel((None, 3, 2, 2), "Reshape Reshape Reshape Conv"),
    "for each channel of volumes": by_channel((None, 3, 1, 2, 2), "Reshape Mul Add"),
    "for each channel of vectors": (
        lambda g, x: g.affine(
            g.reshape(first(g, x), (None, 3)), g.constant(COLUMN[..., 0]), g.constant(COLUMN[..., 0])
        ),
        "Slice Reshape Mul Add",
        lambda x: (x[..., 0] + 1) * COLUMN[..., 0],
    ),
    "a sum": (lambda g, x: g.sum(x, [0, 2]), "ReduceSum", lambda x: x.sum((0, 2))),
    "a sum as an axis": (lambda g, x: g.sum(x, [1], keep=True), "ReduceSum", lambda x: x.sum(1, keepdims=True)),
    "a sum over no axis": (lambda g, x: g.sum(x, []), "", lambda x: x),
    "a mean": (lambda g, x: g.mean(x, [1], keep=True), "ReduceMean", lambda x: x.mean(1, keepdims=True)),
    "the same view": (lambda g, x: g.reshape(x, (None, 3, 4)), "", lambda x: x),
    "a view": (lambda g, x: g.reshape(x, (None, 2, 6)), "Reshape", lambda x: x.reshape(2, 2, 6)),
    "the same order": (lambda g, x: g.transpose(x, [0, 1, 2]), "", lambda x: x),
    "an order": (lambda g, x: g.transpose(x, [1, 2, 0]), "Transpose", lambda x: x.transpose(1, 2, 0)),
    "a product": (lambda g, x: g.matmul(x, g.constant(X[0].T.copy())), "MatMul", lambda x: x @ X[0].T),
    "the whole window": (lambda g, x: g.window(x, [1, 2], [0, 0], [3, 4], [1, 1]), "", lambda x: x),
    "a window": (lambda g, x: g.window(x, [2, 1], [1, 0], [2, 2], [2, 1]), "Slice", lambda x: x[:, :2, 1::2]),
    "no pad": (lambda g, x: g.pad(x, [0], [0]), "", lambda x: x),
    "a pad": (lambda g, x: g.pad(x, [1], [2]), "Pad", lambda x: np.pad(x, ((0, 0), (0, 0), (1, 2)))),
    "a cut": (lambda g, x: g.pad(x, [-1], [-2]), "Pad", lambda x: x[..., 1:2]),
    "one part": (lambda g, x: g.concat([x], 1), "", lambda x: x),
    "two parts": (lambda g, x: g.concat([x, first(g, x)], 2), "Slice Concat", lambda x: x[..., [0, 1, 2, 3, 0]]),
    "a choice": (
        lambda g, x: g.where(g.typed("bool", "Less", g.constant(COLUMN), x, shape=x.shape), x, 0.5),
        "Less Where",
        lambda x: np.where(x > COLUMN, x, np.float32(0.5)),
    ),
    "a choice by channel": (
        lambda g, x: g.where(g.constant(COLUMN > 2), g.constant(1.0), x),
        "Where",
        lambda x: np.where(COLUMN > 2, np.float32(1), x),
    ),
}
"""What a graph's helpers append, as operators, and what they compute of X (2, 3, 4), whose batch it does not know."""


@pytest.mark.parametrize("name", WRITTEN)
def test_a_helper_writes_no_node_more_than_it_needs_and_says_what_it_puts_out(name: str) -> None:
    write, operators, function = WRITTEN[name]
    g = Noted()
    g.first_input = g.input("x", (None, 3, 4))
    result = write(g, g.first_input)
    assert [node.op_type for node in g.nodes] == operators.split()
    (found,) = computed(g, [result], {"x": X})
    np.testing.assert_array_equal(found, function(X))
    assert result.dtype == str(found.dtype)
    assert tuple(2 if size is None else size for size in result.shape) == found.shape


def test_types_are_promoted_as_torch_does_and_a_number_takes_the_tensors() -> None:
    for one, other, common in (
        ("int64", 2, "int64"),
        ("int64", 0.5, "float32"),
        ("float32", 2, "float32"),
        ("bool", "int32", "int32"),
        ("int64", "uint8", "int64"),
        ("int32", "float32", "float32"),
        ("float32", "bool", "float32"),
    ):
        g = Graph()
        a = g.input("a", (3,), one)
        pair = g.alike(a, g.input("b", (3,), other) if isinstance(other, str) else other)
        assert [each.dtype for each in pair] == [common, common]
        assert len(g.nodes) == (common != one) + (isinstance(other, str) and common != other)


def test_shapes_broadcast_as_numpys_with_the_batch_as_none() -> None:
    assert broadcast((None, 3), (3,)) == (None, 3)
    assert broadcast((1, 1), (None, 4)) == (None, 4)
    assert broadcast((4, 1), (2, 1, 3)) == (2, 4, 3)
    assert broadcast((), (None, 1)) == (None, 1)
    for a, b in (((2, 3), (2, 4)), ((None,), (2,))):
        with pytest.raises(NoRule, match="shapes that do not broadcast"):
            broadcast(a, b)


def test_what_depends_on_the_batch_is_no_size_and_stands_once_in_a_view() -> None:
    g = Graph()
    x = g.input("x", (None, 3, 4, 5))
    assert (x.ndim, x.known(1), x.spatial()) == (4, 3, (4, 5))
    refused: list[Callable[[], Any]] = [lambda: x.known(0), lambda: g.reshape(x, (None, 3, None)), g.batch]
    for write in refused:
        with pytest.raises(NoRule):
            write()


def test_outputs_have_the_names_that_are_asked_for_and_are_copied_only_where_they_have_others() -> None:
    g = Graph()
    x = g.input("x", (None, 2))
    g.scope = "layer"
    y, left_out = g("Neg", x), g("Clip", x, None, g.constant(1.0), None)
    for tensor, name in ((y, "a"), (y, "b"), (x, "c")):
        g.output(tensor, name)
    model = g.model("own", {"key": "value"})
    assert [(node.name, list(node.input), list(node.output)) for node in model.graph.node] == [
        ("layer/Neg_1", ["x"], ["a"]),
        ("layer/Clip_2", ["x", "", "constant_0"], [left_out.name]),
        ("output/b", ["a"], ["b"]),
        ("output/c", ["x"], ["c"]),
    ]
    assert (model.opset_import[0].version, model.ir_version, model.graph.name) == (18, 10, "own")
    assert {entry.key: entry.value for entry in model.metadata_props} == {"key": "value"}


def test_the_same_values_stand_in_the_file_once() -> None:
    g = Graph()
    values: list[Any] = [1.0, np.float32(1), [1.0], np.asarray(1), 2.0, [1.0]]
    names = [g.constant(each).name for each in values]
    assert names == [f"constant_{i}" for i in (0, 0, 1, 2, 3, 1)]
    assert [each.data_type for each in g.constants] == [1, 1, 7, 1]


def test_a_summand_goes_into_a_product_that_nothing_reads_yet() -> None:
    for operator, operands, then, is_open in (
        ("Gemm", "ab", "", True),
        ("Gemm", "ab", "a", True),
        ("Gemm", "ab", "y", False),
        ("Gemm", "abc", "", False),
        ("MatMul", "ab", "", False),
        ("", "", "", False),
    ):
        g = Graph()
        inputs = {name: g.input(name, (2, 2)) for name in "abc"}
        inputs["y"] = g(operator, *(inputs[name] for name in operands)) if operator else inputs["a"]
        for name in then:
            g("Neg", inputs[name])
        assert g.is_open_product(inputs["y"]) == is_open
        if is_open:
            found = g.add_to_product(inputs["y"], g("Neg", inputs["c"]), 0.25)
            assert [node.op_type for node in g.nodes] == ["Neg"] * len(then) + ["Neg", "Gemm"]
            assert not g.is_open_product(found)
            a, b, c = (X[0, :2, i : i + 2] for i in range(3))
            (sum_,) = computed(g, [found], {"a": a, "b": b, "c": c})
            np.testing.assert_allclose(sum_, a @ b - 0.25 * c)


def test_a_sum_of_large_arrays_is_one_product() -> None:
    g = Graph()
    found = g.sum_as_product(g.input("a", (2, 3)), g.input("b", (2, 3)), 0.25)
    a, b = X[0, :2, :3], X[1, :2, :3]
    (sum_,) = computed(g, [found], {"a": a, "b": b})
    np.testing.assert_allclose(sum_, a + 0.25 * b)
    assert [node.op_type for node in g.nodes] == ["Reshape", "Reshape", "Gemm", "Reshape"]


def test_the_size_of_the_batch_is_written_once_and_that_of_what_it_is_merged_with_where_it_is() -> None:
    graph, feed = Graph(), {"x": random(2, 1), "pairs": random(4, 1), "patches": random(18, 1)}
    inputs = [graph.input(name, (None, 1)) for name in feed]
    graph.merged |= {"pairs", "patches"}
    sizes = [graph.batch_size(each) for each in inputs]
    assert graph.batch_size(inputs[0]) is sizes[0]
    assert computed(graph, sizes, {name: value.numpy() for name, value in feed.items()}) == [2, 4, 18]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing: float) -> None:
    logits, labels = random(4, 7) * 3, torch.tensor([0, 6, 3, 3])
    double = logits.double().requires_grad_()
    loss = F.cross_entropy(double, labels, label_smoothing=smoothing)
    (expected,) = torch.autograd.grad(loss, double)
    graph = Graph()
    inputs = [replace(graph.input("logits", (None, 7)), varies=True), graph.input("labels", (None,), "int64")]
    op_result = RULES["aten.cross_entropy_loss.default"](graph, [()], *inputs, label_smoothing=smoothing)
    ((_, gradient),) = op_result.argument_gradients(graph, [graph.constant(1.0)])
    assert isinstance(gradient, Tensor)
    ours = computed(graph, [op_result.outputs[0], gradient], {"logits": logits.numpy(), "labels": labels.numpy()})
    np.testing.assert_allclose(ours[0], float(loss.detach()), rtol=1e-5)
    np.testing.assert_allclose(ours[1], expected.numpy(), atol=1e-6)


def test_a_wrong_rule_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(g: Graph, shapes: Any, x: Tensor) -> OpResult:
        ((_, vjp),) = (right := original(g, shapes, x)).vjps
        return OpResult(right.outputs, [(x, lambda dy: g.mul(materialise(g, vjp(dy)), 0.5))])

    original = RULES["aten.silu.default"]
    monkeypatch.setattr("tests.test_gradients.RULES", {**RULES, "aten.silu.default": halved})
    with pytest.raises(AssertionError):
        check("aten.silu.default", F.silu, random(2, 5))


OTHERS = """
native_dropout.default new_ones.default bernoulli.p detach.default new_empty.default full.default eq.Scalar ge.Scalar
gt.Scalar le.Scalar lt.Scalar ne.Scalar masked_fill.Scalar where.self argmax.default embedding.default
conv_transpose1d.default reflection_pad1d.default reflection_pad2d.default reflection_pad3d.default
replication_pad1d.default replication_pad2d.default replication_pad3d.default
"""
TESTED_ELSEWHERE = {f"aten.{name}" for name in OTHERS.split()} | {name for name in RULES if "upsample" in name}
"""In whole steps (tests/test_what_trains.py, test_random_steps.py), or by names that a test puts together."""


def test_every_rule_is_tested() -> None:
    folder = Path(__file__).parent
    text = "".join((folder / f"{name}.py").read_text() for name in ("test_gradients", "test_gradients_of_operators"))
    text += (folder / "test_random_steps.py").read_text()
    same: dict[int, list[str]] = {}
    for name, rule in RULES.items():
        same.setdefault(id(rule), []).append(name)
    untested = [
        names
        for names in same.values()
        if not any(name in text or name.removeprefix("aten.") in text for name in names)
    ]
    dynamic = {"aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "aten.div.Tensor"}
    assert [names for names in untested if not dynamic & set(names) and not TESTED_ELSEWHERE & set(names)] == [
        names for names in untested if "aten.clone.default" in names
    ]
