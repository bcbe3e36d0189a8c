"""What one machine reached at its best: arithmetic, memory, the cost of a call. Raw values; the best of them counts.

Measured by small programs that do nothing else (`cnnbench doctor --peaks`), with the threads that cases use. A ceiling
that was not measured is None, and never a default.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from cnnbench.records import files
from cnnbench.records.bounds import Moment, PositiveCount, Recorded, Repetitions
from cnnbench.records.json_object import read_model
from cnnbench.suite.case import Device, Precision

PEAKS = "ceilings.json"
"""In a run's folder."""

Kernel = Literal["matrix product", "3x3 convolution", "1x1 convolution", "depthwise convolution"]
Pattern = Literal["read", "update", "copy"]
"""How memory is gone through: every value is read; read and written in its place; or written to another."""
Smallest = Literal["operator", "convolution"]
"""The least that a call can do: a function of one value, or a convolution of one value with one weight."""


class Throughput(Recorded):
    """Repetitions of one arithmetic kernel."""

    library: Literal["torch", "onnxruntime"]
    kernel: Kernel
    precision: Precision
    size: str
    """As a person reads it: `1024x1024x1024`, `64 to 64 channels, 4x56x56`."""
    flop: PositiveCount
    """Of one repetition."""
    seconds: Repetitions

    @property
    def flops_per_s(self) -> float:
        """Of the fastest repetition."""
        return self.flop / min(self.seconds)


class Bandwidth(Recorded):
    """Repetitions of one pass over memory."""

    pattern: Pattern
    working_set_bytes: PositiveCount
    """All the memory that a repetition touches; every repetition touches the same."""
    moved_bytes: PositiveCount
    """What one repetition reads and writes."""
    seconds: Repetitions

    @property
    def bytes_per_s(self) -> float:
        """Of the fastest repetition."""
        return self.moved_bytes / min(self.seconds)


class CallCost(Recorded):
    """Repetitions of calls that have next to nothing to do."""

    library: Literal["torch", "onnxruntime"]
    smallest: Smallest
    calls: PositiveCount
    """In each repetition, one after the other."""
    seconds: Repetitions

    @property
    def call_s(self) -> float:
        """Of one call, in the fastest repetition."""
        return min(self.seconds) / self.calls


class Peaks(Recorded):
    """All that was measured of one device with one number of threads."""

    device: Device
    device_name: str
    """The accelerator's, or the processor's."""
    threads: PositiveCount
    started: Moment
    versions: dict[str, str]
    throughputs: list[Throughput]
    bandwidths: list[Bandwidth]
    calls: list[CallCost]
    failures: dict[str, str] = {}
    """What could not be measured, with the reason."""

    def fastest(self, precision: str, kernel: Kernel | None = None) -> Throughput | None:
        """The fastest kernel, in any library; None if none was measured in this number format."""
        found = [each for each in self.throughputs if each.precision == precision and kernel in (None, each.kernel)]
        return max(found, key=lambda each: each.flops_per_s, default=None)

    def flops_per_s(self, precision: str) -> float | None:
        """The most floating-point operations per second in any kernel."""
        fastest = self.fastest(precision)
        return fastest.flops_per_s if fastest else None

    def bytes_per_s(self, working_set_bytes: float) -> float | None:
        """The most bytes per second that a program with this working set can hope for.

        That of the best pass over a working set at least as large as the largest measured one that is no larger: what
        a large working set reaches, a smaller one can too, and between two measured sizes the smaller one's is never
        too low. None if nothing was measured.
        """
        sizes = {each.working_set_bytes for each in self.bandwidths}
        size = max((size for size in sizes if size <= working_set_bytes), default=0)
        return max((each.bytes_per_s for each in self.bandwidths if each.working_set_bytes >= size), default=None)

    def memory_bytes_per_s(self) -> float | None:
        """The most bytes per second with the largest working set measured, which is far larger than any cache."""
        return self.bytes_per_s(max((each.working_set_bytes for each in self.bandwidths), default=0))

    def call_s(self, library: str, smallest: Smallest) -> float | None:
        """The least that a call costs; None if it was not measured."""
        costs = [each.call_s for each in self.calls if (each.library, each.smallest) == (library, smallest)]
        return min(costs, default=None)


class PeaksFile(Recorded):
    """`ceilings.json`: one entry for each device and number of threads."""

    schema_version: Literal[1, 2] = 2
    peaks: Annotated[list[Peaks], Field(validation_alias=AliasChoices("peaks", "ceilings"))]
    """In the first schema, some called them ceilings."""


def read_peaks(folder: Path) -> list[Peaks]:
    """What a run's folder has; none where none were measured. Raises RunFolderError for a file that is none of ours."""
    again = "delete the file, and measure them again with `cnnbench doctor --peaks --into RUN`"
    found = read_model(folder / PEAKS, PeaksFile, f"expected peaks of schema 2; {again}")
    return found.peaks if found else []


def write_peaks(folder: Path, peaks: Iterable[Peaks]) -> Path:
    """Write them down beside those of other devices and numbers of threads that the folder has; gives the file."""
    known = {(each.device, each.threads): each for each in [*read_peaks(folder), *peaks]}
    files.write(folder / PEAKS, json.dumps(PeaksFile(peaks=list(known.values())).model_dump(mode="json")))
    return folder / PEAKS


def find_peaks(peaks: Sequence[Peaks], device: Device, threads: int | None) -> Peaks | None:
    """Those of a device with so many threads; an accelerator's do not depend on them."""
    found = (each for each in peaks if each.device == device and (device != "cpu" or each.threads == threads))
    return next(found, None)
