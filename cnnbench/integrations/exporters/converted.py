"""What a format is made from, and what it becomes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cnnbench.analysis.stats import CONFIDENCE, Estimate, launch_estimate
from cnnbench.records.record import MEASURED, Record
from cnnbench.records.run_folder import Run


@dataclass(frozen=True)
class Converted:
    """A run in another format."""

    files: Mapping[str, bytes]
    """Contents, by the end of the file's name: `.json`; `.latency.json` and `.throughput.json` where there are two."""
    lost: list[str] = field(default_factory=list)
    """What is in the run and could not be said in this format, a sentence each."""


@dataclass(frozen=True)
class Measured:
    """A record whose times may be compared."""

    record: Record
    call_s: Estimate
    """Seconds of one call of the whole batch."""

    @property
    def images_per_s(self) -> Estimate:
        """Throughput: the batch over the seconds of a call."""
        batch, time = self.record.case.batch, self.call_s
        return Estimate(batch / time.value, _over(batch, time.high), _over(batch, time.low))

    @property
    def samples_s(self) -> list[list[float]]:
        """Seconds per call of each sample of each turn that nothing disturbed, by launch."""
        assert self.record.measurement is not None
        return [[sample for block in blocks for sample in block] for blocks in self.record.measurement.times()]


def _over(batch: int, seconds: float | None) -> float | None:
    return None if seconds is None else batch / seconds


def has_number(record: Record) -> bool:
    """Whether it was measured, and its times may be compared."""
    return record.status in MEASURED and record.measurement is not None and any(record.measurement.times())


def measured(run: Run) -> list[Measured]:
    """The records of a run that have a number to convert, in the suite's order."""
    return [
        Measured(record, launch_estimate(record.measurement.times()))
        for record in run.records.values()
        if record.measurement is not None and has_number(record)
    ]


def left_out(run: Run) -> list[str]:
    """A line for each case of the suite that has no number to convert, with its status and reasons."""
    have = {each.record.id for each in measured(run)}
    lines = [
        f"{record.id}: {record.status}: {'; '.join(record.reasons) or 'no reason given'}"
        for record in run.records.values()
        if record.id not in have
    ]
    return lines + unrecorded_lines(run)


UNRECORDED = "no record: the run was stopped before it, or told to leave it out"


def unrecorded(run: Run) -> list[str]:
    """Ids of the suite's cases that the run has no record of."""
    return [id_ for id_ in run.cases if id_ not in run.records]


def unrecorded_lines(run: Run) -> list[str]:
    """A line for each of them."""
    return [f"{id_}: {UNRECORDED}" for id_ in unrecorded(run)]


def params_of(record: Record) -> dict[str, str | int]:
    """The axes of a case, flat: what a tool may group by."""
    case = record.case
    return {
        "model": case.spec.label,
        "workload": case.workload,
        "runtime": case.runtime,
        "device": case.device,
        "precision": case.precision,
        "layout": case.layout,
        "batch": case.batch,
    }


def extra_info(record: Record) -> dict[str, object]:
    """What a pool of samples does not tell of a measured record: status, interval, launches, counts, parity."""
    assert record.measurement is not None
    launches = record.measurement.launches
    time = launch_estimate(record.measurement.times())
    return {
        "status": record.status,
        "reasons": record.reasons,
        "median_s": time.value,
        "low_s": time.low,
        "high_s": time.high,
        "confidence": CONFIDENCE,
        "images_per_s": record.case.batch / time.value,
        "params": record.counts.params if record.counts else None,
        "macs": record.counts.macs if record.counts else None,
        "parity_error": max((each.error for each in record.parity if each.error is not None), default=None),
        "launches": [
            {
                "group": launch.group,
                "samples": sum(map(len, blocks)),
                "blocks": len(blocks),
                "blocks_with_interference": sum(bool(block.interference) for block in launch.blocks),
                "median_s": launch_estimate([blocks]).value if blocks else None,
                "calls_per_sample": launch.calls_per_sample,
                "warmup_calls": launch.warmup_calls,
                "import_s": launch.import_s,
                "load_s": launch.load_s,
                "first_call_s": launch.first_call_s,
                "peak_bytes": launch.memory.peak_bytes,
            }
            for launch, blocks in zip(launches, record.measurement.times(), strict=True)
        ],
    }


def machine_of(run: Run) -> str:
    """The machine in a few words."""
    return run.environment.label if run.environment else "unknown machine"
