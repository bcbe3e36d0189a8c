"""Reference inputs, weights whose outputs depend on them, and float64 reference outputs."""

import copy

import torch
from torch import Tensor, nn

from cnnbench.worker.hooks import hooked, is_leaf

GOLDEN_IMAGES = 6
"""Read as batches of 1, 2 and 3: the export's batch is 2, so two of the three differ from it."""
NORM_PASSES = 3
NORM_BATCH = 4
COARSE_SIDE = 4


def images(count: int, image: tuple[int, ...], seed: int) -> Tensor:
    """(count, C, H, W) or (count, C, L) float32 with structure at a coarse and a fine scale, mean 0 and deviation 1.

    White noise alone would look the same to any network that averages over the image. Zeros or constants are never
    used: values change what arithmetic costs on some devices.
    """
    generator = torch.Generator().manual_seed(seed)
    channels, *size = image
    coarse = torch.randn(count, channels, *(COARSE_SIDE,) * len(size), generator=generator)
    mode = "linear" if len(size) == 1 else "bilinear"
    smooth = nn.functional.interpolate(coarse, size=tuple(size), mode=mode, align_corners=False)
    mixed = smooth + 0.5 * torch.randn(count, *image, generator=generator)
    axes = tuple(range(1, mixed.ndim))
    mean, std = mixed.mean(axes, keepdim=True), mixed.std(axes, keepdim=True)
    return (mixed - mean) / std


def randomise_degenerate(module: nn.Module, image: tuple[int, ...], seed: int) -> None:
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
            module(images(NORM_BATCH, image, seed + 2 + index))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()


def denormal_share(module: nn.Module, x: Tensor) -> float:
    """The largest share of denormal numbers in what one layer puts out for x (N, C, H, W)."""
    shares = [0.0]

    def look(_: str, child: nn.Module, y: object) -> None:
        if is_leaf(child) and isinstance(y, Tensor) and y.is_floating_point() and y.numel():
            size = y.abs()
            denormal = (size > 0) & (size < torch.finfo(y.dtype).tiny)
            shares.append(float(denormal.float().mean()))

    with hooked(module, after=look), torch.inference_mode():
        module.eval()(x)
    return max(shares)


def reference(module: nn.Module, x: Tensor) -> Tensor:
    """Outputs (N, classes) of the module in float64 for x (N, C, H, W), one image at a time to spare memory."""
    double = copy.deepcopy(module).double().eval()
    with torch.inference_mode():
        return torch.cat([double(one.unsqueeze(0).double()) for one in x])
