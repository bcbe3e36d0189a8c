"""A model's ONNX graph as a file of the user's, checked before it is written."""

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from cnnbench.errors import InputError, WorkerError
from cnnbench.networks.trainable import ALL
from cnnbench.records import artifact, files
from cnnbench.records.messages import (
    BuildStep,
    Describe,
    Described,
    FindKernels,
    KernelsFound,
    Load,
    Loaded,
    Open,
    Opened,
)
from cnnbench.records.record import Parity, StepFacts
from cnnbench.runner import machine
from cnnbench.runner.artifacts import LIMIT_S, Artifacts
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, Frozen, ModelSpec
from cnnbench.suite.optimizer import Optimizer

DATA = f"{artifact.GRAPH}.data"
"""Where a graph keeps weights above 2 GB; the graph names the file, so that it cannot be called otherwise."""
MAX_BATCH = 3
"""Of those that a graph is checked at; `Open` goes up to the case's own."""


class _Written(Frozen):
    model: str
    file: str
    onnx_bytes: int
    seconds: dict[str, float]
    """Of each stage."""
    parity: list[Parity]
    """How it was checked."""
    without_cuda_kernel: dict[str, int]
    """Nodes for which ONNX Runtime's CUDA provider publishes no kernel, by operator with its version and types."""
    begun_anew: list[str]
    """Tensors of the head that a file of weights for another number of classes does not have."""


class Exported(_Written):
    """An inference graph that was written."""

    opset: int | None


class ExportedStep(_Written):
    """A training step that was written."""

    weights: str
    """The file of what parameters and buffers begin with, by their names."""
    weight_bytes: int
    nodes: int


def export_training_step(spec: ModelSpec, out: Path, optimizer: Optimizer, part: str = ALL) -> ExportedStep:
    """Export the training step of a part of the model; check and compare it with float64, and only then write `out`.

    The weights stand beside it, in a file that ends in `.safetensors`. Raises as `export_model` does.
    """
    _check_place(out)
    weights = out.with_suffix(".safetensors")
    if weights == out:
        raise InputError(f"{out}: expected another ending than .safetensors, which the file of the weights has")
    _check_beside(out, weights)
    with Artifacts() as artifacts:
        facts = artifacts.get(spec)
        folder, made = artifact.folder_of(spec, facts.key), artifacts.logs / "step.onnx"
        with Worker(artifacts.logs / "step.log", machine.usable_threads(), LIMIT_S) as worker:
            request = BuildStep(spec=spec, folder=str(folder), out=str(made), optimizer=optimizer, trainable=part)
            step = worker.ask(request, StepFacts)
            without = {} if step.error else worker.ask(FindKernels(file=str(made)), KernelsFound).without
        if step.error is not None or step.onnx_bytes is None or step.nodes is None:
            raise WorkerError(f"{spec.label}: the training step cannot be exported: {step.error}")
        for parity in step.parity:
            _check(spec, parity, "of the change")
        _copy({made: out, folder / artifact.WEIGHTS: weights})
    return ExportedStep(
        model=spec.label,
        file=str(out),
        weights=str(weights),
        weight_bytes=facts.weight_bytes,
        onnx_bytes=step.onnx_bytes,
        nodes=step.nodes,
        seconds=step.seconds,
        parity=step.parity,
        without_cuda_kernel=without,
        begun_anew=facts.begun_anew,
    )


def export_model(spec: ModelSpec, out: Path) -> Exported:
    """Export, have onnx check the graph, compare it with float64 in ONNX Runtime, and only then write `out`.

    Raises InputError for a place that cannot be written, ModelError for a model that cannot be built, WorkerError for
    one that cannot be exported or whose graph computes something else.
    """
    _check_place(out)
    _check_beside(out, out.with_name(DATA))
    with Artifacts() as artifacts:
        facts = artifacts.get(spec)
        if facts.onnx_error is not None or facts.onnx_bytes is None:
            raise WorkerError(f"{spec.label}: ONNX export failed: {facts.onnx_error}")
        folder = artifact.folder_of(spec, facts.key)
        graph = folder / artifact.GRAPH
        with Worker(artifacts.logs / "prove.log", machine.usable_threads(), LIMIT_S) as worker:
            parity = _proved(worker, spec, folder)
            without = worker.ask(FindKernels(file=str(graph)), KernelsFound).without
        for each in parity:
            _check(spec, each, "of the output RMS")
        _copy({graph: out, **({folder / DATA: out.parent / DATA} if (folder / DATA).exists() else {})})
    return Exported(
        model=spec.label,
        file=str(out),
        onnx_bytes=facts.onnx_bytes,
        opset=facts.opset,
        seconds=facts.seconds,
        parity=parity,
        without_cuda_kernel=without,
        begun_anew=facts.begun_anew,
    )


def prove_graph(spec: ModelSpec, folder: Path, log: Path) -> list[Parity]:
    """The parity of the artifact's graph in ONNX Runtime on the CPU, at batches of 1, 2 and 3. Raises WorkerError."""
    with Worker(log, machine.usable_threads(), LIMIT_S) as worker:
        return _proved(worker, spec, folder)


def _proved(worker: Worker, spec: ModelSpec, folder: Path) -> list[Parity]:
    case = Case(spec=spec, workload="inference", runtime="ort", batch=MAX_BATCH)
    worker.ask(Load(case=case, threads=machine.usable_threads()), Loaded)
    return worker.ask(Open(case=case, folder=str(folder)), Opened).parity


def describe_graph(file: Path, log: Path) -> Described:
    """What an ONNX file holds. Raises WorkerError."""
    with Worker(log, machine.usable_threads(), LIMIT_S) as worker:
        return worker.ask(Describe(file=str(file)), Described)


def _check_place(out: Path) -> None:
    """Raises InputError where `out` cannot be written."""
    if not out.parent.is_dir():
        raise InputError(f"{out}: expected a file in a folder that exists; there is no {out.parent}")
    if out.is_dir():
        raise InputError(f"{out}: expected the name of a file; got a folder")


def _check_beside(out: Path, beside: Path) -> None:
    """Raises InputError where a file beside `out` would be overwritten that is not its own."""
    if beside.exists() and not out.exists():
        raise InputError(f"{out}: its weights would overwrite {beside}, which is another's; give another name")


def _copy(parts: Mapping[Path, Path]) -> None:
    """Copy files, all or none. Raises InputError."""
    try:
        with ExitStack() as stack:
            for source, file in parts.items():
                shutil.copyfile(source, stack.enter_context(files.replacing(file)))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be written: {error.strerror}") from None


def _check(spec: ModelSpec, parity: Parity, unit: str) -> None:
    """Raises WorkerError if the parity did not pass."""
    if not parity.passed:
        found = "what it puts out is not finite or misshapen" if parity.error is None else f"error {parity.error:.1e}"
        raise WorkerError(
            f"{spec.label}: the exported graph is wrong at {parity.what}: {found}, limit {parity.limit:.1e} {unit}; "
            "nothing was written"
        )
