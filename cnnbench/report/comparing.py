"""Several runs side by side: tables of machines, times, means and rankings."""

import pandas as pd

from cnnbench.analysis.compare import Comparison, Key, Machine
from cnnbench.analysis.datasheets import datasheet_of
from cnnbench.analysis.stats import Estimate
from cnnbench.networks.units import GIGA
from cnnbench.report.format import significant
from cnnbench.report.tables import NONE, Table, figure_text, interval_text, is_missing, ratio_text
from cnnbench.suite.case import WORKLOADS

GIB = 2**30
WIDE = 8
"""So many machines fit beside each other in a table; of more, each case has a row for each machine."""
UNKNOWN = "unknown"
AXES = ("model", "workload", "batch", "runtime", "precision", "layout", "seed")
"""What a row says of its case, in order."""


def comparison_tables(comparison: Comparison) -> list[Table]:
    """All tables, without those that would be empty."""
    frame = cases_frame(comparison)
    tables = [
        _machines(comparison),
        _means(comparison),
        _cases(comparison, frame),
        _rankings(comparison),
        _left_out(comparison),
    ]
    return [table for table in tables if not table.cells.empty]


def cases_frame(comparison: Comparison) -> pd.DataFrame:
    """One row per case and machine that measured it."""
    rows: list[dict[str, object]] = []
    common = set(comparison.common)
    for key in comparison.keys:
        places = comparison.places(key)
        for machine in comparison.machines:
            measured = machine.cases.get(key)
            if measured is None:
                continue
            ratio = comparison.ratio(machine, key)
            rows.append(
                {
                    **_axes(key),
                    "machine": machine.name,
                    "ms": 1e3 * measured.seconds.value,
                    "ms_low": _times_1000(measured.seconds.low),
                    "ms_high": _times_1000(measured.seconds.high),
                    "images_per_s": measured.images_per_s,
                    "ratio": ratio.value if ratio else None,
                    "ratio_low": ratio.low if ratio else None,
                    "ratio_high": ratio.high if ratio else None,
                    "rank": places[machine.name],
                    "images_per_joule": machine.images_per_joule(measured),
                    "images_per_currency": machine.images_per_currency(measured),
                    "on_every_machine": key in common,
                }
            )
    return pd.DataFrame(rows)


def _machines(comparison: Comparison) -> Table:
    data = pd.DataFrame(_machine_row(machine) for machine in comparison.machines)
    cells = pd.DataFrame(
        {
            "machine": data["machine"],
            "hardware": data["hardware"],
            "threads": [UNKNOWN if is_missing(value) else f"{value:.0f}" for value in data["threads"]],
            "memory GiB": [_known(value, GIB) for value in data["memory_bytes"]],
            "fp32 GFLOP/s": [_known(value, GIGA) for value in data["fp32_flops_per_s"]],
            "memory GB/s": [_known(value, GIGA) for value in data["memory_bytes_per_s"]],
            "datasheet fp32 GFLOP/s": [_known(value, GIGA) for value in data["datasheet_fp32_flops_per_s"]],
            "torch": data["torch"].fillna(NONE),
            "onnxruntime": data["onnxruntime"].fillna(NONE),
            "cases": [str(value) for value in data["cases"]],
            "started": data["started"],
        }
    )
    if data[["watts", "price_per_hour"]].notna().to_numpy().any():
        cells["W"] = [figure_text(value) for value in data["watts"]]
        cells[f"{comparison.currency} per hour"] = [figure_text(value) for value in data["price_per_hour"]]
    caption = (
        "A machine is a run on one device with one number of CPU threads. GFLOP/s and GB/s: the most that kernels "
        "reached there; the datasheet's are dense. Power and price as they were given."
    )
    return Table("machines", "Machines", caption, cells, data, comparison.remarks())


