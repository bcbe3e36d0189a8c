"""Every measured case with all that explains its time: its roofline, the machine's peaks, and its layer profile."""

from collections.abc import Iterable
from dataclasses import dataclass

from cnnbench.analysis.roofline import Part, Roofline, case_roofline, kind_parts, layer_parts
from cnnbench.analysis.times import comparable_time
from cnnbench.networks import registry
from cnnbench.networks.network import Network
from cnnbench.records.layer_profile import ModelProfile
from cnnbench.records.peaks import Peaks, find_peaks
from cnnbench.records.record import Record
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
    """Of its model and runtime."""

    @property
    def case(self) -> Case:
        """What was measured."""
        return self.record.case

    @property
    def parts(self) -> list[Part]:
        """Its time by kind of work; none without a profile."""
        return kind_parts(self.profile, self.case, self.seconds, self.peaks) if self.profile else []

    @property
    def layers(self) -> list[Part]:
        """Its time by layer; none without a profile."""
        return layer_parts(self.profile, self.case, self.seconds, self.peaks) if self.profile else []


def explain(run: Run) -> dict[str, Explained]:
    """All measured cases of a run by id."""
    return {
        record.id: _explained(run, record, time.value, record.counts.macs)
        for record in run.records.values()
        if record.counts is not None and (time := comparable_time(record)) is not None
    }


def _explained(run: Run, record: Record, seconds: float, macs: int) -> Explained:
    case = record.case
    threads = case.threads or (record.environment.threads.usable if record.environment else None)
    peaks = find_peaks(run.peaks, case.device, threads)
    has_profile = (case.workload, case.device, case.precision, case.layout) == ("inference", "cpu", "fp32", "nchw")
    wanted = (case.spec.label, case.batch, threads)
    profile = next((p for p in run.profiles if has_profile and (p.model, p.batch, p.threads) == wanted), None)
    if profile is not None and split(case.runtime)[0] not in profile.times:
        profile = None
    roofline = case_roofline(case, seconds, macs, network_of(case), peaks)
    return Explained(record=record, seconds=seconds, macs=macs, roofline=roofline, peaks=peaks, profile=profile)


def network_of(case: Case) -> Network | None:
    """The closed form of a case's network; None for a model that has none."""
    architecture = registry.find(case.spec.model)
    return architecture.network(case.spec.image_size, case.spec.classes) if architecture else None


def telling(cases: Iterable[Case]) -> list[Case]:
    """The inference cases of the batch, device, precision and threads that most models share.

    Of several such, those of the smallest batch; of several devices, those that come first.
    """
    groups: dict[tuple[int, object], list[Case]] = {}
    for case in cases:
        if case.workload == "inference" and case.layout == "nchw":
            groups.setdefault((case.batch, (case.device, case.precision, case.threads)), []).append(case)
    models = {key: len({case.spec for case in group}) for key, group in groups.items()}
    return groups[max(models, key=lambda key: (models[key], -key[0]))] if models else []
