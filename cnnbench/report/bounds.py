"""What binds each case: tables of a run's ceilings, of its cases beside them, and of where each model's time goes."""

import pandas as pd

from cnnbench.analysis.datasheets import datasheet_of
from cnnbench.analysis.explain import Explained, explain
from cnnbench.analysis.roofline import Part, layer_parts
from cnnbench.networks.units import GIGA
from cnnbench.records.peaks import Peaks
from cnnbench.records.run_folder import Run
from cnnbench.report.format import significant
from cnnbench.report.prose import name_of
from cnnbench.report.tables import NONE, Table, figure_text, is_missing

UNKNOWN = "unknown"
MICRO = 1e-6
SLOWEST = 3


def bound_tables(run: Run) -> list[Table]:
    """The tables, without those that would be empty."""
    explained = list(explain(run).values())
    tables = [_peaks(run.peaks), _cases(explained), _parts(explained), _layers(explained)]
    return [table for table in tables if not table.cells.empty]


def cases_frame(explained: list[Explained]) -> pd.DataFrame:
    """One row per measured case: what it achieved, the least time that the ceilings allow, and what binds it."""
    rows = []
    for each in explained:
        case, roofline = each.case, each.roofline
        sheet = datasheet_of(each.peaks.device_name) if each.peaks else None
        sheet_peak = sheet.flops_per_s(case.precision) if sheet else None
        rows.append(
            {
                "model": case.label,
                "workload": case.workload,
                "batch": case.batch,
                "runtime": case.backend,
                "ms": 1e3 * each.seconds,
                "macs": roofline.macs,
                "moved_bytes": roofline.moved_bytes,
                "flops_per_s": roofline.flops_per_s,
                "peak_share": roofline.compute_share,
                "bytes_per_s": roofline.bytes_per_s,
                "memory_share": roofline.memory_share,
                "calls_share": roofline.calls_share,
                "lower_bound_ms": None if roofline.lower_bound_s is None else 1e3 * roofline.lower_bound_s,
                "least_share": roofline.lower_bound_share,
                "bound_by": roofline.bound,
                "datasheet_share": roofline.flops_per_s / sheet_peak if sheet_peak else None,
                "id": each.record.id,
            }
        )
    return pd.DataFrame(rows)


def _cases(explained: list[Explained]) -> Table:
    data = cases_frame(explained)
    cells = pd.DataFrame()
    if not data.empty:
        cells = pd.DataFrame(
            {
                "model": data["model"],
                "workload": data["workload"],
                "batch": data["batch"].astype(str),
                "runtime": data["runtime"],
                "ms": [figure_text(value) for value in data["ms"]],
                "GFLOP/s": [figure_text(value / GIGA) for value in data["flops_per_s"]],
                "% of peak": [_percent(value) for value in data["peak_share"]],
                "GB/s": [_known(value, GIGA) for value in data["bytes_per_s"]],
                "least ms": [_known(value) for value in data["lower_bound_ms"]],
                "least / ms": [_percent(value) for value in data["least_share"]],
                "bound by": [value or UNKNOWN for value in data["bound_by"]],
            }
        )
        if data["datasheet_share"].notna().any():
            cells["% of datasheet"] = [_percent(value) for value in data["datasheet_share"]]
    caption = (
        "GFLOP/s: two for each MAC of the closed form, by the median time; peak: the most that a kernel reached "
        "on this device, in the case's precision, with its threads. GB/s: what layers read and write if nothing stays "
        "in a cache. Least: the time that the ceilings allow, the sum over layers of the longer of arithmetic and "
        "memory traffic, and of the call; least / ms is the share of the measured time that it is. Bound by: the "
        "ceiling under which most of the least time is spent."
    )
    return Table("bounds", "What binds each case", caption, cells, data, [])


def _peaks(peaks: list[Peaks]) -> Table:
    rows, cells = [], []
    for each in peaks:
        sheet = datasheet_of(each.device_name)
        row: dict[str, object] = {"hardware": each.device_name, "device": each.device, "threads": each.threads}
        for precision in ("fp32", "bf16", "fp16"):
            fastest = each.fastest(precision)
            row[f"{precision}_flops_per_s"] = fastest.flops_per_s if fastest else None
            row[f"{precision}_datasheet_flops_per_s"] = sheet.flops_per_s(precision) if sheet else None
        depthwise = each.fastest("fp32", "depthwise convolution")
        row |= {
            "depthwise_flops_per_s": depthwise.flops_per_s if depthwise else None,
            "memory_bytes_per_s": each.memory_bytes_per_s(),
            "datasheet_bytes_per_s": sheet.bytes_per_s if sheet else None,
            "torch_call_s": each.call_s("torch", "operator"),
            "torch_convolution_call_s": each.call_s("torch", "convolution"),
            "onnxruntime_call_s": each.call_s("onnxruntime", "operator"),
            "onnxruntime_convolution_call_s": each.call_s("onnxruntime", "convolution"),
            "datasheet": sheet.source if sheet else None,
        }
        rows.append(row)
    data = pd.DataFrame(rows)
    for row in rows:
        shown = {"hardware": row["hardware"], "device": row["device"], "threads": str(row["threads"])}
        for precision in ("fp32", "bf16", "fp16"):
            shown[f"{precision} GFLOP/s"] = _known(row[f"{precision}_flops_per_s"], GIGA)
        shown["depthwise GFLOP/s"] = _known(row["depthwise_flops_per_s"], GIGA)
        shown["memory GB/s"] = _known(row["memory_bytes_per_s"], GIGA)
        for library, name in (("torch", "PyTorch"), ("onnxruntime", "ONNX Runtime")):
            shown[f"{name} call µs"] = " / ".join(
                _known(row[f"{library}{kind}_call_s"], MICRO, 2) for kind in ("", "_convolution")
            )
        shown["datasheet"] = _sheet(row)
        cells.append(shown)
    caption = (
        "The best of several repetitions with so many CPU threads. GFLOP/s: matrix products, convolutions, in PyTorch "
        "and ONNX Runtime; depthwise: of such convolutions in float32. Memory: with a working set far larger than any "
        "cache. Call: a function of one value / a convolution of one value. Datasheet: dense, as the vendor names it."
    )
    return Table("ceilings", "What this machine can do", caption, pd.DataFrame(cells), data, [])


