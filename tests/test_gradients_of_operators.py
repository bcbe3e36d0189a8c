"""Rules of operators beside the classic layers, each against torch's autograd in float64, run in ONNX Runtime."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.worker.export.training.rules import RULES
from cnnbench.worker.graphs.graph import Graph, NoRule, Tensor
from tests.test_gradients import check, computed, random, small

aten = torch.ops.aten


def positive(*shape: int, seed: int = 0) -> torch.Tensor:
    return random(*shape, seed=seed).abs() + 0.3


def reference(name: str) -> Callable[..., Any]:
    """torch's operator itself: `aten.<name>`."""
    packet, overload = name.split(".")
    return getattr(getattr(aten, packet), overload)  # type: ignore[no-any-return]


BENDS = torch.tensor([0.0, 1.0, -1.0, 0.5, -0.5, 1e-30, 25.0, -25.0, 90.0, -90.0])
ONE_ARGUMENT: dict[str, tuple[Any, ...]] = {
    "abs.default": (),
    "atan.default": (),
    "ceil.default": (),
    "celu.default": (0.7,),
    "clamp.default": (-0.5, 1.0),
    "clamp_max.default": (0.5,),
    "clamp_min.default": (0.0,),
    "cos.default": (),
    "cumsum.default": (1,),
    "elu.default": (0.8, 1.2, 0.9),
    "erf.default": (),
    "flip.default": ([1],),
    "floor.default": (),
    "leaky_relu.default": (0.1,),
    "log_sigmoid.default": (),
    "log_softmax.int": (1,),
    "logsumexp.default": ([1],),
    "mish.default": (),
    "neg.default": (),
    "roll.default": ([3], [1]),
    "round.default": (),
    "selu.default": (),
    "sign.default": (),
    "sin.default": (),
    "softmax.int": (1,),
    "softplus.default": (2.0, 10.0),
    "square.default": (),
    "unfold.default": (1, 5, 3),
    "pow.Tensor_Scalar": (3,),
    "select.int": (1, -2),
    "constant_pad_nd.default": ([2, -1], 0.7),
    "amax.default": ([1], True),
}


@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_functions_also_where_they_bend(name: str) -> None:
    x = torch.cat([3 * random(40), BENDS]).reshape(2, -1)
    check(f"aten.{name}", reference(name), x, *ONE_ARGUMENT[name])
    check(f"aten.{name}", reference(name), random(2, 25), *ONE_ARGUMENT[name])


AS_IS: list[tuple[Any, ...]] = [
    ("leaky_relu.default",),
    ("elu.default",),
    ("celu.default",),
    ("softplus.default",),
    ("softmax.int", -1),
    ("log_softmax.int", -1),
    ("logsumexp.default", [-1], True),
    ("cumsum.default", -1),
    ("amax.default",),
    ("pow.Tensor_Scalar", 1),
    ("pow.Tensor_Scalar", 2),
    ("pow.Tensor_Scalar", 0),
    ("slice.Tensor", 1),
    ("slice.Tensor", 1, None, 3),
    ("slice.Tensor", 1, 0, 2),
    ("select.int", -1, 2),
    ("repeat.default", [1, 1]),
    ("repeat.default", [2, 1, 3]),
    ("roll.default", [5], [1]),
    ("unfold.default", -1, 2, 2),
    ("constant_pad_nd.default", [0, 1]),
]


@pytest.mark.parametrize("call", AS_IS, ids=str)
def test_settings_that_are_left_out_are_torchs_and_axes_count_from_the_end(call: tuple[Any, ...]) -> None:
    x = random(3, 5)
    x[1, 2] = 0.0
    check(f"aten.{call[0]}", reference(call[0]), x, *call[1:], batched=(0,) if call[1:] != ([2, 1, 3],) else ())


ABOVE_ZERO: dict[str, tuple[Any, ...]] = {
    "exp.default": (),
    "expm1.default": (),
    "log.default": (),
    "log1p.default": (),
    "pow.Tensor_Scalar": (-1.5,),
    "reciprocal.default": (),
    "rsqrt.default": (),
    "sqrt.default": (),
}


@pytest.mark.parametrize("name", ABOVE_ZERO)
def test_functions_of_positive_numbers(name: str) -> None:
    check(f"aten.{name}", reference(name), positive(3, 7), *ABOVE_ZERO[name])


def test_powers_of_two_tensors_and_of_a_number() -> None:
    check("aten.pow.Tensor_Tensor", torch.pow, positive(2, 3, 4), random(1, seed=3), batched=())
    check("aten.pow.Tensor_Tensor", torch.pow, positive(2, 3), positive(2, 3, seed=1), batched=())
    check("aten.pow.Scalar", lambda base, x: torch.pow(base, x), 1.7, random(2, 3))


def test_powers_of_zero_and_one() -> None:
    base = torch.tensor([0.0, 1.0, 2.0, 0.0])
    check("aten.pow.Tensor_Tensor", torch.pow, base, torch.tensor([1.5, 2.0, 0.0, 3.0]), batched=())


