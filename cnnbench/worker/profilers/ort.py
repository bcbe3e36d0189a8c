"""ONNX Runtime's profiler on the exported graph: the time of each node, by the module whose work it does. No torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import GRAPH, WEIGHTS
from cnnbench.records.record import ArtifactFacts
from cnnbench.records.task_messages import Profile, Profiled
from cnnbench.worker.profilers.onnx_origin import name_of, origins
from cnnbench.worker.profilers.tally import US, WARMUP_CALLS, Seen, layer_times, timed_calls
from cnnbench.worker.reference.parity import Array
from cnnbench.worker.runtimes.ort import OrtInference

WEIGHTS_APART = "session.optimized_model_external_initializers_file_name"
CALL, KERNEL = "model_run", "_kernel_time"
"""What ONNX Runtime calls the event of a whole run, and the end of the name of a node's."""


def profile(request: Profile, facts: ArtifactFacts, batch: Array, threads: int) -> Profiled:
    """Nodes by module, or by node of an ONNX file; those whose origin is unknown are `other`, by operator."""
    folder, scratch, calls = Path(request.folder), Path(request.scratch), request.calls
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(scratch / "profile")
    options.optimized_model_filepath = str(scratch / GRAPH)
    options.add_session_config_entry(WEIGHTS_APART, WEIGHTS)
    runtime = OrtInference(request.case, facts, folder, batch, threads, options)
    (scratch / WEIGHTS).unlink(missing_ok=True)
    exported, is_file = _graph(folder / GRAPH), request.case.spec.is_onnx_file
    modules = origins(exported, _graph(scratch / GRAPH), by_node=is_file)
    call_s = timed_calls(runtime.phases()["forward"], calls)
    runs = _runs(json.loads(Path(runtime.session.end_profiling()).read_text()), modules)
    if len(runs) != WARMUP_CALLS + calls:
        raise WorkerError(f"ONNX Runtime's profiler saw {len(runs)} of {WARMUP_CALLS + calls} calls; ask for fewer")
    layers, other = layer_times(runs[WARMUP_CALLS:])
    names = [name_of(node) for node in exported.node] if is_file else []
    return Profiled(modules=names, layers=layers, other=other, call_s=call_s)


def _graph(file: Path) -> onnx.GraphProto:
    return onnx.load(file, load_external_data=False).graph


def _runs(events: Sequence[Mapping[str, Any]], modules: Mapping[str, str | None]) -> list[list[Seen]]:
    """The nodes of each whole run. A run's event comes after those of its nodes."""
    runs: list[list[Seen]] = []
    nodes: list[Seen] = []
    for event in events:
        name = event["name"]
        if name == CALL:
            runs.append(nodes)
            nodes = []
        elif event["cat"] == "Node" and name.endswith(KERNEL):
            nodes.append((modules.get(name.removesuffix(KERNEL)), str(event["args"]["op_name"]), event["dur"] * US))
    return runs
