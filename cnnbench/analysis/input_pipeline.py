"""How fast images become batches beside the training steps of the same run: which of the two binds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from cnnbench.analysis.stats import Estimate, median_estimate
from cnnbench.analysis.times import comparable_time
from cnnbench.records.input_times import InputTimes, Stage, Supply
from cnnbench.records.record import Record
from cnnbench.records.run_folder import Run


class Binding(NamedTuple):
    """A training case beside the input."""

    record: Record
    takes: Estimate
    """Images per second of the training step alone."""
    workers: int
    """The fewest that give more than it takes; where none do, those that give most."""
    gives: Estimate
    """Images per second of the input with them."""
    binds: str
    """`model`, `input`, or nothing where the intervals overlap."""
    needed: int | None
    """Workers that the model needs where the input binds, if each gives as much as one; None where it does not bind."""


def per_second(seconds: Estimate, images: int = 1) -> Estimate:
    """The rate that a time is."""
    low, high = (None if bound is None else images / bound for bound in (seconds.high, seconds.low))
    return Estimate(images / seconds.value, low, high)


def stage_time(stage: Stage) -> Estimate:
    """Seconds of one image."""
    return median_estimate(stage.seconds)


def rate(supply: Supply) -> Estimate:
    """Images per second."""
    return per_second(median_estimate(supply.seconds))


def bindings(run: Run) -> list[Binding]:
    """Each training case whose images are those that the input makes."""
    times = run.input
    if times is None or not times.supplies:
        return []
    return [
        _binding(record, per_second(seconds, record.case.batch), times)
        for record in run.records.values()
        if record.case.workload == "training"
        and record.artifact is not None
        and record.artifact.input_shape == times.shape
        and (seconds := comparable_time(record)) is not None
    ]


def _binding(record: Record, takes: Estimate, times: InputTimes) -> Binding:
    supplies = sorted(times.supplies, key=lambda supply: supply.workers)
    enough = [supply for supply in supplies if _is_above(rate(supply), takes)]
    if enough:
        return Binding(record, takes, enough[0].workers, rate(enough[0]), "model", None)
    most = max(supplies, key=lambda supply: rate(supply).value)
    binds = "input" if _is_above(takes, rate(most)) else ""
    return Binding(record, takes, most.workers, rate(most), binds, _needed(takes, supplies) if binds else None)


def _is_above(one: Estimate, other: Estimate) -> bool:
    """Whether all of its interval is."""
    return (one.value if one.low is None else one.low) > (other.value if other.high is None else other.high)


def _needed(takes: Estimate, supplies: Sequence[Supply]) -> int:
    """If each worker gives what each of the fewest that were measured does."""
    fewest = next((supply for supply in supplies if supply.workers), supplies[0])
    return math.ceil(takes.value * max(fewest.workers, 1) / rate(fewest).value)
