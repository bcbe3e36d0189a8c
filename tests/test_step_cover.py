"""Whole training steps of small members of the families, which together need every gradient rule.

The catalogue's own members take minutes each: `pytest -m slow tests/test_training_step.py` proves those.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn
from torchvision.models import convnext, densenet, efficientnet, mobilenetv2, mobilenetv3, regnet, resnet, shufflenetv2

from cnnbench.networks.layers import Shape
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.optimizer import TIMED_LEARNING_RATE
from cnnbench.worker import models
from cnnbench.worker.export.training import prove as step
from cnnbench.worker.export.training import rules as gradients
from cnnbench.worker.export.training import step as training
from cnnbench.worker.export.training.step import export_step
from cnnbench.worker.reference import inputs
from cnnbench.worker.reference.parity import labels_for
from cnnbench.worker.runtimes.ort_training import StepSession
from tests.test_training_step import GENTLE, MOMENTUM, failed

pytestmark = pytest.mark.xdist_group("step cover")  # they share exports

IMAGES, CLASSES = 6, 10


class Rest(nn.Module):
    """What no network of the catalogue needs, and a user's own may."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding="same")
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.conv(x))
        y = (y[:, 1:5] - y[:, :4].mean((2, 3), keepdim=True)) / 2.0
        logits: torch.Tensor = self.fc((y / (1.5 + torch.sigmoid(y))).mean((2, 3)))
        return logits


def _mobilenet_v3() -> nn.Module:
    row = partial(mobilenetv3.InvertedResidualConfig, width_mult=1.0, dilation=1)
    rows = [
        row(16, 3, 16, 16, use_se=True, activation="RE", stride=2),
        row(16, 5, 32, 16, use_se=True, activation="HS", stride=1),
    ]
    module: nn.Module = mobilenetv3.MobileNetV3(rows, 64, CLASSES)
    return module


def _efficientnet() -> nn.Module:
    row = partial(efficientnet.MBConvConfig, width_mult=1.0, depth_mult=1.0)
    module: nn.Module = efficientnet.EfficientNet([row(1, 3, 1, 16, 16, 1), row(6, 5, 2, 16, 24, 2)], 0.2, 0.2, CLASSES)
    return module


def _regnet() -> nn.Module:
    settings = regnet.BlockParams.from_init_params(4, 16, 16.0, 2.5, 8, se_ratio=0.25)
    module: nn.Module = regnet.RegNet(settings, CLASSES)
    return module


def _convnext() -> nn.Module:
    rows = [convnext.CNBlockConfig(16, 32, 1), convnext.CNBlockConfig(32, None, 2)]
    module: nn.Module = convnext.ConvNeXt(rows, 0.2, num_classes=CLASSES)
    return module


def _of_catalogue(name: str, size: Shape) -> nn.Module:
    return models.build(ModelSpec(model=name, image_size=size, classes=CLASSES))[0]


MEMBERS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "lenet5": (partial(_of_catalogue, "lenet5", (28, 28)), (1, 28, 28)),
    "cnn1d": (partial(_of_catalogue, "cnn1d", (64,)), (1, 64)),
    "squeezenet1_1": (partial(_of_catalogue, "squeezenet1_1", (48, 48)), (3, 48, 48)),
    "resnet_cifar_gn": (partial(_of_catalogue, "resnet_cifar_gn", (8, 8)), (3, 8, 8)),
    "resnet_cifar_in": (partial(_of_catalogue, "resnet_cifar_in", (8, 8)), (3, 8, 8)),
    "resnet": (lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 0, 0], CLASSES), (3, 32, 32)),
    "resnext": (
        lambda: resnet.ResNet(resnet.Bottleneck, [1, 1, 0, 0], CLASSES, groups=4, width_per_group=4),
        (3, 32, 32),
    ),
    "densenet": (lambda: densenet.DenseNet(8, (2, 2), 16, num_classes=CLASSES), (3, 48, 48)),
    "shufflenet_v2": (
        lambda: shufflenetv2.ShuffleNetV2([2, 1, 1], [24, 16, 32, 64, 64], CLASSES),
        (3, 64, 64),
    ),
    "mobilenet_v2": (
        lambda: mobilenetv2.MobileNetV2(CLASSES, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2]]),
        (3, 32, 32),
    ),
    "mobilenet_v3": (_mobilenet_v3, (3, 32, 32)),
    "efficientnet": (_efficientnet, (3, 32, 32)),
    "regnet": (_regnet, (3, 64, 64)),
    "convnext": (_convnext, (3, 32, 32)),
    "rest": (Rest, (3, 12, 10)),
}
"""By name: what builds it, and the shape of its images."""


@dataclass(frozen=True)
class Exported:
    """A member's exported step."""

    module: nn.Module
    image: Shape
    graph: onnx.ModelProto
    rules: frozenset[Any]
    """That it needed."""


@cache
def export(name: str) -> Exported:
    torch.manual_seed(1)
    build, image = MEMBERS[name]
    module, used = build(), set()
    inputs.randomise_degenerate(module, image, 0)

    def noted(rule: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            used.add(rule)
            return rule(*args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "RULES", {name: noted(rule) for name, rule in gradients.RULES.items()})
        graph = export_step(module, inputs.images(2, image, 0), MOMENTUM)
    return Exported(module, image, graph, frozenset(used))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_small_member_agrees_with_torch(name: str, tmp_path: Path) -> None:
    member, labels = export(name), labels_for(IMAGES, CLASSES, 0)
    onnx.save(member.graph, str(tmp_path / "step.onnx"))
    session = StepSession.of(str(tmp_path / "step.onnx"), torch.get_num_threads())
    for steps, rate in ((1, TIMED_LEARNING_RATE), (5, GENTLE)):
        draws = (inputs.images(IMAGES, member.image, seed).numpy() for seed in range(3))
        proofs = (step.prove(member.module, session, x, labels, MOMENTUM, steps, rate) for x in draws)
        assert failed(step.first_that_passes(proofs)) == []


CLASSIC = (
    "_native_batch_norm_legit_functional.default view.default adaptive_avg_pool2d.default add.Tensor alias.default "
    "avg_pool2d.default cat.default conv2d.default cross_entropy_loss.default div.Tensor gelu.default "
    "group_norm.default hardsigmoid.default hardswish.default hardtanh.default instance_norm.default "
    "layer_norm.default linear.default max_pool2d.default mean.dim mul.Tensor native_dropout.default new_ones.default "
    "permute.default relu.default sigmoid.default silu.default slice.Tensor split.Tensor stack.default sub.Tensor "
    "sum.default tanh.default transpose.int"
)
"""Operators of the families' layers; tests/test_random_steps.py has steps of the others."""


def test_every_gradient_rule_stands_in_one_of_them() -> None:
    """A rule that fails this is proved in no whole step: add the smallest module that needs it."""
    classic = {gradients.RULES[f"aten.{name}"] for name in CLASSIC.split()}
    assert classic - {rule for name in MEMBERS for rule in export(name).rules} == set()
