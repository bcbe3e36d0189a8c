"""Training on several ranks beside one: efficiency, the traffic of the gradients, and what of it is waited for."""

from dataclasses import dataclass
from statistics import median

from cnnbench.analysis.stats import Estimate
from cnnbench.analysis.times import speedup
from cnnbench.errors import InputError
from cnnbench.networks.trainable import ALL
from cnnbench.networks.units import FLOAT_BYTES
from cnnbench.records.record import AllReduce, Ranks, Record
from cnnbench.records.run_folder import Run


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """A case on several ranks, each with the batch and the threads of the case on one."""

    record: Record
    alone: Record
    """The same on one rank, in the same rounds."""
    efficiency: Estimate
    """A step's time on one rank over that on all: 1 if the ranks do not slow each other down."""
    step_s: float
    """On all ranks."""
    gradient_bytes: int | None
    """4 bytes for each parameter that is trained; None where their number is not known."""
    ranks: Ranks | None
    """None where a step on its own could not be measured."""

    @property
    def traffic_bytes(self) -> float | None:
        """That each rank sends in a ring all-reduce of the gradients, and receives: 2 (N - 1) / N of them."""
        return None if self.gradient_bytes is None else sent_bytes(self.record.case.ranks, self.gradient_bytes)

    @property
    def bytes_per_s(self) -> float | None:
        """The most that each rank sent in a second, of all sizes that were tried."""
        if self.ranks is None:
            return None
        return max((rate_of(self.ranks.count, each) for each in self.ranks.all_reduces), default=None)

    @property
    def lower_bound_s(self) -> float | None:
        """The least that the gradients' all-reduce takes at that rate."""
        if self.traffic_bytes is None or not self.bytes_per_s:
            return None
        return self.traffic_bytes / self.bytes_per_s

    @property
    def longer_s(self) -> float:
        """By how much a step is longer than on one rank."""
        return self.step_s * (1 - self.efficiency.value)

    @property
    def exposed_s(self) -> float | None:
        """What a step is longer than the same without its all-reduce: communication that computing does not hide."""
        if self.ranks is None or not self.ranks.step_s:
            return None
        return median(with_ - apart for with_, apart in zip(self.ranks.step_s, self.ranks.apart_s, strict=True))


def sent_bytes(ranks: int, size: float) -> float:
    """What each rank sends in a ring all-reduce: 2 (N - 1) / N of the buffer (Patarasuk & Yuan 2009)."""
    return 2 * (ranks - 1) / ranks * size


def rate_of(ranks: int, reduced: AllReduce) -> float:
    """The bytes that each rank sent in a second, in the median repetition."""
    return sent_bytes(ranks, reduced.bytes) / median(reduced.seconds)


def scalings(run: Run) -> list[Scaling]:
    """One for each measured case on several ranks that was measured on one in the same rounds."""
    records = list(run.records.values())
    alone = {_all_but_ranks(record): record for record in records if record.case.ranks == 1}
    found = []
    for record in records:
        one = alone.get(_all_but_ranks(record)) if record.case.ranks > 1 else None
        if one is None or (efficiency := speedup(record, one)) is None:
            continue
        ran = record.launches[-1].ran
        step_s = median(sample for launch in record.launches for block in launch.call_blocks() for sample in block)
        found.append(
            Scaling(
                record=record,
                alone=one,
                efficiency=efficiency,
                step_s=step_s,
                gradient_bytes=_gradient_bytes(record),
                ranks=ran.ranks if ran else None,
            )
        )
    return found


def _all_but_ranks(record: Record) -> tuple[object, ...]:
    return (record.case.group_key, record.case.backend, record.case.trainable)


def _gradient_bytes(record: Record) -> int | None:
    try:
        network = record.case.network
    except InputError:  # another version's model, at a size or with a part that this one refuses
        network = None
    if network is not None:
        return FLOAT_BYTES * network.trained_params
    if record.case.trainable != ALL or record.counts is None:
        return None
    return FLOAT_BYTES * record.counts.params
