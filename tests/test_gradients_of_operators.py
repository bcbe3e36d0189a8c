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
from cnnbench.worker.graphs.graph import Graph, NoRule
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


def test_parametric_rectifiers() -> None:
    for x in (random(2, 3, 4), random(2, 3), random(2, 3, 4, 5)):
        check("aten.prelu.default", torch.prelu, x, random(3, seed=2))
        check("aten.prelu.default", torch.prelu, x, random(1, seed=2))


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
    check("aten.flip.default", torch.flip, x, [-1, 1])
    check("aten.roll.default", torch.roll, x, [2, -1], [2, 3])
    check("aten.unfold.default", reference("unfold.default"), x, 2, 3, 2)
    check("aten.select_scatter.default", torch.select_scatter, x, random(2, 9, 6, seed=4), 1, -1, batched=(0, 1))
    replaced = random(2, 3, 4, 6, seed=4)
    for start, end in ((1, 9), (-8, 2**60), (-99, -1)):
        within = (2, start, end, 2)
        check("aten.slice_scatter.default", reference("slice_scatter.default"), x, replaced, *within, batched=(0, 1))


def test_entries_by_their_positions() -> None:
    def by(name: str, x: torch.Tensor, *before: Any, index: Any) -> None:
        """Indices have no gradient, so they are constants of the graph."""
        constants: list[Any] = []

        def rule(g: Graph, shapes: Any, value: Any) -> Any:
            constants[:] = [i if i is None else g.constant(i.numpy()) for i in index]
            given = [constants] if name == "index.Tensor" else constants
            return RULES[f"aten.{name}"](g, shapes, value, *before, *given)

        given = [list(index)] if name == "index.Tensor" else list(index)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.test_gradients.RULES", {name: rule})
            check(name, lambda x: reference(name)(x, *before, *given), x)

    x = random(2, 4, 5, 6)
    by("index_select.default", x, 2, index=[torch.tensor([4, 0, 0, 3])])
    by("index.Tensor", x, index=[None, torch.tensor([[1, 3], [0, -1]])])
    by("index.Tensor", x, index=[None, None, torch.tensor([[1], [4]]), torch.tensor([0, -1, 3])])
    by("gather.default", x, 1, index=[torch.randint(0, 4, (2, 3, 5, 6), generator=torch.Generator().manual_seed(1))])


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
    ],
)
def test_resizing(sides: int, mode: str, corners: bool | None) -> None:
    kind = "_upsample_nearest_exact" if mode == "nearest-exact" else f"upsample_{mode}"
    name = f"aten.{kind}{sides}d.vec"
    x = random(2, 3, *(5, 4, 6)[:sides])
    settings = [] if corners is None else [corners]
    operator = getattr(aten, f"{kind}{sides}d").vec
    check(name, operator, x, [(7, 3, 6)[i] for i in range(sides)], *settings, None)
    check(name, operator, x, [1] * sides, *settings, None)
    check(name, operator, x, None, *settings, [1.57] * sides)


@given(small, st.integers(2, 6), st.integers(2, 6), st.sampled_from(["reflection", "replication"]))
def test_padding_by_what_is_there(n: int, height: int, width: int, mode: str) -> None:
    operator = getattr(aten, f"{mode}_pad2d").default
    check(f"aten.{mode}_pad2d.default", operator, random(n, 2, height, width), [1, width - 1, height - 1, 0])


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
            check(name, function, x, w, b)

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
