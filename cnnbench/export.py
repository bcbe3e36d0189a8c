"""A model's ONNX graph as a file of the user's, proved before it is handed over."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from cnnbench import artifact, machine
from cnnbench.case import Case, Frozen, ModelSpec
from cnnbench.errors import InputError, WorkerError
from cnnbench.messages import Build, Load, Loaded, Open, Opened
from cnnbench.process import Worker
from cnnbench.record import ArtifactFacts, Parity

LIMIT_S = 600.0


class Exported(Frozen):
    """What was written and how it was proved."""

    model: str
    file: str
    onnx_bytes: int
    opset: int | None
    seconds: dict[str, float]
    parity: list[Parity]


def export_model(spec: ModelSpec, out: Path) -> Exported:
    """Export, have onnx check the graph, prove it against float64 in ONNX Runtime, and only then write `out`.

    Raises InputError for a place that cannot be written, ModelError for a model that cannot be built, WorkerError for
    one that cannot be exported or whose graph computes something else.
    """
    if not out.parent.is_dir():
        raise InputError(f"{out}: expected a file in a folder that exists; there is no {out.parent}")
    if out.is_dir():
        raise InputError(f"{out}: expected the name of a file; got a folder")
    threads = machine.usable_threads()
    key = artifact.key_of(spec, uuid4().hex)
    folder = artifact.folder_of(spec, key)
    with TemporaryDirectory(prefix="cnnbench-") as logs:
        facts = artifact.read_facts(folder)
        if facts is None:
            with Worker(Path(logs) / "build.log", threads, LIMIT_S) as worker:
                facts = worker.ask(Build(spec=spec, key=key, folder=str(folder)), ArtifactFacts)
        if facts.onnx_error is not None or facts.onnx_bytes is None:
            raise WorkerError(f"{spec.label}: ONNX export failed: {facts.onnx_error}")
        case = Case(spec=spec, workload="inference", runtime="ort", batch=1)
        with Worker(Path(logs) / "prove.log", threads, LIMIT_S) as worker:
            worker.ask(Load(case=case, threads=threads), Loaded)
            opened = worker.ask(Open(case=case, folder=str(folder)), Opened)
    for parity in opened.parity:
        if not parity.passed:
            raise WorkerError(
                f"{spec.label}: the exported graph is wrong: {parity.what} differs from float64 by {parity.error} of "
                f"the signal, limit {parity.limit:.1e}; nothing was written"
            )
    for part in sorted(folder.glob(f"{artifact.GRAPH}*")):  # weights above 2 GB stand in a second file
        shutil.copyfile(part, out if part.name == artifact.GRAPH else out.with_name(part.name))
    return Exported(
        model=spec.label,
        file=str(out),
        onnx_bytes=facts.onnx_bytes,
        opset=facts.opset,
        seconds=facts.seconds,
        parity=opened.parity,
    )
