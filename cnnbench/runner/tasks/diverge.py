"""A model in several runtimes, layer by layer, beside float64.

Runs of PyTorch are in the reference's process and share its trace and weights; graphs are in another, without PyTorch.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.divergence import Array, LayerErrors, cause_of, errors_of, first_wrong, growth
from cnnbench.errors import InputError, WorkerError
from cnnbench.records import artifact, layer_values
from cnnbench.records.messages import Load, Loaded
from cnnbench.records.record import ArtifactFacts
from cnnbench.records.task_messages import (
    LayersOpened,
    LayersRead,
    OpenLayers,
    OpenReference,
    OwnInput,
    ReadLayers,
    ReadReference,
    ReferenceOpened,
    ReferenceRead,
    Value,
)
from cnnbench.runner import machine
from cnnbench.runner.artifacts import LIMIT_S, Artifacts
from cnnbench.runner.scratch import scratch_folder
from cnnbench.runner.worker_process import Interpreter, Worker
from cnnbench.suite.case import NOISE, Case, Layout, ModelSpec, Precision
from cnnbench.suite.runtimes import REFERENCE, cannot, check_name, runtime_kind

COMPARED = ("eager", "compile", "ort")
"""Runtimes whose layers can be told."""
BYTES = 8
"""Of a number, in float64."""
MAP_AXES = 3
"""Of a value with maps: a batch, channels, and places."""
COPIES = 3
"""Of a layer's numbers in a run's files and in the process that compares them: as it ran, as it was fed, the error."""
MAX_OFF = 1e-6
"""Of a program from its model, both in float64."""
MEMORY_BYTES, MAX_BATCH = 10**9, 2
"""For a case of a run whose outputs differ."""
RETURNING = Interpreter(variables={"MALLOC_MMAP_THRESHOLD_": str(2**20)})
"""glibc (mallopt(3)): what is larger has a mapping of its own, which is given back when a layer's values are freed."""
UNOPTIMISED = "ort:disabled"
MAX_PICTURED, MAX_MAPS = 3, 8
"""Layers of a run whose maps are kept, beside the first wrong one, and maps of each."""
OTHER_PROGRAM = "the program that torch.export makes of the model puts out other values than the model itself"


Watch = Callable[[int, str, Array], None]
"""Sees the values (N, ...) at a place in a run of that name; the reference comes first, and has none."""


@dataclass(frozen=True)
class Contender:
    """What is compared with float64."""

    name: str
    """As it was given."""
    runtime: str
    precision: Precision = "fp32"
    file: str | None = None
    """The user's ONNX file, instead of the model in the runtime."""
    layout: Layout = "nchw"
    calibration: str = NOISE

    @property
    def in_torch(self) -> bool:
        """Whether it is read in a process that has imported PyTorch."""
        return not self.file and runtime_kind(self.runtime).runs_in_torch


@dataclass(frozen=True)
class Maps:
    """Some feature maps of one layer for the first image, those that differ most: (maps, height, width) or less."""

    channels: list[int]
    exact: NDArray[np.float32]
    made: NDArray[np.float32]


@dataclass(frozen=True)
class LayerRun:
    """The layers of one run."""

    name: str
    layers: list[LayerErrors]
    operators: dict[int, str]
    """By place, in the run's own words."""
    nodes: dict[int, str]
    """By place, the node of the graph before it is optimised; empty where the run is no graph."""
    members: dict[int, list[int]]
    """By place, the model's values that are computed on the way to it and that the run does not have."""
    causes: dict[int, str]
    """By place of a layer that is wrong, what may be the matter with it, where that is known, as analysis names it."""
    asked: float | None
    """The largest difference between the outputs with and without asking for values."""
    maps: "dict[int, Maps]" = field(default_factory=dict)
    """By place, of the worst layers that have maps."""
    unfused: "LayerRun | None" = None
    """Of a graph with a wrong layer, the same without optimisation."""

    @property
    def first(self) -> LayerErrors | None:
        """The first layer that is worse than rounding explains."""
        return first_wrong(self.layers)

    @property
    def accused(self) -> "tuple[LayerRun, LayerErrors] | None":
        """The first wrong layer and the run that shows it: the unoptimised one where that tells it more closely."""
        first, unfused = self.first, self.unfused.first if self.unfused else None
        if first is None:
            return None
        if self.unfused and unfused and len(self.unfused.members[unfused.place]) <= len(self.members[first.place]):
            return self.unfused, unfused
        return self, first