def test_the_slope_of_a_root_at_zero_is_finite_so_that_a_rectifier_before_it_gives_zero() -> None:
    g = Graph()
    x = replace(g.input("x", (3,)), varies=True)
    ((_, dx),) = RULES["aten.sqrt.default"](g, [], x).argument_gradients(g, [g.constant([1.0, 0.0, 3.0])])
    assert isinstance(dx, Tensor)
    (found,) = computed(g, [dx], {"x": np.asarray([0, 0, 4], np.float32)})
    assert found.tolist() == [pytest.approx(1.5e38), 0.0, 0.75]


def test_parametric_rectifiers() -> None:
    for x in (random(2, 3, 4), random(2, 3), random(2, 3, 4, 5)):
        check("aten.prelu.default", torch.prelu, x, random(3, seed=2))
        check("aten.prelu.default", torch.prelu, x, random(1, seed=2))
    check("aten.prelu.default", torch.prelu, random(5), random(1, seed=2), batched=())
    check("aten.prelu.default", torch.prelu, random(2, 3), random(seed=2))


REDUCTIONS: dict[str, list[tuple[Any, ...]]] = {
    "sum.dim_IntList": [([1],), ([-1, 1], True), ([0],), ([0, 2],)],
    "mean.dim": [([1],), ([0],), ([0, 3], True)],
    "mean.default": [()],
    "sum.default": [()],
    "amin.default": [([2, 3],)],
    "max.default": [()],
    "min.default": [()],
    "linalg_vector_norm.default": [(2, [1]), (2, [0], True), (1, [2, 3]), ()],
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_over_any_axes(name: str) -> None:
    for args in REDUCTIONS[name]:
        check(f"aten.{name}", reference(name), random(3, 2, 4, 5), *args)


def test_equal_values_share_the_gradient_of_the_largest_over_axes_and_the_first_has_that_along_one() -> None:
    x = random(3, 4, 6).round()
    check("aten.amax.default", torch.amax, x, [1, 2])
    check("aten.max.dim", torch.max, x, 1)
    check("aten.min.dim", torch.min, x, 2, True)


def test_variances_and_deviations() -> None:
    for options in ({"correction": 0}, {"correction": 1, "keepdim": True}, {"correction": None}):
        check("aten.var.correction", reference("var.correction"), random(3, 2, 4, 5), [2, 3], **options)
        check("aten.std.correction", reference("std.correction"), random(3, 2, 4, 5), [0, 2], **options)
        for output in (0, 1):
            check(
                "aten.var_mean.correction",
                reference("var_mean.correction"),
                random(3, 2, 4, 5),
                [0, 3],
                output=output,
                **options,
            )


def test_a_variance_and_a_mean_that_are_both_used_add_their_gradients() -> None:
    x, weights = random(3, 2, 4), (random(3, 4, seed=1), random(3, 4, seed=2))
    double = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(torch.var_mean(double, 1), double, [each.double() for each in weights])
    g = Graph()
    result = RULES["aten.var_mean.correction"](
        g, [(None, 4)] * 2, replace(g.input("x", (None, 2, 4)), varies=True), [1]
    )
    ((_, found),) = result.argument_gradients(g, [g.constant(each.numpy()) for each in weights])
    assert isinstance(found, Tensor)
    np.testing.assert_allclose(computed(g, [found], {"x": x.numpy()})[0], expected.numpy(), rtol=1e-4, atol=1e-6)


def test_norms_and_deviations_of_nothing_have_a_gradient_of_zero() -> None:
    x = torch.zeros(2, 5)
    check("aten.linalg_vector_norm.default", reference("linalg_vector_norm.default"), x, 2, [1])
    check("aten.std.correction", reference("std.correction"), x, [1], correction=1)


def test_where_and_the_larger_of_two() -> None:
    x, y = random(2, 3, 4).round(), random(2, 3, 4, seed=9).round()
    check("aten.maximum.default", torch.maximum, x, y, batched=(0, 1))
    check("aten.minimum.default", torch.minimum, x, y[:1, :1].clone(), batched=())


Matrices = list[tuple[tuple[int, ...], tuple[int, ...]]]
MATRICES: Matrices = [
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (4, 5)),
    ((4,), (4, 5)),
    ((2, 3, 4), (4,)),
    ((4,), (4,)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((4,), (2, 4, 5)),
]


@pytest.mark.parametrize("shapes", MATRICES)
def test_matrix_products(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    check("aten.matmul.default", torch.matmul, random(*shapes[0]), random(*shapes[1], seed=2), batched=())


def test_sums_of_matrix_products() -> None:
    a, b = random(3, 4, seed=1), random(4, 5, seed=2)
    for c in (random(3, 5), random(5), random(1, 5)):
        check("aten.addmm.default", torch.addmm, c, a, b, batched=(), beta=0.5, alpha=2.0)
    batch = random(2, 3, 5), random(2, 3, 4, seed=1), random(2, 4, 5, seed=2)
    check("aten.baddbmm.default", torch.baddbmm, *batch, batched=())


def test_parts_that_are_picked_and_placed() -> None:
    x = random(2, 3, 9, 6)
    check("aten.slice.Tensor", reference("slice.Tensor"), x, 2, 1, 2**60, 3)
    check("aten.slice.Tensor", reference("slice.Tensor"), x, -1, -4, -1, 2)
    check("aten.slice.Tensor", reference("slice.Tensor"), x, 1, -99, 2)
    check("aten.expand.default", reference("expand.default"), random(3, 1, 6), [-1, 4, -1], batched=())
    check("aten.repeat.default", reference("repeat.default"), x, [1, 2, 1, 3])
    check("aten.repeat.default", reference("repeat.default"), random(3), [2, 2], batched=())
    for part in range(3):
        check("aten.unbind.int", reference("unbind.int"), x, 1, output=part)
    check("aten.unbind.int", reference("unbind.int"), random(2, 3), output=1, batched=())
    check("aten.constant_pad_nd.default", reference("constant_pad_nd.default"), x, [1, 2, 0, 3])
    check("aten.constant_pad_nd.default", reference("constant_pad_nd.default"), x, [0, -1, 2, -3, 1, 0], 0.3)
    check("aten.copy.default", lambda x, source: source.expand_as(x), random(2, 3), random(3), batched=())
    check("aten.flip.default", torch.flip, x, [-1, 1])
    check("aten.roll.default", torch.roll, x, [2, -1], [2, 3])
    check("aten.unfold.default", reference("unfold.default"), x, 2, 3, 2)
    check("aten.select_scatter.default", torch.select_scatter, x, random(2, 9, 6, seed=4), 1, -1, batched=(0, 1))
    replaced = random(2, 3, 4, 6, seed=4)
    for start, end in ((1, 9), (-8, 2**60), (-99, -1), (0, 8), (None, -2), (1, None)):
        within = (2, start, end, 2)
        check("aten.slice_scatter.default", reference("slice_scatter.default"), x, replaced, *within, batched=(0, 1))
    check("aten.slice_scatter.default", reference("slice_scatter.default"), x, x[:, :2] + 1, 1, 1, batched=(0, 1))
    g = Graph()
    base, written = (replace(g.input(name, (None, 3)), varies=True) for name in ("x", "written"))
    result = RULES["aten.slice_scatter.default"](g, [(None, 3)], base, written, 0, 0, 2**60)
    assert list(result.outputs) == [argument for argument, _ in result.vjps] == [written]


def test_entries_by_their_positions() -> None:
    def by(name: str, x: torch.Tensor, *before: Any, index: Any, batched: Any = (0,)) -> None:
        """Indices have no gradient, so they are constants of the graph."""
        constants: list[Any] = []

        def rule(g: Graph, shapes: Any, value: Any) -> Any:
            constants[:] = [g.constant(i.numpy()) if isinstance(i, torch.Tensor) else i for i in index]
            given = [constants] if name == "index.Tensor" else constants
            return RULES[f"aten.{name}"](g, shapes, value, *before, *given)

        given = [list(index)] if name == "index.Tensor" else list(index)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.test_gradients.RULES", {name: rule})
            check(name, lambda x: reference(name)(x, *before, *given), x, batched=batched)

    x = random(2, 4, 5, 6)
    by("index_select.default", x, 2, index=[torch.tensor([4, 0, 0, 3])])
    by("index_select.default", x, -1, index=[torch.tensor([5, 0, 0])])
    by("gather.default", x, -2, index=[torch.tensor([0, 4, 4, 1]).reshape(1, 1, 4, 1).expand(2, 4, 4, 6)])
    for padding in (-1, 0, 2):
        table, rows = random(5, 3), torch.tensor([[1, 0], [2, 1]])
        by("embedding.default", table, index=[rows, padding], batched=())
    by("index.Tensor", x, index=[None, torch.tensor([[1, 3], [0, -1]])])
    by("index.Tensor", x, index=[None, None, torch.tensor([[1], [4]]), torch.tensor([0, -1, 3])])
    by("gather.default", x, 1, index=[torch.randint(0, 4, (2, 3, 5, 6), generator=torch.Generator().manual_seed(1))])


def test_values_in_order() -> None:
    x = random(2, 4, 5, 6)
    check("aten.topk.default", torch.topk, x, 3, 1)
    check("aten.topk.default", torch.topk, x, 2, -1, False)
    check("aten.sort.default", torch.sort, x, 2, True)
    check("aten.sort.default", torch.sort, x)
    g = Graph()
    with pytest.raises(NoRule, match="an order of the batch's images"):
        RULES["aten.sort.default"](g, [(None, 3)] * 2, g.input("x", (None, 3)), 0)


def test_values_put_at_positions() -> None:
    x, part = random(2, 4, 5), random(2, 3, 5, seed=3)
    index = torch.tensor([3, 0, 2]).reshape(1, 3, 1).expand(2, 3, 5)
    for name, by in (("scatter.src", torch.scatter), ("scatter_add.default", torch.scatter_add)):

        def rule(g: Graph, shapes: Any, x: Tensor, part: Tensor, name: str = name) -> Any:
            return RULES[f"aten.{name}"](g, shapes, x, 1, g.constant(index.numpy()), part)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.test_gradients.RULES", {name: rule})
            check(name, lambda x, part, by=by: by(x, 1, index, part), x, part, batched=())


@pytest.mark.parametrize(
    ("sides", "mode", "corners"),
    [
        (1, "nearest", None),
        (1, "linear", False),
        (2, "nearest", None),
        (2, "nearest-exact", None),
        (2, "bilinear", False),
        (2, "bilinear", True),
        (2, "bicubic", False),
        (3, "nearest", None),
        (3, "trilinear", True),
        (2, "bilinear-aa", False),
        (2, "bicubic-aa", True),
        (1, "nearest-exact", None),
        (3, "nearest-exact", None),
    ],
)
def test_resizing(sides: int, mode: str, corners: bool | None) -> None:
    kind = "_upsample_nearest_exact" if mode == "nearest-exact" else f"upsample_{mode.removesuffix('-aa')}"
    kind = f"_{kind}{sides}d_aa" if mode.endswith("-aa") else f"{kind}{sides}d"
    name = f"aten.{kind}.vec"
    x = random(2, 3, *(5, 4, 6)[:sides])
    settings = [] if corners is None else [corners]
    operator = getattr(aten, kind).vec
    check(name, operator, x, [(7, 3, 6)[i] for i in range(sides)], *settings, None)
    check(name, operator, x, [1] * sides, *settings, None)
    check(name, operator, x, None, *settings, [1.57] * sides)
    check(name, operator, x, [5, 7, 3][:sides], *settings, None)  # the first side stays as it is
    if not mode.endswith(("nearest", "-aa")):  # whose gradient in torch is then not that of its values
        check(name, operator, x, None, *settings, [1.1, 2.0, 1.1][:sides])  # as large, of other values


@given(small, st.integers(2, 6), st.integers(2, 6), st.sampled_from(["reflection", "replication"]))
def test_padding_by_what_is_there(n: int, height: int, width: int, mode: str) -> None:
    operator = getattr(aten, f"{mode}_pad2d").default
    check(f"aten.{mode}_pad2d.default", operator, random(n, 2, height, width), [1, width - 1, height - 1, 0])


@pytest.mark.parametrize("mode", ["reflection", "replication"])
def test_padding_of_signals_and_volumes_by_what_is_there(mode: str) -> None:
    for sides, pads in ((1, [3, 1]), (3, [1, 2, 0, 3, 2, 1])):
        name = f"{mode}_pad{sides}d.default"
        check(f"aten.{name}", reference(name), random(2, 2, *(4, 5, 6)[:sides]), pads)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
def test_adaptive_maxima(n: int, height: int, width: int, out: int) -> None:
    x = random(n, 2, height, width)
    check("aten.adaptive_max_pool2d.default", torch.nn.functional.adaptive_max_pool2d, x, [out, out + 1])


def test_pooling_of_volumes_and_divisors() -> None:
    x = random(2, 3, 5, 6, 7)
    functions = torch.nn.functional
    check("aten.max_pool3d.default", functions.max_pool3d, x, [2, 2, 3], [2, 1, 2], [1, 0, 1], [1, 2, 1], True)
    check("aten.avg_pool3d.default", functions.avg_pool3d, x, [2, 2, 3], [2, 1, 2], [1, 0, 1], True, False)
    check("aten.avg_pool3d.default", functions.avg_pool3d, x, [2] * 3, [2] * 3, [0] * 3, False, True, 5)
    check("aten.avg_pool2d.default", functions.avg_pool2d, random(2, 3, 6, 7), [3] * 2, [2] * 2, [1] * 2, True, True, 7)
    check("aten.adaptive_avg_pool3d.default", functions.adaptive_avg_pool3d, x, [2, 4, 3])
    maps = random(2, 3, 5, 7)
    for pool in ("max", "avg"):
        function = getattr(functions, f"{pool}_pool2d")
        for settings in (([3],), ([2],), (2, 3), ([3, 2], [1, 2], [1]), ([2], [2], [1])):
            check(f"aten.{pool}_pool2d.default", function, maps, *settings)
    for windows in (([2] * 2, [2] * 2, [0] * 2, [2] * 2), ([2] * 2, [2] * 2, [0] * 2, [1] * 2, True)):
        check("aten.max_pool2d.default", functions.max_pool2d, maps, *windows)
    for size in ([1, 3], [1, 1], [5, 1], [5, 7]):
        check("aten.adaptive_avg_pool2d.default", functions.adaptive_avg_pool2d, maps, size)
        check("aten.adaptive_max_pool2d.default", functions.adaptive_max_pool2d, maps, size)
    check("aten.avg_pool2d.default", functions.avg_pool2d, maps, [5, 7], [1] * 2, [0] * 2, False, True, 7)


@st.composite
def transposed(draw: st.DrawFn, sides: int) -> tuple[Any, ...]:
    groups = draw(st.integers(1, 3))
    kernel, stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(sides)) for _ in range(3))
    padding = tuple(draw(st.integers(0, d * (k - 1))) for d, k in zip(dilation, kernel, strict=True))
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    size = [draw(st.integers(2, 5)) + 1 for _ in range(sides)]
    x = random(draw(small), groups * draw(small), *size)
    w = random(x.shape[1], draw(small), *kernel, seed=1)
    b = random(w.shape[1] * groups, seed=2)
    out = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(size, stride, padding, dilation, kernel, extra, strict=True)
    ]
    return x, w, b, stride, padding, extra, groups, dilation, out