def _machine_row(machine: Machine) -> dict[str, object]:
    about, peaks = machine.run.environment, machine.peaks
    software = about.software if about else {}
    sheet = datasheet_of(machine.hardware)
    return {
        "machine": machine.name,
        "hardware": machine.hardware,
        "device": machine.device,
        "threads": machine.threads,
        "memory_bytes": about.machine.memory_bytes if about else None,
        "system": about.machine.system if about else None,
        "virtualised": about.machine.virtualised if about else None,
        "fp32_flops_per_s": peaks.flops_per_s("fp32") if peaks else None,
        "bf16_flops_per_s": peaks.flops_per_s("bf16") if peaks else None,
        "memory_bytes_per_s": peaks.memory_bytes_per_s() if peaks else None,
        "datasheet_fp32_flops_per_s": sheet.fp32 if sheet else None,
        "cnnbench": software.get("cnnbench"),
        "python": software.get("python"),
        "torch": software.get("torch"),
        "onnxruntime": software.get("onnxruntime-gpu") or software.get("onnxruntime"),
        "suite": machine.run.suite,
        "started": machine.run.started,
        "cases": len(machine.cases),
        "watts": machine.cost.watts,
        "price_per_hour": machine.cost.price_per_hour,
    }


def _means(comparison: Comparison) -> Table:
    """One row per machine and workload: the geometric mean over the common cases."""
    rows = []
    for machine in comparison.machines:
        for workload in WORKLOADS:
            count = sum(key.workload == workload for key in comparison.common)
            mean = comparison.mean_ratio(machine, workload) if count else None
            if count:
                rows.append(
                    {
                        "machine": machine.name,
                        "workload": workload,
                        "cases": count,
                        "mean_ratio": mean.value if mean else None,
                        "mean_ratio_low": mean.low if mean else None,
                        "mean_ratio_high": mean.high if mean else None,
                    }
                )
    data = pd.DataFrame(rows)
    cells = pd.DataFrame()
    if len(comparison.machines) > 1 and not data.empty:
        ratios = zip(data["mean_ratio"], data["mean_ratio_low"], data["mean_ratio_high"], strict=True)
        cells = pd.DataFrame(
            {
                "machine": data["machine"],
                "workload": data["workload"],
                "cases": data["cases"].astype(str),
                "mean time": ["1, the reference" if is_missing(r[0]) else ratio_text(*r) for r in ratios],
            }
        )
    caption = (
        f"Geometric mean of the times as multiples of those of {comparison.reference.name}, over the cases that every "
        "machine has measured [95 % interval, of these cases]. A description, not a verdict: machines share no rounds."
    )
    return Table("means", "Means over common cases", caption, cells, data, [])


def _cases(comparison: Comparison, frame: pd.DataFrame) -> Table:
    if len(comparison.machines) > WIDE:
        return _long(comparison, frame)
    data = pd.DataFrame([_wide_row(comparison, key) for key in comparison.keys])
    cells = pd.DataFrame(
        {
            "model": data["model"],
            "workload": data["workload"],
            "batch": data["batch"].astype(str),
            "runtime": data["runtime"],
        }
    )
    if data["precision"].nunique() > 1:
        cells["precision"] = data["precision"]
    for machine in comparison.machines:
        estimates = [machine.cases[key].seconds if key in machine.cases else None for key in comparison.keys]
        cells[f"{machine.name} ms"] = [_milliseconds(each) for each in estimates]
        if machine is not comparison.reference:
            ratios = [comparison.ratio(machine, key) for key in comparison.keys]
            cells[f"{machine.name} ratio"] = [ratio_text(r.value, r.low, r.high) if r else NONE for r in ratios]
    for machine in comparison.machines:
        for name, of in (("images/J", machine.images_per_joule), ("images/", machine.images_per_currency)):
            values = [of(machine.cases[key]) if key in machine.cases else None for key in comparison.keys]
            if any(value is not None for value in values):
                unit = name if name == "images/J" else f"images/{comparison.currency}"
                cells[f"{machine.name} {unit}"] = [figure_text(value) for value in values]
    return Table("cases", "Times side by side", _times_caption(comparison), cells, frame_for(data, frame), [])


