"""Steps of small networks put together at random from operators of all kinds, against PyTorch in float64."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from cnnbench.worker.export.training import prove as proof
from cnnbench.worker.export.training.step import export_step
from cnnbench.worker.reference import inputs
from cnnbench.worker.reference.parity import labels_for
from cnnbench.worker.runtimes.ort_training import StepSession
from tests.test_training_step import MOMENTUM, failed

CHANNELS, SIDE, COUNT, CLASSES = 4, 6, 8, 5


class Made(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.function(x)
        return found


class Attention(nn.Module):
    """Of pixels, by torch's own function or by its module."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.inner = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        if self.whole:
            found = self.inner(tokens, tokens, tokens, need_weights=False)[0]
        else:
            q, k, v = self.qkv(tokens).chunk(3, -1)
            found = F.scaled_dot_product_attention(q, k, v)
        moved: torch.Tensor = x + found.transpose(1, 2).reshape(x.shape)
        return moved


class Standardised(nn.Conv2d):
    """Its weight is normalised as a batch of one by batch normalisation (Brock et al. 2021), on twice as many maps."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = F.batch_norm(self.weight.reshape(1, CHANNELS, -1), None, None, training=True)
        halves = F.batch_norm(x.reshape(-1, CHANNELS // 2, *x.shape[2:]), None, None, training=True)
        return F.conv2d(halves.reshape(x.shape), flat.reshape_as(self.weight), self.bias, padding=1)


class Written(nn.Module):
    """Puts values together by writing into a tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(x)
        y[:, :2] = x[:, 2:]
        y[:, 2] = x[:, 0]
        y[:, 3, 1:] += 2 * x[:, 1, :-1]
        return y


def fills(x: torch.Tensor) -> torch.Tensor:
    """Values by comparisons: where, masked_fill, max, min."""
    y = torch.where(x > 0.2, x, -0.3 * x).masked_fill(x < -1, 0.1)
    return torch.maximum(y, x.amin(1, keepdim=True)) + torch.minimum(x, y.max(1, keepdim=True).values)


def normal(x: torch.Tensor) -> torch.Tensor:
    """Means, variances and norms over several axes."""
    centred = (x - x.mean((1, 2), keepdim=True)) / (x.var((2, 3), keepdim=True) + 0.1).sqrt()
    sizes: torch.Tensor = x.std(1, keepdim=True) + torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
    return F.normalize(centred, dim=1) + sizes


def products(x: torch.Tensor) -> torch.Tensor:
    """Of matrices and by einsum."""
    flat = x.flatten(2)
    weights = torch.softmax(torch.einsum("bcp,bdp->bcd", flat, flat) / SIDE**2, -1)
    return torch.bmm(weights, flat).view(x.shape)


def positions(x: torch.Tensor) -> torch.Tensor:
    """Integers that are divided and summed as floats, as position encodings do."""
    positive = (x > 0).long()
    scaled = positive.cumsum(2) / (positive.sum(1, keepdim=True) + 2)
    return x + x * scaled + x * positive.mean((2, 3), keepdim=True, dtype=torch.float32) + positive.cumsum(3) / 7


PIECES: dict[str, Callable[[], Any]] = {
    "transposed": lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, 2, 1, output_padding=1, groups=2),
    "standardised": lambda: Standardised(CHANNELS, CHANNELS, 3),
    "same": lambda: nn.Conv2d(CHANNELS, CHANNELS, 4, padding="same", padding_mode="circular"),
    "reflect": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, padding_mode="reflect"),
    "replicate": lambda: nn.Conv2d(CHANNELS, CHANNELS, 2, padding="same", padding_mode="replicate"),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "bilinear": lambda: nn.Upsample(size=(5, 7), mode="bilinear", align_corners=True),
    "bicubic": lambda: nn.Upsample(size=(5, 7), mode="bicubic"),
    "shuffle": lambda: nn.Sequential(
        nn.PixelUnshuffle(2), nn.Conv2d(4 * CHANNELS, 4 * CHANNELS, 1), nn.PixelShuffle(2)
    ),
    "ceil": lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "adaptive maximum": lambda: nn.AdaptiveMaxPool2d(4),
    "dilated maximum": lambda: nn.MaxPool2d(2, 1, dilation=2),
    "prelu": lambda: nn.PReLU(CHANNELS),
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "softmax": lambda: nn.Softmax2d(),
    "log sigmoid": nn.LogSigmoid,
    "tanh gelu": lambda: nn.GELU(approximate="tanh"),
    "glu": lambda: nn.Sequential(nn.Conv2d(CHANNELS, 2 * CHANNELS, 1), nn.GLU(1)),
    "attention": lambda: Attention(False),
    "heads": lambda: Attention(True),
    "writes": Written,
    "fills": lambda: Made(fills),
    "normal": lambda: Made(normal),
    "products": lambda: Made(products),
    "roots": lambda: Made(
        lambda x: torch.sign(x) * torch.sqrt(x.abs() + 0.1) + (x.exp() + 1).log() + torch.rsqrt(x**2 + 1)
    ),
    "steps": lambda: Made(lambda x: x[:, :, ::2, 1::2].roll(1, 2).flip(3)),
    "windows": lambda: Made(lambda x: F.unfold(x, 3, padding=1).view(-1, CHANNELS, 9, x.shape[2], x.shape[3]).mean(2)),
    "picks": lambda: Made(lambda x: torch.stack(x.unbind(1)[::-1], 1) + x[:, [1, 0, 3, 2]]),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)),
    "clamped": lambda: Made(lambda x: x.clamp(-0.5, 0.7).clamp_min(-0.4) + torch.lerp(x, x.tanh(), 0.3)),
    "powers": lambda: Made(
        lambda x: torch.addcmul(x, x, x, value=0.2) + (x.abs() + 0.5).pow(1.5) - x.reciprocal().tanh()
    ),
    "positions": lambda: Made(positions),
    "sums": lambda: Made(lambda x: x + x.cumsum(2) / 9 + x.sum((1, 3), keepdim=True) / 9 + x.logsumexp(1, True)),
}
"""By name: what takes maps (N, 4, H, W), H and W at least 5, and gives others of so many channels."""


def network(names: list[str]) -> nn.Module:
    """The pieces, with a convolution and batch normalisation before each, resized, and a head."""
    torch.manual_seed(len(names))
    layers: list[nn.Module] = [nn.Conv2d(2, CHANNELS, 1)]
    for name in names:
        layers += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), PIECES[name]()]
        layers += [nn.AdaptiveAvgPool2d(SIDE)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(CHANNELS * SIDE**2, CLASSES))


def check(names: list[str]) -> None:
    """Export the step of these pieces and prove it."""
    module, shape = network(names), (2, SIDE, SIDE)
    draws = [inputs.images(COUNT, shape, seed) for seed in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "step.onnx")
        onnx.save(export_step(module, draws[0][:2], MOMENTUM), file)
        session = StepSession.of(file, 1)
    labels = labels_for(COUNT, CLASSES, 0)
    proofs = (proof.prove(module, session, x.numpy(), labels, MOMENTUM) for x in draws)
    assert failed(proof.first_that_passes(proofs)) == []


GROUPS = [list(PIECES)[start : start + 3] for start in range(0, len(PIECES), 3)]


@pytest.mark.parametrize("names", GROUPS, ids=["+".join(names).replace(" ", "_") for names in GROUPS])
def test_each_piece_stands_in_a_proved_step(names: list[str]) -> None:
    check(names)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(PIECES)), min_size=1, max_size=4))
def test_pieces_in_any_order(names: list[str]) -> None:
    check(names)
