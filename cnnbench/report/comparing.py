"""Several runs side by side: tables of machines, times, means and rankings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from cnnbench.analysis.compare import ComparedRow, Comparison, Key, Machine, compared_rows
from cnnbench.analysis.datasheets import datasheet_of
from cnnbench.analysis.hardware import VERSIONS, ByHardware, Extreme, Spread
from cnnbench.analysis.stats import Estimate
from cnnbench.networks.units import GIB
from cnnbench.records.environment import Machine as Hardware
from cnnbench.records.peaks import Peaks
from cnnbench.report.format import NONE, in_giga, interval_text, ratio_text
from cnnbench.report.table import Column, R, Table, estimate, figure, hidden, measure, table_of, words
from cnnbench.suite.case import WORKLOADS, Workload

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
WIDE = 8
"""So many machines fit beside each other in a table; of more, each case has a row for each machine."""
KINDS = (
    "Each machine named here stands for all of one kind: its times are those of the median machine [95 % interval of "
    "that median; of fewer than six machines the hull of their intervals, which holds it less often]."
)


def comparison_tables(comparison: Comparison, grouped: ByHardware | None = None) -> list[Table]:
    """All tables, without those that would be empty; of kinds of hardware and of every machine, if they are given."""
    shown = grouped.comparison if grouped else comparison
    made = [make(shown) for make in (_machines, _means, _cases, _rankings, _left_out)]
    if grouped:
        made = [replace(table, caption=f"{KINDS} {table.caption}") for table in made[:3]] + made[3:]
        facts = "Other facts are those of the machine in the middle."
        made[0] = replace(made[0], caption=f"{made[0].caption} {facts}", notes=remarks(comparison, grouped))
        made[1:1] = [_spreads(grouped)]
    return [table for table in made if table.rows] + ([_every_machine(comparison)] if grouped else [])


def remarks(comparison: Comparison, grouped: ByHardware | None = None) -> list[str]:
    """In what the runs differ beside the hardware, and which cases are compared."""
    if grouped:
        left_out = grouped.kinds - len(grouped.comparison.machines)
        first = f"{grouped.machines:,} machines of {grouped.kinds:,} kinds of hardware, software and threads."
        rest = f" {left_out:,} kinds with fewer machines are in the files alone." if left_out else ""
        return [first + rest, *remarks(grouped.comparison)]
    machines = comparison.machines
    precisions = {m.name: ", ".join(sorted({key.precision for key in m.cases})) for m in machines}
    threads = {m.name: str(m.threads) for m in machines if m.device == "cpu"}
    suites = {m.name: m.run.suite for m in machines}
    found = _difference("Suites differ", suites, " Only identical cases are compared.")
    for name in VERSIONS:
        versions = {m.name: str(m.run.software.get(name)) for m in machines}
        found += _difference(f"{name} differs", versions, " It affects times as well as the machine does.")
    found += _difference("CPU threads differ", threads, "")
    found += _difference("Precisions differ", precisions, " Each is compared with itself only.")
    if len(machines) > 1:
        found.append(
            f"{len(comparison.common)} of {len(comparison.keys)} cases were measured on every machine; means and "
            "rankings are over these."
        )
    return found


def _difference(what: str, by_machine: Mapping[str, str], consequence: str) -> list[str]:
    by_value: dict[str, list[str]] = {}
    for name, value in by_machine.items():
        by_value.setdefault(value, []).append(name)
    listed = "; ".join(f"{value} ({', '.join(names)})" for value, names in by_value.items())
    return [f"{what}: {listed}.{consequence}"] if len(by_value) > 1 else []


def _machines(comparison: Comparison) -> Table:
    def software(*names: str) -> Callable[[Machine], str]:
        return lambda r: next((version for name in names if (version := r.run.software.get(name))), NONE)

    def fact(of: Callable[[Hardware], T]) -> Callable[[Machine], T | None]:
        return lambda r: of(r.run.environment.machine) if r.run.environment else None

    def peak(of: Callable[[Peaks], float | None]) -> Callable[[Machine], float | None]:
        return lambda r: of(r.peaks) if r.peaks else None

    def datasheet(machine: Machine) -> float | None:
        return sheet.fp32 if (sheet := datasheet_of(machine.hardware)) else None

    has_costs = any(machine.cost.watts or machine.cost.price_per_hour for machine in comparison.machines)
    price = f"{comparison.currency} per hour" if has_costs else ""
    columns: list[Column[Machine]] = [
        words("machine", lambda r: r.name, axis=True),
        words("hardware", lambda r: r.hardware),
        hidden("device", lambda r: r.device),
        *([figure("machines", lambda r: r.count, str)] if any(m.count > 1 for m in comparison.machines) else []),
        measure("threads", lambda r: r.threads, str),
        measure("memory GiB", fact(lambda m: m.memory_bytes / GIB)),
        hidden("memory_bytes", fact(lambda m: m.memory_bytes)),
        hidden("system", fact(lambda m: m.system)),
        hidden("virtualised", fact(lambda m: m.virtualised)),
        measure("fp32 GFLOP/s", peak(lambda p: p.flops_per_s("fp32")), in_giga, "fp32_flops_per_s"),
        hidden("bf16_flops_per_s", peak(lambda p: p.flops_per_s("bf16"))),
        measure("memory GB/s", peak(Peaks.memory_bytes_per_s), in_giga, "memory_bytes_per_s"),
        measure("datasheet fp32 GFLOP/s", datasheet, in_giga, "datasheet_fp32_flops_per_s"),
        hidden("cnnbench", software("cnnbench")),
        hidden("python", software("python")),
        words("torch", software("torch")),
        words("onnxruntime", software("onnxruntime-gpu", "onnxruntime")),
        hidden("suite", lambda r: r.run.suite),
        figure("cases", lambda r: len(r.cases), str),
        words("started", lambda r: r.run.started),
        figure("W" if has_costs else "", lambda r: r.cost.watts, key="watts"),
        figure(price, lambda r: r.cost.price_per_hour, key="price_per_hour"),
    ]
    caption = (
        "A machine is a run on one device with one number of CPU threads. GFLOP/s and GB/s: measured peaks; datasheet "
        "figures are dense. Power and price are configured."
    )
    return table_of("machines", "Machines", caption, comparison.machines, columns, notes=remarks(comparison))


class _Mean(NamedTuple):
    machine: Machine
    workload: Workload
    cases: int
    ratio: Estimate | None
    """To the reference's times; None for the reference."""


