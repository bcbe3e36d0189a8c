"""What limits each case: tables of the machine's peaks, of cases beside them, and of each model's time by work."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from cnnbench.analysis.datasheets import datasheet_of
from cnnbench.analysis.explain import Explained, explain
from cnnbench.analysis.roofline import Part, Roofline
from cnnbench.records.peaks import Peaks
from cnnbench.records.run_folder import Run
from cnnbench.report.columns import NONE, UNKNOWN, Column, figure, hidden, measure, words
from cnnbench.report.format import in_giga, percent, significant
from cnnbench.report.prose import name_of
from cnnbench.report.table import Table, table_of
from cnnbench.suite.case import Precision

SLOWEST = 3
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
R = TypeVar("R")


def bound_tables(run: Run) -> list[Table]:
    """The tables, without those that would be empty."""
    explained = list(explain(run).values())
    tables = [_peaks(run.peaks), _cases(explained), _parts(explained), _layers(explained)]
    return [table for table in tables if table.rows]


def _roofline_columns(of: Callable[[R], Roofline]) -> list[Column[R]]:
    """A measured time beside its lower bound."""

    def peak_share(row: R) -> float | None:
        return of(row).compute_share if of(row).macs else None

    def peak_text(row: R) -> str:
        share = peak_share(row)
        return percent(share) if share is not None else UNKNOWN if of(row).macs else NONE

    def lower_bound_ms(row: R) -> float | None:
        seconds = of(row).lower_bound_s
        return None if seconds is None else 1e3 * seconds

    return [
        figure("ms", lambda r: 1e3 * of(r).seconds),
        hidden("macs", lambda r: of(r).macs),
        hidden("moved_bytes", lambda r: of(r).moved_bytes),
        figure("GFLOP/s", lambda r: of(r).flops_per_s if of(r).macs else None, in_giga, "flops_per_s"),
        Column("% of peak", peak_share, peak_text, "peak_share"),
        measure("GB/s", lambda r: of(r).bytes_per_s, in_giga, "bytes_per_s"),
        hidden("memory_share", lambda r: of(r).memory_share),
        hidden("overhead_share", lambda r: of(r).overhead_share),
        measure("lower bound ms", lower_bound_ms),
        measure("of lower bound", lambda r: of(r).lower_bound_share, percent, "lower_bound_share"),
        words("bound by", lambda r: of(r).bound, axis=True),
    ]


def _cases(explained: Sequence[Explained]) -> Table:
    has_datasheet = any(_datasheet_share(each) is not None for each in explained)
    columns: list[Column[Explained]] = [
        words("model", lambda r: r.case.label, axis=True),
        words("workload", lambda r: r.case.workload, axis=True),
        figure("batch", lambda r: r.case.batch, str, axis=True),
        words("backend", lambda r: r.case.backend, axis=True),
        *_roofline_columns(lambda r: r.roofline),
        measure("% of datasheet" if has_datasheet else "", _datasheet_share, percent, "datasheet_share"),
        hidden("id", lambda r: r.record.id),
    ]
    caption = (
        "GFLOP/s: two for each MAC of the closed form, over the median time. % of peak: of the fastest measured kernel "
        "on this device, in the case's precision and with its threads. GB/s: bytes that layers read and write if "
        "nothing stays in a cache. Lower bound: sum over layers of launch overhead and the longer of arithmetic and "
        "memory traffic at their peaks. Of lower bound: lower bound divided by measured time. Bound by: the limit of "
        "the layers that make up most of the lower bound."
    )
    return table_of("bounds", "Cases against their lower bounds", caption, explained, columns)


def _datasheet_share(each: Explained) -> float | None:
    sheet = datasheet_of(each.peaks.device_name) if each.peaks else None
    peak = sheet.flops_per_s(each.case.precision) if sheet else None
    return each.roofline.flops_per_s / peak if peak else None


def _peaks(peaks: Sequence[Peaks]) -> Table:
    def depthwise(each: Peaks) -> float | None:
        fastest = each.fastest("fp32", "depthwise convolution")
        return fastest.flops_per_s if fastest else None

    columns: list[Column[Peaks]] = [
        words("hardware", lambda r: r.device_name),
        words("device", lambda r: r.device, axis=True),
        figure("threads", lambda r: r.threads, str),
        *(column for precision in PRECISIONS for column in _rates(precision)),
        measure("depthwise GFLOP/s", depthwise, in_giga, "depthwise_flops_per_s"),
        measure("memory GB/s", lambda r: r.memory_bytes_per_s(), in_giga, "memory_bytes_per_s"),
        hidden("datasheet_bytes_per_s", lambda r: s.bytes_per_s if (s := datasheet_of(r.device_name)) else None),
        *_overheads("torch", "PyTorch"),
        *_overheads("onnxruntime", "ONNX Runtime"),
        Column("datasheet", _source, lambda r: datasheet_text(r.device_name), "datasheet", is_figure=False),
    ]
    caption = (
        "Best of several repetitions with this number of CPU threads. GFLOP/s: of matrix products and convolutions in "
        "PyTorch and ONNX Runtime; depthwise: of depthwise convolutions in float32. Memory: with a working set far "
        "larger than any cache. Launch: a call of a function of one value / of a convolution of one value. Datasheet: "
        "the vendor's dense figures."
    )
    return table_of("peaks", "Measured peaks of this machine", caption, peaks, columns)


def _source(each: Peaks) -> str | None:
    return sheet.source if (sheet := datasheet_of(each.device_name)) else None


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


class _Row(NamedTuple):
    """Part of a profiled model's call."""

    of: Explained
    part: Part


def _part_columns(what: str) -> list[Column[_Row]]:
    return [
        words("model", lambda r: r.of.case.label, axis=True),
        figure("batch", lambda r: r.of.case.batch, str, axis=True),
        words("runtime", lambda r: name_of(r.of.case.runtime), axis=True),
        words(what, lambda r: r.part.name),
        figure("share", lambda r: r.part.share, percent),
        *_roofline_columns(lambda r: r.part.roofline),
    ]


def _parts(explained: Sequence[Explained]) -> Table:
    rows = [_Row(each, part) for each in explained for part in each.parts]
    caption = (
        "Operator times by the runtimes' own profilers, as shares of the call time measured without a profiler. "
        "Framework overhead between operators is in no row. Other columns as above."
    )
    return table_of("parts", "Time by kind of work", caption, rows, _part_columns("work"))


def _layers(explained: Sequence[Explained]) -> Table:
    rows = []
    for each in explained:
        layers = list(enumerate(each.layers))
        slowest = sorted(layers, key=lambda pair: -pair[1].share)[:SLOWEST]
        rows += [_Row(each, part) for _, part in sorted(slowest, key=lambda pair: pair[0])]
    caption = f"The {SLOWEST} layers of each model that take the most time. Columns as above."
    return table_of("layers", "Slowest layers", caption, rows, _part_columns("layer"))