@pytest.mark.parametrize(("sides", "name"), [(1, "1d.default"), (2, "2d.input"), (3, "3d.input")])
def test_transposed_convolutions(sides: int, name: str) -> None:
    @given(transposed(sides))
    def holds(case: tuple[Any, ...]) -> None:
        *args, out = case
        if min(out) < 1:
            return
        check(f"aten.conv_transpose{name}", reference(f"conv_transpose{name}"), *args)

    holds()


def test_transposed_convolutions_without_settings() -> None:
    x, w, b = random(2, 2, 3, 4), random(2, 3, 2, 3, seed=1), random(3, seed=2)
    for settings in ((), ([2, 3],), ([2], [0], [1])):
        check("aten.conv_transpose2d.input", reference("conv_transpose2d.input"), x, w, b, *settings)


@pytest.mark.parametrize("kernel", [2, 4])
def test_same_padding_with_an_even_kernel_has_one_more_behind(kernel: int) -> None:
    x, w = random(2, 3, 7, 8), random(4, 3, kernel, kernel, seed=1)
    for dilation in (1, 3):
        args = (x, w, random(4, seed=2), [1, 1], "same", [dilation] * 2)
        check("aten.conv2d.padding", reference("conv2d.padding"), *args)


def test_windows_as_columns() -> None:
    args = ([3, 2], [1, 2], [1, 1], [2, 1])
    check("aten.im2col.default", reference("im2col.default"), random(2, 3, 6, 7), *args)


