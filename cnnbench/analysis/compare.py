"""Runs from any machines side by side, on the cases that they share: a description, without verdicts.

A machine here is a run on one device with one number of threads. Cases are the same if all but device and threads are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from cnnbench.analysis.prices import Cost, Prices, read_prices
from cnnbench.analysis.stats import Estimate, geometric_mean, independent_ratio, median_of, ranks
from cnnbench.analysis.times import comparable_time
from cnnbench.errors import InputError, RunFolderError, unknown
from cnnbench.records.peaks import Peaks, find_peaks
from cnnbench.records.record import Record
from cnnbench.records.run_folder import Run
from cnnbench.suite.case import NOISE, Case, Device, Workload

SECONDS_PER_HOUR = 3600


class Key(NamedTuple):
    """What identifies a case on every machine: all but device and threads."""

    model: str
    workload: Workload
    runtime: str
    precision: str
    layout: str
    allocator: str
    batch: int
    seed: int

    @property
    def setting(self) -> str:
        """All but the model: `inference, eager, fp32, batch 8`."""
        unusual = [part for part in (self.layout, self.allocator) if part not in ("nchw", "default")]
        seed = [f"seed {self.seed}"] if self.seed else []
        return ", ".join([self.workload, self.runtime, self.precision, *unusual, f"batch {self.batch}", *seed])

    @property
    def text(self) -> str:
        """`resnet18, inference, eager, fp32, batch 8`."""
        return f"{self.model}, {self.setting}"


def key_of(case: Case) -> Key:
    """The key of a case."""
    spec = case.spec
    precision = case.precision if case.calibration == NOISE else f"{case.precision}/cal:{case.calibration}"
    axes = (case.workload, case.runtime, precision, case.layout, case.allocator, case.batch)
    ranks = f"/r{case.ranks}" if case.ranks > 1 else ""
    return Key(spec.label + case.part + ranks, *axes, spec.seed)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One case on one machine."""

    seconds: Estimate
    """Of one call of the whole batch."""
    images: int
    joules_per_image: float | None
    """By the system's energy counters, where it has them."""

    @property
    def images_per_s(self) -> float:
        """Of its median time."""
        return self.images / self.seconds.value


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A run on one device with one number of threads."""

    name: str
    run: Run
    """Without its records."""
    device: Device
    threads: int | None
    """None where the run does not record it."""
    cases: Mapping[Key, Measured]
    not_measured: Mapping[Key, str]
    """The status of cases that have a record here and no time that may be compared."""
    cost: Cost = field(default_factory=Cost)
    members: tuple["Machine", ...] = ()
    """Where it stands for all of one kind of hardware: these."""

    @property
    def count(self) -> int:
        """Of the machines that it stands for."""
        return len(self.members) or 1

    def mean_time(self, keys: Sequence[Key]) -> Estimate:
        """The geometric mean of its times of cases; of several machines the median one's, of those with all cases."""
        whole = [each for each in self.members or [self] if all(key in each.cases for key in keys)]
        means = [geometric_mean([each.cases[key].seconds for key in keys]) for each in whole]
        return median_of(means) if means else geometric_mean([self.cases[key].seconds for key in keys])

    @property
    def peaks(self) -> Peaks | None:
        """Its measured peaks."""
        return find_peaks(self.run.peaks, self.device, self.threads)

    @property
    def hardware(self) -> str:
        """The accelerator, or the processor."""
        about = self.run.environment
        if self.device != "cpu":
            return about.accelerators.get(self.device, self.device) if about else self.device
        return about.machine.cpu if about else "unknown"

    def images_per_joule(self, measured: Measured) -> float | None:
        """By the system's energy counters, else by the configured power; None where there is neither."""
        if measured.joules_per_image:
            return 1 / measured.joules_per_image
        return measured.images_per_s / self.cost.watts if self.cost.watts else None

    def images_per_currency(self, measured: Measured) -> float | None:
        """Images for one unit of currency; None where no price is configured."""
        price = self.cost.price_per_hour
        return measured.images_per_s * SECONDS_PER_HOUR / price if price else None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Machines and what they have in common."""

    machines: tuple[Machine, ...]
    reference: Machine
    currency: str

    @cached_property
    def keys(self) -> list[Key]:
        """Every case that any machine measured, in the first one's order."""
        return list(dict.fromkeys(key for machine in self.machines for key in machine.cases))

    @cached_property
    def common(self) -> list[Key]:
        """The cases that every machine measured; means and rankings are over these."""
        return [key for key in self.keys if all(key in machine.cases for machine in self.machines)]

    @property
    def left_out(self) -> dict[Key, list[str]]:
        """The other cases, with the machines that have no time of them, and the status there."""
        missing = {key: [m for m in self.machines if key not in m.cases] for key in self.keys}
        return {
            key: [m.name + (f" ({m.not_measured[key]})" if key in m.not_measured else "") for m in machines]
            for key, machines in missing.items()
            if machines
        }

    def ratio(self, machine: Machine, key: Key) -> Estimate | None:
        """The case's time as a multiple of the reference's; None where either has none, or it is the reference."""
        ours, theirs = machine.cases.get(key), self.reference.cases.get(key)
        if machine is self.reference or ours is None or theirs is None:
            return None
        return independent_ratio(ours.seconds, theirs.seconds)

    def mean_ratio(self, machine: Machine, workload: Workload) -> Estimate | None:
        """The geometric mean of the ratios of the common cases of a workload; None where there are none."""
        keys = [key for key in self.common if key.workload == workload]
        if machine is self.reference or not keys:
            return None
        return independent_ratio(machine.mean_time(keys), self.reference.mean_time(keys))

    def places(self, key: Key) -> dict[str, int]:
        """The rank of each machine that measured a case, 1 the shortest time; overlapping intervals share one."""
        present = [machine for machine in self.machines if key in machine.cases]
        found = ranks([machine.cases[key].seconds for machine in present])
        return {machine.name: rank for machine, rank in zip(present, found, strict=True)}

    def rankings(self) -> dict[str, dict[str, dict[str, int]]]:
        """By setting and machine, the rank of each model among the common ones; settings of at least two models."""
        settings: dict[str, list[Key]] = {}
        for key in self.common:
            settings.setdefault(key.setting, []).append(key)

        def places(machine: Machine, keys: Sequence[Key]) -> dict[str, int]:
            found = ranks([machine.cases[key].seconds for key in keys])
            return {key.model: rank for key, rank in zip(keys, found, strict=True)}

        several = {setting: keys for setting, keys in settings.items() if len(keys) > 1}
        return {setting: {m.name: places(m, keys) for m in self.machines} for setting, keys in several.items()}


