"""What a device can do through PyTorch at best: arithmetic by precision, memory by working set, the cost of a call."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from cnnbench.networks.units import FLOAT_BYTES
from cnnbench.records.peaks import Bandwidth, CallCost, Pattern, Smallest, Throughput
from cnnbench.records.task_messages import MeasuredPeaks, MeasurePeaks
from cnnbench.suite.case import Device, Precision
from cnnbench.worker.peaks import kernels
from cnnbench.worker.peaks.kernels import CALLS, SHARE, Call, ConvShape
from cnnbench.worker.runtimes import device as devices
from cnnbench.worker.runtimes.eager import FORMATS

PRECISIONS: dict[Device, tuple[Precision, ...]] = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}


def measure(request: MeasurePeaks) -> MeasuredPeaks:
    """All of it. A precision that the device has not is a failure with its reason."""
    torch.set_num_threads(request.threads)
    device = devices.use(request.device)
    throughputs: list[Throughput] = []
    failures: dict[str, str] = {}
    with torch.inference_mode():
        for precision in PRECISIONS[request.device]:
            try:
                throughputs += _arithmetic(device, precision, request.kernel_s)
            except (RuntimeError, NotImplementedError) as error:
                failures[f"torch {precision}"] = " ".join(str(error).split())[:200]
        return MeasuredPeaks(
            device_name=devices.name(device),
            throughputs=throughputs,
            bandwidths=list(_bandwidths(device, request.largest_set_bytes, request.kernel_s / SHARE)),
            calls=_calls(device, request.kernel_s),
            failures=failures,
        )


def _finished(device: torch.device, call: Call) -> Call:
    """The call, over when the device is done with it."""

    def wait() -> None:
        call()
        devices.synchronize(device)

    return call if device.type == "cpu" else wait


def _arithmetic(device: torch.device, precision: Precision, seconds: float) -> Iterator[Throughput]:
    def ones(*shape: int) -> Tensor:
        return torch.ones(shape, dtype=devices.TYPES[precision], device=device)

    def product(side: int) -> Call:
        a, b = ones(side, side), ones(side, side)
        out = a @ b
        return _finished(device, lambda: torch.mm(a, b, out=out))

    yield from kernels.matrix_products("torch", precision, product, seconds)
    for layout, form in FORMATS.items():

        def convolution(shape: ConvShape, batch: int, form: torch.memory_format = form) -> Call:
            images, weight = (ones(*size).to(memory_format=form) for size in (shape.images(batch), shape.weight))
            return _finished(device, lambda: conv2d(images, weight, padding=shape.kernel // 2, groups=shape.groups))

        yield from kernels.convolutions("torch", precision, convolution, seconds, layout)


def _bandwidths(device: torch.device, largest_bytes: int, seconds: float) -> Iterator[Bandwidth]:
    for size in kernels.set_sizes(largest_bytes):
        values = torch.ones(size // FLOAT_BYTES, device=device)
        source, target = values.chunk(2)
        total = torch.empty((), device=device)
        passes: dict[Pattern, tuple[Call, int]] = {
            "read": (lambda values=values, total=total: torch.sum(values, dim=0, out=total), size),  # type: ignore[misc]
            "update": (lambda values=values: values.mul_(1.0), 2 * size),  # type: ignore[misc]
            "copy": (lambda source=source, target=target: target.copy_(source), size),  # type: ignore[misc]
        }
        for pattern, (call, moved_bytes) in passes.items():
            yield Bandwidth(
                pattern=pattern,
                working_set_bytes=size,
                moved_bytes=moved_bytes,
                seconds=kernels.repeat(_finished(device, call), seconds / len(passes)),
            )


def _calls(device: torch.device, seconds: float) -> list[CallCost]:
    """Modules called one after the other; on an accelerator they queue, as in a network."""
    one = torch.ones(1, 1, 1, 1, device=device)

    def several(module: nn.Module) -> Call:
        def call() -> None:
            for _ in range(CALLS):
                module(one)

        return _finished(device, call)

    modules: dict[Smallest, nn.Module] = {"operator": nn.ReLU(), "convolution": nn.Conv2d(1, 1, 1).to(device)}
    return kernels.call_costs("torch", {name: several(module) for name, module in modules.items()}, seconds)
