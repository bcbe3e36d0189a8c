"""Pieces of operators of all kinds, and small networks that are put together of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import ops

CHANNELS, SIDE, CLASSES = 4, 6, 5
SHAPE = (2, SIDE, SIDE)
"""Of what a network takes."""


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


def ordered(x: torch.Tensor) -> torch.Tensor:
    """Values in order, the largest of each row kept, and values added where others were."""
    largest, where = x.topk(3, 3)
    kept = torch.zeros_like(x).scatter(3, where, largest)
    return kept.scatter_add(3, where, largest / 3).scatter(2, where[:, :, :1], 0.5) + x.sort(2, descending=True)[0]


class Deformed(nn.Module):
    """A deformable convolution whose offsets and mask are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets, self.inner = nn.Conv2d(CHANNELS, 27, 3, padding=1), ops.DeformConv2d(CHANNELS, CHANNELS, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        offsets = self.offsets(x)
        found: torch.Tensor = self.inner(x, offsets[:, :18], offsets[:, 18:].sigmoid())
        return found


class Recurrent(nn.Module):
    """Goes along the pixels."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.inner = kind(CHANNELS, CHANNELS // 2, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(x.flatten(2).transpose(1, 2))[0]
        return found.transpose(1, 2).reshape(x.shape)


class Scaled(nn.Module):
    """A branch that is dropped in training, with a factor for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((CHANNELS, 1, 1), 1e-6))
        self.drop, self.depth = nn.Dropout2d(0.3), ops.StochasticDepth(0.5, "row")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = x + self.depth(self.drop(self.scale * x.square()))
        return found