def _sheet(row: dict[str, object]) -> str:
    if row["datasheet"] is None:
        return UNKNOWN
    rates = [f"{p} {_known(row[f'{p}_datasheet_flops_per_s'], GIGA)}" for p in ("fp32", "bf16", "fp16")]
    return f"{', '.join(rates)} GFLOP/s, {_known(row['datasheet_bytes_per_s'], GIGA)} GB/s"


def _parts(explained: list[Explained]) -> Table:
    """Where the time of each profiled model goes, by kind of work."""
    rows = [_part_row(each, part) for each in explained for part in each.parts]
    data = pd.DataFrame(rows)
    caption = (
        "The operators' times by the runtimes' own profilers, held against the measured time of the call; what passes "
        "between operators is in no row. Columns as above, of the layers of one kind together."
    )
    return Table("parts", "Where the time goes, by kind of work", caption, _part_cells(data), data, [])


def layers_frame(explained: list[Explained]) -> pd.DataFrame:
    """The same layer by layer, one row for each layer that ran in a profiled model."""
    return pd.DataFrame(
        _part_row(each, part)
        for each in explained
        if each.parts and each.profile is not None
        for part in layer_parts(each.profile, each.case, each.seconds, each.peaks)
    )


def _layers(explained: list[Explained]) -> Table:
    data = layers_frame(explained)
    if not data.empty:
        place = data.groupby(["model", "runtime"], sort=False)["share"].rank(ascending=False, method="first")
        data = data[place <= SLOWEST].reset_index(drop=True)
    caption = f"The {SLOWEST} layers of each model that take longest. Columns as above."
    return Table("layers", "The slowest layers", caption, _part_cells(data).rename(columns={"of": "layer"}), data, [])


def _part_row(each: Explained, part: Part) -> dict[str, object]:
    roofline = part.roofline
    return {
        "model": each.case.label,
        "batch": each.case.batch,
        "runtime": name_of(each.case.runtime),
        "of": part.name,
        "share": part.share,
        "ms": 1e3 * roofline.seconds,
        "macs": roofline.macs,
        "moved_bytes": roofline.moved_bytes,
        "flops_per_s": roofline.flops_per_s if roofline.macs else None,
        "peak_share": roofline.compute_share if roofline.macs else None,
        "bytes_per_s": roofline.bytes_per_s,
        "lower_bound_ms": None if roofline.lower_bound_s is None else 1e3 * roofline.lower_bound_s,
        "least_share": roofline.lower_bound_share,
        "bound_by": roofline.bound,
    }


def _part_cells(data: pd.DataFrame) -> pd.DataFrame:
    if data.empty:
        return pd.DataFrame()
    has_macs = data["macs"] > 0
    return pd.DataFrame(
        {
            "model": data["model"],
            "batch": data["batch"].astype(str),
            "runtime": data["runtime"],
            "of": data["of"],
            "share": [_percent(value) for value in data["share"]],
            "ms": [figure_text(value) for value in data["ms"]],
            "GFLOP/s": [
                _known(value, GIGA) if known else NONE
                for value, known in zip(data["flops_per_s"], has_macs, strict=True)
            ],
            "% of peak": [
                _percent(value) if known else NONE for value, known in zip(data["peak_share"], has_macs, strict=True)
            ],
            "GB/s": [_known(value, GIGA) for value in data["bytes_per_s"]],
            "least ms": [_known(value) for value in data["lower_bound_ms"]],
            "least / ms": [_percent(value) for value in data["least_share"]],
            "bound by": [value or UNKNOWN for value in data["bound_by"]],
        }
    )


def _known(value: object, unit: float = 1.0, digits: int = 3) -> str:
    """In its unit, or that it is unknown."""
    return significant(float(str(value)) / unit, digits) if not is_missing(value) else UNKNOWN


def _percent(value: object) -> str:
    return f"{significant(100 * float(str(value)), 2)} %" if not is_missing(value) else UNKNOWN
