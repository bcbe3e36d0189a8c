"""Diagnosis of a regression: what differs between the arms, most likely cause first, and which layers are slower."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from cnnbench.errors import CnnbenchError
from cnnbench.gate.arms import SETTINGS, Arm
from cnnbench.gate.pairs import Pairs
from cnnbench.gate.verdict import ArmComparison, ArmName
from cnnbench.records.messages import Load, Loaded
from cnnbench.records.record import Ran
from cnnbench.records.task_messages import Profile, Profiled
from cnnbench.runner import machine
from cnnbench.runner.scratch import scratch_folder
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.runtimes import profiled_runtimes, runtime_kind

CALLS = 10
MAX_LAYERS = 5
"""Slowed layers that are named, those that lost most first."""


@dataclass(frozen=True)
class LayerChange:
    """A layer's time in both arms, by the runtimes' own profilers."""

    name: str
    base_s: float
    head_s: float


@dataclass(frozen=True)
class Explanation:
    """Possible causes of a regression."""

    differences: list[str]
    """Differences between the arms, most likely cause first; empty if none is known."""
    layers: list[LayerChange]
    """Layers that lost most time, in one call."""
    call_s: tuple[float, float] | None
    """A whole call under the profiler, in base and in head."""
    unprofiled: str = ""
    """Why there are no layers, if so."""


def explain(comparison: ArmComparison, pairs: Pairs) -> Explanation:
    """Compare the arms' settings, what ran, and versions; then profile both twice, interleaved."""
    differences = differences_of(pairs.base, pairs.head, comparison, pairs.ran)
    if comparison.base.workload != "inference" or not all(
        runtime_kind(case.runtime).profiler and case.device == "cpu" for case in (comparison.base, comparison.head)
    ):
        known = " and ".join(profiled_runtimes())
        return Explanation(differences, [], None, f"layers are profiled for inference on a CPU only, in {known}")
    seen: dict[ArmName, list[Profiled]] = {"base": [], "head": []}
    order: tuple[ArmName, ...] = ("base", "head", "head", "base")
    try:
        with scratch_folder() as scratch:
            for name in order:
                seen[name].append(_profile(name, comparison, pairs, scratch))
    except (CnnbenchError, OSError) as error:
        return Explanation(differences, [], None, str(error))
    base, head = _by_layer(seen["base"]), _by_layer(seen["head"])
    changes = [LayerChange(name, base.get(name, 0.0), head.get(name, 0.0)) for name in {**base, **head}]
    slower = sorted(changes, key=lambda change: change.base_s - change.head_s)
    layers = [change for change in slower if change.head_s > change.base_s][:MAX_LAYERS]
    return Explanation(differences, layers, (_call_s(seen["base"]), _call_s(seen["head"])))


def differences_of(base: Arm, head: Arm, comparison: ArmComparison, ran: dict[tuple[str, str], Ran]) -> list[str]:
    """Of settings, of what ran, of the runtime's libraries, of the code, of other versions: in this order."""
    found = _changed(dict(comparison.base), dict(comparison.head), SETTINGS)
    first, second = (_flat(ran.get((comparison.name, arm))) for arm in ("base", "head"))
    if first and second:
        found += _changed(first, second, [*first, *second], "ran with ")
    own = runtime_kind(comparison.head.runtime).libraries
    versions = base.about(), head.about()
    keys = sorted(
        {*versions[0], *versions[1]} - {"interpreter"}, key=lambda key: (key not in own, key != "revision", key)
    )
    return list(dict.fromkeys(found + _changed(*versions, keys)))


def _flat(ran: Ran | None) -> dict[str, Any]:
    return {**ran.model_dump(exclude={"facts", "device"}), **ran.facts} if ran else {}


def _changed(base: Mapping[str, Any], head: Mapping[str, Any], keys: Iterable[str], before: str = "") -> list[str]:
    return [
        f"{before}{key}: {base.get(key, 'none')} in base, {head.get(key, 'none')} in head"
        for key in dict.fromkeys(keys)
        if base.get(key) != head.get(key)
    ]


def _profile(name: ArmName, comparison: ArmComparison, pairs: Pairs, scratch: Path) -> Profiled:
    arm, case = pairs.head if name == "head" else pairs.base, comparison.case(name)
    threads = machine.threads_of(case)
    with Worker(pairs.logs / f"profile-{name}.log", threads, pairs.limit_s, interpreter=arm.interpreter) as worker:
        worker.ask(Load(case=case, threads=threads), Loaded)
        request = Profile(case=case, folder=str(pairs.folder(name, case.spec)), scratch=str(scratch), calls=CALLS)
        return worker.ask(request, Profiled)


def _by_layer(seen: list[Profiled]) -> dict[str, float]:
    """Seconds of each layer in one call; operators without a known layer by their own name."""
    calls: dict[str, list[float]] = {}
    for profiled in seen:
        for layer in [*profiled.layers, *profiled.other]:
            calls.setdefault(layer.name or "the model's own", []).extend(layer.seconds)
    return {name: median(seconds) for name, seconds in calls.items()}


def _call_s(seen: list[Profiled]) -> float:
    return median(chain.from_iterable(profiled.call_s for profiled in seen))
