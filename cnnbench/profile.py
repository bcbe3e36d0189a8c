"""A model's layers with the time of each, from the runtimes' own profilers, joined by name to what each has to do."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from cnnbench import artifact, machine
from cnnbench.archs import catalogue
from cnnbench.archs.network import Layer, Network
from cnnbench.build import LIMIT_S, build_artifact, find_artifact, forget_artifact
from cnnbench.case import Case, ModelSpec
from cnnbench.errors import WorkerError
from cnnbench.messages import LayerTimes, Load, Loaded, Profile, Profiled
from cnnbench.process import Worker
from cnnbench.walk import read

RUNTIMES = ("eager", "ort")
WORST = 5
"""How many layers are named of the slowest."""
LEAST_SHARE = 0.01
"""Of a call's time: a layer below it is not called slow for its work, however slow."""
NOTE = (
    "Profilers slow a runtime down, short operators most. These times are for shares within one runtime, not for "
    "comparison with each other or with `cnnbench run`."
)

_NUMBER = re.compile(r"_?\d+$")


@dataclass(frozen=True)
class Row:
    """What one module computes itself, beside the modules inside it. Work is for the whole batch."""

    name: str
    """The module's; empty for the outermost."""
    kind: str
    """The kinds of the layers whose figures these are; in the runtime's words where no layer is known."""
    macs: int | None
    moved_bytes: int | None
    """None, as MACs, where no layer is known."""
    seconds: dict[str, float]
    """Of one call, by runtime; one that ran no operator for it is absent."""

    def macs_per_s(self, runtime: str) -> float | None:
        """None where there are none, or no time."""
        return self.macs / self.seconds[runtime] if self.macs and self.seconds.get(runtime) else None


@dataclass(frozen=True)
class Times:
    """What one runtime's profiler saw of a call, in parts that add up to it."""

    layers_s: float
    """All rows."""
    other: dict[str, float]
    """Seconds of operators of which it is not known whose they are."""
    outside_s: float
    """Between the operators: what the runtime and its profiler do there."""
    quartiles_s: tuple[float, float]
    """Of the whole calls, by the host's clock: half of them lie between. Far apart, something disturbed them."""

    @property
    def call_s(self) -> float:
        """A whole call, as all its parts together."""
        return self.layers_s + sum(self.other.values()) + self.outside_s


@dataclass(frozen=True)
class ModelProfile:
    """All of it, for one model and batch."""

    model: str
    input_shape: tuple[int, ...]
    batch: int
    calls: int
    threads: int
    rows: tuple[Row, ...]
    """In network order."""
    times: dict[str, Times]
    failures: dict[str, str] = field(default_factory=dict)
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
            if (rate := row.macs_per_s(runtime)) and (self.share(row, runtime) or 0.0) >= LEAST_SHARE
        ]
        return [row for _, row in sorted(rated, key=lambda pair: pair[0])[:WORST]]


def profile_model(spec: ModelSpec, batch: int, calls: int) -> ModelProfile:
    """Build or find the artifact, have both runtimes profiled, each in a process of its own, and join.

    A model that cannot be exported, or not be run by ONNX Runtime, is profiled in PyTorch alone. Raises ModelError for
    a model that cannot be built, WorkerError if PyTorch cannot be profiled.
    """
    threads, run_id = machine.usable_threads(), uuid4().hex
    found: dict[str, Profiled] = {}
    failures: dict[str, str] = {}
    left_out: list[str] = []
    with TemporaryDirectory(prefix="cnnbench-") as scratch:
        try:
            facts = find_artifact(spec, run_id) or build_artifact(spec, run_id, Path(scratch) / "build.log")
            arch = catalogue.find(spec.model)
            if arch:
                network = arch.network(spec.image_size, spec.classes)
            else:
                reading = read(spec)
                network, left_out = reading.network, reading.left_out
            folder = artifact.folder_of(spec, facts.key)
            found["eager"] = _ask(spec, "eager", batch, calls, threads, folder, Path(scratch))
            try:
                if facts.onnx_error is not None:
                    raise WorkerError(f"ONNX export failed: {facts.onnx_error}")
                found["ort"] = _ask(spec, "ort", batch, calls, threads, folder, Path(scratch))
            except WorkerError as error:
                failures["ort"] = str(error)
        finally:
            forget_artifact(spec, run_id)
    rows = join(network, batch, found)
    return ModelProfile(
        model=spec.label,
        input_shape=facts.input_shape,
        batch=batch,
        calls=calls,
        threads=threads,
        rows=rows,
        times={runtime: _times(runtime, profiled, rows) for runtime, profiled in found.items()},
        failures=failures,
        left_out=tuple(left_out),
    )