def test_large_depthwise_kernels_need_no_large_constants() -> None:
    x, w = random(2, 2, 20, 20), random(2, 1, 17, 17, seed=1)
    args = (x, w, None, [1, 1], [8, 8], [1, 1], 2)
    check("aten.conv2d.default", reference("conv2d.default"), *args)
    g = Graph()
    given_x, given_w = g.input("x", (None, 2, 20, 20)), g.input("w", (2, 1, 17, 17))
    result = RULES["aten.conv2d.default"](
        g, [], *(replace(each, varies=True) for each in (given_x, given_w)), *args[2:]
    )
    result.argument_gradients(g, [g.input("dy", (None, 2, 20, 20))])
    assert sum(len(constant.raw_data) for constant in g.constants) < 100_000


def test_normalisation_with_fixed_statistics() -> None:
    x, w, b = random(3, 4, 5, 6), random(4) + 2, random(4, seed=1)
    mean, variance = random(4, seed=2), positive(4, seed=3)

    def fixed(x: Any, w: Any, b: Any, *_: Any) -> Any:
        return torch.nn.functional.batch_norm(x, mean.double(), variance.double(), w, b, False, 0.1, 1e-5)

    def by(name: str, *settings: Any, function: Any = fixed) -> None:
        def rule(g: Graph, shapes: Any, x: Any, w: Any, b: Any) -> Any:
            return RULES[name](g, shapes, x, w, b, g.constant(mean.numpy()), g.constant(variance.numpy()), *settings)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.test_gradients.RULES", {name: rule})
            for parameters in ((w, b), (None, b), (w, None), (None, None)):
                check(name, function, x, *parameters)

    by("aten._native_batch_norm_legit_no_training.default", 0.1, 1e-5)
    by("aten.instance_norm.default", False, 0.1, 1e-5, False)

    def own(x: Any, w: Any, b: Any, *_: Any) -> Any:
        return torch.nn.functional.batch_norm(x, None, None, w, b, True, 0.1, 1e-5)

    check("aten._native_batch_norm_legit.no_stats", own, x, w, b, True, 0.1, 1e-5)