class ComparedRow(NamedTuple):
    """One case on one machine that measured it."""

    key: Key
    machine: Machine
    measured: Measured
    ratio: Estimate | None
    """To the reference's time."""
    rank: int
    is_common: bool
    """Whether every machine measured the case."""


def compared_rows(comparison: Comparison) -> list[ComparedRow]:
    """One row per case and machine that measured it."""
    common = set(comparison.common)
    return [
        ComparedRow(key, machine, measured, comparison.ratio(machine, key), places[machine.name], key in common)
        for key in comparison.keys
        for places in [comparison.places(key)]
        for machine in comparison.machines
        if (measured := machine.cases.get(key)) is not None
    ]


def compare_runs(runs: Iterable[Run], reference: str = "1", prices: Path | None = None) -> Comparison:
    """Set runs side by side; the reference is a machine's number, from 1, or its name; `prices` is a YAML file.

    Runs are taken one after the other, and their records are not kept.

    Raises RunFolderError for runs in folders of one name, or none that measured anything; InputError for an unknown
    reference, or a mistake in the prices.
    """
    names: list[str] = []
    found: list[Machine] = []
    for run in runs:
        names.append(run.folder.name)
        found += machines_of(run)
    if len(set(names)) < len(names):
        raise RunFolderError(f"expected runs in folders of different names; got {', '.join(names)}")
    machines = tuple(found)
    if not machines:
        raise RunFolderError(f"expected runs with a measured case; got none in {', '.join(names)}")
    given = read_prices(prices, [machine.name for machine in machines]) if prices else Prices()
    machines = tuple(replace(machine, cost=given.machines.get(machine.name, Cost())) for machine in machines)
    for number, machine in enumerate(machines, start=1):
        if reference in (str(number), machine.name):
            return Comparison(machines=machines, reference=machine, currency=given.currency)
    known = [machine.name for machine in machines]
    raise InputError(f"--reference: {unknown('machine', reference, known)}, or a number from 1 to {len(known)}")


def machines_of(run: Run) -> list[Machine]:
    """A run's machines: one for each device and number of threads, named by the run's folder and where they differ."""
    groups: dict[tuple[Device, int | None], list[Record]] = {}
    for record in run.records.values():
        if record.status != "unavailable":
            threads = record.case.threads or (run.environment.threads.usable if run.environment else None)
            groups.setdefault((record.case.device, threads), []).append(record)
    bare = replace(run, records={}, profiles=[])
    devices, numbers = {device for device, _ in groups}, {threads for _, threads in groups}
    found = []
    for (device, threads), records in groups.items():
        name = run.folder.name
        name += f", {device}" if len(devices) > 1 else ""
        name += f", {threads} thread{'' if threads == 1 else 's'}" if len(numbers) > 1 else ""
        measured: dict[Key, Measured] = {}
        for record in records:
            if record.measurement and (time := comparable_time(record)):
                joules, images = record.measurement.joules_per_image(record.case.images), record.case.images
                measured[key_of(record.case)] = Measured(seconds=time, images=images, joules_per_image=joules)
        rest = {key_of(record.case): record.status for record in records if key_of(record.case) not in measured}
        if measured:
            found.append(
                Machine(name=name, run=bare, device=device, threads=threads, cases=measured, not_measured=rest)
            )
    return found
