"""Why a model is as fast as it is, in plain words made from measured numbers."""

from collections.abc import Iterable
from dataclasses import dataclass

from cnnbench.analysis.roofline import Part, Roofline, case_roofline, kind_parts
from cnnbench.analysis.stats import launch_estimate
from cnnbench.networks import registry
from cnnbench.networks.network import Network
from cnnbench.records.layer_profile import ModelProfile
from cnnbench.records.peaks import Peaks, find_peaks
from cnnbench.records.record import MEASURED, Record
from cnnbench.records.run_folder import Run
from cnnbench.suite.case import Case
from cnnbench.suite.runtimes import split


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A measured case with all that is known of its time."""

    record: Record
    seconds: float
    macs: int
    """Of its model, for one image."""
    roofline: Roofline
    peaks: Peaks | None
    profile: ModelProfile | None

    @property
    def case(self) -> Case:
        """What was measured."""
        return self.record.case

    @property
    def parts(self) -> list[Part]:
        """Its time by kind of work; none without a profile."""
        if self.profile is None or split(self.case.runtime)[0] not in self.profile.times:
            return []
        return kind_parts(self.profile, self.case, self.seconds, self.peaks)


def explain(run: Run) -> dict[str, Explained]:
    """All measured cases of a run by id."""
    found = {}
    for record in run.records.values():
        measurement = record.measurement
        if record.status not in MEASURED or measurement is None or record.counts is None:
            continue
        times = measurement.times()
        if any(times):
            found[record.id] = _explained(run, record, launch_estimate(times).value, record.counts.macs)
    return found


def _explained(run: Run, record: Record, seconds: float, macs: int) -> Explained:
    case, threads = record.case, threads_of(record)
    peaks = find_peaks(run.peaks, case.device, threads)
    fits = case.workload == "inference" and case.device == "cpu" and case.precision == "fp32" and case.layout == "nchw"
    profile = next(
        (p for p in run.profiles if fits and (p.model, p.batch, p.threads) == (case.spec.label, case.batch, threads)),
        None,
    )
    roofline = case_roofline(case, seconds, macs, network_of(case), peaks)
    return Explained(record=record, seconds=seconds, macs=macs, roofline=roofline, peaks=peaks, profile=profile)


def threads_of(record: Record) -> int | None:
    """CPU threads that a case ran with; None if that is not known."""
    return record.case.threads or (record.environment.threads.usable if record.environment else None)


def network_of(case: Case) -> Network | None:
    """The closed form of a case's network; None for a model that has none."""
    architecture = registry.find(case.spec.model)
    return architecture.network(case.spec.image_size, case.spec.classes) if architecture else None


def telling(cases: Iterable[Case]) -> list[Case]:
    """The inference cases of the batch, device, precision and threads that most models have.

    Of several such, those of the smallest batch; of several devices, those that come first.
    """
    groups: dict[tuple[int, object], list[Case]] = {}
    for case in cases:
        if case.workload == "inference" and case.layout == "nchw":
            groups.setdefault((case.batch, (case.device, case.precision, case.threads)), []).append(case)
    models = {key: len({case.spec for case in group}) for key, group in groups.items()}
    return groups[max(models, key=lambda key: (models[key], -key[0]))] if models else []
