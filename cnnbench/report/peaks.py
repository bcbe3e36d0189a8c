"""A machine's measured peaks: those of a run as a table, and one device's as lines of text."""

import math
from collections.abc import Iterator, Sequence

from cnnbench.analysis.datasheets import datasheet_of
from cnnbench.networks.units import MIB
from cnnbench.records.peaks import Peaks, Throughput
from cnnbench.report.format import UNKNOWN, in_giga, significant
from cnnbench.report.plain import lines_of
from cnnbench.report.table import Column, Table, figure, hidden, measure, table_of, words
from cnnbench.suite.case import Precision

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
INT8: Precision = "int8"
ABOVE_DATASHEET = (
    "A rate above the datasheet's is that of convolutions whose algorithm multiplies less often than is counted "
    "(Winograd); matrix products stay below it."
)


def peaks_table(peaks: Sequence[Peaks]) -> Table:
    """One row for each device and number of threads."""

    def depthwise(each: Peaks) -> float | None:
        fastest = each.fastest("fp32", "depthwise convolution")
        return fastest.flops_per_s if fastest else None

    def source(each: Peaks) -> str | None:
        return sheet.source if (sheet := datasheet_of(each.device_name)) else None

    columns: list[Column[Peaks]] = [
        words("hardware", lambda r: r.device_name),
        words("device", lambda r: r.device, axis=True),
        figure("threads", lambda r: r.threads, str),
        *(column for precision in PRECISIONS for column in _rates(precision)),
        *(_rates(INT8)[:1] if any(each.flops_per_s(INT8) for each in peaks) else ()),
        measure("depthwise GFLOP/s", depthwise, in_giga, "depthwise_flops_per_s"),
        measure("memory GB/s", lambda r: r.memory_bytes_per_s(), in_giga, "memory_bytes_per_s"),
        hidden("datasheet_bytes_per_s", lambda r: s.bytes_per_s if (s := datasheet_of(r.device_name)) else None),
        *_overheads("torch", "PyTorch"),
        *_overheads("onnxruntime", "ONNX Runtime"),
        Column("datasheet", source, lambda r: datasheet_text(r.device_name), is_figure=False),
    ]
    caption = (
        "Best of several repetitions with this number of CPU threads. GFLOP/s: of matrix products and convolutions in "
        "PyTorch and ONNX Runtime; depthwise: of depthwise convolutions in float32. Memory: with a working set far "
        "larger than any cache. Launch: a call of a function of one value / of a convolution of one value. Datasheet: "
        "the vendor's dense figures."
    )
    notes = [ABOVE_DATASHEET] if any(map(_is_above_datasheet, peaks)) else []
    return table_of("peaks", "Measured peaks of this machine", caption, peaks, columns, notes=notes)


def _is_above_datasheet(each: Peaks) -> bool:
    sheet = datasheet_of(each.device_name)
    return sheet is not None and any(
        (each.flops_per_s(precision) or 0.0) > (sheet.flops_per_s(precision) or math.inf) for precision in PRECISIONS
    )


def _rates(precision: Precision) -> list[Column[Peaks]]:
    def sheet_rate(each: Peaks) -> float | None:
        return sheet.flops_per_s(precision) if (sheet := datasheet_of(each.device_name)) else None

    key = f"{precision}_flops_per_s"
    return [
        measure(f"{precision} GFLOP/s", lambda r: r.flops_per_s(precision), in_giga, key),
        hidden(f"{precision}_datasheet_flops_per_s", sheet_rate),
    ]


def _overheads(library: str, name: str) -> list[Column[Peaks]]:
    def both(each: Peaks) -> str:
        seconds = (each.call_s(library, "operator"), each.call_s(library, "convolution"))
        return " / ".join(UNKNOWN if s is None else significant(s * 1e6, 2) for s in seconds)

    return [
        Column(f"{name} launch µs", lambda r: r.call_s(library, "operator"), both, f"{library}_call_s"),
        hidden(f"{library}_convolution_call_s", lambda r: r.call_s(library, "convolution")),
    ]


def datasheet_text(device_name: str) -> str:
    """`fp32 30,300, bf16 121,000, fp16 121,000 GFLOP/s, 300 GB/s`, or that there is none."""
    sheet = datasheet_of(device_name)
    if sheet is None:
        return UNKNOWN
    rates = {precision: sheet.flops_per_s(precision) for precision in PRECISIONS}
    known = (f"{precision} {UNKNOWN if rate is None else in_giga(rate)}" for precision, rate in rates.items())
    return f"{', '.join(known)} GFLOP/s, {in_giga(sheet.bytes_per_s)} GB/s"


def peaks_lines(peaks: Peaks) -> Iterator[str]:
    """The best of each kernel, memory by working set, and launch overhead, for people."""
    yield f"{peaks.device_name} ({peaks.device}), {peaks.threads} CPU threads: the best of several repetitions"
    yield "arithmetic"
    best: dict[tuple[str, ...], Throughput] = {}
    for each in peaks.throughputs:
        kernel = (each.library, each.kernel, each.precision)
        best[kernel] = max(each, best.get(kernel, each), key=lambda throughput: throughput.flops_per_s)
    headings = ("library", "kernel", "precision", "GFLOP/s", "at")
    figures = [(*kernel, in_giga(each.flops_per_s), each.size) for kernel, each in best.items()]
    yield from lines_of([dict(zip(headings, row, strict=True)) for row in figures])
    yield "memory, by working set"
    patterns = dict.fromkeys((f"{each.pattern} GB/s" for each in peaks.bandwidths), "")
    by_size: dict[int, dict[str, str]] = {}
    for pass_ in peaks.bandwidths:
        size = pass_.working_set_bytes
        row = by_size.setdefault(size, {"MiB": significant(size / MIB), **patterns})
        row[f"{pass_.pattern} GB/s"] = in_giga(pass_.bytes_per_s)
    yield from lines_of(list(by_size.values()))
    yield "launch overhead, by the smallest operator and convolution"
    calls = [{"library": c.library, "smallest": c.smallest, "us": significant(c.call_s * 1e6)} for c in peaks.calls]
    yield from lines_of(calls)
    if peaks.device != "cpu":
        sheet = datasheet_of(peaks.device_name)
        yield f"datasheet, dense: {datasheet_text(peaks.device_name)}{f' ({sheet.source})' if sheet else ''}"
    yield from (f"not measured: {what}: {why}" for what, why in peaks.failures.items())