def _ask(spec: ModelSpec, runtime: str, batch: int, calls: int, threads: int, folder: Path, scratch: Path) -> Profiled:
    case = Case(spec=spec, workload="inference", runtime=runtime, batch=batch)
    with Worker(scratch / f"{runtime}.log", threads, LIMIT_S) as worker:
        worker.ask(Load(case=case, threads=threads), Loaded)
        return worker.ask(Profile(case=case, folder=str(folder), scratch=str(scratch), calls=calls), Profiled)


def join(network: Network, batch: int, found: dict[str, Profiled]) -> tuple[Row, ...]:
    """One row for each module that computes something itself, in network order; `found` has eager PyTorch.

    What a layer does that is no module of its own (a sum, a function), its module does.
    """
    modules = set(found["eager"].modules)
    layers: dict[str, list[Layer]] = {}
    for layer in network.inference:
        layers.setdefault(owner(layer.name, modules), []).append(layer)
    times: dict[str, dict[str, list[LayerTimes]]] = {}
    for runtime, profiled in found.items():
        for each in profiled.layers:
            times.setdefault(owner(each.name, modules), {}).setdefault(runtime, []).append(each)
    names = list(layers)
    for profiled in found.values():
        before = -1
        for name in (owner(each.name, modules) for each in profiled.layers):
            if name not in names:
                names.insert(before + 1, name)
            before = names.index(name)
    return tuple(_row(name, layers.get(name, []), times.get(name, {}), batch) for name in names)


def _row(name: str, layers: Sequence[Layer], times: dict[str, list[LayerTimes]], batch: int) -> Row:
    kinds = Counter(layer.kind for layer in layers)
    operators = {operator for ran in times.values() for each in ran for operator in each.operators}
    return Row(
        name=name,
        kind=", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in kinds.items())
        or ", ".join(sorted(operators)),
        macs=sum(layer.macs for layer in layers) * batch if layers else None,
        moved_bytes=sum(layer.moved_bytes(batch) for layer in layers) if layers else None,
        seconds={
            runtime: typical([sum(call) for call in zip(*(each.seconds for each in ran), strict=True)])
            for runtime, ran in times.items()
        },
    )


def _times(runtime: str, profiled: Profiled, rows: Iterable[Row]) -> Times:
    operators = (each.seconds for each in [*profiled.layers, *profiled.other])
    rest = [whole - sum(parts) for whole, *parts in zip(profiled.call_s, *operators, strict=True)]
    ordered = sorted(profiled.call_s)
    quarter = len(ordered) // 4
    return Times(
        layers_s=sum(row.seconds.get(runtime, 0.0) for row in rows),
        other={each.name: typical(each.seconds) for each in profiled.other},
        outside_s=typical(rest),
        quartiles_s=(ordered[quarter], ordered[-1 - quarter]),
    )


def owner(name: str, modules: Collection[str]) -> str:
    """The called module that a layer belongs to: its own, `relu` for its second passing `relu2`, or the one around."""
    again = _NUMBER.sub("", name)
    if name not in modules and again in modules:
        return again
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def typical(seconds: Iterable[float]) -> float:
    """The mean of the middle half: a quarter is left out at either end.

    Disturbed calls do not move it while they are fewer than a quarter, and it is finer than a median where a clock
    ticks in microseconds.
    """
    ordered = sorted(seconds)
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    return sum(middle) / len(middle)
