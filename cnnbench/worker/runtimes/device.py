"""A torch device: where its differences from the CPU stand, written against torch's device-generic API."""

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from cnnbench.suite.case import AMP, Device, Precision
from cnnbench.worker.reference.parity import Array, Tensors, several

HALVES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
TYPES: dict[str, torch.dtype] = {"fp32": torch.float32, **HALVES}
"""By number format."""


def format_of(dtype: torch.dtype | None) -> str:
    """The number format's name, or torch's of one that has none here."""
    return next((name for name, each in TYPES.items() if each is dtype), str(dtype))


class EventStopwatch:
    """Marks as events in the device's stream, so that the host need not wait between phases."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.Event] = []

    def mark(self) -> None:
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        self._events.append(event)

    def intervals_s(self) -> list[float]:
        self._events[-1].synchronize()
        seconds = [earlier.elapsed_time(later) / 1e3 for earlier, later in pairwise(self._events)]
        self._events.clear()
        return seconds


def use(device: Device) -> torch.device:
    """The device, set to compute in IEEE float32: no TF32, which cuDNN would use for convolutions by itself."""
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True  # as ONNX Runtime does by itself: search the fastest algorithm once
    return torch.device(device)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Automatic mixed precision in a 16-bit format; nothing for other precisions."""
    if not precision.startswith(AMP):
        return nullcontext()
    return torch.autocast(device.type, TYPES[precision.removeprefix(AMP)])


def tf32(device: torch.device) -> list[str] | None:
    """What TF32 may stand in for float32 in; None on the CPU, which has none."""
    if device.type == "cpu":
        return None
    flags = {"matrix products": torch.backends.cuda.matmul.allow_tf32, "convolutions": torch.backends.cudnn.allow_tf32}
    return [what for what, on in flags.items() if on]


def placed(images: Tensors, device: torch.device) -> list[Tensor]:
    """The batch of each input on the device; on the CPU in the arrays' own memory."""
    return [torch.from_numpy(array).to(device) for array in several(images)]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def to_host(tensor: Tensor) -> Array:
    """Its values on the CPU in float32."""
    values: Array = tensor.detach().to("cpu").float().numpy()
    return values


def name(device: torch.device) -> str:
    """What the device calls itself; the CPU's name is known from the machine."""
    return "cpu" if device.type == "cpu" else str(torch.cuda.get_device_name(device))


def memory(device: torch.device) -> dict[str, int]:
    """The most that torch's allocator held, and what all processes use now, by the driver; nothing on the CPU."""
    if device.type == "cpu":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "device_allocated_bytes": torch.cuda.max_memory_allocated(device),
        "device_reserved_bytes": torch.cuda.max_memory_reserved(device),
        "device_used_bytes": total - free,
    }


def facts(device: torch.device) -> dict[str, bool | int | float | str | None]:
    """The settings that decide what arithmetic is done."""
    found: dict[str, bool | int | float | str | None] = {
        "mkldnn": bool(torch.backends.mkldnn.is_available()),  # type: ignore[no-untyped-call]
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "interop_threads": torch.get_num_interop_threads(),
    }
    if device.type == "cuda":
        found |= {
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "cuda": torch.version.cuda,
        }
    return found