def _means(comparison: Comparison) -> Table:
    """One row per machine and workload: the geometric mean over the common cases."""
    counts = {workload: sum(key.workload == workload for key in comparison.common) for workload in WORKLOADS}
    rows = [
        _Mean(machine, workload, count, comparison.mean_ratio(machine, workload))
        for machine in comparison.machines
        for workload, count in counts.items()
        if count and len(comparison.machines) > 1
    ]
    columns: list[Column[_Mean]] = [
        words("machine", lambda r: r.machine.name, axis=True),
        words("workload", lambda r: r.workload, axis=True),
        figure("cases", lambda r: r.cases, str),
        *estimate("mean time", lambda r: r.ratio, ratio_text, "mean_ratio", absent="1, the reference"),
    ]
    caption = (
        f"Geometric mean of times as multiples of those on {comparison.reference.name}, over the cases that every "
        "machine measured [95 % interval, of these cases]. A description, not a verdict: machines share no rounds."
    )
    return table_of("means", "Means over common cases", caption, rows, columns)


def _cases(comparison: Comparison) -> Table:
    """One row per case, with columns for each machine; of many machines, one row per case and machine."""
    title, rows = "Times side by side", compared_rows(comparison)
    columns, ms, ratio, rates = _time_columns(comparison)
    caption = (
        "ms: median time of one call of the whole batch [95 % interval]. ratio: that time as a multiple of the time on "
        f"{comparison.reference.name} [95 % interval of two independent medians]; below 1 is faster. A description, "
        "not a verdict."
    )
    long = table_of("cases", title, caption, rows, columns)
    if len(comparison.machines) > WIDE:
        return long
    has_precisions = len({key.precision for key in comparison.keys}) > 1
    wide: list[Column[Key]] = [c for c in _axes(lambda key: key) if has_precisions or c.heading != "precision"]
    by_machine = [(m, {row.key: row for row in rows if row.machine is m}) for m in comparison.machines]
    for machine, of_machine in by_machine:
        times = [ms] if machine is comparison.reference else [ms, ratio]
        wide += [_beside(column, machine.name, of_machine) for column in times]
    for machine, of_machine in by_machine:
        known = [rate for rate in rates if any(rate.value(row) is not None for row in of_machine.values())]
        wide += [_beside(rate, machine.name, of_machine) for rate in known]
    return table_of("cases", title, caption, comparison.keys, wide, data=_widened(long.data))


_Times = Column[ComparedRow]


def _time_columns(comparison: Comparison) -> tuple[list[_Times], _Times, _Times, list[_Times]]:
    """Those of one row per case and machine; of them, the time, the ratio and the rates."""
    ms: list[Column[ComparedRow]] = estimate("ms", lambda r: r.measured.seconds.scaled(1e3), interval_text, "ms")
    ratio: list[Column[ComparedRow]] = estimate("ratio", lambda r: r.ratio, ratio_text, "ratio")
    per_price = f"images/{comparison.currency}"
    rates: list[Column[ComparedRow]] = [
        figure("images/J", lambda r: r.machine.images_per_joule(r.measured), key="images_per_joule"),
        figure(per_price, lambda r: r.machine.images_per_currency(r.measured), key="images_per_currency"),
    ]
    columns: list[Column[ComparedRow]] = [
        *_axes(lambda r: r.key),
        hidden("layout", lambda r: r.key.layout),
        hidden("allocator", lambda r: r.key.allocator),
        hidden("seed", lambda r: r.key.seed),
        words("machine", lambda r: r.machine.name, axis=True),
        *ms,
        figure("images/s", lambda r: r.measured.images_per_s, key="images_per_s"),
        *ratio,
        figure("rank", lambda r: r.rank, str),
        *rates,
        hidden("on_every_machine", lambda r: r.is_common),
    ]
    return columns, ms[0], ratio[0], rates