@dataclass(frozen=True)
class Divergence:
    """A model's runs, layer by layer."""

    model: str
    batch: int
    values: list[Value]
    runs: list[LayerRun]
    off: float | None = None
    """How far the outputs of the program that is the reference are from the model's own, in their RMS."""

    @property
    def is_other_program(self) -> bool:
        """Whether torch.export made another program than the model: it takes another path when it is exported."""
        return self.off is not None and self.off > MAX_OFF


def parse_contender(text: str, model: str = "") -> Contender:
    """`ort`, `compile/amp-bf16`, `ort/int8`, or an ONNX file. Raises ValueError."""
    if text.endswith(".onnx"):
        if not Path(text).is_file():
            raise ValueError(f"{text!r}: there is no such file")
        return Contender(text, "ort", file=text)
    runtime, _, precision = text.partition("/")
    name = runtime_kind(check_name(runtime)).name
    if name not in COMPARED:
        raise ValueError(f"expected one of {', '.join(COMPARED)}, or an ONNX file; the layers of {name} are not known")
    known = runtime_kind(name).precisions
    precisions = [each for each in known if each == (precision or "fp32")]
    if not precisions:
        raise ValueError(f"expected a precision of {name}, {' or '.join(known)}; got {text!r}")
    chosen: Precision = precisions[0]  # type: ignore[assignment]
    if reason := cannot(runtime, "inference", "cpu", chosen, "nchw", model=model):
        raise ValueError(f"{text!r}: {reason}")
    return Contender(text, runtime, chosen)


def diverge(
    spec: ModelSpec,
    contenders: Sequence[Contender],
    batch: int,
    memory_bytes: int,
    then: Callable[[Divergence, dict[str, Path], Path], object] = lambda *_: None,
) -> Divergence:
    """Compare each layer of each run with float64, group by group of layers. Raises ModelError, WorkerError.

    The files of a group, and what is compared of it at once, take no more than `memory_bytes`. `then` gets the result,
    the graph of each run, and a folder for logs, while the artifact is there.
    """
    with Artifacts() as artifacts:
        facts, folder = open_graphs(artifacts, spec, contenders, batch)
        found = diverge_artifact(spec, folder, contenders, facts.batch or batch, memory_bytes, artifacts.logs)
        graphs = {
            each.name: Path(each.file) if each.file else folder / artifact.graph_file(_case_of(spec, each, batch))
            for each in contenders
        }
        then(found, graphs, artifacts.logs)
        return found


def open_graphs(
    artifacts: Artifacts, spec: ModelSpec, contenders: Sequence[Contender], batch: int
) -> tuple[ArtifactFacts, Path]:
    """A model's artifact with the graphs that runs need, and its folder. Raises ModelError, WorkerError."""
    cases = [_case_of(spec, each, batch) for each in contenders if not each.file]
    artifacts.build([wanted := artifacts.wanted(spec, ahead=[case for case in cases if case.has_own_graph])])
    built = artifacts.find(wanted)
    facts = built.require()
    for case in cases:
        if (problem := built.problem(case.model_copy(update={"batch": facts.batch or batch}))) is not None:
            raise WorkerError(f"{case.backend}: {problem.reason}")
    return facts, built.folder


def diverge_artifact(
    spec: ModelSpec,
    folder: Path,
    contenders: Sequence[Contender],
    batch: int,
    memory_bytes: int,
    logs: Path,
    golden: str = artifact.GOLDEN,
) -> Divergence:
    """The same of an artifact's folder, on the reference images of this file in it; workers log into `logs`."""
    with Comparison(spec, folder, batch, memory_bytes, logs, golden=golden) as whole:
        runs = whole.run(contenders)
        wrong = [each for each, run in zip(contenders, runs, strict=True) if _may_be_unfused(each) and run.first]
        unfused = whole.run([replace(each, runtime=UNOPTIMISED) for each in wrong]) if wrong else []
    by_name = {run.name: run for run in unfused}
    runs = [replace(run, unfused=by_name.get(run.name)) for run in runs]
    return Divergence(spec.label, batch, whole.values, runs, whole.off)


