"""A case's id, written and read:

    MODEL[@SIZE][/kCLASSES]/WORKLOAD/RUNTIME/DEVICE/PRECISION[/LAYOUT]/bBATCH[/tTHREADS][/sSEED]

such as `resnet18/inference/ort/cpu/fp32/b8`. Parts in brackets are left out where they are the default.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnbench.suite.case import Case

_PATTERN = re.compile(
    r"(?P<model>.+?)(@(?P<image_size>\d+(x\d+)?))?(/k(?P<classes>\d+))?/(?P<workload>inference|training)"
    r"/(?P<runtime>[^/]+)/(?P<device>\w+)/(?P<precision>\w+)(/(?P<layout>channels_last))?"
    r"/b(?P<batch>\d+)(/t(?P<threads>\d+))?(/s(?P<seed>\d+))?"
)


def write(case: "Case") -> str:
    """The id of a case."""
    backend = (case.workload, case.runtime, case.device, case.precision, *layout_part(case))
    return "/".join((case.spec.label, *backend, f"b{case.batch}")) + extras(case)


def layout_part(case: "Case") -> tuple[str, ...]:
    """The layout, unless it is the default."""
    return () if case.layout == "nchw" else (case.layout,)


def extras(case: "Case") -> str:
    """Threads and seed, unless they are the defaults: `/t4/s1`."""
    return (f"/t{case.threads}" if case.threads else "") + (f"/s{case.spec.seed}" if case.spec.seed else "")


def read(id_: str) -> dict[str, str]:
    """The parts of an id by name, without those left out. Raises ValueError."""
    match = _PATTERN.fullmatch(id_)
    if match is None:
        raise ValueError(f"expected a case's id such as resnet18/inference/ort/cpu/fp32/b8; got {id_!r}")
    return {name: part for name, part in match.groupdict().items() if part is not None}
