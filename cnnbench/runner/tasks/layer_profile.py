"""A model's layers with the time of each, from the runtimes' own profilers, joined by name to what each has to do."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from cnnbench.analysis.explain import telling
from cnnbench.analysis.layer_join import join, times_of
from cnnbench.analysis.times import call_time
from cnnbench.errors import CnnbenchError, WorkerError
from cnnbench.records import artifact
from cnnbench.records.layer_profile import ModelProfile, append_profiles
from cnnbench.records.messages import Load, Loaded
from cnnbench.records.record import MEASURED, ArtifactFacts
from cnnbench.records.run_folder import Run
from cnnbench.records.task_messages import Profile, Profiled
from cnnbench.records.toolchain import engine_versions
from cnnbench.runner import machine
from cnnbench.runner.artifacts import LIMIT_S, Artifacts
from cnnbench.runner.fork_server import ForkServers, Lineage
from cnnbench.runner.scratch import scratch_folder
from cnnbench.runner.tasks.trace import read
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.runtimes import REFERENCE, cannot, profiled_runtimes, runtime_kind, split

PROFILE_S = 0.5
MIN_CALLS, MAX_CALLS = 5, 20
NOTE = (
    "Profilers slow a runtime down, short operators most. These times are for shares within one runtime, not for "
    "comparison with each other or with `cnnbench run`."
)


def profile_model(spec: ModelSpec, batch: int, calls: int) -> ModelProfile:
    """Build or find the artifact and profile it with all usable threads. Raises ModelError, WorkerError."""
    with Artifacts() as artifacts, ForkServers(artifacts.logs, LIMIT_S) as servers:
        facts, threads = artifacts.get(spec), machine.usable_threads()
        return profile_artifact(spec, facts, batch, calls, threads, servers, asked=engine_versions())


def profile_artifact(
    spec: ModelSpec,
    facts: ArtifactFacts,
    batch: int,
    calls: int,
    threads: int,
    servers: ForkServers,
    asked: Collection[str] = (),
) -> ModelProfile:
    """Profile each runtime that has a profiler, in a process of its own, and join.

    Those that may not work here are only profiled where they are `asked` for by name.

    One that fails has its reason in `failures`; WorkerError is raised if PyTorch cannot be profiled, or, for an ONNX
    file, ONNX Runtime.
    """
    found: dict[str, Profiled] = {}
    failures: dict[str, str] = {}
    reading = read(spec)
    folder = artifact.folder_of(spec, facts.key)
    with scratch_folder() as scratch:
        for runtime in profiled_runtimes():
            case = Case(spec=spec, workload="inference", runtime=runtime, batch=batch)
            if runtime_kind(runtime).must_be_tried and runtime not in asked:
                continue
            if cannot(runtime, "inference", "cpu", "fp32", "nchw", model=spec.model):
                continue
            start = servers.starter(runtime, Lineage(threads))
            try:
                if facts.onnx_error is not None and runtime_kind(runtime).runs_exported_graph:
                    raise WorkerError(f"ONNX export failed: {facts.onnx_error}")
                with start(scratch / f"{runtime}.log") as worker:
                    worker.ask(Load(case=case, threads=threads), Loaded)
                    request = Profile(case=case, folder=str(folder), scratch=str(scratch), calls=calls)
                    found[runtime] = worker.ask(request, Profiled)
            except WorkerError as error:
                if runtime == REFERENCE or (spec.is_onnx_file and not runtime_kind(runtime).must_be_tried):
                    raise
                failures[runtime] = str(error)
    rows = join(reading.network, batch, found)
    return ModelProfile(
        model=spec.label,
        input_shape=facts.input_shape,
        batch=batch,
        calls=calls,
        threads=threads,
        rows=rows,
        times={runtime: times_of(runtime, profiled, rows) for runtime, profiled in found.items()},
        failures=failures,
        left_out=tuple(reading.left_out),
    )


def profile_models(
    folder: Path,
    call_s: Mapping[Case, float],
    artifacts: Artifacts,
    servers: ForkServers,
    go_on: Callable[[str, int, int], bool],
    leave_out: Collection[str] = (),
) -> list[str]:
    """Profile each model of some cases once, at the batch that tells most, into a run's folder.

    `call_s` are the seconds of a call of each case. `go_on` is told each model, its number, and of how many, and ends
    all by answering False. Gives a line for each model that could not be profiled.
    """
    chosen = [case for case in {case.spec: case for case in telling(call_s)}.values() if case.device == "cpu"]
    faults = []
    for number, case in enumerate(chosen, start=1):
        if case.spec.label in leave_out:
            continue
        if not go_on(case.label, number, len(chosen)):
            break
        threads = machine.threads_of(case)
        try:
            facts = artifacts.get(case.spec)
            calls = min(max(round(PROFILE_S / call_s[case]), MIN_CALLS), MAX_CALLS)
            asked = {split(each.runtime)[0] for each in call_s if each.spec == case.spec}
            profile = profile_artifact(case.spec, facts, case.batch, calls, threads, servers, asked)
            append_profiles(folder, [profile])
        except (CnnbenchError, OSError) as error:  # also a full disk, which ends nothing else
            faults.append(f"{case.label}: not profiled: {error}")
    return faults


def profile_run(run: Run, go_on: Callable[[str, int, int], bool]) -> list[str]:
    """The same for the models of a run, without any code that the run names.

    Raises InputError on another machine than the run's.
    """
    machine.check_is_this(run.environment, str(run.folder))
    measured = [record for record in run.records.values() if record.status in MEASURED]
    call_s = {record.case: time.value for record in measured if (time := call_time(record)) is not None}
    own = {case.label: None for case in call_s if case.spec.depends_on_code or case.spec.is_program_file}
    call_s = {case: seconds for case, seconds in call_s.items() if case.label not in own}
    left_out = [f"{label}: not profiled: a run's own code is not run; `cnnbench profile {label}` does" for label in own]
    with Artifacts() as artifacts, ForkServers(artifacts.logs, LIMIT_S) as servers:
        return left_out + profile_models(run.folder, call_s, artifacts, servers, go_on)
