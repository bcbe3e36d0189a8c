"""Whole exported training steps, in ONNX Runtime, against torch and its optimizers in float64."""

import json
import math
import re
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.networks.training import clipping_bytes
from cnnbench.records.record import Parity, StepFacts
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.optimizer import TIMED_LEARNING_RATE, Optimizer
from cnnbench.worker import models
from cnnbench.worker.copies import copied, nothing_dropped
from cnnbench.worker.export import inference
from cnnbench.worker.export.training import prove as step
from cnnbench.worker.export.training import rules as gradients
from cnnbench.worker.export.training import step as training
from cnnbench.worker.export.training.optimizers import clip_factor, update
from cnnbench.worker.export.training.rules.rule import OpResult
from cnnbench.worker.export.training.step import METADATA, CannotExport, export_step
from cnnbench.worker.graphs.elementary import elementary
from cnnbench.worker.graphs.graph import Graph
from cnnbench.worker.reference import inputs as golden
from cnnbench.worker.reference.parity import labels_for
from cnnbench.worker.runtimes.eager import weights_of
from cnnbench.worker.runtimes.ort_training import StepSession
from tests.own_models import InverseErf
from tests.test_gradients import computed

SGD, MOMENTUM, ADAM, ADAMW = (
    Optimizer(),
    Optimizer(momentum=0.9, weight_decay=1e-4),
    Optimizer(name="adam", weight_decay=1e-4),
    Optimizer(name="adamw", weight_decay=0.1),
)