def test_comparisons_and_conversions() -> None:
    g = Graph()
    x, y = random(2, 3), random(2, 3, seed=1)
    a, b = g.input("a", (2, 3)), g.input("b", (2, 3))
    names = ["eq", "ne", "gt", "ge", "lt", "le"]
    found = [RULES[f"aten.{name}.Tensor"](g, [], a, b).outputs[0] for name in names]
    both = RULES["aten.logical_and.default"](g, [], found[2], found[4]).outputs[0]
    either = RULES["aten.logical_or.default"](g, [], found[2], found[4]).outputs[0]
    neither = RULES["aten.logical_not.default"](g, [], either).outputs[0]
    as_float = RULES["aten._to_copy.default"](g, [], found[2], dtype=torch.float32).outputs[0]
    ours = computed(g, [*found, both, either, neither, as_float], {"a": x.numpy(), "b": y.numpy()})
    theirs = [getattr(torch, name)(x, y).numpy() for name in names]
    gt, lt = theirs[2], theirs[4]
    for mine, right in zip(ours, [*theirs, gt & lt, gt | lt, ~(gt | lt), gt.astype(np.float32)], strict=True):
        np.testing.assert_array_equal(mine, right)
    with pytest.raises(NoRule, match="a cast to float16"):
        RULES["aten._to_copy.default"](g, [], a, dtype=torch.float16)


