"""How long images take from where they are stored to a batch on the device: each stage, and all with worker processes.

Every stage runs in this process over the same images, one stage after the other. Then torch's DataLoader does all of
it, with each number of workers, while this process does nothing but take batches and copy them.
"""

import base64
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from cnnbench.errors import InputError
from cnnbench.records.dataset import DataSet
from cnnbench.records.input_times import CHANNELS, MAX_SIDE, Draw, InputTimes, Stage, Supply
from cnnbench.records.task_messages import MeasureInput
from cnnbench.worker.data import torchvision_sets
from cnnbench.worker.data.read import READERS
from cnnbench.worker.data.transforms import FULL, Transform, make, picture, tensor
from cnnbench.worker.runtimes import device as devices

BLOCKS = 7
"""An interval of the median needs six."""
STAGE_BLOCK_S, SUPPLY_BLOCK_S = 0.15, 0.3
"""About: of a block of all stages, and of one of whole batches."""
MAX_BLOCK_IMAGES = 2048
DRAWS = 8


class Images(Dataset[torch.Tensor | str]):
    """The training images of a data set, decoded and transformed one by one."""

    def __init__(self, data: DataSet, transforms: Sequence[Transform]) -> None:
        """Find the files of a folder of images; read any other data set whole. Raises InputError."""
        self.name, self.transforms = data.name, transforms
        self.files: list[str] = torchvision_sets.training_files(data.folder) if data.kind == "images" else []
        self.stored: NDArray[Any] = np.empty(0) if self.files else READERS[data.kind](data, ()).train.images

    def __len__(self) -> int:
        return len(self.files) or len(self.stored)

    def decode(self, place: int) -> Image.Image:
        """The picture as it is stored. Raises InputError."""
        if self.files:
            return torchvision_sets.opened(self.files[place], "RGB")
        return picture(self.stored[place], self.name)

    def __getitem__(self, place: int) -> torch.Tensor | str:
        """(C, H, W) behind the transforms; what is wrong where it cannot be made, which a worker cannot raise."""
        try:
            image: Any = self.decode(place)
            for each in self.transforms:
                image = each.applied(image)
            return tensor(image)
        except InputError as error:
            return str(error)


class Endless(Sampler[int]):
    """All places in one random order, again and again."""

    def __init__(self, count: int) -> None:
        self.places = np.random.default_rng(0).permutation(count).tolist()

    def __iter__(self) -> Iterator[int]:
        return itertools.cycle(self.places)


def batched(images: Sequence[torch.Tensor | str]) -> torch.Tensor | str:
    """(N, C, H, W) float32, bytes as shares of 255; or what is wrong."""
    tensors = [each for each in images if isinstance(each, torch.Tensor)]
    if wrong := next((each for each in images if isinstance(each, str)), None):
        return wrong
    if odd := next((each.shape for each in tensors if each.shape != tensors[0].shape), None):
        first, other = ("x".join(map(str, shape)) for shape in (tensors[0].shape, odd))
        return (
            f"transforms: expected images of one size behind them; got {first} and {other}; add one such as "
            "RandomResizedCrop(224), or Resize((224, 224))"
        )
    batch = torch.stack(tensors)
    return batch if batch.is_floating_point() else batch.float() / FULL


def measure(request: MeasureInput) -> InputTimes:
    """Measure it in some seconds. Raises InputError for data or transforms that do not fit."""
    torch.set_num_threads(request.threads)
    plan, device = request.plan, devices.use(request.device)
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    images = Images(request.data, make(plan.transforms))
    draws = [_drawn(images, seed) for seed in range(DRAWS)]
    torch.manual_seed(0)
    stages, shape = _stages(images, plan.batch, device)
    supplies = [Supply(workers=each, seconds=_supply(images, plan.batch, each, device)) for each in plan.workers]
    return InputTimes(
        plan=plan,
        device=request.device,
        images=len(images),
        shape=shape,
        started=started,
        stages=stages,
        supplies=supplies,
        draws=_shown(draws),
    )


def _stages(images: Images, batch: int, device: torch.device) -> tuple[list[Stage], tuple[int, ...]]:
    """Seconds of each stage for one image, by block, and the images' shape."""
    places = iter(Endless(len(images)))

    def copied(values: list[Any]) -> list[Any]:
        found = [_copied(each, device) for each in values]
        devices.synchronize(device)
        return found

    def batches(values: list[Any]) -> list[Any]:
        return [_right(batched(values[start : start + batch])) for start in range(0, len(values), batch)]

    def each(function: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
        return lambda values: [function(value) for value in values]

    stages: list[tuple[str, Callable[[list[Any]], list[Any]]]] = [
        ("decode", each(images.decode)),
        *((transform.text, each(transform.applied)) for transform in images.transforms),
        *(("to a tensor", each(tensor)), ("batch", batches), ("copy", copied)),
    ]

    def block(count: int) -> tuple[list[float], list[Any]]:
        values: list[Any] = list(itertools.islice(places, count))
        seconds = []
        for _, stage in stages:
            start = time.perf_counter()
            values = stage(values)
            seconds.append((time.perf_counter() - start) / count)
        return seconds, values

    block(batch)  # the first calls also import and allocate
    first, values = block(batch)
    wanted = STAGE_BLOCK_S / max(sum(first) * batch, 1e-9)
    count = batch * max(1, min(round(wanted), MAX_BLOCK_IMAGES // batch))
    blocks = [block(count)[0] for _ in range(BLOCKS)]
    found = [Stage(name=name, seconds=[each[at] for each in blocks]) for at, (name, _) in enumerate(stages)]
    return found, tuple(values[0].shape[1:])


def _supply(images: Images, batch: int, workers: int, device: torch.device) -> list[float]:
    """Seconds for one image of the whole way, by block."""
    loader = DataLoader(images, batch, sampler=Endless(len(images)), num_workers=workers, collate_fn=batched)
    batches = iter(loader)

    def take() -> None:
        _copied(_right(next(batches)), device)
        devices.synchronize(device)

    for _ in range(2 * workers + 2):  # what was made before it was asked for
        take()
    found = []
    for _ in range(BLOCKS):
        start, taken = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < SUPPLY_BLOCK_S or not taken:
            take()
            taken += 1
        found.append(seconds / (taken * batch))
    return found


def _right(batch: torch.Tensor | str) -> torch.Tensor:
    """The batch. Raises InputError where it is what is wrong."""
    if isinstance(batch, str):
        raise InputError(batch)
    return batch


def _copied(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    return batch.to(device, copy=True)


def _drawn(images: Images, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return _right(images[0])


def _shown(draws: Sequence[torch.Tensor]) -> list[Draw]:
    """As pictures: numbers that are no bytes from the least of all draws to the largest."""
    low, high = (float(f(torch.stack([f(each) for each in draws]))) for f in (torch.min, torch.max))
    found = []
    for each in draws:
        shades = each if each.dtype == torch.uint8 else ((each - low) / max(high - low, 1e-9) * FULL).byte()
        pixels = shades.expand(CHANNELS, -1, -1) if len(shades) == 1 else shades[:CHANNELS]
        made = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        made.thumbnail((MAX_SIDE, MAX_SIDE))
        content = base64.b64encode(made.tobytes()).decode()
        found.append(Draw(height=made.height, width=made.width, pixels=content))
    return found
