"""Runs from any machines side by side, on the cases that they share. It describes and gives no verdict.

What is set side by side is called a machine: a run on one device with one number of threads. Cases are the same if all
but device and threads are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from cnnbench.analysis.prices import Cost, Prices, read_prices
from cnnbench.analysis.stats import Estimate, geometric_mean, independent_ratio, launch_estimate, ranks
from cnnbench.errors import InputError, RunFolderError, unknown
from cnnbench.records.peaks import Peaks, find_peaks
from cnnbench.records.record import MEASURED, Record
from cnnbench.records.run_folder import Run
from cnnbench.suite.case import Case, Device, Workload

SECONDS_PER_HOUR = 3600
VERSIONS = ("cnnbench", "python", "torch", "torchvision", "onnxruntime-gpu", "onnxruntime")


class Key(NamedTuple):
    """What one case has in common with the same case elsewhere: all but device and threads."""

    model: str
    workload: Workload
    runtime: str
    precision: str
    layout: str
    batch: int
    seed: int

    @property
    def setting(self) -> str:
        """All but the model, as words: `inference, eager, fp32, batch 8`."""
        unusual = [] if self.layout == "nchw" else [self.layout]
        seed = [f"seed {self.seed}"] if self.seed else []
        return ", ".join([self.workload, self.runtime, self.precision, *unusual, f"batch {self.batch}", *seed])

    @property
    def text(self) -> str:
        """`resnet18, inference, eager, fp32, batch 8`."""
        return f"{self.model}, {self.setting}"


def key_of(case: Case) -> Key:
    """The key of a case."""
    return Key(case.spec.label, case.workload, case.runtime, case.precision, case.layout, case.batch, case.spec.seed)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One case on one machine."""

    seconds: Estimate
    """Of one call of the whole batch."""
    batch: int
    joules_per_image: float | None
    """Where the system's own counters told."""

    @property
    def images_per_s(self) -> float:
        """Of its median time."""
        return self.batch / self.seconds.value


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A run on one device with one number of threads."""

    name: str
    run: Run
    device: Device
    threads: int | None
    """None where the run does not tell."""
    cases: Mapping[Key, Measured]
    not_measured: Mapping[Key, str]
    """Cases that have a record here and no time that may be compared, with the status."""
    cost: Cost = field(default_factory=Cost)

    @property
    def peaks(self) -> Peaks | None:
        """What it reached at its best, where that was measured."""
        return find_peaks(self.run.peaks, self.device, self.threads)

    @property
    def hardware(self) -> str:
        """The accelerator, or the processor."""
        about = self.run.environment
        if self.device != "cpu":
            return about.accelerators.get(self.device, self.device) if about else self.device
        return about.machine.cpu if about else "unknown"

    def images_per_joule(self, measured: Measured) -> float | None:
        """By the system's own counters, else by the power that was given; None where there is neither."""
        if measured.joules_per_image:
            return 1 / measured.joules_per_image
        return measured.images_per_s / self.cost.watts if self.cost.watts else None

    def images_per_currency(self, measured: Measured) -> float | None:
        """Images for one unit of currency; None where no price was given."""
        price = self.cost.price_per_hour
        return measured.images_per_s * SECONDS_PER_HOUR / price if price else None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Machines, and all that can be said of them together."""

    machines: tuple[Machine, ...]
    reference: Machine
    currency: str

    @cached_property
    def keys(self) -> list[Key]:
        """Every case that any machine has measured, in the first one's order."""
        return list(dict.fromkeys(key for machine in self.machines for key in machine.cases))

    @cached_property
    def common(self) -> list[Key]:
        """The cases that every machine has measured: what means and rankings are taken over."""
        return [key for key in self.keys if all(key in machine.cases for machine in self.machines)]

    @property
    def left_out(self) -> dict[Key, list[str]]:
        """The other cases, with the machines that have no time of them."""
        common = set(self.common)
        return {
            key: [f"{m.name}{_why(m.not_measured.get(key))}" for m in self.machines if key not in m.cases]
            for key in self.keys
            if key not in common
        }

    def ratio(self, machine: Machine, key: Key) -> Estimate | None:
        """The case's time as a multiple of the reference's; None where either has none, or it is the reference."""
        ours, theirs = machine.cases.get(key), self.reference.cases.get(key)
        if machine is self.reference or ours is None or theirs is None:
            return None
        return independent_ratio(ours.seconds, theirs.seconds)

    def mean_ratio(self, machine: Machine, workload: Workload) -> Estimate | None:
        """The geometric mean of the ratios of the common cases of a workload; None where there are none."""
        ratios = [self.ratio(machine, key) for key in self.common if key.workload == workload]
        known = [ratio for ratio in ratios if ratio is not None]
        return geometric_mean(known) if known else None

    def places(self, key: Key) -> dict[str, int]:
        """The rank of each machine that has measured a case, 1 the shortest time; overlapping intervals share one."""
        present = [machine for machine in self.machines if key in machine.cases]
        found = ranks([machine.cases[key].seconds for machine in present])
        return {machine.name: rank for machine, rank in zip(present, found, strict=True)}

    def rankings(self) -> dict[str, dict[str, dict[str, int]]]:
        """By setting and machine, the rank of each model among the common ones; settings of at least two models."""
        settings: dict[str, list[Key]] = {}
        for key in self.common:
            settings.setdefault(key.setting, []).append(key)
        return {
            setting: {
                machine.name: dict(
                    zip(
                        (key.model for key in keys),
                        ranks([machine.cases[key].seconds for key in keys]),
                        strict=True,
                    )
                )
                for machine in self.machines
            }
            for setting, keys in settings.items()
            if len(keys) > 1
        }

    def remarks(self) -> list[str]:
        """In what the runs differ beside the hardware, and on what they are compared."""
        found = []
        suites = _by_value({machine.name: machine.run.suite for machine in self.machines})
        if len(suites) > 1:
            found.append(f"Suites differ: {_listed(suites)}. Only cases that are the same are compared.")
        for name in VERSIONS:
            versions = _by_value({m.name: str(m.run.software.get(name)) for m in self.machines})
            if len(versions) > 1:
                found.append(f"{name} differs: {_listed(versions)}. Times differ by it as well as by the machine.")
        threads = _by_value({m.name: str(m.threads) for m in self.machines if m.device == "cpu"})
        if len(threads) > 1:
            found.append(f"CPU threads differ: {_listed(threads)}.")
        precisions = {m.name: ", ".join(sorted({key.precision for key in m.cases})) for m in self.machines}
        if len(_by_value(precisions)) > 1:
            found.append(f"Precisions differ: {_listed(_by_value(precisions))}. Each is compared with itself alone.")
        if len(self.machines) > 1:
            found.append(
                f"{len(self.common)} of {len(self.keys)} cases were measured on every machine; means and rankings are "
                "over these alone."
            )
        return found