def frame_for(wide: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """The numbers of a wide table, one row per case, with a group of columns for each machine."""
    columns = ["ms", "ms_low", "ms_high", "images_per_s", "ratio", "ratio_low", "ratio_high", "rank"]
    columns += [name for name in ("images_per_joule", "images_per_currency") if frame[name].notna().any()]
    keys = ["model", "workload", "batch", "runtime", "precision", "layout", "seed"]
    for machine, rows in frame.groupby("machine", sort=False):
        named = rows[keys + columns].rename(columns={column: f"{machine} {column}" for column in columns})
        wide = wide.merge(named, on=keys, how="left")
    return wide


def _axes(key: Key) -> dict[str, object]:
    return {axis: getattr(key, axis) for axis in AXES}


def _wide_row(comparison: Comparison, key: Key) -> dict[str, object]:
    return {
        **_axes(key),
        "on_every_machine": all(key in machine.cases for machine in comparison.machines),
    }


def _long(comparison: Comparison, frame: pd.DataFrame) -> Table:
    times = zip(frame["ms"], frame["ms_low"], frame["ms_high"], strict=True)
    ratios = zip(frame["ratio"], frame["ratio_low"], frame["ratio_high"], strict=True)
    cells = pd.DataFrame(
        {
            "model": frame["model"],
            "workload": frame["workload"],
            "batch": frame["batch"].astype(str),
            "runtime": frame["runtime"],
            "precision": frame["precision"],
            "machine": frame["machine"],
            "ms": [interval_text(*values) for values in times],
            "ratio": [ratio_text(*values) for values in ratios],
            "images/s": [figure_text(value) for value in frame["images_per_s"]],
            "rank": frame["rank"].astype(str),
            "images/J": [figure_text(value) for value in frame["images_per_joule"]],
            f"images/{comparison.currency}": [figure_text(value) for value in frame["images_per_currency"]],
        }
    )
    return Table("cases", "Times side by side", _times_caption(comparison), cells, frame, [])


def _times_caption(comparison: Comparison) -> str:
    return (
        "ms: median time of one call of the whole batch [95 % interval]. ratio: that time as a multiple of the time on "
        f"{comparison.reference.name} [95 % interval, of two independent medians]: below 1 is a shorter time. A "
        "description, not a verdict."
    )


def _rankings(comparison: Comparison) -> Table:
    """One row per setting and model: its rank on each machine."""
    rows = [
        {"setting": setting, "model": model, **{name: places[model] for name, places in by_machine.items()}}
        for setting, by_machine in comparison.rankings().items()
        for model in next(iter(by_machine.values()))
    ]
    data = pd.DataFrame(rows)
    cells = pd.DataFrame()
    if len(comparison.machines) > 1 and not data.empty:
        names = [machine.name for machine in comparison.machines]
        cells = data.astype(str)
        changed = data[names].nunique(axis=1) > 1
        cells["changes"] = ["yes" if each else "" for each in changed]
    caption = (
        "The rank of each model on each machine, among the models that every machine has measured so: 1 is the "
        "shortest time; models whose intervals overlap share one."
    )
    return Table("rankings", "How the ranking of models changes", caption, cells, data, [])


def _left_out(comparison: Comparison) -> Table:
    rows = [
        {"model": key.model, "setting": key.setting, "machines without it": ", ".join(names)}
        for key, names in comparison.left_out.items()
    ]
    data = pd.DataFrame(rows)
    caption = "Cases that not every machine has measured: they are in no mean and no ranking."
    return Table("left-out", "What was left out", caption, data.copy(), data, [])


def _milliseconds(estimate: Estimate | None) -> str:
    if estimate is None:
        return NONE
    return interval_text(1e3 * estimate.value, _times_1000(estimate.low), _times_1000(estimate.high))


def _times_1000(value: float | None) -> float | None:
    return None if value is None else 1e3 * value


def _known(value: object, unit: float) -> str:
    return significant(float(str(value)) / unit) if not is_missing(value) else UNKNOWN
