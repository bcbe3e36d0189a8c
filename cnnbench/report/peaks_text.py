"""A machine's peaks as lines of text: the best of each kernel, memory by working set, launch overhead."""

from collections.abc import Iterator

from cnnbench.analysis.datasheets import datasheet_of
from cnnbench.networks.units import MIB
from cnnbench.records.peaks import Peaks, Throughput
from cnnbench.report.bounds import datasheet_text
from cnnbench.report.format import in_giga, significant
from cnnbench.report.plain import lines_of


def lines(peaks: Peaks) -> Iterator[str]:
    """All of it for people; each figure is the best of its repetitions."""
    yield f"{peaks.device_name} ({peaks.device}), {peaks.threads} CPU threads: the best of several repetitions"
    yield "arithmetic"
    yield from lines_of(_arithmetic(peaks))
    yield "memory, by working set"
    yield from lines_of(_memory(peaks))
    yield "launch overhead, by the smallest operator and convolution"
    yield from lines_of(
        [{"library": c.library, "smallest": c.smallest, "us": significant(c.call_s * 1e6)} for c in peaks.calls]
    )
    if peaks.device != "cpu":
        sheet = datasheet_of(peaks.device_name)
        yield f"datasheet, dense: {datasheet_text(peaks.device_name)}{f' ({sheet.source})' if sheet else ''}"
    yield from (f"not measured: {what}: {why}" for what, why in peaks.failures.items())


def _arithmetic(peaks: Peaks) -> list[dict[str, str]]:
    best: dict[tuple[str, str, str], Throughput] = {}
    for each in sorted(peaks.throughputs, key=lambda each: each.flops_per_s):
        best[each.library, each.kernel, each.precision] = each
    kernels = dict.fromkeys((each.library, each.kernel, each.precision) for each in peaks.throughputs)
    return [
        {
            "library": library,
            "kernel": kernel,
            "precision": precision,
            "GFLOP/s": in_giga(best[library, kernel, precision].flops_per_s),
            "at": best[library, kernel, precision].size,
        }
        for library, kernel, precision in kernels
    ]


def _memory(peaks: Peaks) -> list[dict[str, str]]:
    by_size: dict[int, dict[str, str]] = {}
    for each in peaks.bandwidths:
        row = by_size.setdefault(each.working_set_bytes, {"MiB": significant(each.working_set_bytes / MIB)})
        row[f"{each.pattern} GB/s"] = in_giga(each.bytes_per_s)
    return list(by_size.values())