def where_it_begins(case: Case, folder: Path, logs: Path) -> str | None:
    """Where the outputs of an inference case part from float64, in figures; None where its layers are not known.

    Raises ModelError, WorkerError.
    """
    if case.workload != "inference" or case.device != "cpu" or runtime_kind(case.runtime).name not in COMPARED:
        return None
    contender = Contender(case.id, case.runtime, case.precision, layout=case.layout, calibration=case.calibration)
    batch, golden = min(case.batch, MAX_BATCH), artifact.golden_of(folder, case)
    found = diverge_artifact(case.spec, folder, [contender], batch, MEMORY_BYTES, logs, golden)
    (run,) = found.runs
    if found.is_other_program:
        return f"{OTHER_PROGRAM}, error {found.off:.1e}"
    if run.accused is None:
        grown = growth(run.layers)
        reached = ", ".join(f"{step:.0%} at {_called(found.values[layer.place])}" for step, layer in grown)
        return f"no layer adds more than rounding explains; error {reached}" if grown else None
    shown, layer = run.accused
    added = "no numbers" if layer.added is None else f"{layer.added:.1e}"
    cause = f", {shown.causes[layer.place]}" if layer.place in shown.causes else ""
    called = f"{_called(found.values[layer.place])} ({shown.operators[layer.place]})"
    return f"begins at {called}: adds {added}, rounding {layer.limit:.1e}{cause}"


def _case_of(spec: ModelSpec, contender: Contender, batch: int) -> Case:
    return Case(
        spec=spec,
        workload="inference",
        runtime=contender.runtime,
        precision=contender.precision,
        calibration=contender.calibration,
        layout=contender.layout,
        batch=batch,
    )


def _called(value: Value) -> str:
    return f"{value.module} {value.operator}".strip()


def _may_be_unfused(contender: Contender) -> bool:
    return runtime_kind(contender.runtime).runs_exported_graph and contender.runtime != UNOPTIMISED


@dataclass
class _Open:
    """A run whose worker is open."""

    contender: Contender
    name: str
    """In its process and of its files."""
    worker: Worker
    opened: LayersOpened
    layers: list[LayerErrors] = field(default_factory=list)
    causes: dict[int, str] = field(default_factory=dict)
    maps: dict[int, Maps] = field(default_factory=dict)
    asked: float | None = None

    def keep(self, errors: LayerErrors, exact: Array, made: Array) -> None:
        """Keep a layer's maps while it is the first wrong one, or among those with the largest excess."""
        if exact.ndim < MAP_AXES or made.shape != exact.shape:
            return
        first = first_wrong(self.layers)
        kept = [layer for layer in self.layers if layer.place in self.maps and layer is not first]
        if errors is not first:
            kept.append(errors)
        least = min(kept, key=lambda layer: layer.excess) if len(kept) > MAX_PICTURED else None
        if least is errors:
            return
        size = np.nan_to_num(np.abs(made[0] - exact[0]), nan=np.inf).reshape(exact.shape[1], -1).max(axis=1)
        channels = sorted(np.argsort(-size, kind="stable")[:MAX_MAPS].tolist())
        self.maps[errors.place] = Maps(channels, *(each[0, channels].astype(np.float32) for each in (exact, made)))
        if least:
            del self.maps[least.place]