class Small(nn.Module):
    """Two convolutions, batch normalisation, pooling, dropout and a fully connected layer."""

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.pool = nn.Conv2d(4, 8, 3, stride=2), nn.MaxPool2d(2)
        self.drop, self.last = nn.Dropout(rate, inplace=True), nn.Linear(8 * 3 * 3, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.pool(torch.relu_(self.conv2(torch.relu(self.norm(self.conv1(x))))))
        return self.last(self.drop(x.flatten(1)))


def small(rate: float = 0.5) -> nn.Module:
    torch.manual_seed(1)
    return Small(rate)


IMAGES = golden.images(6, (1, 14, 14), 0)
LABELS = labels_for(6, 5, 0)


def exported(module: nn.Module, folder: Path, optimizer: Optimizer, x: Any = IMAGES) -> StepSession:
    """The module's step in ONNX Runtime."""
    file = folder / "step.onnx"
    onnx.save(export_step(module, x[:2], optimizer), str(file))
    return StepSession.of(str(file), torch.get_num_threads())


def proved(module: nn.Module, folder: Path, optimizer: Optimizer, steps: int, images: Any = None) -> StepFacts:
    """What the proof finds for the module's exported step."""
    x = IMAGES if images is None else images
    with torch.no_grad():
        classes = int(module.eval()(x[:1]).shape[1])
    session = exported(module, folder, optimizer, x)
    return step.prove(module, session, x.numpy(), labels_for(len(x), classes, 0), optimizer, steps)


def failed(facts: StepFacts) -> list[str]:
    return [f"{p.what}: {p.error}, limit {p.limit}" for p in facts.parity if not p.passed]


class Normalised(nn.Module):
    """Batch normalisation of images, of lines and of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.images, self.lines = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm1d(4, affine=False)
        self.vectors, self.last = nn.BatchNorm1d(4 * 144), nn.Linear(4 * 144, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.images(self.conv(x)))
        return self.last(self.vectors(torch.tanh(self.lines(x.flatten(2))).flatten(1)))


class Convolved(nn.Module):
    """A convolution of each kind: large weights, few channels, 1x1, depthwise, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.strided, self.point = nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.Conv2d(8, 256, 1)
        self.heavy, self.grouped = nn.Conv2d(256, 128, 3, padding=1), nn.Conv2d(128, 4, 2, groups=2, padding=1)
        self.back, self.last = nn.ConvTranspose2d(4, 2, 3, 2, 1), nn.Linear(2 * 81, 5)

    def forward(self, x: torch.Tensor) -> Any:
        for layer in (self.first, self.depthwise, self.strided, self.point, self.heavy, self.grouped, self.back):
            x = torch.tanh(layer(x))
        return self.last(x.flatten(1))


@pytest.mark.parametrize("of", [Normalised, Convolved])
def test_elementary_operators_make_the_same_step_for_other_providers(tmp_path: Path, of: type[nn.Module]) -> None:
    torch.manual_seed(3)
    module = of()
    for_cpu = export_step(module, IMAGES[:2], MOMENTUM)
    everywhere = elementary(for_cpu)
    onnx.checker.check_model(everywhere, full_check=True)
    operators = [{node.op_type for node in model.graph.node} for model in (for_cpu, everywhere)]
    assert ("BatchNormalization" in operators[0]) == (of is Normalised)
    assert not {"BatchNormalization", "Affine"} & operators[1]
    # No kernel is an image, turned around or otherwise made: each is a weight of the model.
    convolutions = [n for n in everywhere.graph.node if n.op_type in ("Conv", "ConvTranspose")]
    assert {n.input[1] for n in convolutions} <= {value.name for value in everywhere.graph.input}
    assert [n.input[1] for n in convolutions if n.op_type == "Conv"] == [
        f"{name}.weight" for name, layer in module.named_children() if type(layer) is nn.Conv2d
    ] + ["back.weight"] * (of is Convolved)
    found = []
    for name, model in (("cpu.onnx", for_cpu), ("everywhere.onnx", everywhere)):
        onnx.save(model, str(tmp_path / name))
        session = StepSession.of(str(tmp_path / name), 1)
        session.begin(weights_of(module), 0.1, drop=False)
        losses = [session.train(IMAGES.numpy(), LABELS) for _ in range(2)]
        found.append((losses, session.values()))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    for name, values in found[0][1].items():
        np.testing.assert_allclose(values, found[1][1][name], rtol=1e-3, atol=1e-5, err_msg=name)


W, DW, DECAYED = np.asarray([[1.0, -2.0]]), np.asarray([[0.5, 0.25]]), np.asarray([[0.7, -0.15]])
"""A weight, its gradient, and the gradient with a fifth of the weight."""
CONSTANTS: dict[str, Any] = {"betas": (0.5, 0.75), "eps": 0.5}


def adam_by_hand(w: Any, dw: Any) -> tuple[Any, list[Any]]:
    """The second step, at a rate of 0.1, from means of (1, 0) and of squares of (1, 4): the papers' algorithms."""
    mean, square = 0.5 * np.asarray([[1, 0]]) + 0.5 * dw, 0.75 * np.asarray([[1, 4]]) + 0.25 * dw**2
    return w - 0.1 * (mean / (1 - 0.5**2)) / (np.sqrt(square / (1 - 0.75**2)) + 0.5), [mean, square]


@pytest.mark.parametrize(
    ("optimizer", "after", "states"),
    [
        (Optimizer(), [[0.95, -2.025]], []),
        (Optimizer(weight_decay=0.2), [[0.93, -1.985]], []),
        (Optimizer(momentum=0.5), [[0.9, -2.025]], [[[1.0, 0.25]]]),
        (Optimizer(momentum=0.5, weight_decay=0.2), [[0.88, -1.985]], [[[1.2, -0.15]]]),
        (Optimizer(name="adam", **CONSTANTS), *adam_by_hand(W, DW)),
        (Optimizer(name="adam", weight_decay=0.2, **CONSTANTS), *adam_by_hand(W, DECAYED)),
        (Optimizer(name="adamw", weight_decay=0.2, **CONSTANTS), *adam_by_hand(0.98 * W, DW)),
    ],
)
@pytest.mark.parametrize("is_product", [False, True])
def test_an_update_is_what_the_papers_say(optimizer: Optimizer, after: Any, states: Any, is_product: bool) -> None:
    g = Graph()
    w, dw, rate, step_count = g.input("w", (1, 2)), g.input("dw", (1, 2)), g.input("rate", ()), g.input("step", ())
    gradient = g("Gemm", dw, g.constant(np.eye(2))) if is_product else dw
    before = [g.input(name, (1, 2)) for name in optimizer.states]
    new, kept = update(g, optimizer, w, gradient, before, rate, step_count)
    feed = {
        "w": W,
        "dw": DW,
        "rate": 0.1,
        "step": 2.0,
        **dict(zip(optimizer.states, ([[1, 0]], [[1, 4]]), strict=False)),
    }
    given = {value.name: np.asarray(feed[value.name], np.float32) for value in g.inputs}
    for ours, theirs in zip(computed(g, [new, *kept], given), [after, *states], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(("size", "max_norm", "factor"), [(1.0, 1.0, 0.2), (1e-6, 1e-6, 1 / 6), (1.0, 6.0, 1.0)])
def test_gradients_are_scaled_by_their_norm_and_a_millionth(size: float, max_norm: float, factor: float) -> None:
    """Of a 3-4-5 triangle."""
    g = Graph()
    gradients = [g.constant([3 * size]), g.constant(np.full((2, 2), 2 * size))]
    (found,) = computed(g, [clip_factor(g, max_norm, gradients)], {})
    assert found == pytest.approx(factor, rel=1e-5)


class Summed(nn.Module):
    """A weight that is the sum of a product of parameters and of two more, which all have the same gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (nn.Parameter(0.1 * torch.randn(5, 196)) for _ in range(2))
        self.left, self.right = nn.Parameter(torch.randn(5, 2)), nn.Parameter(0.1 * torch.randn(2, 196))

    def forward(self, x: torch.Tensor) -> Any:
        return nn.functional.linear(x.flatten(1), self.left @ self.right + self.one + self.other)


def test_the_decay_of_one_parameter_is_not_in_the_gradient_of_another(tmp_path: Path) -> None:
    torch.manual_seed(4)
    assert failed(proved(Summed(), tmp_path, Optimizer(momentum=0.9, weight_decay=0.5), 2)) == []


CLIPPED = Optimizer(momentum=0.9, max_norm=0.5)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize(
    "optimizer", [SGD, MOMENTUM, ADAM, ADAMW, CLIPPED], ids=["sgd", "momentum", "adam", "adamw", "clipped"]
)
def test_losses_parameters_statistics_and_states_agree_with_torchs_optimizers(
    tmp_path: Path, optimizer: Optimizer, steps: int
) -> None:
    facts = proved(small(), tmp_path, optimizer, steps)
    assert failed(facts) == []
    assert len(facts.losses) == steps
    what = [parity.what for parity in facts.parity]
    assert [any(word in each for each in what) for word in ("losses", "parameters", "buffers")] == [True] * 3
    assert any("states" in each for each in what) == bool(optimizer.states)
    assert all(parity.limit < 0.05 for parity in facts.parity), "a limit that a wrong gradient could pass"
    limits = [parity.limit for parity in facts.parity]
    assert limits[0] == 1e-5, "of losses"
    assert {2e-2, 2e-3} <= set(limits[1:]), "of the worst tensor and the median"


def test_a_norm_below_the_largest_is_left_as_it_is(tmp_path: Path) -> None:
    def after(optimizer: Optimizer) -> dict[str, Any]:
        session = exported(small(), tmp_path, optimizer)
        session.begin(weights_of(small()), 1.0, drop=False)
        session.train(IMAGES.numpy(), LABELS)
        return session.values()

    usual, clipped, loose = after(SGD), after(Optimizer(max_norm=0.5)), after(Optimizer(max_norm=1e4))
    before = weights_of(small())
    names = [name for name, _ in small().named_parameters()]
    norms = [math.sqrt(sum(float(np.square(v[n] - before[n]).sum()) for n in names)) for v in (usual, clipped, loose)]
    assert norms[0] > 0.6
    assert norms[1:] == pytest.approx([0.5, norms[0]], rel=1e-4)
    assert all(np.array_equal(usual[name], loose[name]) for name in names)


def test_clipping_reads_each_gradient_twice_and_writes_it_once() -> None:
    """As many bytes as the closed form says, but for the scalars."""
    network = ARCHITECTURES["lenet5"].network()
    module, image = models.build(ModelSpec(model="lenet5"))
    assert not isinstance(image, dict)
    model = export_step(module, torch.zeros(2, *image), Optimizer(max_norm=1.0))
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    nodes = [node for node in graph.node if node.name.startswith("clip/")]
    moved = [4 * math.prod(shapes[name]) for node in nodes for name in (*node.input, *node.output) if shapes.get(name)]
    assert sum(moved) == clipping_bytes(network)


def test_labels_are_smoothed_as_torch_does(tmp_path: Path) -> None:
    module = small()
    module.__dict__[models.LABEL_SMOOTHING] = 0.2
    facts = proved(module, tmp_path, SGD, 1)
    assert failed(facts) == []
    with torch.no_grad(), nothing_dropped():
        expected = nn.functional.cross_entropy(small()(IMAGES), torch.from_numpy(LABELS), label_smoothing=0.2)
    assert facts.losses[0] == pytest.approx(float(expected), rel=1e-5)


NOTE: list[tuple[str, int | None]] = [
    ("lenet5", 28),
    ("cnn1d", None),
    ("mlp", None),
    ("simple_cnn", 28),
    ("vgg_style", 32),
]
NOTE += [(f"resnet_cifar{norm}", 16) for norm in ("", "_gn", "_in")]
FAMILIES: list[tuple[str, int | None]] = [
    ("alexnet", 96),
    ("vgg11_bn", 48),
    ("resnet18", 64),
    ("resnext50_32x4d", 64),
    ("densenet121", 64),
    ("squeezenet1_1", 64),
    ("shufflenet_v2_x0_5", 64),
    ("regnet_y_400mf", 64),
    ("convnext_tiny", 64),
    ("mobilenet_v2", 64),
    ("mobilenet_v3_small", 64),
    ("mnasnet0_5", 64),
    ("efficientnet_b0", 64),
    ("googlenet", 64),
    ("inception_v3", 299),
]


GENTLE = 1e-7
"""A learning rate at which five steps of a deep network do not yet amplify float32's rounding beyond all measure."""


@pytest.mark.slow  # tests/test_step_cover.py has small members of the families
@pytest.mark.parametrize(("name", "size"), NOTE + FAMILIES, ids=[name for name, _ in NOTE + FAMILIES])
def test_every_family_agrees_with_torch(name: str, size: int | None, tmp_path: Path) -> None:
    one = name in ("cnn1d",)
    spec = ModelSpec(model=name, image_size=None if size is None else (size,) if one else (size, size), classes=10)
    module, image = models.build(spec)
    assert isinstance(image, tuple)
    golden.randomise_degenerate(module, image, 0)
    count = 8 if image[-1] < 200 else 4
    draws, labels = [golden.images(count, image, seed) for seed in range(3)], labels_for(count, 10, 0)
    session = exported(module, tmp_path, MOMENTUM, draws[0])
    for steps, rate in ((1, TIMED_LEARNING_RATE), (5, GENTLE)):
        proofs = (step.prove(module, session, x.numpy(), labels, MOMENTUM, steps, rate) for x in draws)
        assert failed(step.first_that_passes(proofs)) == []


def test_training_leaves_the_weights_that_it_began_with_alone(tmp_path: Path) -> None:
    module = small()
    session = exported(module, tmp_path, SGD)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    session.begin(weights_of(module), 0.1, drop=False)
    trained = step.train(session, IMAGES.numpy(), LABELS, 2)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not np.allclose(trained.values["conv1.weight"], before["conv1.weight"].numpy())


@pytest.mark.parametrize(
    ("rule", "first"),
    [("aten.relu.default", "conv2."), ("aten.linear.default", "last."), ("aten.conv2d.default", "conv2.")],
)
def test_a_wrong_gradient_fails_and_the_first_going_backwards_is_named(
    rule: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = gradients.RULES[rule]

    def wrong(g: Any, shapes: Any, *args: Any, **options: Any) -> OpResult:
        right = original(g, shapes, *args, **options)
        wrong = [(x, lambda *dys, vjp=vjp: g.mul(vjp(*dys), 1.05)) for x, vjp in right.vjps]
        return replace(right, vjps=wrong, takes_scaled=False)

    monkeypatch.setattr(training, "RULES", {**gradients.RULES, rule: wrong})
    reasons = failed(proved(small(), tmp_path, MOMENTUM, 1))
    assert any(f"the first wrong gradient going backwards, {first}" in reason for reason in reasons), reasons


def test_of_proofs_on_several_images_the_first_that_passes_counts_and_a_wrong_step_fails_all(tmp_path: Path) -> None:
    module = small()
    batches = [golden.images(6, (1, 14, 14), seed).numpy() for seed in range(3)]

    def proofs(optimizer: Optimizer) -> list[StepFacts]:
        session = exported(module, tmp_path, optimizer)
        return [step.prove(module, session, x, LABELS, MOMENTUM, 2) for x in batches]

    right, wrong = proofs(MOMENTUM), proofs(Optimizer(momentum=0.8, weight_decay=1e-4))
    assert all(failed(each) != [] for each in wrong)
    assert step.first_that_passes(iter(wrong)) == wrong[0]
    assert step.first_that_passes(iter([wrong[1], right[1], right[2]])) == right[1]


class Cancelling(nn.Module):
    """The gradient of `scale` is the difference of two that are ten million times as large: none in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.scale = nn.Linear(196, 5), nn.Parameter(torch.zeros(196))
        large = 1e7 + torch.randint(-9, 10, (196,), generator=torch.Generator().manual_seed(0))
        self.large, self.small = nn.Buffer(large), nn.Buffer(large - 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = x.flatten(1)
        return self.last(x + self.scale * self.large * x - self.scale * self.small * x)


def test_where_torch_itself_is_too_far_off_nothing_is_shown_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "MAX_LIMIT", 0.05)  # far below the error, which is another on each processor
    torch.manual_seed(0)
    facts = proved(Cancelling(), tmp_path, SGD, 1)
    assert facts.error is not None
    assert re.match(
        r"nothing shows whether it is right \(ort, parameters after 1 step, worst scale\): PyTorch's own step in "
        r"float32 differs from float64's by [\d.]+% of its change",
        facts.error,
    ), facts.error
    assert all("worst scale" in reason for reason in failed(facts))


def test_a_limit_that_a_step_without_the_gradient_would_pass_is_none() -> None:
    def deviation(own: float, torchs: float) -> step.Deviation:
        return step.Deviation("w", own, torchs, step.MIN_WORST_LIMIT)

    bound = step.MAX_LIMIT
    assert deviation(bound, 0.5).limit == bound < 1
    assert not deviation(bound, 0.5).is_unclear, "an error within the bound is shown to be small"
    assert deviation(1.0, 0.5).is_unclear
    assert deviation(math.inf, math.inf).is_unclear
    assert [deviation(0.0, torchs).limit for torchs in (1e-4, 0.002, 0.003)] == [0.02, 0.02, pytest.approx(0.03)]
    assert [deviation(own, 0.05).is_unclear for own in (0.4, 0.5, 0.51)] == [False, True, False]
    assert [deviation(own, 0.001).is_wrong for own in (0.02, 0.021)] == [False, True]
    shown = [deviation(own, 0.001).parity("x") for own in (0.5, math.inf)]
    assert [(each.what, each.error, each.limit) for each in shown] == [("x, w", 0.5, 0.02), ("x, w", None, 0.02)]
    assert deviation(1.0, 0.05).is_wrong
    assert not deviation(1.0, 0.05).is_unclear


def test_of_a_groups_tensors_the_worst_and_the_median_are_judged_each_by_torchs_own_error() -> None:
    def judged(*errors: tuple[float, float]) -> tuple[list[Any], list[str]]:
        found, unclear = step._judged("x", dict(zip("abc", errors, strict=False)))
        return [(each.what, each.error, pytest.approx(each.limit)) for each in found], unclear

    assert judged((0.01, 0.001), (0.03, 0.001), (0.03, 0.01)) == (
        [("x, worst b", 0.03, 0.02), ("x, median of 3", 0.03, 0.01)],
        [],
    )
    assert judged((0.001, 0.0), (0.004, 0.0))[0] == [("x, worst b", 0.004, 0.02), ("x, median of 2", 0.0025, 0.002)]
    found, unclear = judged((0.03, 0.001), (2.0, 0.5), (2.0, 0.5))
    assert found == [("x, worst a", 0.03, 0.02), ("x, median of 3", 2.0, 0.4)], "one that is wrong, not one that may be"
    assert len(unclear) == 1
    assert unclear[0].startswith("nothing shows whether it is right (x, median of 3)")


class Faint(nn.Module):
    """Two parameters that change by next to nothing, one of them large."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(196, 5)
        self.large, self.zero = nn.Parameter(torch.full((196,), 1e3)), nn.Parameter(torch.zeros(196))
        self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(x.flatten(1) * (1 + 1e-12 * self.large + 1e-12 * self.zero))


class Moved:
    """A session some of whose values are away from what it computed, each tensor by a norm."""

    def __init__(self, session: StepSession, by: dict[str, float]) -> None:
        self.session, self.by = session, by
        self.begin, self.train = session.begin, session.train

    def values(self) -> dict[str, Any]:
        values = {name: value.astype(np.float64) for name, value in self.session.values().items()}
        return {name: value + self.by.get(name, 0.0) / math.sqrt(value.size) for name, value in values.items()}


def test_an_error_is_a_share_of_the_change_and_at_least_of_the_largest_change_and_of_the_value_itself(
    tmp_path: Path,
) -> None:
    """A millionth of the largest change, and float32's resolution of the value."""
    torch.manual_seed(0)
    module = Faint()
    session = exported(module, tmp_path, SGD)
    session.begin(weights_of(module), TIMED_LEARNING_RATE, drop=False)
    after = step.train(session, IMAGES.numpy(), LABELS, 1).values
    changes = {name: float(np.linalg.norm(after[name] - value)) for name, value in weights_of(module).items()}
    assert max(changes, key=lambda name: changes[name]) == "last.weight"
    scales = {
        "last.bias": changes["last.bias"],
        "zero": 1e-6 * changes["last.weight"],
        "large": 2.0**-20 * 1e3 * 14,
        "unused": 1e-6 * changes["last.weight"],
    }
    for name, scale in scales.items():
        moved: Any = Moved(session, {name: 0.03 * scale})
        facts = step.prove(module, moved, IMAGES.numpy(), LABELS, SGD)
        wrong: list[Any] = [(each.what, each.error) for each in facts.parity if not each.passed]
        assert wrong == [
            (f"ort, parameters after 1 step, worst {name}", pytest.approx(0.03, rel=0.02)),
            (f"ort, the first wrong gradient going backwards, {name}", pytest.approx(0.03, rel=0.02)),
        ]
        assert facts.error is None
    assert failed(step.prove(module, session, IMAGES.numpy(), LABELS, SGD)) == []


def test_further_steps_add_losses_and_leave_the_values_of_the_first_ones() -> None:
    class Counts:
        """Each step's loss is its number, and so is the only value."""

        def __init__(self) -> None:
            self.value = np.zeros(1)

        def train(self, *_: Any) -> float:
            self.value += 1
            return float(self.value[0])

        def values(self) -> dict[str, Any]:
            return {"w": self.value}

    counts: Any = Counts()
    found = step.train(counts, IMAGES.numpy(), LABELS, 2, 3)
    assert (found.losses, found.values["w"].tolist()) == ([1, 2, 3, 4, 5], [2])


def test_a_first_loss_or_a_value_that_is_no_number_is_refused_by_name() -> None:
    good, bad = np.ones(2), np.asarray([1.0, np.nan])
    step._check_finite(step.Trained([1.0, math.inf], {"a": good}))
    for trained, said in (
        (step.Trained([math.nan], {"a": good}), "the loss of PyTorch's own step"),
        (step.Trained([1.0], {"a": good, "b": bad}), "b is not a number"),
    ):
        with pytest.raises(CannotExport, match=said):
            step._check_finite(trained)


def test_bits_are_the_same_where_losses_and_all_values_are() -> None:
    nan = np.asarray([1.0, np.nan])
    one = step.Trained([1.0, 2.0], {"a": nan, "b": np.ones(2)})
    assert step._same_bits(one, step.Trained([1.0, 2.0], {"a": nan.copy(), "b": np.ones(2)}))
    assert not step._same_bits(one, step.Trained([1.0, 2.5], {"a": nan, "b": np.ones(2)}))
    assert not step._same_bits(one, step.Trained([1.0, 2.0], {"a": nan, "b": np.zeros(2)}))


def test_a_proof_that_shows_an_error_is_told_before_those_that_show_nothing() -> None:
    wrong = Parity(what="w", error=1.0, limit=0.2)
    nothing, error, right = StepFacts(error="unclear", parity=[wrong]), StepFacts(parity=[wrong]), StepFacts()
    assert step.first_that_passes([nothing, error]) == error
    assert step.first_that_passes([nothing, nothing]).error == "unclear"
    assert step.first_that_passes([nothing, right]) == right


def test_losses_that_rounding_moves_as_much_as_the_step_are_not_compared() -> None:
    """Nor do they widen the limit of those before them."""
    double = [2.0, 1.8, 1.7]
    assert step._comparable([2.0, 1.8, 1.7], double) == (3, 1e-5)
    assert step._comparable([2.0, 1.8, 1.69], double) == (2, 1e-5)
    assert step._comparable([2.0, math.nan, 1.7], double) == (1, 1e-5)
    assert step._comparable([2.0, 1.802, 1.7], double) == pytest.approx((3, 0.01))
    assert step._comparable([2.0, 1.808, 1.7], double) == pytest.approx((2, 0.04)), "less than half of the first change"
    assert step._comparable([2.0, 1.815, 1.7], double) == (1, 1e-5)
    assert step._comparable([1.9, 1.8, 1.7], double) == (3, 1e-2), "outputs themselves have a bound of their own"


def test_weights_are_copied_outside_the_modes_in_which_a_copy_converts_every_parameter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depths: list[int] = []

    def seen(module: nn.Module) -> nn.Module:
        depths.append(torch._C._len_torch_function_stack())
        return copied(module)

    monkeypatch.setattr(step, "copied", seen)
    proved(small(), tmp_path, SGD, 1)
    assert depths == [0, 0]


@pytest.mark.parametrize("optimizer", [MOMENTUM, ADAM], ids=["momentum", "adam"])
def test_a_step_in_place_gives_the_same_bits(optimizer: Optimizer, tmp_path: Path) -> None:
    module = small()
    assert proved(module, tmp_path, optimizer, 2).in_place
    session = exported(module, tmp_path, optimizer)

    def after(in_place: bool) -> tuple[list[float], dict[str, Any]]:
        session.begin(weights_of(module), 0.1, drop=False, in_place=in_place)
        return [session.train(IMAGES.numpy(), LABELS) for _ in range(4)], session.values()

    (losses, values), (in_place, others) = after(False), after(True)
    assert losses == in_place
    assert len(set(losses)) == 4
    assert all(np.array_equal(values[name], others[name]) for name in values)


def test_a_step_that_reads_a_weight_after_its_update_is_not_made_in_place(tmp_path: Path) -> None:
    module = small()
    model = export_step(module, IMAGES[:2], MOMENTUM)
    (last,) = [node for node in model.graph.node if "loss" in node.output]
    last.output[:] = ["first"]
    model.graph.node.append(onnx.helper.make_node("Sub", ["last.bias.new", "last.bias"], ["change"]))
    model.graph.node.append(onnx.helper.make_node("ReduceL2", ["change"], ["late"], keepdims=0))
    model.graph.node.append(onnx.helper.make_node("Add", ["first", "late"], ["loss"]))
    file = str(tmp_path / "late.onnx")
    onnx.save(model, file)
    session = StepSession.of(file, 1)
    assert not step.prove(module, session, IMAGES.numpy(), LABELS, MOMENTUM, 2).in_place


def test_a_wrong_update_fails(tmp_path: Path) -> None:
    module = small()
    session = exported(module, tmp_path, Optimizer(momentum=0.8, weight_decay=1e-4))
    assert failed(step.prove(module, session, IMAGES.numpy(), LABELS, MOMENTUM, 2)) != []
    with_losses = step.prove(module, session, IMAGES.numpy(), LABELS, MOMENTUM, 1, 0.1, further=2)
    assert any("losses" in reason for reason in failed(with_losses))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_is_dynamic(batch: int, tmp_path: Path) -> None:
    module = small()
    session = exported(module, tmp_path, MOMENTUM)
    x, y = IMAGES[:batch].numpy(), LABELS[:batch]
    assert failed(step.prove(module, session, x, y, MOMENTUM)) == []


def test_dropout_really_drops_and_can_be_set_to_zero(tmp_path: Path) -> None:
    file, module = str(tmp_path / "step.onnx"), small(0.25)
    onnx.save(export_step(module, IMAGES[:2], SGD), file)
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    losses: dict[bool, set[float]] = {}
    for drop in (True, False):
        session = StepSession.of(file, 1)
        session.begin(weights, 0.0, drop=drop)
        session.bind(IMAGES.numpy(), LABELS)
        losses[drop] = set()
        for _ in range(5):
            session.step()
            losses[drop].add(session.loss)
    assert len(losses[False]) == 1
    assert len(losses[True]) == 5


def test_dropout_keeps_the_mean_and_drops_at_its_rate() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(2, 20_000))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(nn.functional.dropout(x.flatten(1), 0.2, self.training), self.w)

    model = export_step(Dropped(), torch.ones(2, 1, 20_000), SGD)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    one = np.ones((), np.float32)
    feed = {
        "images": np.ones((1, 1, 20_000), np.float32),
        "labels": np.zeros(1, np.int64),
        "learning_rate": one,
        "drop": one,
        "draw": np.zeros((), np.int64),
        "w": np.ones((2, 20_000), np.float32),
    }
    (after,) = session.run(["w.new"], feed)
    moved = np.abs(after - 1).astype(np.float64)
    assert abs((moved[0] == 0).mean() - 0.2) < 0.015  # five standard deviations
    assert set(np.round(moved[moved > 0] / 0.5, 4)) == {1.25}


def test_stochastic_depth_drops_whole_branches(tmp_path: Path) -> None:
    from torchvision.ops import StochasticDepth

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depth, self.w = StochasticDepth(0.5, "row"), nn.Parameter(torch.zeros(2, 128))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.depth(x).flatten(1), self.w)

    images = torch.cat([torch.eye(64), torch.eye(64)], 1).reshape(64, 32, 2, 2)  # each has two values of its own
    session = exported(module := Branch(), tmp_path, SGD, images)
    session.begin(weights_of(module), 1.0, drop=True)
    session.train(images.numpy(), np.zeros(64, np.int64))
    kept = session.values()["w"][0].reshape(2, 64) != 0
    assert (kept[0] == kept[1]).all()
    assert 16 < kept[0].sum() < 48


def test_the_graph_says_what_its_inputs_and_outputs_are() -> None:
    model = export_step(small(), IMAGES[:2], ADAM)
    said = json.loads({entry.key: entry.value for entry in model.metadata_props}[METADATA])
    assert {value.name for value in model.graph.input} == set(said["inputs"])
    assert {value.name for value in model.graph.output} == set(said["outputs"])
    assert said["inputs"]["conv1.weight"] == "parameter"
    assert said["inputs"]["norm.running_mean"] == "buffer"
    assert said["next"]["conv1.weight.exp_avg"] == "conv1.weight.exp_avg.new"
    assert said["optimizer"]["name"] == "adam"
    assert [value.name for value in model.graph.input if "dr" in value.name] == ["drop", "draw"]
    dims = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    assert dims["images"][0].dim_param == dims["labels"][0].dim_param == "batch"
    assert {node.domain for node in model.graph.node} == {""}, "only standard operators"


class Scaled(Small):
    """By a buffer that stays; its head has two names, and its first layer is frozen."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.conv1.requires_grad_(False)
        self.head, self.order = self.last, nn.Buffer(torch.ones(()))

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x) * self.order


def test_what_stays_is_told_from_what_changes_and_a_further_name_from_the_first() -> None:
    module = Scaled()
    model = export_step(module, IMAGES[:2], MOMENTUM)
    said = json.loads({entry.key: entry.value for entry in model.metadata_props}[METADATA])
    roles = said["inputs"]
    assert said["same"] == {"head.weight": "last.weight", "head.bias": "last.bias"}
    assert (roles["conv1.weight"], roles["last.weight"]) == ("parameter that stays as it is", "parameter")
    assert (roles["order"], roles["norm.running_mean"]) == ("buffer that stays as it is", "buffer")
    assert roles["images"] == "images"
    assert roles["last.bias.momentum_buffer"].startswith("optimizer's state of last.bias")
    assert not {"conv1.weight.momentum_buffer", "head.weight", "order.new", "drop"} & roles.keys()
    assert {name for name in said["next"] if name.startswith(("conv", "last"))} == {
        f"{name}{state}"
        for name in ("conv2.weight", "conv2.bias", "last.weight", "last.bias")
        for state in ("", ".momentum_buffer")
    }
    scopes = {node.name.rpartition("/")[0] for node in model.graph.node}
    assert scopes >= {"conv1", "conv2/gradient", "conv2.weight/update", "norm/gradient", "pool/gradient"}


@pytest.mark.parametrize("of", [small, Normalised, Convolved])
def test_a_step_computes_nothing_that_nothing_reads(of: Any) -> None:
    graph = export_step(of(), IMAGES[:2], MOMENTUM).graph
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert [node.name for node in graph.node if not read & set(node.output)] == []
    assert {constant.name for constant in graph.initializer} <= read


def test_no_scalar_meets_a_tensor_that_ends_with_axes_of_one() -> None:
    """ONNX Runtime goes through those value by value, a hundred times slower."""

    class Pointwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 4, 1), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> Any:
            return self.last(self.conv(x).mean((2, 3)))

    for optimizer in (MOMENTUM, ADAM):
        model = export_step(Pointwise(), IMAGES[:2], optimizer)
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.output, *graph.value_info)
        } | {constant.name: tuple(constant.dims) for constant in graph.initializer}
        elementwise = [
            {shapes[name] for name in node.input}
            for node in graph.node
            if node.op_type in ("Add", "Sub", "Mul", "Div") and node.name.startswith("conv.weight/update")
        ]
        assert {(1, 1, 1, 1), (4, 1, 1, 1)} in elementwise
        assert not any(() in met and (4, 1, 1, 1) in met for met in elementwise)


def test_exporting_leaves_activations_as_they_write() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(196, 5), nn.ReLU6(inplace=True))
    model = export_step(module, IMAGES[:2], SGD)
    assert "Clip" in {node.op_type for node in model.graph.node}
    inference.trace(module, IMAGES[:2])
    assert module[2].inplace


def test_what_cannot_be_exported_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = InverseErf(), nn.Linear(14, 5)

        def forward(self, x: torch.Tensor) -> Any:
            return self.last(self.inner(x).mean((1, 2)))

    with pytest.raises(CannotExport, match=r"no gradient rule for aten\.erfinv\.default in inner"):
        export_step(Odd(), IMAGES[:2], SGD)


def test_a_parameter_that_the_loss_does_not_depend_on_stays(tmp_path: Path) -> None:
    module = small()
    module.unused = nn.Parameter(torch.ones(3))
    session = exported(module, tmp_path, SGD)
    session.begin(weights_of(module), 0.1, drop=False)
    trained = step.train(session, IMAGES.numpy(), LABELS, 2)
    assert trained.values["unused"].tolist() == [1.0, 1.0, 1.0]


def test_auxiliary_heads_are_in_the_loss(tmp_path: Path) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aux = nn.Linear(196, 5), nn.Linear(196, 5)

        def forward(self, x: torch.Tensor) -> Any:
            x = x.flatten(1)
            return (self.main(x), self.aux(x)) if self.training else self.main(x)

    assert failed(proved(Heads(), tmp_path, MOMENTUM, 2)) == []


def test_what_was_bound_lives_as_long_as_the_binding(tmp_path: Path) -> None:
    file, module = str(tmp_path / "step.onnx"), small(0.0)
    onnx.save(export_step(module, IMAGES[:2], SGD), file)
    session = StepSession.of(file, 1)
    session.begin({name: tensor.numpy() for name, tensor in module.state_dict().items()}, 0.0, drop=False)
    given = IMAGES.numpy().copy(), LABELS.copy()
    gone = [weakref.ref(array) for array in given]
    session.bind(*given)
    del given
    assert all(reference() is not None for reference in gone)
