"""A network of a study looked at closely: its gradients before training, and its answers to changed images after it.

Images are the generated shapes, drawn again at another place, angle or scale, so that nothing is resampled. A shift is
the shape's distance from the image's centre to the right, in pixels; an angle in degrees anticlockwise from upright; a
scale its size. `noise` adds normal noise, the same for every network, and `blur` blurs the image (a Gaussian), both by
a standard deviation, in 255ths of full brightness and in pixels. `fgsm` adds the sign of the loss's gradient, times so
many 255ths (Goodfellow, Shlens, Szegedy 2015, "Explaining and harnessing adversarial examples", section 4); `pgd` does
so in PGD_STEPS steps of a quarter of that, and stays within it (Madry et al. 2018, "Towards deep learning models
resistant to adversarial attacks", section 2.1, from the image itself). Both are computed by PyTorch in float32, and
tried in ONNX Runtime too.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter
from torch import nn

from cnnbench.records.study_result import Tried
from cnnbench.records.task_messages import Examine, Examined
from cnnbench.worker import models
from cnnbench.worker.data import shapes
from cnnbench.worker.data.read import Data, read
from cnnbench.worker.export import inference
from cnnbench.worker.runtimes.ort import make_session

BATCH = 64
USUAL = {"scale": 1.0}
"""By what is changed, the amount that the answers to other amounts are compared with; 0 else."""
PGD_STEPS = 10
NOISE_SEED = 3

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Logits of images."""


def examine(request: Examine) -> Examined:
    """Gradients of a fresh network, and what the trained one makes of changed images, if its weights are given."""
    torch.set_num_threads(request.threads)
    module, image = models.build(request.spec)
    assert isinstance(image, tuple)
    data = read(request.data, image, models.try_out(module, image, request.spec).classes)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    gradients = _gradients(module, data)
    tried: list[Tried] = []
    if request.weights is not None and request.under:
        module.load_state_dict(load_file(request.weights))
        tried = list(_tried(module.eval(), image, data, request))
    return Examined(parameters=parameters, gradients=gradients, tried=tried)


def _gradients(module: nn.Module, data: Data) -> dict[str, float]:
    """By layer, in order, the norm of the gradient of its weights, over a batch of training images."""
    torch.manual_seed(0)  # of dropout
    images, labels = data.train.chosen(slice(BATCH))
    loss = models.loss(module, module.train()(torch.from_numpy(data.prepare(images))), torch.from_numpy(labels))
    loss.backward()  # type: ignore[no-untyped-call]
    weights = {name: each.grad for name, each in module.named_parameters() if name.endswith("weight") and each.ndim > 1}
    return {name.removesuffix(".weight"): float(grad.norm()) for name, grad in weights.items() if grad is not None}


def _tried(module: nn.Module, image: tuple[int, ...], data: Data, request: Examine) -> Iterator[Tried]:
    def eager(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
        return found

    with tempfile.TemporaryDirectory(prefix="cnnbench-") as folder:
        graph = Path(folder) / "model.onnx"
        inference.save(
            inference.trace(module, torch.zeros(inference.EXPORT_BATCH, *image)), module, graph, optimize=False
        )
        session = make_session(str(graph), "cpu", request.threads)
    runtimes: dict[str, Predict] = {
        "eager": eager,
        "ort": lambda images: session.run(None, {inference.INPUT: images})[0],
    }
    size = shapes.size_for(data.prepare.shape)
    drawings = list(itertools.islice(shapes.drawings(shapes.TEST_IMAGES, shapes.TEST_SEED), request.images))
    labels = np.array([shapes.CLASSES.index(each.shape) for each in drawings])
    for what, amounts in request.under.items():
        usual: dict[str, NDArray[np.int64]] = {}
        unchanged = USUAL.get(what, 0.0)
        for amount in sorted({unchanged, *amounts}, key=lambda each: each != unchanged):
            stored = np.stack([shapes.draw(_changed(each, what, amount), size) for each in drawings])
            images = data.prepare(_degraded(stored, what, amount))
            if what in ("fgsm", "pgd"):
                images = _attacked(module, images, labels, amount, data, 1 if what == "fgsm" else PGD_STEPS)
            for name, predict in runtimes.items():
                classes = predict(images).argmax(1)
                same = int((classes == usual.setdefault(name, classes)).sum())
                correct = int((classes == labels).sum())
                yield Tried(what=what, amount=amount, runtime=name, images=len(labels), correct=correct, same=same)


def _changed(drawing: shapes.Drawing, what: str, amount: float) -> shapes.Drawing:
    if what == "shift":
        return drawing._replace(x=amount, y=0.0)
    if what == "rotation":
        return drawing._replace(angle=amount)
    return drawing._replace(scale=amount) if what == "scale" else drawing


def _degraded(images: NDArray[Any], what: str, amount: float) -> NDArray[Any]:
    """Stored images (N, C, H, W) with noise, or blurred, as far as they are to be."""
    if what == "noise":
        noise = np.random.default_rng(NOISE_SEED).standard_normal(images.shape)
        return np.clip(images + amount * noise, 0, 255)
    return gaussian_filter(images.astype(np.float64), (0, 0, amount, amount)) if what == "blur" else images


def _attacked(
    module: nn.Module, images: NDArray[np.float32], labels: NDArray[np.int64], amount: float, data: Data, steps: int
) -> NDArray[np.float32]:
    """Images within `amount` 255ths of the given ones, of brightnesses that there are."""
    mean, deviation = (
        torch.tensor(each).reshape(-1, 1, 1) for each in (data.prepare.scaling.mean, data.prepare.scaling.deviation)
    )
    low, high = (-mean / deviation).float(), ((255 - mean) / deviation).float()
    given = torch.from_numpy(images)
    most = (amount / deviation).float()
    step = most if steps == 1 else most / 4
    changed = given
    for _ in range(steps):
        x = changed.detach().requires_grad_()
        loss = nn.functional.cross_entropy(module(x), torch.from_numpy(labels))
        (gradient,) = torch.autograd.grad(loss, x)
        changed = torch.clamp(given + torch.clamp(x.detach() - given + gradient.sign() * step, -most, most), low, high)
    found: NDArray[np.float32] = changed.numpy()
    return found