VALUES, MORE = torch.tensor([[0.5, -1.5, 2.0], [0.0, 4.0, -3.0]]), torch.tensor([[0.5, 1.0, -2.0], [1.0, 4.0, -4.0]])
WHOLE, OTHERS = torch.tensor([[3, -1, 2], [0, 5, -3]]), torch.tensor([[3, 1, -2], [2, 5, -4]])
TRUE, FALSE = torch.tensor([[True, False, True], [False, True, True]]), torch.tensor([[True, True, False]] * 2)
GIVEN: list[tuple[Any, ...]] = [
    ("argmax.default", VALUES, -1),
    ("argmax.default", VALUES, 0, True),
    ("max.dim", VALUES, 1),
    ("max.dim", VALUES, -2, True),
    ("min.dim", VALUES, -1),
    *((f"{name}.Tensor", VALUES, MORE) for name in ("eq", "ne", "lt", "le", "gt", "ge")),
    *((f"{name}.Tensor", TRUE, FALSE) for name in ("eq", "ne", "lt", "ge")),
    *((f"{name}.Scalar", WHOLE, 2) for name in ("eq", "ne", "lt", "le", "gt", "ge")),
    ("gt.Scalar", WHOLE, 2.5),
    ("lt.Tensor", WHOLE, MORE),
    ("sum.dim_IntList", TRUE, [1]),
    ("sum.default", WHOLE),
    ("cumsum.default", TRUE, 1),
    ("cumsum.default", WHOLE, -1),
    ("add.Tensor", WHOLE, 2),
    ("add.Tensor", WHOLE, 0.5),
    ("add.Tensor", TRUE, 2),
    ("sub.Tensor", WHOLE, 0.5),
    ("clamp.default", WHOLE, 0, 2),
    ("clamp.default", WHOLE, 0.5, 2.5),
    ("clamp_min.default", WHOLE.int(), 1),
    ("clamp_max.default", TRUE, 0),
    ("add.Tensor", WHOLE, MORE),
    ("sub.Tensor", WHOLE, OTHERS),
    ("mul.Tensor", WHOLE, OTHERS),
    ("mul.Tensor", WHOLE, 0.5),
    ("mul.Tensor", TRUE, VALUES),
    ("div.Tensor", WHOLE, 2),
    ("div.Tensor", OTHERS, WHOLE + 7),
    ("maximum.default", WHOLE, OTHERS),
    ("minimum.default", VALUES, MORE),
    ("neg.default", VALUES),
    ("round.default", VALUES),
    ("full.default", [2, 3], 0.25),
    ("full_like.default", VALUES, 0.25),
    ("new_full.default", VALUES, [3], 1.5),
    ("zeros.default", [2, 3]),
    ("ones.default", [3]),
    ("ones_like.default", VALUES),
    ("new_ones.default", VALUES, [2, 1]),
    ("where.self", TRUE, VALUES, MORE),
    ("masked_fill.Scalar", VALUES, TRUE, 0.5),
    ("masked_fill.Scalar", WHOLE, TRUE, 7),
    ("type_as.default", TRUE, VALUES),
    ("type_as.default", VALUES, WHOLE),
    ("_to_copy.default", TRUE),
    ("detach.default", VALUES),
    ("logical_and.default", TRUE, FALSE),
    ("bitwise_or.Tensor", TRUE, FALSE[:1]),
    ("bitwise_not.default", TRUE),
    ("constant_pad_nd.default", WHOLE, [1, 0], 7),
    ("constant_pad_nd.default", TRUE, [0, 1], True),
    ("copy.default", VALUES, WHOLE[0]),
    ("split_with_sizes.default", VALUES, [1, 2], 1),
    ("unbind.int", WHOLE),
    ("flip.default", WHOLE, [0]),
    ("cat.default", [VALUES, torch.zeros(0), MORE], 1),
]


@pytest.mark.parametrize("call", GIVEN, ids=lambda call: call[0])
def test_values_and_types_of_what_has_no_gradient(call: tuple[Any, ...]) -> None:
    name, *args = call
    expected = reference(name)(*args)
    several = list(expected) if isinstance(expected, (tuple, list)) else [expected]
    g = Graph()

    def given(value: Any) -> Any:
        if isinstance(value, list):
            return [given(each) for each in value]
        return g.constant(value.numpy()) if isinstance(value, torch.Tensor) else value

    result = RULES[f"aten.{name}"](g, [tuple(each.shape) for each in several], *map(given, args))
    outputs = [*result.outputs, *result.others]
    for tensor, ours, theirs in zip(outputs, computed(g, outputs, {}), several, strict=True):
        assert (tensor.shape, tensor.dtype) == (tuple(theirs.shape), str(theirs.dtype).removeprefix("torch."))
        assert str(ours.dtype) == tensor.dtype
        np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize(
    ("given", "wanted", "dtype", "has_gradient"),
    [
        (VALUES, {"dtype": torch.float32}, "float32", True),
        (VALUES, {}, "float32", True),
        (VALUES, {"layout": torch.strided}, "float32", True),
        (WHOLE, {"dtype": torch.float32}, "float32", False),
        (VALUES, {"dtype": torch.int64}, "int64", False),
        (TRUE, {"dtype": torch.int32}, "int32", False),
        (VALUES, {"dtype": torch.float64}, None, False),
        (VALUES, {"dtype": torch.bfloat16}, None, False),
        (VALUES, {"dtype": torch.complex64}, None, False),
    ],
)
def test_casts_to_whole_numbers_and_back_have_no_gradient(
    given: torch.Tensor, wanted: dict[str, Any], dtype: str | None, has_gradient: bool
) -> None:
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("_to_copy.default", (), wanted),
        ("to.dtype_layout", tuple(wanted.values()), {}),
    ]
    for name, args, options in calls:
        g = Graph()
        if dtype is None:
            with pytest.raises(NoRule, match="a cast to"):
                RULES[f"aten.{name}"](g, [], g.constant(given.numpy()), *args, **options)
            continue
        result = RULES[f"aten.{name}"](g, [], g.constant(given.numpy()), *args, **options)
        assert (result.outputs[0].dtype, len(result.vjps), len(g.nodes)) == (dtype, has_gradient, not has_gradient)


