"""The errors of a comparison layer by layer, for viewers of graphs: Model Explorer's node data, and an ONNX file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnnbench.analysis.divergence import LayerErrors
from cnnbench.errors import InputError
from cnnbench.records import files
from cnnbench.records.artifact import file_name
from cnnbench.records.task_messages import Annotate, Annotated
from cnnbench.runner import machine
from cnnbench.runner.artifacts import LIMIT_S
from cnnbench.runner.tasks.diverge import Divergence, LayerRun
from cnnbench.runner.worker_process import Worker

FIGURES = ("error", "added", "inherited")
"""Those that have a file of node data each."""
NO_NUMBER = 1e9
"""Stands for an error that is none, which node data cannot hold."""
GRADIENT = [{"stop": 0, "bgColor": "#ffffff"}, {"stop": 1, "bgColor": "#d9601a"}]
PREFIX = "cnnbench."
"""Begins the keys of a node's metadata."""


def export_errors(found: Divergence, sources: dict[str, Path], out: Path, logs: Path) -> Iterator[Path]:
    """Write files of each run that is a graph, whose own files are `sources`; gives what was written.

    Raises InputError where no run is a graph, WorkerError.
    """
    graphs = [run for run in found.runs if run.nodes]
    if not graphs:
        raise InputError("--export: expected a run of a graph, such as ort or an ONNX file; no node is known of others")
    out.mkdir(parents=True, exist_ok=True)
    with Worker(logs / "annotate.log", machine.usable_threads(), LIMIT_S) as worker:
        for run in graphs:
            stem = out / file_name(Path(run.name).name.removesuffix(".onnx"))
            written = stem.with_name(f"{stem.name}.errors.onnx")
            notes = {run.nodes[layer.place]: dict(_notes(run, layer)) for layer in run.layers}
            request = Annotate(file=str(sources[run.name]), out=str(written), notes=notes)
            graph = worker.ask(request, Annotated).graph
            yield written
            for figure in FIGURES:
                file = stem.with_name(f"{stem.name}.{figure}.json")
                files.write(file, json.dumps(node_data(run, figure, graph), indent=1))
                yield file


def node_data(run: LayerRun, figure: str, graph: str) -> dict[str, Any]:
    """One figure of each node, as Model Explorer reads it: by graph and node."""
    values = {run.nodes[layer.place]: getattr(layer, figure) for layer in run.layers}
    results = {node: {"value": NO_NUMBER if value is None else value} for node, value in values.items()}
    return {graph: {"results": results, "gradient": GRADIENT}}


def _notes(run: LayerRun, layer: LayerErrors) -> Iterator[tuple[str, str]]:
    for name in (*FIGURES, "snr_db", "cosine", "largest", "limit", "nan", "infinite"):
        value = getattr(layer, name)
        yield PREFIX + name, "none" if value is None else f"{value:.6g}"
    yield f"{PREFIX}wrong", str(layer.is_wrong).lower()
    yield f"{PREFIX}run", run.name
    if layer.place in run.causes:
        yield f"{PREFIX}cause", run.causes[layer.place]
