"""What limits each case: tables of the machine's peaks, of cases beside them, and of each model's time by work."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cnnbench.analysis.datasheets import datasheet_of
from cnnbench.analysis.explain import Explained, explain
from cnnbench.analysis.roofline import Part, Roofline
from cnnbench.records.run_folder import Run
from cnnbench.report.format import NONE, UNKNOWN, format_count, in_giga, percent
from cnnbench.report.peaks import peaks_table
from cnnbench.report.prose import UNKNOWN_PEAKS, Cause, causes, name_of
from cnnbench.report.table import Column, R, Table, figure, hidden, measure, table_of, words

SLOWEST = 3


def bound_tables(run: Run) -> list[Table]:
    """The tables, without those that would be empty."""
    explained = list(explain(run).values())
    tables = [_causes(causes(explained)), peaks_table(run.peaks), _cases(explained), *_profiled(explained)]
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
        hidden("kernel_share", lambda r: of(r).kernel_share),
        measure("lower bound ms", lower_bound_ms),
        measure("bound / time", lambda r: of(r).lower_bound_share, percent, "lower_bound_share"),
        words("bound by", lambda r: of(r).bound, axis=True),
    ]


def _causes(found: Sequence[Cause]) -> Table:
    """One row per network and runtime."""
    columns: list[Column[Cause]] = [
        words("model", lambda r: r.of.case.label, axis=True),
        words("runtime", lambda r: name_of(r.of.case.runtime), axis=True),
        figure("MACs", lambda r: r.of.macs, format_count, "macs"),
        figure("% of most", lambda r: r.macs_share, percent, "macs_share"),
        figure("ms", lambda r: 1e3 * r.of.seconds),
        figure("% of its", lambda r: r.time_share, percent, "time_share"),
        measure("bound / time", lambda r: r.of.roofline.lower_bound_share, percent, "lower_bound_share"),
        words("cause", lambda r: r.sentence),
    ]
    batch = f" Inference, batch {found[0].of.case.batch}." if found else ""
    caption = (
        f"Where the time goes.{batch} % of most: of the MACs of the network with the most. % of its: of that network's "
        "time in the same runtime; if this is larger, MACs alone do not explain the time. bound / time: the lower "
        "bound that the machine's peaks allow, divided by the measured time. cause: the kinds of work that take the "
        "most time, each with its share of the call, then what limits the whole call."
    )
    is_known = any(each.of.peaks for each in found)
    return table_of("causes", "Why", caption, found, columns, notes=[] if is_known else [UNKNOWN_PEAKS])


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
        "memory traffic at their peaks. bound / time: lower bound divided by measured time; 100 % is as fast as the "
        "peaks allow. Bound by: what limits most of the lower bound (compute, memory, or overhead: that of launches), "
        "or kernel: the operating system's kernel, where it takes a larger share of the CPU time."
    )
    return table_of("bounds", "Cases against their lower bounds", caption, explained, columns)


def _datasheet_share(each: Explained) -> float | None:
    sheet = datasheet_of(each.peaks.device_name) if each.peaks else None
    peak = sheet.flops_per_s(each.case.format) if sheet else None
    return each.roofline.flops_per_s / peak if peak else None


class _Row(NamedTuple):
    """Part of a profiled model's call."""

    of: Explained
    part: Part


def _profiled(explained: Sequence[Explained]) -> list[Table]:
    """The time of each profiled model by kind of work, and its slowest layers."""

    def columns(what: str) -> list[Column[_Row]]:
        return [
            words("model", lambda r: r.of.case.label, axis=True),
            figure("batch", lambda r: r.of.case.batch, str, axis=True),
            words("runtime", lambda r: name_of(r.of.case.runtime), axis=True),
            words(what, lambda r: r.part.name),
            figure("share", lambda r: r.part.share, percent),
            *_roofline_columns(lambda r: r.part.roofline),
        ]

    parts = [_Row(each, part) for each in explained for part in each.parts]
    layers = []
    for each in explained:
        by_share = sorted(each.layers, key=lambda part: -part.share)
        layers += [_Row(each, part) for part in each.layers if part in by_share[:SLOWEST]]
    by_work = (
        "Operator times by the runtimes' own profilers, as shares of the call time measured without a profiler. "
        "Framework overhead between operators is in no row. Other columns as above."
    )
    by_layer = f"The {SLOWEST} layers of each model that take the most time. Columns as above."
    return [
        table_of("parts", "Time by kind of work", by_work, parts, columns("work")),
        table_of("layers", "Slowest layers", by_layer, layers, columns("layer")),
    ]
