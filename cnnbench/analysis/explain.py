"""Every measured case with all that explains its time: its roofline, the machine's peaks, and its layer profile."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from cnnbench.analysis.cases import beside_each_other
from cnnbench.analysis.kernel import Kept, kept, kernel_share
from cnnbench.analysis.roofline import Part, ProfiledCall, Roofline, case_roofline
from cnnbench.analysis.times import comparable_time
from cnnbench.errors import InputError
from cnnbench.networks import registry
from cnnbench.networks.trainable import ALL
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
    profiled: ProfiledCall | None
    """Where its model and runtime were profiled."""
    kept: Kept | None = None
    """The same case with another allocator, and its time as a multiple of this one's; the fastest of several."""

    @property
    def case(self) -> Case:
        """What was measured."""
        return self.record.case

    @property
    def parts(self) -> list[Part]:
        """Its time by kind of work; none without a profile."""
        return self.profiled.kinds if self.profiled else []

    @property
    def layers(self) -> list[Part]:
        """Its time by layer; none without a profile."""
        return self.profiled.layers if self.profiled else []


def explain(run: Run) -> dict[str, Explained]:
    """All measured cases of a run by id."""
    others = kept(run.records.values())
    return {
        record.id: _explained(run, record, time.value, macs, others.get(record.id))
        for record in beside_each_other(run.records.values())
        if record.counts is not None
        and (record.case.trainable == ALL or registry.find(record.case.spec.model))  # else its work is not known
        and (macs := record.counts.macs) is not None
        and (time := comparable_time(record)) is not None
    }


def _explained(run: Run, record: Record, seconds: float, macs: int, other: Kept | None) -> Explained:
    case, spec = record.case, record.case.spec
    threads = case.threads or (record.environment.threads.usable if record.environment else None)
    peaks = find_peaks(run.peaks, case.device, threads)
    axes = (case.workload, case.device, case.precision, case.layout, case.allocator)
    has_profile = axes == ("inference", "cpu", "fp32", "nchw", "default")
    wanted = (spec.label, case.batch, threads)
    profile = next((p for p in run.profiles if has_profile and (p.model, p.batch, p.threads) == wanted), None)
    network = None
    with suppress(InputError):  # a size or a part that the record's own formula refuses
        network = case.network
    is_profiled = profile is not None and split(case.runtime)[0] in profile.times
    return Explained(
        record=record,
        seconds=seconds,
        macs=macs,
        roofline=case_roofline(case, seconds, macs, network, peaks, kernel_share(record.launches)),
        peaks=peaks,
        profiled=ProfiledCall(profile, case, seconds, peaks) if profile and is_profiled else None,
        kept=other,
    )


def telling(cases: Iterable[Case]) -> list[Case]:
    """The inference cases of the batch, device, precision and threads that most models share.

    Of several such, those of the smallest batch; of several devices, those that come first.
    """
    groups: dict[tuple[int, object], list[Case]] = {}
    for case in cases:
        if (case.workload, case.layout, case.allocator) == ("inference", "nchw", "default"):
            groups.setdefault((case.batch, (case.device, case.precision, case.threads)), []).append(case)
    models = {key: len({case.spec for case in group}) for key, group in groups.items()}
    return groups[max(models, key=lambda key: (models[key], -key[0]))] if models else []
