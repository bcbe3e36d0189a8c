"""What a device can do through PyTorch at best: arithmetic by precision, memory by working set, the cost of a call."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from cnnbench.records.messages import MeasuredPeaks, MeasurePeaks
from cnnbench.records.peaks import Bandwidth, CallCost, Kernel, Pattern, Throughput
from cnnbench.suite.case import Device, Precision
from cnnbench.worker.peaks import kernels as peaks
from cnnbench.worker.peaks.kernels import ConvShape
from cnnbench.worker.runtimes import device as devices

TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS: dict[Device, tuple[Precision, ...]] = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
CONVOLUTIONS: dict[Kernel, ConvShape] = {
    "3x3 convolution": peaks.CONV_3X3,
    "1x1 convolution": peaks.CONV_1X1,
    "depthwise convolution": peaks.DEPTHWISE,
}
FLOAT_BYTES = 4


def measure(request: MeasurePeaks) -> MeasuredPeaks:
    """All of it. A precision that the device has not is a failure with its reason."""
    torch.set_num_threads(request.threads)
    device = devices.use(request.device)
    throughputs: list[Throughput] = []
    failures: dict[str, str] = {}
    with torch.inference_mode():
        for precision in PRECISIONS[request.device]:
            try:
                throughputs += _matrix_products(device, precision, request.kernel_s)
                throughputs += _convolutions(device, precision, request.kernel_s)
            except (RuntimeError, NotImplementedError) as error:
                failures[f"torch {precision}"] = " ".join(str(error).split())[:200]
        return MeasuredPeaks(
            device_name=devices.name(device),
            throughputs=throughputs,
            bandwidths=list(_bandwidths(device, request.largest_set_bytes, request.kernel_s / peaks.SHARE)),
            calls=_calls(device, request.kernel_s),
            failures=failures,
        )


def _finished(device: torch.device, call: Callable[[], object]) -> Callable[[], object]:
    """The call, over when the device is done with it."""

    def wait() -> None:
        call()
        devices.synchronize(device)

    return call if device.type == "cpu" else wait


def _matrix_products(device: torch.device, precision: Precision, seconds: float) -> list[Throughput]:
    def make(side: int) -> Callable[[], object]:
        a, b = (torch.ones(side, side, dtype=TYPES[precision], device=device) for _ in range(2))
        product = a @ b
        return _finished(device, lambda: torch.mm(a, b, out=product))

    return [
        Throughput(
            library="torch",
            kernel="matrix product",
            precision=precision,
            size=f"{side}x{side}x{side}",
            flop=2 * side**3,
            seconds=taken,
        )
        for side, taken in peaks.grown(peaks.MATRIX_SIDES, make, seconds).items()
    ]


def _convolutions(device: torch.device, precision: Precision, seconds: float) -> list[Throughput]:
    found = []
    for kernel, shape in CONVOLUTIONS.items():
        for layout, form in LAYOUTS.items():

            def make(batch: int, shape: ConvShape = shape, form: torch.memory_format = form) -> Callable[[], object]:
                images = _ones(device, precision, form, batch, shape.channels, shape.side, shape.side)
                kernel_elements = shape.channels // shape.groups, shape.kernel, shape.kernel
                weights = _ones(device, precision, form, shape.channels, *kernel_elements)
                return _finished(
                    device, lambda: conv2d(images, weights, padding=shape.kernel // 2, groups=shape.groups)
                )

            found += [
                Throughput(
                    library="torch",
                    kernel=kernel,
                    precision=precision,
                    size=f"{shape.text(batch)}, {layout}",
                    flop=shape.flop(batch),
                    seconds=taken,
                )
                for batch, taken in peaks.grown(peaks.BATCHES, make, seconds).items()
            ]
    return found


def _ones(device: torch.device, precision: Precision, form: torch.memory_format, *shape: int) -> Tensor:
    return torch.ones(shape, dtype=TYPES[precision], device=device).to(memory_format=form)


def _bandwidths(device: torch.device, largest_bytes: int, seconds: float) -> Iterator[Bandwidth]:
    for size in peaks.set_sizes(largest_bytes):
        values = torch.ones(size // FLOAT_BYTES, device=device)
        source, target = values.chunk(2)
        total = torch.empty((), device=device)
        passes: dict[Pattern, tuple[Callable[[], object], int]] = {
            "read": (lambda values=values, total=total: torch.sum(values, dim=0, out=total), size),  # type: ignore[misc]
            "update": (lambda values=values: values.mul_(1.0), 2 * size),  # type: ignore[misc]
            "copy": (lambda source=source, target=target: target.copy_(source), size),  # type: ignore[misc]
        }
        for pattern, (call, moved_bytes) in passes.items():
            yield Bandwidth(
                pattern=pattern,
                working_set_bytes=size,
                moved_bytes=moved_bytes,
                seconds=peaks.repeat(_finished(device, call), seconds / len(passes)),
            )


def _calls(device: torch.device, seconds: float) -> list[CallCost]:
    """Modules called one after the other; on an accelerator they queue, as in a network."""
    smallest = {"operator": nn.ReLU(), "convolution": nn.Conv2d(1, 1, 1)}
    one = torch.ones(1, 1, 1, 1, device=device)
    found = []
    for name, module in smallest.items():
        module.to(device)

        def call(module: nn.Module = module) -> None:
            for _ in range(peaks.CALLS):
                module(one)

        taken = peaks.repeat(_finished(device, call), seconds)
        found.append(
            CallCost.model_validate({"library": "torch", "smallest": name, "calls": peaks.CALLS, "seconds": taken})
        )
    return found
