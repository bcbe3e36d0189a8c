"""The errors of a comparison layer by layer, for viewers of graphs: Model Explorer's node data, and an ONNX file."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cnnbench.analysis.divergence import LayerErrors
from cnnbench.errors import InputError
from cnnbench.records import files
from cnnbench.records.artifact import file_name
from cnnbench.records.task_messages import Annotate, Annotated
from cnnbench.runner import machine
from cnnbench.runner.artifacts import LIMIT_S
from cnnbench.runner.tasks.diverge import Contender, Divergence, LayerRun
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.runtimes import runtime_kind

FIGURES = ("error", "added", "inherited")
"""Those that have a file of node data each."""
NO_NUMBER = 1e9
"""Stands for an error that is no number, which node data cannot hold."""
COLOURS = {1e-6: "#ffffff", 1e-4: "#fde3cf", 1e-2: "#f9b98a", 1.0: "#ee8137", NO_NUMBER: "#b3400a"}
"""Of errors up to these, in units of the layer's root mean square."""
PREFIX = "cnnbench."
"""Begins the keys of a node's metadata."""


def check_graphs(contenders: Sequence[Contender]) -> None:
    """Raises InputError where none of the runs is a graph."""
    if not any(each.file or runtime_kind(each.runtime).runs_exported_graph for each in contenders):
        raise InputError("--export: expected a run of a graph, such as ort or an ONNX file; others have no nodes")


def export_errors(out: Path, found: Divergence, sources: dict[str, Path], logs: Path) -> list[Path]:
    """Write files of each run that is a graph, whose own files are `sources`; gives what was written.

    Raises WorkerError.
    """
    written: list[Path] = []
    out.mkdir(parents=True, exist_ok=True)
    with Worker(logs / "annotate.log", machine.usable_threads(), LIMIT_S) as worker:
        for run in found.runs:
            if not run.nodes:
                continue
            name = file_name(run.name.removesuffix(".onnx")).lstrip(".-")
            graph_file = out / f"{name}.errors.onnx"
            notes = {run.nodes[layer.place]: dict(_notes(run, layer)) for layer in run.layers}
            request = Annotate(file=str(sources[run.name]), out=str(graph_file), notes=notes)
            graph = worker.ask(request, Annotated).graph
            written.append(graph_file)
            for figure in FIGURES:
                file = out / f"{name}.{figure}.json"
                files.write(file, json.dumps(node_data(run, figure, graph), indent=1))
                written.append(file)
    return written


def node_data(run: LayerRun, figure: str, graph: str) -> dict[str, Any]:
    """One figure of each node, as Model Explorer reads it: by graph and node."""
    values = {run.nodes[layer.place]: getattr(layer, figure) for layer in run.layers}
    results = {node: {"value": NO_NUMBER if value is None else value} for node, value in values.items()}
    thresholds = [{"value": value, "bgColor": colour} for value, colour in COLOURS.items()]
    return {graph: {"results": results, "thresholds": thresholds}}


def _notes(run: LayerRun, layer: LayerErrors) -> Iterator[tuple[str, str]]:
    for name in (*FIGURES, "snr_db", "cosine", "largest", "limit", "nan", "infinite"):
        value = getattr(layer, name)
        yield PREFIX + name, "none" if value is None else f"{value:.6g}"
    yield f"{PREFIX}wrong", str(layer.is_wrong).lower()
    yield f"{PREFIX}run", run.name
    if layer.place in run.causes:
        yield f"{PREFIX}cause", run.causes[layer.place]
