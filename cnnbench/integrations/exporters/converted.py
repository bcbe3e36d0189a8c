"""What a format is made from, and what it becomes."""

from collections.abc import Mapping
from dataclasses import dataclass

from cnnbench.analysis.serving import service_of
from cnnbench.analysis.stats import CONFIDENCE, Estimate, launch_estimate
from cnnbench.analysis.times import comparable_time
from cnnbench.records.record import MEASURED, Launch, Record
from cnnbench.records.run_folder import Run
from cnnbench.report.reasons import reason_text, reasons_text

START = {"group", "warmup_calls", "import_s", "load_s", "first_call_s"}
"""The fields of a launch that tell how it started."""
UNRECORDED = "no record: the run was stopped before it, or told to leave it out"


@dataclass(frozen=True)
class Converted:
    """A run in another format."""

    files: Mapping[str, str | bytes]
    """Contents, by the end of the file's name: `.json`; `.latency.json` and `.throughput.json` where there are two."""
    lost: list[str]
    """What the format cannot hold, a sentence each."""


@dataclass(frozen=True)
class Measured:
    """A record whose times may be compared."""

    record: Record
    call_s: Estimate
    """Seconds of one call of the whole batch."""

    @property
    def images_per_s(self) -> Estimate:
        """Throughput: the batch over the seconds of a call."""
        batch, time = self.record.case.images, self.call_s
        low, high = (None if bound is None else batch / bound for bound in (time.high, time.low))
        return Estimate(batch / time.value, low, high)

    @property
    def launches(self) -> list[tuple[Launch, list[list[float]]]]:
        """Each launch that has blocks, with the seconds per call of each sample by usable block."""
        return [(launch, blocks) for launch in self.record.launches if (blocks := launch.call_blocks())]

    @property
    def samples_s(self) -> list[float]:
        """All of these samples in one pool."""
        return [sample for _, blocks in self.launches for block in blocks for sample in block]

    @property
    def params(self) -> dict[str, str | int]:
        """The axes of the case, flat: what a tool may group by."""
        axes = {"workload", "runtime", "device", "precision", "layout", "allocator", "trainable", "batch"}
        axes |= {"ranks"} if self.record.case.ranks > 1 else set()
        return {"model": self.record.case.spec.label, **self.record.case.model_dump(include=axes)}


def measured_of(record: Record) -> Measured | None:
    """None if its times may not be compared."""
    time = comparable_time(record)
    return None if time is None else Measured(record, time)


def measured(run: Run) -> list[Measured]:
    """The records of a run whose times may be compared, in the suite's order."""
    return [each for record in run.records.values() if (each := measured_of(record)) is not None]


def rate_of(record: Record) -> Estimate | None:
    """The highest rate of a service within its bound, in queries per second, up to the lowest that is beyond it.

    None if the record is of none, or its figures may not be compared.
    """
    service = service_of(record.launches) if record.status in MEASURED else None
    return None if service is None or service.valid is None else Estimate(service.valid, service.valid, service.invalid)


def rates(run: Run) -> dict[str, Estimate]:
    """The same by case id, in the suite's order."""
    return {id_: rate for id_, record in run.records.items() if (rate := rate_of(record)) is not None}


NO_CALL = "a service has no time of a call; its rates are in csv and parquet"


def left_out(run: Run, *, with_rates: bool = False) -> list[str]:
    """A line for each case of the suite that has no number to convert, with its status and reasons."""
    lines = [
        f"{record.id}: {record.status}: {reasons_text(record.reasons) or default}"
        for record in run.records.values()
        for default in [NO_CALL if rate_of(record) else "no reason given"]
        if comparable_time(record) is None and not (with_rates and rate_of(record))
    ]
    return [*lines, *unrecorded(run)]


def unrecorded(run: Run) -> list[str]:
    """A line for each of the suite's cases that the run has no record of."""
    return [f"{id_}: {UNRECORDED}" for id_ in run.cases if id_ not in run.records]


def machine_of(run: Run) -> str:
    """The machine in a few words."""
    return run.environment.label if run.environment else "unknown machine"


def extra_info(each: Measured) -> dict[str, object]:
    """What a pool of samples does not hold of a measured record: status, interval, launches, counts, parity."""
    record, time = each.record, each.call_s
    return {
        "status": record.status,
        "reasons": list(map(reason_text, record.reasons)),
        "reason_codes": [reason.code for reason in record.reasons],
        "median_s": time.value,
        "low_s": time.low,
        "high_s": time.high,
        "confidence": CONFIDENCE,
        "images_per_s": record.case.images / time.value,
        "params": record.counts.params if record.counts else None,
        "macs": record.counts.macs if record.counts else None,
        "parity_error": max((each.error for each in record.parity if each.error is not None), default=None),
        "launches": [
            {
                "samples": sum(map(len, blocks)),
                "blocks": len(blocks),
                "blocks_with_interference": sum(bool(block.interference) for block in launch.blocks),
                "median_s": launch_estimate([blocks]).value,
                "calls_per_sample": launch.calls_per_sample,
                "peak_bytes": launch.memory.peak_bytes,
                **launch.model_dump(include=START),
            }
            for launch, blocks in each.launches
        ],
    }
