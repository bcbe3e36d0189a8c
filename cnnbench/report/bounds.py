"""What limits each case: tables of the machine's peaks, of cases beside them, and of each model's time by work."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from cnnbench.analysis.datasheets import datasheet_of
from cnnbench.analysis.explain import Explained, explain
from cnnbench.analysis.roofline import Part, Roofline
from cnnbench.records.peaks import Peaks
from cnnbench.records.run_folder import Run
from cnnbench.report.format import in_giga, percent, significant
from cnnbench.report.prose import name_of
from cnnbench.report.table import NONE, UNKNOWN, Column, Table, figure, hidden, table_of, words
from cnnbench.suite.case import Precision

MICRO = 1e-6
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
        share = of(row).compute_share
        return NONE if not of(row).macs else UNKNOWN if share is None else percent(share)

    def lower_bound_ms(row: R) -> float | None:
        seconds = of(row).lower_bound_s
        return None if seconds is None else 1e3 * seconds

    return [
        figure("ms", lambda r: 1e3 * of(r).seconds, key="ms"),
        hidden("macs", lambda r: of(r).macs),
        hidden("moved_bytes", lambda r: of(r).moved_bytes),
        figure("GFLOP/s", lambda r: of(r).flops_per_s if of(r).macs else None, in_giga, key="flops_per_s"),
        Column(heading="% of peak", value=peak_share, text=peak_text, key="peak_share"),
        figure("GB/s", lambda r: of(r).bytes_per_s, in_giga, key="bytes_per_s", absent=UNKNOWN),
        hidden("memory_share", lambda r: of(r).memory_share),
        hidden("overhead_share", lambda r: of(r).overhead_share),
        figure("lower bound ms", lower_bound_ms, key="lower_bound_ms", absent=UNKNOWN),
        figure("of lower bound", lambda r: of(r).lower_bound_share, percent, key="lower_bound_share", absent=UNKNOWN),
        words("bound by", lambda r: of(r).bound, is_axis=True),
    ]


def _cases(explained: Sequence[Explained]) -> Table:
    columns: list[Column[Explained]] = [
        words("model", lambda r: r.case.label, is_axis=True),
        words("workload", lambda r: r.case.workload, is_axis=True),
        figure("batch", lambda r: r.case.batch, str, key="batch", is_axis=True),
        words("backend", lambda r: r.case.backend, is_axis=True),
        *_roofline_columns(lambda r: r.roofline),
        hidden("id", lambda r: r.record.id),
    ]
    heading = "% of datasheet" if any(_datasheet_share(each) is not None for each in explained) else ""
    columns.append(figure(heading, _datasheet_share, percent, key="datasheet_share", absent=UNKNOWN))
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
        words("device", lambda r: r.device, is_axis=True),
        figure("threads", lambda r: r.threads, str, key="threads"),
        *(column for precision in PRECISIONS for column in _rates(precision)),
        figure("depthwise GFLOP/s", depthwise, in_giga, key="depthwise_flops_per_s", absent=UNKNOWN),
        figure("memory GB/s", lambda r: r.memory_bytes_per_s(), in_giga, key="memory_bytes_per_s", absent=UNKNOWN),
        hidden(
            "datasheet_bytes_per_s", lambda r: sheet.bytes_per_s if (sheet := datasheet_of(r.device_name)) else None
        ),
        *_overheads("torch", "PyTorch"),
        *_overheads("onnxruntime", "ONNX Runtime"),
        Column(
            heading="datasheet",
            value=lambda r: sheet.source if (sheet := datasheet_of(r.device_name)) else None,
            text=lambda r: datasheet_text(r.device_name),
            key="datasheet",
            is_figure=False,
        ),
    ]
    caption = (
        "The best of several repetitions, with this number of CPU threads. GFLOP/s: of matrix products and "
        "convolutions in PyTorch and ONNX Runtime; depthwise: of depthwise convolutions in float32. Memory: with a "
        "working set far larger than any cache. Launch overhead: a call of a function of one value / of a convolution "
        "of one value. Datasheet: the vendor's dense figures."
    )
    return table_of("peaks", "Measured peaks of this machine", caption, peaks, columns)


def _rates(precision: Precision) -> list[Column[Peaks]]:
    def sheet_rate(each: Peaks) -> float | None:
        sheet = datasheet_of(each.device_name)
        return sheet.flops_per_s(precision) if sheet else None

    key = f"{precision}_flops_per_s"
    return [
        figure(f"{precision} GFLOP/s", lambda r: r.flops_per_s(precision), in_giga, key=key, absent=UNKNOWN),
        hidden(f"{precision}_datasheet_flops_per_s", sheet_rate),
    ]


def _overheads(library: str, name: str) -> list[Column[Peaks]]:
    def both(each: Peaks) -> str:
        seconds = (each.call_s(library, "operator"), each.call_s(library, "convolution"))
        return " / ".join(UNKNOWN if s is None else significant(s / MICRO, 2) for s in seconds)

    return [
        Column(
            heading=f"{name} launch µs",
            value=lambda r: r.call_s(library, "operator"),
            text=both,
            key=f"{library}_call_s",
        ),
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
        words("model", lambda r: r.of.case.label, is_axis=True),
        figure("batch", lambda r: r.of.case.batch, str, key="batch", is_axis=True),
        words("runtime", lambda r: name_of(r.of.case.runtime), is_axis=True),
        words(what, lambda r: r.part.name),
        figure("share", lambda r: r.part.share, percent, key="share"),
        *_roofline_columns(lambda r: r.part.roofline),
    ]


def _parts(explained: Sequence[Explained]) -> Table:
    rows = [_Row(each, part) for each in explained for part in each.parts]
    caption = (
        "Operator times by the runtimes' own profilers, as shares of the call time that was measured without a "
        "profiler. Framework overhead between operators is in no row. Other columns as above, over all layers of a "
        "kind."
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