class Comparison(ExitStack):
    """One model on one batch, and the processes that read its layers until the context ends."""

    def __init__(
        self,
        spec: ModelSpec,
        folder: Path,
        batch: int,
        memory_bytes: int,
        logs: Path,
        image: OwnInput | None = None,
        golden: str = artifact.GOLDEN,
    ) -> None:
        """Of an artifact's folder, on the user's image, or the reference images of this file in the folder."""
        super().__init__()
        self._spec, self._folder, self._batch, self._logs = spec, folder, batch, logs
        self._memory_bytes, self._threads = memory_bytes, machine.usable_threads()
        self._image, self._golden = image, golden
        self._workers: dict[bool, Worker] = {}
        """By whether they are in PyTorch."""
        self._at = 0
        self.off: float | None = None
        self.values: list[Value] = []
        self.image: NDArray[np.generic] = np.zeros(0)
        """The first image that was put in."""

    def run(self, contenders: Sequence[Contender], watch: Watch = lambda *_: None) -> list[LayerRun]:
        """All runs beside one reference; `watch` sees the values of each."""
        self._at = 0
        with scratch_folder() as scratch:
            reference = self._worker(in_torch=not self._spec.is_onnx_file)
            request = OpenReference(
                spec=self._spec,
                folder=str(self._folder),
                golden=self._golden,
                batch=self._batch,
                threads=self._threads,
                image=self._image,
            )
            self.values = reference.ask(request, ReferenceOpened).values
            runs = [self._opened(str(number), scratch, each) for number, each in enumerate(contenders)]
            for until in self._groups(len(runs), [run for run in runs if run.opened.at_once]):
                self._read(reference, runs, until, scratch, watch)
                for file in scratch.glob("*.npy"):
                    file.unlink()
        return [
            LayerRun(
                name=run.contender.name,
                layers=run.layers,
                operators=dict(zip(run.opened.places, run.opened.operators, strict=True)),
                nodes=dict(zip(run.opened.places, run.opened.nodes, strict=False)),
                members=members(self.values, run.opened.places),
                causes=run.causes,
                asked=run.asked,
                maps=run.maps,
            )
            for run in runs
        ]

    def _worker(self, in_torch: bool) -> Worker:
        if in_torch not in self._workers:
            log = self._logs / ("layers-torch.log" if in_torch else "layers-graphs.log")
            worker = Worker(log, self._threads, LIMIT_S, interpreter=RETURNING)
            self._workers[in_torch] = self.enter_context(worker)
            any_run = Contender("", REFERENCE if in_torch else "ort")
            worker.ask(Load(case=_case_of(self._spec, any_run, self._batch), threads=self._threads), Loaded)
        return self._workers[in_torch]

    def _opened(self, name: str, scratch: Path, contender: Contender) -> _Open:
        own, worker = scratch / name, self._worker(contender.in_torch)
        own.mkdir()
        request = OpenLayers(
            name=name,
            case=_case_of(self._spec, contender, self._batch),
            folder=str(self._folder),
            golden=self._golden,
            file=contender.file,
            scratch=str(own),
            values=self.values,
            threads=self._threads,
            image=self._image,
        )
        return _Open(contender, name, worker, worker.ask(request, LayersOpened))

    def _groups(self, runs: int, at_once: Sequence[_Open]) -> list[int]:
        """Where each group of layers ends. Raises InputError where one layer is too large."""
        sizes = [BYTES * int(np.prod(value.shape, dtype=np.int64)) for value in self.values]
        held = sum(sizes[place] for run in at_once for place in run.opened.places)
        room = self._memory_bytes - held
        each = [size * (1 + COPIES * runs) for size in sizes]
        if max(each) > room:
            largest = self.values[int(np.argmax(sizes))]
            raise InputError(
                f"--memory: expected at least {(held + max(each)) / 1e9:.2g} GB for the values of layer "
                f"{largest.module or largest.name!r}{' and all that torch.compile puts out' if held else ''}; got "
                f"{self._memory_bytes / 1e9:.2g} GB; give more, or a smaller --batch or --image-size"
            )
        ends, used = [], 0
        for place, size in enumerate(each):
            if used + size > room:
                ends.append(place)
                used = 0
            used += size
        return [*ends, len(each)]

    def _read(self, reference: Worker, runs: Sequence[_Open], until: int, folder: Path, watch: Watch) -> None:
        cuts = [run.opened.places for run in runs]
        found = reference.ask(ReadReference(until=until, folder=str(folder), cuts=cuts), ReferenceRead)
        self.off = found.off
        if not self._at:
            self.image = layer_values.load(folder, layer_values.IMAGE, 0)
        for place in range(self._at, until):
            watch(place, "", np.asarray(layer_values.load(folder, layer_values.REFERENCE, place), np.float64))
        self._at = until
        for run, rounding in zip(runs, found.rounding, strict=True):
            run.asked = run.worker.ask(ReadLayers(until=until, folder=str(folder), name=run.name), LayersRead).asked
            for place, own in sorted(rounding.items()):
                exact = np.asarray(layer_values.load(folder, layer_values.REFERENCE, place), np.float64)
                made, fed = (layer_values.load(folder, each, place) for each in (run.name, layer_values.fed(run.name)))
                errors = errors_of(place, exact, made, fed, own.rms, own.largest, run.contender.precision)
                watch(place, run.contender.name, np.asarray(made, np.float64))
                run.layers.append(errors)
                run.keep(errors, exact, made)
                if errors.is_wrong and (cause := cause_of(exact, np.asarray(fed, np.float64))):
                    run.causes[place] = cause


def members(values: Sequence[Value], places: Sequence[int]) -> dict[int, list[int]]:
    """By place of a run, the model's values between it and those that the run has, in order."""
    stops = set(places)
    found: dict[int, list[int]] = {}
    for place in places:
        inside: set[int] = set()
        waiting = [place]
        while waiting:
            for used in values[waiting.pop()].inputs:
                if used not in stops and used not in inside:
                    inside.add(used)
                    waiting.append(used)
        found[place] = sorted(inside)
    return found
