"""OpenVINO's counters on the exported graph: the time of each node, by the module whose work it does. No torch."""

from collections.abc import Mapping
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
    """Nodes by module, or by node of an ONNX file; those that stand for no exported node are `other`, by kind.

    Of single calls OpenVINO tells nothing: every call is taken to have the shares of all.
    """
    folder, is_file = Path(request.folder), request.case.spec.is_onnx_file
    runtime = OpenVino(request.case, facts, folder, batch, threads, count=True)
    exported = onnx.load(folder / GRAPH, load_external_data=False).graph
    names = {node["name"]: node["origin"].split(",") for node in runtime.nodes}
    kinds = {node["name"]: node["kind"] for node in runtime.nodes}
    modules = origins_by_name(exported, names, by_node=is_file)
    (infer,) = runtime.requests
    means: list[dict[str, float]] = []

    def note() -> None:
        ran = [node for node in infer.profiling_info if node.status == EXECUTED and node.node_name in kinds]
        means.append({node.node_name: node.real_time.total_seconds() for node in ran})

    call_s = timed_calls(runtime.phases()["forward"], request.calls, after=note)
    nodes_s = _of_counted(means[WARMUP_CALLS - 1], means[-1], request.calls)
    typical_s = sum(call_s) / len(call_s)
    calls: list[list[Seen]] = [
        [(modules[name], kinds[name], seconds * whole_s / typical_s) for name, seconds in nodes_s.items()]
        for whole_s in call_s
    ]
    layers, other = layer_times(calls)
    listed = [name_of(node) for node in exported.node] if is_file else []
    return Profiled(modules=listed, layers=layers, other=other, call_s=call_s)


def _of_counted(warm: Mapping[str, float], last: Mapping[str, float], calls: int) -> dict[str, float]:
    """Each node's mean over the counted calls: OpenVINO tells its mean over all calls until now, in microseconds."""
    every = WARMUP_CALLS + calls
    return {name: max(0.0, (every * last[name] - WARMUP_CALLS * warm.get(name, 0.0)) / calls) for name in last}
