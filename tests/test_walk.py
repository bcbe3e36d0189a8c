"""A module read as it runs: the same layers and figures as the closed form, and nothing that runs is lost."""

import pytest
import torch
from torch import Tensor, nn

from cnnbench.analysis.replay import Reading, replay
from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.records.messages import Traced
from cnnbench.suite.case import ModelSpec
from cnnbench.worker import models
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


def test_a_module_used_twice_counts_twice_and_its_parameters_show_up_as_a_difference() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(self.fc(x.flatten(1)))
            return logits

    reading = read(Twice(), torch.zeros(1, 1, 2, 2))
    assert reading.network.macs == 2 * 16
    assert reading.left_out == ["fc.linear: its 20 parameters are those of another layer, counted again"]
