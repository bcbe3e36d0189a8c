"""A case's id, written and read:

    MODEL[@SIZE][/kCLASSES]/WORKLOAD/RUNTIME/DEVICE/PRECISION[/LAYOUT]/bBATCH[/tTHREADS][/sSEED]

such as `resnet18/inference/ort/cpu/fp32/b8`. Parts in brackets are left out where they are the default.
"""

import re
from collections.abc import Sequence

DEFAULT_LAYOUT = "nchw"

_PATTERN = re.compile(
    r"(?P<model>.+?)(@(?P<image_size>\d+(x\d+)?))?(/k(?P<classes>\d+))?/(?P<workload>inference|training)"
    r"/(?P<runtime>[^/]+)/(?P<device>\w+)/(?P<precision>\w+)(/(?P<layout>channels_last))?"
    r"/b(?P<batch>\d+)(/t(?P<threads>\d+))?(/s(?P<seed>\d+))?"
)


def write(label: str, backend: Sequence[str], batch: int, threads: int | None, seed: int) -> str:
    """An id from a model's label, from workload, runtime, device, precision and layout, and from the numbers."""
    parts = [label, *(part for part in backend if part != DEFAULT_LAYOUT), f"b{batch}"]
    return "/".join(parts) + extras(threads, seed)


def extras(threads: int | None, seed: int) -> str:
    """Threads and seed, unless they are the defaults: `/t4/s1`."""
    return (f"/t{threads}" if threads else "") + (f"/s{seed}" if seed else "")


def read(id_: str) -> dict[str, str]:
    """The parts of an id by name, without those left out. Raises ValueError."""
    match = _PATTERN.fullmatch(id_)
    if match is None:
        raise ValueError(f"expected a case's id such as resnet18/inference/ort/cpu/fp32/b8; got {id_!r}")
    return {name: part for name, part in match.groupdict().items() if part is not None}
