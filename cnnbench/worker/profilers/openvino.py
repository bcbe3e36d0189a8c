"""OpenVINO's counters on the exported graph: the time of each node, by the module whose work it does. No torch."""

from pathlib import Path

import onnx
import openvino as ov

from cnnbench.records.artifact import GRAPH
from cnnbench.records.record import ArtifactFacts
from cnnbench.records.task_messages import Profile, Profiled
from cnnbench.worker.profilers.onnx_origin import name_of, origins_by_name
from cnnbench.worker.profilers.tally import WARMUP_CALLS, Seen, layer_times, timed_calls
from cnnbench.worker.reference.parity import Array
from cnnbench.worker.runtimes.openvino import OpenVino

EXECUTED = ov.ProfilingInfo.Status.EXECUTED
"""Of a node that is not part of another one."""


def profile(request: Profile, facts: ArtifactFacts, batch: Array, threads: int) -> Profiled:
    """Nodes by module, or by node of an ONNX file; those that stand for no exported node are `other`, by kind."""
    folder, is_file = Path(request.folder), request.case.spec.is_onnx_file
    runtime = OpenVino(request.case, facts, folder, batch, threads, count=True)
    exported = onnx.load(folder / GRAPH, load_external_data=False).graph
    names = {node["name"]: node["origin"].split(",") for node in runtime.nodes}
    kinds = {node["name"]: node["kind"] for node in runtime.nodes}
    modules = origins_by_name(exported, names, by_node=is_file)
    runs: list[list[Seen]] = []

    def note() -> None:
        counted = [node for each in runtime.requests for node in each.profiling_info if node.status == EXECUTED]
        times = [(node.node_name, node.real_time.total_seconds()) for node in counted if node.node_name in kinds]
        runs.append([(modules[name], kinds[name], seconds) for name, seconds in times])

    call_s = timed_calls(runtime.phases()["forward"], request.calls, after=note)
    layers, other = layer_times(runs[WARMUP_CALLS:])
    listed = [name_of(node) for node in exported.node] if is_file else []
    return Profiled(modules=listed, layers=layers, other=other, call_s=call_s)
