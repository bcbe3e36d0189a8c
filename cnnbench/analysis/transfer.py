"""What freezing a part of a model saves of its training step: predicted from the work, and measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from cnnbench.analysis.explain import Explained, explain
from cnnbench.analysis.stats import Estimate, launch_median
from cnnbench.analysis.times import speedup
from cnnbench.errors import InputError
from cnnbench.networks.trainable import ALL
from cnnbench.networks.training import StepMemory, saving, step_memory, work
from cnnbench.records.record import Record
from cnnbench.records.run_folder import Run
from cnnbench.suite.case import PHASES, STEP

FORWARD, BACKWARD, OPTIMIZER = PHASES["training"]


@dataclass(frozen=True)
class Share:
    """Of the whole step, what a phase of the frozen one has of its MACs, and takes of its time."""

    macs: float
    time: float


@dataclass(frozen=True, kw_only=True)
class Saving:
    """A case that trains a part of its model, beside the one that trains all of it in the same rounds."""

    record: Record
    whole: Record
    measured: Estimate
    """How many times as fast as the whole step."""
    by_macs: float | None = None
    """The same if each MAC took as long as in the whole step; None where there is no closed form."""
    by_bounds: float | None = None
    """The same by the lower bounds of both; None where the machine's peaks are unknown."""
    memory: StepMemory | None = None
    shares: Mapping[str, Share]
    """By phase; an exported step is one."""

    @property
    def is_as_predicted(self) -> bool:
        """Whether the measured interval includes what the MACs say."""
        low, high = self.measured.low, self.measured.high
        return None not in (self.by_macs, low, high) and low <= self.by_macs <= high  # type: ignore[operator]


def savings(run: Run) -> list[Saving]:
    """One for each measured case that trains a part, where all is trained beside it in the same backend."""
    records = list(run.records.values())
    whole = {_all_but_part(record): record for record in records if record.case.trainable == ALL}
    pairs = [(each, whole.get(_all_but_part(each))) for each in records if each.case.trainable != ALL]
    measured = [(each, all_, speedup(each, all_)) for each, all_ in pairs if all_ is not None]
    if not measured:
        return []
    explained = explain(run)
    return [_saving(each, all_, ratio, explained) for each, all_, ratio in measured if ratio is not None]


def _all_but_part(record: Record) -> tuple[object, ...]:
    return (record.case.group_key, record.case.backend, record.case.ranks)


def _saving(record: Record, whole: Record, measured: Estimate, explained: Mapping[str, Explained]) -> Saving:
    try:
        ours, theirs = record.case.network, whole.case.network
        if ours is None or theirs is None:
            return Saving(record=record, whole=whole, measured=measured, shares={})
        done, all_done = work(ours), work(theirs)
    except InputError:  # another version's model, at a size or with a part that this one refuses
        return Saving(record=record, whole=whole, measured=measured, shares={})
    macs = {FORWARD: done.forward, BACKWARD: done.total - done.forward, OPTIMIZER: 0, STEP[0]: done.total}
    assert record.measurement is not None
    assert whole.measurement is not None
    seconds = {phase: launch_median(record.measurement.times(phase)) for phase in record.case.phases}
    # Medians of phases do not add up to that of the step, so they are scaled to it.
    scale = 1 / (measured.value * (sum(seconds.values()) or 1.0))
    bounds = [each.roofline.lower_bound_s for id_ in (record.id, whole.id) if (each := explained.get(id_))]
    return Saving(
        record=record,
        whole=whole,
        measured=measured,
        by_macs=saving(ours, theirs),
        by_bounds=bounds[1] / bounds[0] if len(bounds) == 2 and bounds[0] and bounds[1] else None,
        memory=step_memory(ours, record.case.batch, "momentum"),
        shares={phase: Share(macs[phase] / all_done.total, each * scale) for phase, each in seconds.items()},
    )
