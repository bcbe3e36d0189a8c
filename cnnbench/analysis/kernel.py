"""The share of a case's CPU time in the operating system's kernel, most of it for page faults; and what it costs.

The system's malloc returns large blocks to the kernel when they are freed; the next call requests them again, page by
page, each cleared first. Another allocator keeps them, so runtimes are also compared at the best one for each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cnnbench.analysis.stats import Estimate
from cnnbench.analysis.times import comparable_time, speedup
from cnnbench.records.record import Block, Launch, Record, Usage
from cnnbench.suite.case import Case
from cnnbench.suite.runtimes import REFERENCE

MUCH = 0.2
"""Of the CPU time: a ratio between two cases is not shown without saying so where one spends more in the kernel."""


def kernel_share(launches: Iterable[Launch]) -> float | None:
    """Of the CPU time of their timed calls, over all threads; None where the system does not tell.

    None for other devices than the CPU, too: there the kernel's time is that of calls to the device's driver.
    """
    used = [usage for launch, _, usage in _usages(launches) if launch.ran is None or launch.ran.device == "cpu"]
    total_s = sum(usage.user_s + usage.kernel_s for usage in used)
    return sum(usage.kernel_s for usage in used) / total_s if total_s else None


def faults_per_call(launches: Iterable[Launch]) -> float | None:
    """Pages that a call touches for the first time; None where the system does not tell."""
    used = _usages(launches)
    calls = sum(len(block.totals_s()) * launch.calls_per_sample for launch, block, _ in used)
    return sum(usage.minor_faults for _, _, usage in used) / calls if calls else None


def is_much(share: float | None) -> bool:
    """Whether a share of the CPU time is one that is not passed over; an unknown one is."""
    return share is not None and share > MUCH


def spends_much(*records: Record | None) -> bool:
    """Whether any of them spends much of its time in the kernel."""
    return any(record is not None and is_much(kernel_share(record.launches)) for record in records)


def _usages(launches: Iterable[Launch]) -> list[tuple[Launch, Block, Usage]]:
    return [(launch, block, block.usage) for launch in launches for block in launch.usable() if block.usage]


Kept = tuple[Record, Estimate]
"""A case with another allocator, and its time as a multiple of that with the default one."""


def kept(records: Iterable[Record]) -> dict[str, Kept]:
    """By the id of each case with the default allocator, the same case with the one that makes it fastest, if any."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_all_but_allocator(record.case), []).append(record)
    defaults = [(each, members) for members in groups.values() for each in members if each.case.allocator == "default"]
    return {each.id: found for each, members in defaults if (found := _fastest(each, members)) is not None}


def _fastest(record: Record, members: Iterable[Record]) -> Kept | None:
    """Of cases that differ from the record's in the allocator alone."""
    ratios = [(other, ratio) for other in members if (ratio := speedup(record, other)) is not None]
    return min(ratios, key=lambda pair: pair[1].value, default=None)


def _all_but_allocator(case: Case) -> tuple[object, ...]:
    return (case.work_key, case.runtime, case.layout)


@dataclass(frozen=True)
class Standing:
    """A runtime beside the reference runtime, on one model: as it stands, and each at its best measured allocator."""

    default: Record
    best: Record
    vs_reference: Estimate | None
    """How many times as fast as the reference, both with the default allocator; None for the reference."""
    best_vs_reference: Estimate | None
    """The same at the best allocator of each."""
    default_costs: Estimate | None
    """Time with the default allocator as a multiple of that at the best; None where no other was faster."""
    kernel: bool
    """Whether either of the two spends much of its time in the kernel with the default allocator."""


def standings(records: Sequence[Record]) -> list[Standing]:
    """One for each case with the default allocator that is beside a case of the reference runtime, that one too."""
    groups: dict[tuple[object, ...], dict[tuple[object, ...], list[Record]]] = {}
    for record in records:
        if comparable_time(record) is not None:
            group = groups.setdefault(record.case.work_key, {})
            group.setdefault(_all_but_allocator(record.case), []).append(record)
    found = []
    for group in groups.values():
        pairs = [pair for members in group.values() if (pair := _default_and_best(members)) is not None]
        reference = next(((d, b) for d, b in pairs if (d.case.runtime, d.case.layout) == (REFERENCE, "nchw")), None)
        found += [_standing(default, best, *reference) for default, best in pairs if reference is not None]
    return found


def _default_and_best(members: Sequence[Record]) -> tuple[Record, Record] | None:
    """Of one runtime's cases that differ in the allocator alone."""
    default = next((record for record in members if record.case.allocator == "default"), None)
    if default is None:
        return None
    faster = _fastest(default, members)
    return default, faster[0] if faster is not None and faster[1].value < 1 else default


def _standing(default: Record, best: Record, reference: Record, best_reference: Record) -> Standing:
    return Standing(
        default,
        best,
        speedup(default, reference),
        speedup(best, best_reference),
        speedup(best, default),
        spends_much(default, reference),
    )
