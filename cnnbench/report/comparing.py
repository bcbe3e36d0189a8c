"""Several runs side by side: tables of machines, times, means and rankings."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cnnbench.analysis.compare import ComparedRow, Comparison, Key, Machine, Measured, compared_rows
from cnnbench.analysis.datasheets import datasheet_of
from cnnbench.analysis.frames import frame
from cnnbench.analysis.stats import Estimate
from cnnbench.report.format import in_giga
from cnnbench.report.table import (
    NONE,
    UNKNOWN,
    Column,
    Table,
    figure,
    hidden,
    interval_text,
    ratio_text,
    table_of,
    words,
)
from cnnbench.suite.case import WORKLOADS, Precision, Workload

if TYPE_CHECKING:
    import pandas as pd

GIB = 2**30
WIDE = 8
"""So many machines fit beside each other in a table; of more, each case has a row for each machine."""
VERSIONS = ("cnnbench", "python", "torch", "torchvision", "onnxruntime-gpu", "onnxruntime")


def comparison_tables(comparison: Comparison) -> list[Table]:
    """All tables, without those that would be empty."""
    tables = [
        _machines(comparison),
        _means(comparison),
        _long(comparison) if len(comparison.machines) > WIDE else _wide(comparison),
        _rankings(comparison),
        _left_out(comparison),
    ]
    return [table for table in tables if table.rows]


def remarks(comparison: Comparison) -> list[str]:
    """In what the runs differ beside the hardware, and which cases are compared."""
    machines = comparison.machines
    precisions = {m.name: ", ".join(sorted({key.precision for key in m.cases})) for m in machines}
    checks: list[tuple[str, Mapping[str, str], str]] = [
        ("Suites differ", {m.name: m.run.suite for m in machines}, " Only identical cases are compared."),
        *(
            (
                f"{name} differs",
                {m.name: str(m.run.environment.get("software", {}).get(name)) for m in machines},
                " It affects times as well as the machine does.",
            )
            for name in VERSIONS
        ),
        ("CPU threads differ", {m.name: str(m.threads) for m in machines if m.device == "cpu"}, ""),
        ("Precisions differ", precisions, " Each is compared with itself only."),
    ]
    found = []
    for what, by_machine, consequence in checks:
        by_value: dict[str, list[str]] = {}
        for name, value in by_machine.items():
            by_value.setdefault(value, []).append(name)
        if len(by_value) > 1:
            listed = "; ".join(f"{value} ({', '.join(names)})" for value, names in by_value.items())
            found.append(f"{what}: {listed}.{consequence}")
    if len(machines) > 1:
        found.append(
            f"{len(comparison.common)} of {len(comparison.keys)} cases were measured on every machine; means and "
            "rankings are over these."
        )
    return found


def _machines(comparison: Comparison) -> Table:
    def software(*names: str) -> Callable[[Machine], str]:
        return lambda r: next((v for name in names if (v := r.run.environment.get("software", {}).get(name))), NONE)

    def fact(name: str) -> Callable[[Machine], str | int | None]:
        return lambda r: r.run.environment.get("machine", {}).get(name)

    def peak(precision: Precision) -> Callable[[Machine], float | None]:
        return lambda r: r.peaks.flops_per_s(precision) if r.peaks else None

    def memory_gib(machine: Machine) -> float | None:
        memory_bytes = machine.run.environment.get("machine", {}).get("memory_bytes")
        return memory_bytes / GIB if memory_bytes else None

    columns: list[Column[Machine]] = [
        words("machine", lambda r: r.name, is_axis=True),
        words("hardware", lambda r: r.hardware),
        hidden("device", lambda r: r.device),
        figure("threads", lambda r: r.threads, str, key="threads", absent=UNKNOWN),
        figure("memory GiB", memory_gib, absent=UNKNOWN),
        hidden("memory_bytes", fact("memory_bytes")),
        hidden("system", fact("system")),
        hidden("virtualised", fact("virtualised")),
        figure("fp32 GFLOP/s", peak("fp32"), in_giga, key="fp32_flops_per_s", absent=UNKNOWN),
        hidden("bf16_flops_per_s", peak("bf16")),
        figure(
            "memory GB/s",
            lambda r: r.peaks.memory_bytes_per_s() if r.peaks else None,
            in_giga,
            key="memory_bytes_per_s",
            absent=UNKNOWN,
        ),
        figure(
            "datasheet fp32 GFLOP/s",
            lambda r: sheet.fp32 if (sheet := datasheet_of(r.hardware)) else None,
            in_giga,
            key="datasheet_fp32_flops_per_s",
            absent=UNKNOWN,
        ),
        hidden("cnnbench", software("cnnbench")),
        hidden("python", software("python")),
        words("torch", software("torch")),
        words("onnxruntime", software("onnxruntime-gpu", "onnxruntime")),
        hidden("suite", lambda r: r.run.suite),
        figure("cases", lambda r: len(r.cases), str, key="cases"),
        words("started", lambda r: r.run.started),
    ]
    has_costs = any(machine.cost.watts or machine.cost.price_per_hour for machine in comparison.machines)
    price = f"{comparison.currency} per hour" if has_costs else ""
    columns += [
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
        words("machine", lambda r: r.machine.name, is_axis=True),
        words("workload", lambda r: r.workload, is_axis=True),
        figure("cases", lambda r: r.cases, str, key="cases"),
        Column(
            heading="mean time",
            value=lambda r: r.ratio.value if r.ratio else None,
            text=lambda r: "1, the reference" if r.machine is comparison.reference else ratio_text(r.ratio),
            key="mean_ratio",
        ),
        hidden("mean_ratio_low", lambda r: r.ratio.low if r.ratio else None),
        hidden("mean_ratio_high", lambda r: r.ratio.high if r.ratio else None),
    ]
    caption = (
        f"Geometric mean of times as multiples of those on {comparison.reference.name}, over the cases that every "
        "machine measured [95 % interval, of these cases]. A description, not a verdict: machines share no rounds."
    )
    return table_of("means", "Means over common cases", caption, rows, columns)


def _wide(comparison: Comparison) -> Table:
    columns: list[Column[Key]] = [
        words("model", lambda k: k.model, is_axis=True),
        words("workload", lambda k: k.workload, is_axis=True),
        figure("batch", lambda k: k.batch, str, is_axis=True),
        words("runtime", lambda k: k.runtime, is_axis=True),
    ]
    if len({key.precision for key in comparison.keys}) > 1:
        columns.append(words("precision", lambda k: k.precision, is_axis=True))
    columns += [column for machine in comparison.machines for column in _times(comparison, machine)]
    columns += [
        column
        for machine in comparison.machines
        for unit, of in (("J", machine.images_per_joule), (comparison.currency, machine.images_per_currency))
        for column in _rate(comparison, machine, unit, of)
    ]
    return table_of(
        "cases",
        "Times side by side",
        _times_caption(comparison),
        comparison.keys,
        columns,
        data=_wide_frame(comparison),
    )


def _times(comparison: Comparison, machine: Machine) -> list[Column[Key]]:
    def ms(key: Key) -> Estimate | None:
        return machine.cases[key].seconds.scaled(1e3) if key in machine.cases else None

    def ratio(key: Key) -> Estimate | None:
        return comparison.ratio(machine, key)

    def column(what: str, of: Callable[[Key], Estimate | None], text: Callable[[Estimate | None], str]) -> Column[Key]:
        return Column(
            heading=f"{machine.name} {what}",
            value=lambda k: e.value if (e := of(k)) else None,
            text=lambda k: text(of(k)),
        )

    ratios = [column("ratio", ratio, ratio_text)] if machine is not comparison.reference else []
    return [column("ms", ms, interval_text), *ratios]


def _rate(
    comparison: Comparison, machine: Machine, unit: str, of: Callable[[Measured], float | None]
) -> list[Column[Key]]:
    """Images for a unit of energy or currency, where anything is known of it."""

    def value(key: Key) -> float | None:
        return of(machine.cases[key]) if key in machine.cases else None

    known = any(value(key) is not None for key in comparison.keys)
    return [figure(f"{machine.name} images/{unit}", value)] if known else []


def _wide_frame(comparison: Comparison) -> "pd.DataFrame":
    """One row per case, with a group of columns for each machine."""
    long = frame(compared_rows(comparison), ComparedRow)
    axes = [*(name for name in long.columns if name in Key._fields), "on_every_machine"]
    wide = long[axes].drop_duplicates()
    figures = [name for name in long.columns if name not in (*axes, "machine")]
    figures = [name for name in figures if not name.startswith("images_per_") or long[name].notna().any()]
    for machine, rows in long.groupby("machine", sort=False):
        named = rows[[*axes, *figures]].rename(columns={name: f"{machine} {name}" for name in figures})
        wide = wide.merge(named, on=axes, how="left")
    return wide


def _long(comparison: Comparison) -> Table:
    rows = compared_rows(comparison)
    columns: list[Column[ComparedRow]] = [
        words("model", lambda r: r.model, is_axis=True),
        words("workload", lambda r: r.workload, is_axis=True),
        figure("batch", lambda r: r.batch, str, is_axis=True),
        words("runtime", lambda r: r.runtime, is_axis=True),
        words("precision", lambda r: r.precision, is_axis=True),
        words("machine", lambda r: r.machine, is_axis=True),
        Column(heading="ms", value=lambda r: r.ms.value, text=lambda r: interval_text(r.ms)),
        Column(heading="ratio", value=lambda r: r.ratio.value if r.ratio else None, text=lambda r: ratio_text(r.ratio)),
        figure("images/s", lambda r: r.images_per_s),
        figure("rank", lambda r: r.rank, str),
        figure("images/J", lambda r: r.images_per_joule),
        figure(f"images/{comparison.currency}", lambda r: r.images_per_currency),
    ]
    return table_of(
        "cases", "Times side by side", _times_caption(comparison), rows, columns, data=frame(rows, ComparedRow)
    )


def _times_caption(comparison: Comparison) -> str:
    return (
        "ms: median time of one call of the whole batch [95 % interval]. ratio: that time as a multiple of the time on "
        f"{comparison.reference.name} [95 % interval of two independent medians]; below 1 is faster. A description, "
        "not a verdict."
    )


class _Ranked(NamedTuple):
    setting: str
    model: str
    ranks: dict[str, int]
    """By machine."""


def _rankings(comparison: Comparison) -> Table:
    """One row per setting and model: its rank on each machine."""
    names = [machine.name for machine in comparison.machines]
    rows = [
        _Ranked(setting, model, {name: places[model] for name, places in by_machine.items()})
        for setting, by_machine in (comparison.rankings() if len(names) > 1 else {}).items()
        for model in by_machine[names[0]]
    ]

    def rank(name: str) -> Column[_Ranked]:
        return figure(name, lambda r: r.ranks[name], str, key=name)

    columns: list[Column[_Ranked]] = [
        words("setting", lambda r: r.setting),
        words("model", lambda r: r.model, is_axis=True),
        *map(rank, names),
        words("changes", lambda r: "yes" if len(set(r.ranks.values())) > 1 else ""),
    ]
    caption = (
        "Rank of each model on each machine, among the models that every machine measured in this setting: 1 is the "
        "shortest time; models with overlapping intervals share a rank."
    )
    return table_of("rankings", "Ranking of models by machine", caption, rows, columns)


def _left_out(comparison: Comparison) -> Table:
    columns: list[Column[tuple[Key, Sequence[str]]]] = [
        words("model", lambda r: r[0].model, is_axis=True),
        words("setting", lambda r: r[0].setting),
        words("machines without it", lambda r: ", ".join(r[1])),
    ]
    caption = "Cases that not every machine measured: they are in no mean and no ranking."
    return table_of("left-out", "Cases left out", caption, list(comparison.left_out.items()), columns)
