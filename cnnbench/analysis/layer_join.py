"""What profilers saw of a model's call, joined by name to what each layer has to do."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from cnnbench.networks.network import Layer, Network
from cnnbench.records.layer_profile import Row, Times
from cnnbench.records.task_messages import LayerTimes, Profiled

_NUMBER = re.compile(r"_?\d+$")


def join(network: Network, batch: int, found: dict[str, Profiled]) -> tuple[Row, ...]:
    """One row for each module that computes something itself, in network order.

    The modules are those that the reference runtime has seen, or for an ONNX file the nodes of its graph.
    What a layer does that is no module of its own (a sum, a function), its module does.
    """
    modules = {name for profiled in found.values() for name in profiled.modules}
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
        work=max(layers, key=lambda layer: layer.macs).work if layers else "other operators",
        macs=sum(layer.macs for layer in layers) * batch if layers else None,
        moved_bytes=sum(layer.moved_bytes(batch) for layer in layers) if layers else None,
        seconds={
            runtime: typical([sum(call) for call in zip(*(each.seconds for each in ran), strict=True)])
            for runtime, ran in times.items()
        },
    )


def times_of(runtime: str, profiled: Profiled, rows: Iterable[Row]) -> Times:
    """What one runtime's calls come to, beside its layers."""
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

    Calls with interference do not move it while they are fewer than a quarter, and it is finer than a median where a
    clock ticks in microseconds.
    """
    ordered = sorted(seconds)
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    return sum(middle) / len(middle)