def sampled(x: torch.Tensor) -> torch.Tensor:
    """At places that the values themselves settle."""
    turn = torch.tensor([[0.9, 0.3, 0.1], [-0.2, 0.8, 0.0]], dtype=x.dtype).expand(x.shape[0], 2, 3)
    grid = F.affine_grid(turn, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid + 0.1 * x[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False)


def coordinates(x: torch.Tensor) -> torch.Tensor:
    """Two more maps with each pixel's place (Liu et al. 2018)."""
    sides = [torch.linspace(-1, 1, size, dtype=x.dtype) for size in x.shape[2:]]
    places = torch.stack(torch.meshgrid(*sides, indexing="ij")).expand(x.shape[0], -1, -1, -1)
    found = torch.cat([x, places], 1)
    return found[:, :CHANNELS] * (1 + found[:, CHANNELS:].sum(1, keepdim=True))


def trigonometry(x: torch.Tensor) -> torch.Tensor:
    """Sines and the like."""
    return torch.sin(x) * torch.cos(2 * x) + torch.atan(x) + torch.erf(x) + torch.expm1(0.1 * x) + torch.sinh(x)


def shrinks(x: torch.Tensor) -> torch.Tensor:
    """Activations that leave out a part."""
    y = F.hardshrink(x, 0.1) + F.softshrink(x, 0.2) + F.tanhshrink(x) + F.threshold(x, 0.1, -0.2)
    return y + F.softmin(x, 1)


def saturates(x: torch.Tensor) -> torch.Tensor:
    """Activations that are limited."""
    y = F.hardswish(x) + F.hardsigmoid(x) + F.relu6(4 * x) + F.hardtanh(x, -0.5, 0.8)
    return y + F.silu(x) + F.gelu(x) + F.celu(x, 0.7) + F.softsign(x) + torch.sigmoid(x)


def sorts(x: torch.Tensor) -> torch.Tensor:
    """Values in order, and the largest ones."""
    largest = x.topk(2, dim=1).values
    return x.sort(3).values + torch.cat([largest, largest.flip(1)], 1) + x.amax((2, 3), True)


def distances(x: torch.Tensor) -> torch.Tensor:
    """Between rows of pixels."""
    near = F.cosine_similarity(x, x.roll(1, 2), dim=3).unsqueeze(3)
    flat = x.flatten(2)
    return x * near + F.pairwise_distance(flat, flat.flip(1)).unsqueeze(2).unsqueeze(3)


def folds(x: torch.Tensor) -> torch.Tensor:
    """Windows that overlap, summed where they do."""
    return F.fold(F.unfold(x, 3, padding=1).tanh(), x.shape[2:], 3, padding=1)


def repeats(x: torch.Tensor) -> torch.Tensor:
    """The same values more than once."""
    y = x.repeat(1, 2, 1, 2)[:, 1 : CHANNELS + 1] + x.repeat_interleave(2, 3)
    return (
        y
        + torch.tile(x[:, :1], (1, CHANNELS, 1, 2))
        + x.mean(1, keepdim=True).expand(-1, CHANNELS, -1, -1).repeat(1, 1, 1, 2)
    )


def area(x: torch.Tensor) -> torch.Tensor:
    """Larger by copies, then smaller by means."""
    return F.interpolate(F.interpolate(x, scale_factor=1.5, mode="nearest-exact"), (4, 5), mode="area")


def pads(x: torch.Tensor) -> torch.Tensor:
    """Around the maps, with a constant, and cut off."""
    return F.pad(F.pad(x, (1, 2, 0, 3), value=0.3), (0, -1, 0, -1)) + F.pad(x, (2, 0, 1, 1))


def moved(channels_last: nn.Module) -> nn.Module:
    """A module that works on the last axis, on the channels."""
    return nn.Sequential(ops.Permute([0, 2, 3, 1]), channels_last, ops.Permute([0, 3, 1, 2]))


def lines(of_lines: nn.Module) -> nn.Module:
    """A module of signals (N, 4, L) that keeps L, on the pixels."""
    return nn.Sequential(nn.Flatten(2), of_lines, nn.Unflatten(2, (SIDE, SIDE)))


def volumes(of_volumes: Sequence[nn.Module]) -> nn.Module:
    """Modules of volumes (N, 2, 2, H, W) that keep the channels, on pairs of maps; the depth is averaged."""
    return nn.Sequential(nn.Unflatten(1, (2, 2)), *of_volumes, Made(lambda x: x.mean(2).repeat(1, 2, 1, 1)))


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
    "ordered": lambda: Made(ordered),
    "sums": lambda: Made(lambda x: x + x.cumsum(2) / 9 + x.sum((1, 3), keepdim=True) / 9 + x.logsumexp(1, True)),
}
"""By name: what takes maps (N, 4, 6, 6), and gives others of so many channels; with a training step."""
OF_BATCHES = ("standardised",)
"""What puts out others for an image alone than in a batch, in evaluation mode too."""
NOT_EXPORTED = ("adaptive maximum",)
"""For which torch.onnx (2.14) has no operator: windows of different sizes."""
MISEXPORTED = ("positions",)
"""Of which torch.onnx (2.14) gives the mean of integers as a whole number: their `dtype` comes after it."""
FURTHER: Mapping[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.ReLU(inplace=True), nn.LPPool2d(2, 2)),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, padding=1, groups=CHANNELS, bias=False),
        nn.BatchNorm2d(2 * CHANNELS),
        nn.ReLU6(),
        nn.ChannelShuffle(2),
        nn.Conv2d(2 * CHANNELS, CHANNELS, 3, 2, 2, dilation=2, groups=2),
    ),
    "deformable": Deformed,
    "signal": lambda: lines(
        nn.Sequential(nn.Conv1d(CHANNELS, CHANNELS, 5, padding=2), nn.BatchNorm1d(CHANNELS), nn.AvgPool1d(3, 1, 1))
    ),
    "transposed signal": lambda: lines(nn.ConvTranspose1d(CHANNELS, CHANNELS, 3, padding=2, dilation=2)),
    "volume": lambda: volumes([nn.Conv3d(2, 2, 3, padding=1), nn.BatchNorm3d(2), nn.AvgPool3d((1, 2, 2))]),
    "transposed volume": lambda: volumes([nn.ConvTranspose3d(2, 2, 2, 2), nn.MaxPool3d(2), nn.InstanceNorm3d(2)]),
    "groups": lambda: nn.GroupNorm(2, CHANNELS),
    "instances": lambda: nn.InstanceNorm2d(CHANNELS, affine=True, track_running_stats=True),
    "own instances": lambda: nn.InstanceNorm2d(CHANNELS),
    "layers": lambda: moved(nn.Sequential(nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, 8), nn.GELU(), nn.Linear(8, 4))),
    "maps": lambda: nn.LayerNorm([CHANNELS, SIDE, SIDE]),
    "root mean square": lambda: moved(nn.RMSNorm(CHANNELS)),
    "responses": lambda: nn.LocalResponseNorm(3),
    "squeeze": lambda: ops.SqueezeExcitation(CHANNELS, 2),
    "encoder": lambda: nn.Sequential(
        nn.Flatten(2),
        Made(lambda x: x.mT),
        nn.TransformerEncoderLayer(CHANNELS, 2, 8, batch_first=True),
        Made(lambda x: x.mT),
        nn.Unflatten(2, (SIDE, SIDE)),
    ),
    "long memory": lambda: Recurrent(nn.LSTM),
    "gates": lambda: Recurrent(nn.GRU),
    "scaled": Scaled,
    "antialiased": lambda: nn.Sequential(nn.Upsample((9, 4), mode="bilinear"), ops.FrozenBatchNorm2d(CHANNELS)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)),
    **{
        each.__name__: lambda each=each: Made(each)  # type: ignore[misc]
        for each in (
            sampled,
            coordinates,
            trigonometry,
            shrinks,
            saturates,
            sorts,
            distances,
            folds,
            repeats,
            pads,
            area,
        )
    },
}
"""The same, whose training step other tests prove, or that have none."""


def network(names: list[str]) -> nn.Module:
    """The pieces, with a convolution and batch normalisation before each, resized, and a head."""
    torch.manual_seed(len(names))
    layers: list[nn.Module] = [nn.Conv2d(2, CHANNELS, 1)]
    for name in names:
        layers += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), {**PIECES, **FURTHER}[name]()]
        layers += [nn.AdaptiveAvgPool2d(SIDE)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(CHANNELS * SIDE**2, CLASSES))
