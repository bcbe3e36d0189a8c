"""Many machines as the kinds of hardware that they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

from cnnbench.analysis.compare import Comparison, Key, Machine, Measured
from cnnbench.analysis.stats import Estimate, geometric_mean, median_of
from cnnbench.networks.units import GIB
from cnnbench.suite.case import WORKLOADS, Workload

MAX_MACHINES = 20
"""That are shown one by one; of more, kinds of hardware are, and at most so many."""
VERSIONS = ("cnnbench", "python", "torch", "torchvision", "onnxruntime-gpu", "onnxruntime")
"""Libraries whose versions tell machines apart."""


class Extreme(NamedTuple):
    """A machine, and its time as a multiple of its kind's."""

    machine: str
    ratio: float


class Spread(NamedTuple):
    """How far machines of one kind differ in one workload: geometric means over the cases that each measured."""

    kind: str
    workload: Workload
    machines: int
    incomplete: int
    """Machines without some of the kind's cases."""
    fastest: Extreme
    slowest: Extreme


@dataclass(frozen=True, kw_only=True)
class ByHardware:
    """A comparison of kinds of hardware, each in the place of a machine."""

    comparison: Comparison
    """Of at most `MAX_MACHINES` kinds: the reference's, and those with the most machines."""
    spreads: list[Spread]
    machines: int
    kinds: int
    """All, also those that are left out."""


def by_hardware(comparison: Comparison) -> ByHardware:
    """Machines of equal hardware, device, threads, memory, suite and versions as one.

    Its time of a case is that of the median machine (`median_of`); its other facts are those of the machine in the
    middle of their order.
    """
    groups: dict[tuple[object, ...], list[Machine]] = {}
    for machine in comparison.machines:
        groups.setdefault(tuple(of(machine) for of in _FACETS), []).append(machine)
    ordered = sorted(groups.items(), key=lambda item: (comparison.reference not in item[1], -len(item[1])))
    kept = dict(ordered[:MAX_MACHINES])
    kinds, spreads = [], []
    for name, members in zip(_names(list(kept)), kept.values(), strict=True):
        kind, spread = _kind(name, members)
        kinds.append(kind)
        spreads += spread
    return ByHardware(
        comparison=replace(comparison, machines=tuple(kinds), reference=kinds[0]),
        spreads=spreads,
        machines=len(comparison.machines),
        kinds=len(groups),
    )


def _memory(machine: Machine) -> str:
    about = machine.run.environment
    return f"{round(about.machine.memory_bytes / GIB)} GiB" if about else ""


def _version(name: str) -> Callable[[Machine], str]:
    return lambda machine: f"{name} {machine.run.software.get(name) or 'unknown'}"


_FACETS: tuple[Callable[[Machine], str], ...] = (
    lambda machine: machine.hardware,
    lambda machine: machine.device,
    lambda machine: f"{machine.threads or 'unknown'} thread{'' if machine.threads == 1 else 's'}",
    _memory,
    lambda machine: f"suite {machine.run.suite}",
    *map(_version, VERSIONS),
)
"""What machines of one kind share, in words; the first names it, the others where they differ."""


def _names(kinds: Sequence[tuple[object, ...]]) -> list[str]:
    """The hardware, and in what kinds of the same hardware differ."""
    found = []
    for kind in kinds:
        alike = [other for other in kinds if other[0] == kind[0]]
        places = [place for place in range(1, len(kind)) if len({other[place] for other in alike}) > 1]
        found.append(", ".join(str(kind[place]) for place in (0, *places)))
    return found


def _kind(name: str, members: Sequence[Machine]) -> tuple[Machine, list[Spread]]:
    by_key: dict[Key, list[Measured]] = {}
    for machine in members:
        for key, measured in machine.cases.items():
            by_key.setdefault(key, []).append(measured)
    cases = {key: _middle(measured) for key, measured in by_key.items()}
    spreads: list[Spread] = []
    middle = members[0]
    for workload in WORKLOADS:
        keys = [key for key in cases if key.workload == workload]
        if not keys:
            continue
        found = []
        incomplete = 0
        for machine in members:
            times = [(machine.cases[key].seconds, cases[key].seconds) for key in keys if key in machine.cases]
            incomplete += len(times) < len(keys)
            if times:
                found.append(
                    (geometric_mean([Estimate(ours.value / all_.value) for ours, all_ in times]).value, machine)
                )
        found.sort(key=lambda pair: pair[0])
        fastest, slowest = (Extreme(machine.name, ratio) for ratio, machine in (found[0], found[-1]))
        middle = found[(len(found) - 1) // 2][1] if not spreads else middle
        spreads.append(Spread(name, workload, len(members), incomplete, fastest, slowest))
    rest = {key: status for machine in members for key, status in machine.not_measured.items() if key not in cases}
    return replace(middle, name=name, cases=cases, not_measured=rest, members=tuple(members)), spreads


def _middle(measured: Sequence[Measured]) -> Measured:
    """The median machine's."""
    known = [each.joules_per_image for each in measured if each.joules_per_image is not None]
    return Measured(
        seconds=median_of([each.seconds for each in measured]),
        images=measured[0].images,
        joules_per_image=median(known) if len(known) == len(measured) else None,
    )