def compare_runs(runs: Sequence[Run], reference: str = "1", prices: Path | None = None) -> Comparison:
    """Set runs side by side; the reference is a machine's number, from 1, or its name; `prices` is a YAML file.

    Raises RunFolderError for runs in folders of one name, or none that measured anything; InputError for an unknown
    reference, or a mistake in the prices.
    """
    names = [run.folder.name for run in runs]
    if len(set(names)) < len(names):
        raise RunFolderError(f"expected runs in folders of different names; got {', '.join(names)}")
    machines = tuple(machine for run in runs for machine in machines_of(run))
    if not machines:
        raise RunFolderError(f"expected runs with a measured case; got none in {', '.join(names)}")
    given = read_prices(prices, [machine.name for machine in machines]) if prices else Prices()
    machines = tuple(replace(machine, cost=given.machines.get(machine.name, Cost())) for machine in machines)
    return Comparison(machines=machines, reference=_find(machines, reference), currency=given.currency)


def machines_of(run: Run) -> list[Machine]:
    """A run's machines: one for each device and number of threads, named by the run's folder and what it takes more."""
    groups: dict[tuple[Device, int | None], list[Record]] = {}
    for record in run.records.values():
        if record.status != "unavailable":
            groups.setdefault((record.case.device, record.case.threads), []).append(record)
    devices, numbers = {device for device, _ in groups}, {threads for _, threads in groups}
    found = []
    for (device, asked), records in groups.items():
        threads = asked or (run.environment.threads.usable if run.environment else None)
        name = run.folder.name
        if len(devices) > 1:
            name += f", {device}"
        if len(numbers) > 1:
            name += f", {threads} thread{'' if threads == 1 else 's'}"
        measured = {key_of(record.case): each for record in records if (each := _measured(record)) is not None}
        if measured:
            found.append(
                Machine(
                    name=name,
                    run=run,
                    device=device,
                    threads=threads,
                    cases=measured,
                    not_measured={
                        key: record.status for record in records if (key := key_of(record.case)) not in measured
                    },
                )
            )
    return found


def _measured(record: Record) -> Measured | None:
    if record.status not in MEASURED or record.measurement is None:
        return None
    times = record.measurement.times()
    if not any(times):
        return None
    return Measured(
        seconds=launch_estimate(times),
        batch=record.case.batch,
        joules_per_image=record.measurement.joules_per_image(record.case.batch),
    )


def _find(machines: Sequence[Machine], reference: str) -> Machine:
    for number, machine in enumerate(machines, start=1):
        if reference in (str(number), machine.name):
            return machine
    names = [machine.name for machine in machines]
    raise InputError(f"--reference: {unknown('machine', reference, names)}, or a number from 1 to {len(names)}")


def _by_value(values: Mapping[str, str]) -> dict[str, list[str]]:
    """Machines by what they have."""
    found: dict[str, list[str]] = {}
    for name, value in values.items():
        found.setdefault(value, []).append(name)
    return found


def _listed(values: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in values.items())


def _why(status: str | None) -> str:
    return f" ({status})" if status else ""