def _every_machine(comparison: Comparison) -> Table:
    """One row per case and machine, for the files alone."""
    columns, *_ = _time_columns(comparison)
    return table_of("every-machine", "Times of every machine", "", compared_rows(comparison), columns, is_shown=False)


def _spreads(grouped: ByHardware) -> Table:
    """One row per kind of hardware and workload: how far its machines differ."""

    def extreme(of: Callable[[Spread], Extreme]) -> Callable[[Spread], str]:
        return lambda r: f"{of(r).machine}, ×{of(r).ratio:.2f}"

    columns: list[Column[Spread]] = [
        words("hardware", lambda r: r.kind, axis=True),
        words("workload", lambda r: r.workload, axis=True),
        figure("machines", lambda r: r.machines, str),
        figure("without all cases", lambda r: r.incomplete, str),
        words("fastest", extreme(lambda r: r.fastest)),
        words("slowest", extreme(lambda r: r.slowest)),
        hidden("fastest_ratio", lambda r: r.fastest.ratio),
        hidden("slowest_ratio", lambda r: r.slowest.ratio),
    ]
    caption = (
        "The fastest and the slowest machine of each kind: the geometric mean of its times as multiples of the median "
        "machine's, over the cases that it measured."
    )
    return table_of("spreads", "Machines of one kind", caption, grouped.spreads, columns)


def _axes(key_of: Callable[[R], Key]) -> list[Column[R]]:
    return [
        words("model", lambda r: key_of(r).model, axis=True),
        words("workload", lambda r: key_of(r).workload, axis=True),
        figure("batch", lambda r: key_of(r).batch, str, axis=True),
        words("runtime", lambda r: key_of(r).runtime, axis=True),
        words("precision", lambda r: key_of(r).precision, axis=True),
    ]


def _beside(column: Column[ComparedRow], machine: str, rows: Mapping[Key, ComparedRow]) -> Column[Key]:
    """A column of all machines' times, of one machine alone."""
    return Column(
        f"{machine} {column.heading}",
        lambda key: column.value(rows[key]) if key in rows else None,
        lambda key: column.text(rows[key]) if key in rows else NONE,
    )


def _widened(long: "pd.DataFrame") -> "pd.DataFrame":
    """One row per case, with a group of columns for each machine."""
    axes = [*(name for name in long.columns if name in Key._fields), "on_every_machine"]
    wide = long[axes].drop_duplicates()
    figures = [name for name in long.columns if name not in (*axes, "machine")]
    figures = [name for name in figures if not name.startswith("images_per_") or long[name].notna().any()]
    for machine, rows in long.groupby("machine", sort=False):
        named = rows[[*axes, *figures]].rename(columns={name: f"{machine} {name}" for name in figures})
        wide = wide.merge(named, on=axes, how="left")
    return wide


class _Ranked(NamedTuple):
    setting: str
    model: str
    by_machine: Mapping[str, int]


def _rankings(comparison: Comparison) -> Table:
    """One row per setting and model: its rank on each machine."""
    names = [machine.name for machine in comparison.machines]
    rows = [
        _Ranked(setting, model, {name: places[model] for name, places in by_machine.items()})
        for setting, by_machine in (comparison.rankings() if len(names) > 1 else {}).items()
        for model in by_machine[names[0]]
    ]

    def rank(name: str) -> Column[_Ranked]:
        return figure(name, lambda r: r.by_machine[name], str, name)

    columns: list[Column[_Ranked]] = [
        words("setting", lambda r: r.setting),
        words("model", lambda r: r.model, axis=True),
        *map(rank, names),
        words("changes", lambda r: "yes" if len(set(r.by_machine.values())) > 1 else ""),
    ]
    caption = (
        "Rank among the models that every machine measured in this setting: 1 is the shortest time; models with "
        "overlapping intervals share a rank. changes: the rank differs between machines."
    )
    return table_of("rankings", "Ranking of models by machine", caption, rows, columns)


def _left_out(comparison: Comparison) -> Table:
    columns: list[Column[tuple[Key, Sequence[str]]]] = [
        words("model", lambda r: r[0].model, axis=True),
        words("setting", lambda r: r[0].setting),
        words("machines without it", lambda r: ", ".join(r[1])),
    ]
    caption = "Cases that not every machine measured: they are in no mean and no ranking."
    return table_of("left-out", "Cases left out", caption, list(comparison.left_out.items()), columns)
