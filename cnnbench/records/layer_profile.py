"""Where the time of one model's call goes, layer by layer: values, and how they are kept in a run's folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from cnnbench.networks.layers import WorkKind
from cnnbench.records import files
from cnnbench.records.bounds import Count, Elapsed, PositiveCount, Recorded, Seconds
from cnnbench.records.json_object import read_each
from cnnbench.suite.case import Size

PROFILES = "profiles.jsonl"
"""In a run's folder: one model a line."""
WORST = 5
"""How many layers are named of the slowest."""
SPREAD = 1.2
"""So many times longer than typical is too much for a quarter of the calls."""
MIN_SHARE = 0.01
"""Of a call's time: a layer below it is not called slow for its work, however slow."""


class Row(Recorded):
    """What one module computes itself, beside the modules inside it. Work is for the whole batch."""

    name: str
    """The module's; empty for the outermost."""
    kind: str
    """The kinds of the layers whose figures these are; in the runtime's words where no layer is known."""
    work: WorkKind
    """What most of its work is."""
    macs: Count | None
    moved_bytes: Count | None
    """None, as MACs, where no layer is known."""
    seconds: dict[str, Elapsed]
    """Of one call, by runtime; one that ran no operator for it is absent."""

    def macs_per_s(self, runtime: str) -> float | None:
        """None where there are none, or no time."""
        return self.macs / self.seconds[runtime] if self.macs and self.seconds.get(runtime) else None


class Times(Recorded):
    """What one runtime's profiler saw of a call, in parts that add up to it."""

    layers_s: Seconds
    """All rows."""
    other: dict[str, Seconds]
    """Seconds of operators of which it is not known whose they are."""
    outside_s: Annotated[float, Field(gt=-1e9, lt=1e9)]
    """Between the operators: what the runtime and its profiler do there."""
    quartiles_s: tuple[Seconds, Seconds]
    """Of the whole calls, by the host's clock: half of them lie between. Far apart, there was interference."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.call_s < 1e-12:
            raise ValueError("expected parts of a call that takes time")
        return self

    @property
    def operators_s(self) -> float:
        """All operators, whosever they are."""
        return self.layers_s + sum(self.other.values())

    @property
    def call_s(self) -> float:
        """A whole call, as all its parts together."""
        return self.operators_s + self.outside_s

    @property
    def has_interference(self) -> bool:
        """Whether a quarter of the calls took far longer than their typical parts together."""
        return self.quartiles_s[1] > SPREAD * self.call_s


class ModelProfile(Recorded):
    """All of it, for one model and batch."""

    model: str
    input_shape: tuple[Size, ...]
    batch: PositiveCount
    calls: PositiveCount
    threads: PositiveCount
    rows: tuple[Row, ...]
    """In network order."""
    times: dict[str, Times]
    failures: dict[str, str] = {}
    """By runtime, why it could not be profiled."""
    left_out: tuple[str, ...] = ()
    """What the MACs and bytes of a model without a closed form leave out."""

    def share(self, row: Row, runtime: str) -> float | None:
        """Of the whole call's time; None where the layer ran no operator."""
        return row.seconds[runtime] / self.times[runtime].call_s if runtime in row.seconds else None

    def slowest(self, runtime: str) -> list[Row]:
        """The layers that take longest."""
        ran = [row for row in self.rows if row.seconds.get(runtime)]
        return sorted(ran, key=lambda row: -row.seconds[runtime])[:WORST]

    def slow_for_work(self, runtime: str) -> list[Row]:
        """The layers with the fewest MACs per second, of those with MACs and 1 % of the time."""
        rated = [
            (rate, row)
            for row in self.rows
            if (rate := row.macs_per_s(runtime)) and (self.share(row, runtime) or 0.0) >= MIN_SHARE
        ]
        return [row for _, row in sorted(rated, key=lambda pair: pair[0])[:WORST]]


def read_profiles(folder: Path) -> tuple[list[ModelProfile], list[str]]:
    """The profiles in a run's folder, and at most one line about what of the file could not be read."""
    found: dict[tuple[str, int, int], ModelProfile] = {}

    def add(content: dict[str, Any]) -> None:
        profile = ModelProfile.model_validate(content)
        found[profile.model, profile.batch, profile.threads] = profile

    unreadable = read_each(folder / PROFILES, add)
    return list(found.values()), unreadable


def append_profiles(folder: Path, profiles: Iterable[ModelProfile]) -> None:
    """Write profiles down; of two of one model, batch and number of threads the later counts."""
    for profile in profiles:
        files.append(folder / PROFILES, profile.model_dump_json())
