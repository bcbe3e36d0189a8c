"""Reference inputs, weights whose outputs depend on them, and float64 reference outputs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cnnbench.worker.copies import casts_to_double, copied
from cnnbench.worker.hooks import hooked, is_leaf
from cnnbench.worker.signature import Inputs, Shape, flat, shapes_of

GOLDEN_IMAGES = 6
"""Read as batches of 1, 2 and 3: the export's batch is 2, so two of the three differ from it."""
NORM_PASSES = 3
NORM_BATCH = 4
COARSE_SIDE = 4
SAME = 1e-4
"""The largest difference between two calls, as a share of the largest value, that is no random one."""
MODES: Mapping[int, str] = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""Of interpolation, by the number of spatial axes."""


def draw(count: int, inputs: Inputs, seed: int) -> tuple[Tensor, ...]:
    """(count, ...) float32 for each input."""
    return tuple(images(count, shape, seed + place) for place, shape in enumerate(shapes_of(inputs)))


def images(count: int, image: Shape, seed: int) -> Tensor:
    """(count, C, H, W) or (count, C, L) float32 with structure at a coarse and a fine scale, mean 0 and deviation 1.

    White noise alone would look the same to any network that averages over the image; a vector (count, C) is that, and
    so is a number for each image (count,).
    Zeros or constants are never used: values change what arithmetic costs on some devices.
    """
    generator = torch.Generator().manual_seed(seed)
    if len(image) - 1 not in MODES:
        return torch.randn(count, *image, generator=generator)
    channels, *size = image
    coarse = torch.randn(count, channels, *(COARSE_SIDE,) * len(size), generator=generator)
    mode = MODES[len(size)]
    smooth = nn.functional.interpolate(coarse, size=tuple(size), mode=mode, align_corners=False)
    mixed = smooth + 0.5 * torch.randn(count, *image, generator=generator)
    axes = tuple(range(1, mixed.ndim))
    mean, std = mixed.mean(axes, keepdim=True), mixed.std(axes, keepdim=True)
    return (mixed - mean) / std


def randomise_degenerate(module: nn.Module, inputs: Inputs, seed: int) -> None:
    """Change degenerate parameters, in place, so that a wrong graph has wrong outputs.

    Two things hide errors in a fresh network. Constant parameters (a scale of one, a shift of zero, a layer scale of
    1e-6) could be dropped from a graph unseen: they get random values. And running statistics of mean 0 and variance 1
    let outputs shrink to 1e-14 in deep networks: they are set from a few batches, as training would.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    for name, parameter in module.named_parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            values = torch.empty(parameter.shape)
            if name.endswith("bias"):
                values.normal_(0.0, 0.1, generator=generator)
            else:
                values.uniform_(0.5, 1.5, generator=generator)
            parameter.data.copy_(values)
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the passes
        norm.train()
    with torch.no_grad():
        for index in range(NORM_PASSES):
            module(*draw(NORM_BATCH, inputs, seed + 2 + index))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()


def denormal_share(module: nn.Module, inputs: Sequence[Tensor]) -> float:
    """The largest share of denormal numbers in what one layer puts out for the inputs (N, ...)."""
    shares = [0.0]

    def look(_: str, child: nn.Module, y: object) -> None:
        if is_leaf(child) and isinstance(y, Tensor) and y.is_floating_point() and y.numel():
            size = y.abs()
            denormal = (size > 0) & (size < torch.finfo(y.dtype).tiny)
            shares.append(float(denormal.float().mean()))

    with hooked(module, after=look), torch.inference_mode():
        module.eval()(*inputs)
    return max(shares)


def reference(module: nn.Module, inputs: Sequence[Tensor], at_once: int = 1) -> tuple[Tensor, ...]:
    """Each output (N, ...) of the module in float64 for inputs (N, ...), so many images at once: one spares memory."""
    double = copied(module).double().eval()
    with torch.inference_mode(), casts_to_double():
        images = zip(*(torch.split(x.double(), at_once) for x in inputs), strict=True)
        return tuple(torch.cat(each) for each in zip(*(flat(double(*image)) for image in images), strict=True))


def random_module(module: nn.Module, inputs: Sequence[Tensor]) -> str | None:
    """The first module that puts out other values at a second call in inference mode for the same inputs, if any."""
    pairs = zip(*(_calls(module, inputs) for _ in range(2)), strict=False)
    return next(
        (one.name for one, other in pairs if _same(one.taken, other.taken) and not _same(one.made, other.made)), None
    )


class _Call(NamedTuple):
    name: str
    taken: list[Tensor]
    made: list[Tensor]


def _calls(module: nn.Module, inputs: Sequence[Tensor]) -> list[_Call]:
    """What each submodule took and put out, the inner ones first."""
    found: list[_Call] = []
    taken: list[list[Tensor]] = []

    def enter(_: str, __: nn.Module, given: object) -> None:
        taken.append([x.clone() for x in flat(given)])

    def leave(name: str, _: nn.Module, made: object) -> None:
        found.append(_Call(name, taken.pop(), [y.clone() for y in flat(made)]))

    with hooked(module, enter, leave), torch.inference_mode():
        module.eval()(*(x.clone() for x in inputs))
    return found


def _same(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether they differ by no more than other orders of summation make them."""
    return len(ones) == len(others) and all(
        one.shape == other.shape and (not one.numel() or bool((one - other).abs().max() <= SAME * one.abs().max()))
        for one, other in zip(ones, others, strict=True)
    )
