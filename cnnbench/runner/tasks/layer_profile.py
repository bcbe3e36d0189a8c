"""A model's layers with the time of each, from the runtimes' own profilers, joined by name to what each has to do."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from cnnbench.analysis.explain import telling
from cnnbench.analysis.stats import launch_estimate
from cnnbench.errors import CnnbenchError, WorkerError
from cnnbench.networks import registry
from cnnbench.networks.network import Layer, Network
from cnnbench.networks.work import kind_of
from cnnbench.records import artifact
from cnnbench.records.layer_profile import ModelProfile, Row, Times, append_profiles
from cnnbench.records.messages import LayerTimes, Load, Loaded, Profile, Profiled
from cnnbench.records.record import MEASURED, ArtifactFacts
from cnnbench.records.run_folder import Run
from cnnbench.runner import machine
from cnnbench.runner.artifacts import LIMIT_S, build_artifact, find_artifact, forget_artifact
from cnnbench.runner.fork_server import ForkServer
from cnnbench.runner.tasks.trace import read
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.runtimes import REFERENCE, profiled_runtimes, runtime_kind

PROFILE_S = 0.5
MIN_CALLS, MAX_CALLS = 5, 20
NOTE = (
    "Profilers slow a runtime down, short operators most. These times are for shares within one runtime, not for "
    "comparison with each other or with `cnnbench run`."
)

_NUMBER = re.compile(r"_?\d+$")


def profile_model(spec: ModelSpec, batch: int, calls: int, threads: int | None = None) -> ModelProfile:
    """Build or find the artifact and profile it, with all usable threads if not told how many.

    Raises ModelError for a model that cannot be built, WorkerError if PyTorch cannot be profiled.
    """
    run_id = uuid4().hex
    with TemporaryDirectory(prefix="cnnbench-") as scratch:
        try:
            facts = find_artifact(spec, run_id) or build_artifact(spec, run_id, Path(scratch) / "build.log")
            return profile_artifact(spec, facts, batch, calls, threads or machine.usable_threads())
        finally:
            forget_artifact(spec, run_id)


def profile_artifact(
    spec: ModelSpec, facts: ArtifactFacts, batch: int, calls: int, threads: int, fork_server: ForkServer | None = None
) -> ModelProfile:
    """Profile each runtime that has a profiler, in a process of its own, and join; PyTorch's is forked.

    A runtime that fails, such as ONNX Runtime for a model that cannot be exported, has its reason in `failures`. Raises
    WorkerError if PyTorch cannot be profiled.
    """
    found: dict[str, Profiled] = {}
    failures: dict[str, str] = {}
    left_out: list[str] = []
    architecture = registry.find(spec.model)
    if architecture:
        network = architecture.network(spec.image_size, spec.classes)
    else:
        reading = read(spec)
        network, left_out = reading.network, reading.left_out
    folder = artifact.folder_of(spec, facts.key)
    with TemporaryDirectory(prefix="cnnbench-") as name:
        scratch = Path(name)
        found[REFERENCE] = _ask(spec, REFERENCE, batch, calls, threads, folder, scratch, fork_server)
        for runtime in profiled_runtimes()[1:]:
            try:
                if facts.onnx_error is not None and runtime_kind(runtime).runs_exported_graph:
                    raise WorkerError(f"ONNX export failed: {facts.onnx_error}")
                found[runtime] = _ask(spec, runtime, batch, calls, threads, folder, scratch)
            except WorkerError as error:
                failures[runtime] = str(error)
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


def _ask(
    spec: ModelSpec,
    runtime: str,
    batch: int,
    calls: int,
    threads: int,
    folder: Path,
    scratch: Path,
    fork_server: ForkServer | None = None,
) -> Profiled:
    case = Case(spec=spec, workload="inference", runtime=runtime, batch=batch)
    log = scratch / f"{runtime}.log"
    with fork_server.start(log) if fork_server else Worker(log, threads, LIMIT_S) as worker:
        worker.ask(Load(case=case, threads=threads), Loaded)
        return worker.ask(Profile(case=case, folder=str(folder), scratch=str(scratch), calls=calls), Profiled)


def profile_run(run: Run, watch: Callable[[str, int, int], None]) -> list[str]:
    """Profile each model of a run on its machine, at the batch that tells most, into its folder.

    `watch` is told each model, its number, and of how many. Gives a line for each that could not be profiled. Raises
    InputError on another machine than the run's.
    """
    machine.check_is_this(run.environment, str(run.folder))
    records = [record for record in run.records.values() if record.status in MEASURED]
    measured = {r.case: times for r in records if r.measurement and any(times := r.measurement.times())}
    chosen = {case.spec: case for case in telling(measured) if case.device == "cpu"}
    faults = []
    for number, case in enumerate(chosen.values(), start=1):
        watch(case.label, number, len(chosen))
        call_s = launch_estimate(measured[case]).value
        try:
            profile = profile_model(case.spec, case.batch, calls_for(call_s), case.threads)
        except CnnbenchError as error:
            faults.append(f"{case.label}: not profiled: {error}")
        else:
            append_profiles(run.folder, [profile])
    return faults


def calls_for(call_s: float) -> int:
    """How many calls tell a layer's share well enough in about a second."""
    return min(max(round(PROFILE_S / call_s), MIN_CALLS), MAX_CALLS)


def join(network: Network, batch: int, found: dict[str, Profiled]) -> tuple[Row, ...]:
    """One row for each module that computes something itself, in network order; `found` has the reference runtime.

    What a layer does that is no module of its own (a sum, a function), its module does.
    """
    modules = set(found[REFERENCE].modules)
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
        work=kind_of(max(layers, key=lambda layer: layer.macs)) if layers else "other operators",
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
