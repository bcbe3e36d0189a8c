"""A module read as it runs: the same layers and figures as the closed form, and nothing that runs is lost."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnbench.analysis.replay import Reading, replay
from cnnbench.networks import training
from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.records.messages import Traced
from cnnbench.suite.case import ModelSpec
from cnnbench.worker import models
from cnnbench.worker.counters.module import backward
from cnnbench.worker.counters.trace import trace


def read(module: nn.Module, x: Tensor) -> Reading:
    """As the command does: through the message that crosses the process boundary."""
    return replay("own", Traced.model_validate_json(trace(module, x).model_dump_json()))


@pytest.mark.parametrize(
    "model",
    [
        "lenet5",
        "cnn1d",
        "resnet_cifar_gn",
        "resnet_cifar_in",
        "resnext50_32x4d",
        "densenet121",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "mobilenet_v3_small",
        "efficientnet_b0",
        "regnet_y_400mf",
        "convnext_tiny",
        "deeplabv3_mobilenet_v3_large",
        "lraspp_mobilenet_v3_large",
    ],
)
def test_a_module_that_is_read_has_the_figures_of_its_closed_form(model: str) -> None:
    module, image = models.build(ModelSpec(model=model, image_size=(64,) if model == "cnn1d" else (64, 96)))
    assert isinstance(image, tuple)
    reading = read(module, torch.zeros(1, *image))
    formula = ARCHITECTURES[model].network(image[1:])
    assert reading.left_out == []
    for figure in ("params", "macs", "elementwise", "activation_bytes"):
        assert getattr(reading.network, figure) == getattr(formula, figure), figure
    assert reading.network.moved_bytes(3) == formula.moved_bytes(3)
    by_name = {layer.name: (layer.params, layer.macs) for layer in reading.network.layers if layer.params}
    assert by_name == {layer.name: (layer.params, layer.macs) for layer in formula.layers if layer.params}


class Odd(nn.Module):
    """Has its own parameter, a functional call, a product of activations, and work that no formula is known for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.shift = nn.Parameter(torch.zeros(7))
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 5)."""
        x = torch.relu(self.conv(x))
        tokens = x.flatten(2)
        x = (tokens @ tokens.transpose(1, 2)).cumsum(2).mean(2)
        logits: Tensor = self.fc(x)
        return logits + self.shift[:5]


def test_what_no_formula_is_known_for_is_listed_and_never_silently_zero() -> None:
    reading = read(Odd(), torch.zeros(1, 3, 8, 8))
    assert reading.left_out == [
        "1 x cumsum (first in cumsum)",
        "7 parameters of the module itself, which no counted layer has",
    ]
    assert reading.network.macs == 6 * 6 * 4 * 27 + 4 * 36 * 4 + 4 * 5
    assert {layer.name for layer in reading.network.layers} >= {"conv", "relu", "matmul", "fc"}


def test_attention_is_read_as_the_products_that_it_is() -> None:
    attention = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    network = read(attention, torch.zeros(1, 10, 16)).network
    projections = 10 * 16 * 16 * 4 + 2 * 10 * 16 * 32
    assert network.macs == projections + 2 * 10 * 10 * 16


def test_a_module_used_twice_works_twice_and_its_parameters_count_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(self.fc(x.flatten(1)))
            return logits

    reading = read(Twice(), torch.zeros(1, 1, 2, 2))
    assert reading.network.macs == 2 * 16
    assert reading.network.params == reading.network.trained_params == 20
    assert training.work(reading.network).weight_gradient == 2 * 16
    assert reading.left_out == ["20 parameters of fc.linear, which are those of a layer before it"]


class FrozenBody(nn.Module):
    """Of 4 x 4 pixels: a body that is computed without gradients, or whose parameters ask for none, and a head."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.body, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)
        if how in ("asks for none", "bias alone"):
            self.body.weight.requires_grad_(False)
            self.body.bias.requires_grad_(how == "bias alone")  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Any:
        """Logits (N, 5)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.how != "no_grad"):
            x = self.body(x)
        logits: Tensor = self.head(torch.tanh(x.detach() if "detach" in self.how else x).mean((2, 3)))
        return (logits, x) if self.how == "put out and detached" else logits


@pytest.mark.parametrize("how", ["asks for none", "no_grad", "detach", "bias alone", "put out and detached", "nothing"])
def test_training_costs_what_its_gradients_cost(how: str) -> None:
    module = FrozenBody(how)
    network = read(module, torch.zeros(1, 3, 4, 4)).network
    work = training.work(network)
    backwards = work.input_gradient - work.first_input_gradient + work.weight_gradient
    assert backwards == sum(macs for _, macs in backward(module, torch.zeros(1, 3, 4, 4)).values())
    assert work.weight_gradient == 20 + (192 if how in ("nothing", "put out and detached") else 0)
    assert network.trained_params == 25 + {"nothing": 16, "put out and detached": 16, "bias alone": 4}.get(how, 0)
    assert network.params == 41