def test_numbers_and_other_values_are_chosen_where_a_condition_holds_with_their_gradients() -> None:
    condition = VALUES > 0

    def chosen(*which: Any) -> Any:
        return lambda g, out, *x: RULES["aten.where.self"](g, out, g.constant(condition.numpy()), *by(which, x))

    def by(which: Any, tensors: Any) -> list[Any]:
        return [tensors[each] if isinstance(each, int) else each for each in which]

    for which in ((0, 1), (0, 0.5), (0.5, 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.test_gradients.RULES", {"own": chosen(*which)})
            tensors = [MORE, random(1, 3)][: 1 + (1 in which)]
            check("own", lambda *x, which=which: torch.where(condition, *by(which, x)), *tensors, batched=())
    mask = torch.tensor([[True, False, True]])

    def filled(g: Graph, out: Any, x: Any) -> Any:
        return RULES["aten.masked_fill.Scalar"](g, out, x, g.constant(mask.numpy()), 0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.test_gradients.RULES", {"own": filled})
        check("own", lambda x: x.masked_fill(mask, 0.5), VALUES)


def x_of(g: Graph, *shape: int | None, dtype: str = "float32") -> Any:
    return replace(g.input(f"x{len(g.inputs)}", shape, dtype), varies=True)


REFUSED: dict[str, Callable[[Graph], tuple[Any, ...]]] = {
    "a lower bound": lambda g: ("clamp.default", x_of(g, None, 3), x_of(g, 3)),
    "an upper bound": lambda g: ("clamp.default", x_of(g, None, 3), 0.0, x_of(g, 3)),
    "repeating the batch": lambda g: ("repeat.default", x_of(g, None, 3), [2, 1]),
    "repeating as often": lambda g: ("repeat.default", x_of(g, 2, 3), [1, None]),
    "rolling": lambda g: ("roll.default", x_of(g, None, 3), [1]),
    "padding before the batch": lambda g: ("constant_pad_nd.default", x_of(g, None, 3), [0, 0, 1, 0]),
    "padding behind the batch": lambda g: ("constant_pad_nd.default", x_of(g, None, 3), [0, 0, 0, 1]),
    "by frequency": lambda g: ("embedding.default", x_of(g, 5, 3), x_of(g, None, dtype="int64"), -1, True),
    "truth values": lambda g: ("index.Tensor", x_of(g, None, 3, 4), [None, x_of(g, 3, dtype="bool")]),
    "axes apart": lambda g: ("index.Tensor", x_of(g, 2, 3, 4), [g.integers([0]), None, g.integers([1])]),
    "a part of the batch": lambda g: ("slice_scatter.default", x_of(g, None, 3), x_of(g, 2, 3), 0, 0, 2),
    "statistics of instances": lambda g: (
        "instance_norm.default",
        *(x_of(g, None, 3, 4), None, None, x_of(g, 3), x_of(g, 3), True, 0.1, 1e-5),
    ),
    "bits": lambda g: ("bitwise_and.Tensor", x_of(g, 3, dtype="int64"), x_of(g, 3, dtype="int64")),
    "bits of one": lambda g: ("bitwise_or.Tensor", x_of(g, 3, dtype="bool"), x_of(g, 3, dtype="int64")),
    "a mask that is larger": lambda g: ("masked_fill.Scalar", x_of(g, 1, 3), x_of(g, 2, 3, dtype="bool"), 0.0),
    "order 3": lambda g: ("linalg_vector_norm.default", x_of(g, None, 3), 3),
    "order 0": lambda g: ("linalg_vector_norm.default", x_of(g, None, 3), 0),
    "argmax": lambda g: ("argmax.default", x_of(g, None, 3)),
    "a weight": lambda g: ("cross_entropy_loss.default", x_of(g, None, 3), x_of(g, None, dtype="int64"), x_of(g, 3)),
    "a sum": lambda g: ("cross_entropy_loss.default", x_of(g, None, 3), x_of(g, None, dtype="int64"), None, 2),
    "one class": lambda g: ("cross_entropy_loss.default", x_of(g, None, 1), x_of(g, None, dtype="int64")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_rule_does_not_know_is_refused(what: str) -> None:
    g = Graph()
    name, *args = REFUSED[what](g)
    with pytest.raises(NoRule):
        RULES[f"aten.{name}"](g, [(None, 3)], *args)


ADDMM, LINEAR, PLACED = "Transpose MatMul Transpose MatMul", "Gemm Gemm ReduceSum", "Reshape Expand ScatterElements"
BARE: list[tuple[str, Callable[[Graph], tuple[Any, ...]], tuple[int | None, ...], str, str | None]] = [
    ("slice.Tensor", lambda g: (x_of(g, None, 5), 1, 1, 3), (None, 2), "Slice", "Pad"),
    ("slice.Tensor", lambda g: (x_of(g, None, 5), 0, 0, 2**60), (None, 5), "", ""),
    ("select.int", lambda g: (x_of(g, None, 5), 1, 1), (None,), "Slice Reshape", "Reshape Pad"),
    ("repeat.default", lambda g: (x_of(g, None, 5), [1, 1]), (None, 5), "Tile", ""),
    ("roll.default", lambda g: (x_of(g, None, 5), [5], [1]), (None, 5), "", ""),
    ("softplus.default", lambda g: (x_of(g, None, 5),), (None, 5), "Greater Softplus Where", "Sigmoid Where Mul"),
    ("pow.Tensor_Scalar", lambda g: (x_of(g, None, 5), 2), (None, 5), "Mul", "Mul Mul"),
    ("hardtanh.default", lambda g: (x_of(g, None, 5), 0, 6), (None, 5), "Clip", "Sub Mul HardSigmoid Mul"),
    ("add.Tensor", lambda g: (x_of(g, None, 5), x_of(g, 1, 5)), (None, 5), "Add", "ReduceSum"),
    ("add.Tensor", lambda g: (x_of(g, None, 5), x_of(g, 5)), (None, 5), "Add", "ReduceSum Reshape"),
    ("add.Tensor", lambda g: (x_of(g, 1, 5), x_of(g, 1, 5)), (1, 5), "Add", ""),
    ("addmm.default", lambda g: (x_of(g, 2, 4), *(x_of(g, n, 4) for n in (2, 4))), (2, 4), "MatMul Add", ADDMM),
    ("linear.default", lambda g: (x_of(g, None, 5), x_of(g, 3, 5), x_of(g, 3)), (None, 3), "Gemm", LINEAR),
    ("embedding.default", lambda g: (x_of(g, 5, 3), g.integers([1])), (1, 3), "Gather", PLACED),
    ("adaptive_avg_pool2d.default", lambda g: (x_of(g, None, 2, 4, 6), [1, 1]), (None, 2, 1, 1), "ReduceMean", "Mul"),
    ("upsample_nearest2d.vec", lambda g: (x_of(g, None, 2, 4, 6), [4, 6], None), (None, 2, 4, 6), "", ""),
    ("max_pool2d.default", lambda g: (x_of(g, None, 2, 4, 6), [3, 3]), (None, 2, 1, 2), "MaxPool", None),
    ("max_pool2d.default", lambda g: (x_of(g, None, 2, 4, 6), [2, 2]), (None, 2, 2, 3), "MaxPool MaxPool", None),
    (
        "conv_transpose2d.input",
        lambda g: (x_of(g, None, 2, 4, 6), g.constant(np.ones((2, 3, 2, 2))), g.constant([1.0, 2.0, 3.0]), [2, 2]),
        (None, 3, 8, 12),
        "ConvTranspose",
        "Conv",
    ),
    (
        "cross_entropy_loss.default",
        lambda g: (x_of(g, None, 5), g.input("labels", (None,), "int64")),
        (),
        "OneHot LogSoftmax Mul ReduceSum Shape Squeeze Cast Reciprocal Mul Neg",
        None,
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", BARE, ids=lambda case: case[0])
def test_a_usual_setting_writes_no_more_than_it_needs(case: tuple[Any, ...]) -> None:
    name, arguments, shape, forward, backward = case
    g = Graph()
    result = RULES[f"aten.{name}"](g, [shape], *arguments(g))
    written = [node.op_type for node in g.nodes]
    assert sorted(written) == sorted(forward.split())
    assert result.outputs[0].shape == shape
    if backward is not None:
        result.argument_gradients(g, [g.input("dy", shape)])
        assert sorted(node.op_type for node in g.nodes[len(written) :]) == sorted(backward.split())


@pytest.mark.parametrize(("channels", "takes"), [(4, True), (5, False)])
def test_a_convolutions_weight_is_scaled_where_it_is_at_most_four_times_as_large_as_an_output(
    channels: int, takes: bool
) -> None:
    """Of kernels of 9 elements and outputs of 9 positions."""
    g = Graph()
    x, w = x_of(g, None, channels, 3, 3), x_of(g, 2, channels, 3, 3)
    assert RULES["aten.conv2d.default"](g, [], x, w, None, [1, 1], [1, 1]).takes_scaled == takes


def test_without_a_rate_or_in_evaluation_nothing_is_drawn() -> None:
    for settings, draws in (((0.0, True), 0), ((0.5, False), 0), ((0.5, True), 1), ((0.5,), 1)):
        g = Graph()
        x = x_of(g, None, 5)
        result = RULES["aten.native_dropout.default"](g, [], x, *settings)
        assert (g.draws, result.outputs[0] == x, len(result.others)) == (draws, draws == 0, 1)
