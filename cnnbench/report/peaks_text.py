"""A machine's ceilings as lines of text: the best of each kernel, of memory by working set, and of calls."""

from collections.abc import Iterator

from cnnbench.analysis.datasheets import datasheet_of
from cnnbench.networks.units import GIGA, MIB
from cnnbench.records.peaks import Peaks
from cnnbench.report.format import significant
from cnnbench.report.plain import lines_of

MICRO = 1e-6
UNKNOWN = "unknown"


def lines(peaks: Peaks) -> Iterator[str]:
    """All of it for people; each figure is the best of its repetitions."""
    yield f"{peaks.device_name} ({peaks.device}), {peaks.threads} CPU threads: the best of several repetitions"
    yield "arithmetic"
    yield from lines_of(_arithmetic(peaks))
    yield "memory, by working set"
    yield from lines_of(_memory(peaks))
    yield "a call with next to nothing to do"
    yield from lines_of(
        [
            {"library": cost.library, "smallest": cost.smallest, "us": significant(cost.call_s / MICRO)}
            for cost in peaks.calls
        ]
    )
    if peaks.device != "cpu":
        yield from _datasheet(peaks)
    yield from (f"not measured: {what}: {why}" for what, why in peaks.failures.items())


def _arithmetic(peaks: Peaks) -> list[dict[str, str]]:
    kernels = dict.fromkeys((each.library, each.kernel, each.precision) for each in peaks.throughputs)
    rows = []
    for library, kernel, precision in kernels:
        best = max(
            (e for e in peaks.throughputs if (e.library, e.kernel, e.precision) == (library, kernel, precision)),
            key=lambda each: each.flops_per_s,
        )
        rows.append(
            {
                "library": library,
                "kernel": kernel,
                "precision": precision,
                "GFLOP/s": significant(best.flops_per_s / GIGA),
                "at": best.size,
            }
        )
    return rows


def _memory(peaks: Peaks) -> list[dict[str, str]]:
    by_size: dict[int, dict[str, str]] = {}
    for each in peaks.bandwidths:
        row = by_size.setdefault(each.working_set_bytes, {"MiB": significant(each.working_set_bytes / MIB)})
        row[f"{each.pattern} GB/s"] = significant(each.bytes_per_s / GIGA)
    return list(by_size.values())


def _datasheet(peaks: Peaks) -> Iterator[str]:
    sheet = datasheet_of(peaks.device_name)
    if sheet is None:
        yield f"datasheet: {UNKNOWN}"
        return
    rates = {name: sheet.flops_per_s(name) for name in ("fp32", "bf16", "fp16")}
    told = [f"{name} {UNKNOWN if rate is None else significant(rate / GIGA)} GFLOP/s" for name, rate in rates.items()]
    yield f"datasheet, dense: {', '.join(told)}, memory {significant(sheet.bytes_per_s / GIGA)} GB/s ({sheet.source})"
