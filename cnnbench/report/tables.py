"""Tables of numbers to tables of words: each figure with the digits that its interval supports, and its caption."""

import math
from dataclasses import dataclass

import pandas as pd

from cnnbench.analysis.frames import (
    batches_table,
    cases_table,
    counter_notes,
    counters_table,
    models_table,
    start_table,
)
from cnnbench.records.record import MEASURED
from cnnbench.records.run_folder import Run
from cnnbench.report.format import CONVENTION, format_count, significant
from cnnbench.report.reasons import reasons_text
from cnnbench.suite.case import PHASES, WORKLOADS

NONE = "–"
WORDS = (
    "model",
    "workload",
    "runtime",
    "status",
    "counts",
    "input",
    "case",
    "run",
    "machine",
    "started",
    "of",
    "fact",
    "value",
    "bound by",
    "layer",
    "hardware",
    "why",
    "setting",
    "machines without it",
)
"""Columns of words, set to the left; figures are set to the right."""
NUMBERS = {
    "parameters": "params",
    "MACs": "macs",
    "top-1 %": "top1_percent",
    "ONNX MB": "onnx_mb",
    "export s": "export_s",
    "p90 ms": "p90_ms",
    "images/s": "images_per_s",
    "vs eager": "speedup",
    "peak MiB": "peak_mib",
    "parity error": "parity_error",
    "forward ms": "forward_ms",
    "backward ms": "backward_ms",
    "optimizer ms": "optimizer_ms",
    "best": "best_batch",
    "of batch 1": "of_batch_1",
    "MiB per image": "mib_per_image",
    "memory ends at": "memory_ends_at",
    "import s": "import_s",
    "load ms": "load_s",
    "first call ms": "first_call_ms",
    "pays back after": "break_even_images",
    "warm-up calls": "warmup_calls",
    "GFLOP/s": "flops_per_s",
    "% of peak": "peak_share",
    "GB/s": "bytes_per_s",
    "least ms": "lower_bound_ms",
    "least / ms": "least_share",
    "% of datasheet": "datasheet_share",
}
"""The column of the data that a column of figures is made from, where the two are not called alike."""


@dataclass(frozen=True)
class Table:
    """A table to be read: title, caption, words in cells, notes below. `data` has the numbers behind it."""

    name: str
    title: str
    caption: str
    cells: pd.DataFrame
    data: pd.DataFrame
    notes: list[str]


def run_tables(run: Run) -> list[Table]:
    """The tables of a run, without those that would be empty."""
    records = list(run.records.values())
    tables = [_models(models_table(records)), _counters(counters_table(records), counter_notes(records))]
    for workload in WORKLOADS:
        data = cases_table(records, workload)
        if not data.empty:
            data["reason"] = data["id"].map({record.id: reasons_text(record.reasons) for record in records})
            tables.append(_inference(data) if workload == "inference" else _training(data))
    tables += [_batches(batches_table(records)), _start(start_table(records))]
    return [table for table in tables if not table.cells.empty]


def _models(data: pd.DataFrame) -> Table:
    cells = pd.DataFrame()
    if not data.empty:
        cells = pd.DataFrame(
            {
                "model": data["model"],
                "input": data["input"],
                "parameters": [f"{n:,}" for n in data["params"]],
                "MACs": [format_count(n) for n in data["macs"]],
                "counts": [f"{word} ({n})" for word, n in zip(data["counts"], data["counters"], strict=True)],
                "top-1 %": [NONE if is_missing(value) else f"{value:.1f}" for value in data["top1_percent"]],
                "ONNX MB": [figure_text(value) for value in data["onnx_mb"]],
                "export s": [figure_text(value, 2) for value in data["export_s"]],
            }
        )
    caption = (
        f"{CONVENTION}; MACs for one image. Counts: how many witnesses (closed form, module, torch's counter "
        "forwards and backwards, fvcore, ONNX graph, published figures) were heard, and whether they agree to the last "
        "integer, layer by layer. "
        "top-1: ImageNet accuracy published by torchvision for its pretrained weights; timed weights are random."
    )
    return Table("models", "Models", caption, cells, data, [])


def _counters(data: pd.DataFrame, notes: list[str]) -> Table:
    cells = data.map(lambda value: NONE if pd.isna(value) else f"{value:,}" if isinstance(value, int) else value)
    caption = (
        "Who counted what, to the last integer: the closed form; torch's module; a counter of what torch dispatched, "
        "forwards and backwards; fvcore; the exported graph, which holds what inference needs; and torchvision, whose "
        "MACs are rounded to a million. All for one image."
    )
    return Table("counters", "Witnesses", caption, cells, data, notes)


def _inference(data: pd.DataFrame) -> Table:
    cells, notes = _case_cells(data)
    cells["parity error"] = [NONE if is_missing(value) else f"{value:.0e}" for value in data["parity_error"]]
    _last(cells, "status")
    caption = (
        "ms: median time of one call of the whole batch [95 % interval over launches and turns]. p90: where at least "
        "64 single calls were timed. vs eager: how many times as fast as PyTorch eager, from the same rounds. rank: of "
        "those set side by side, the fastest first; overlapping intervals share one, marked =. Peak MiB: resident "
        "memory of the worker process, libraries included (CUDA: torch's allocator). Parity error: largest difference "
        "from float64, relative to the part of the output that depends on the image."
    )
    return Table("inference", "Inference", caption, cells, data, notes)


def _training(data: pd.DataFrame) -> Table:
    cells, notes = _case_cells(data)
    for phase in PHASES["training"]:
        cells[f"{phase} ms"] = [figure_text(value) for value in data[f"{phase}_ms"]]
    if data["speedup"].isna().all():
        cells = cells.drop(columns=["vs eager", "rank"])
    _last(cells, "status")
    caption = (
        "ms: median time of one training step (forward and loss, backward, SGD with momentum and weight decay) of the "
        "whole batch [95 % interval over launches and turns], and the medians of its three parts."
    )
    return Table("training", "Training", caption, cells, data, notes)


def _batches(data: pd.DataFrame) -> Table:
    cells = pd.DataFrame()
    if not data.empty:
        cells = pd.DataFrame(
            {
                "model": data["model"],
                "workload": data["workload"],
                "runtime": data["how"],
                "batches": data["batches"],
                "best": [f"{batch:,}" for batch in data["best_batch"]],
                "images/s": [figure_text(value) for value in data["images_per_s"]],
                "of batch 1": [NONE if is_missing(value) else f"×{value:.2f}" for value in data["of_batch_1"]],
                "MiB per image": [figure_text(value) for value in data["mib_per_image"]],
                "memory ends at": [NONE if is_missing(value) else f"{value:,.0f}" for value in data["memory_ends_at"]],
            }
        )
    caption = (
        "Throughput by batch: the best of those measured, what it gains over single images, how much each image more "
        "adds to the peak of memory, and the batch at which a straight line through the peaks meets the machine's "
        "memory: an extrapolation."
    )
    return Table("batches", "Best batch", caption, cells, data, [])


def _start(data: pd.DataFrame) -> Table:
    cells = pd.DataFrame()
    if not data.empty:
        order = {model: place for place, model in enumerate(data["model"].unique())}
        data = data.sort_values(["model", "workload"], key=lambda c: c.map(order) if c.name == "model" else c)
        cells = pd.DataFrame(
            {
                "model": data["model"],
                "workload": data["workload"],
                "runtime": list(data["how"]),
                "export s": [figure_text(value) for value in data["export_s"]],
                "import s": [figure_text(value, 2) for value in data["import_s"]],
                "load ms": [figure_text(value * 1e3, 2) for value in data["load_s"]],
                "first call ms": [figure_text(value, 2) for value in data["first_call_ms"]],
                "pays back after": [_images(value) for value in data["break_even_images"]],
                "warm-up calls": [f"{n:,}" for n in data["warmup_calls"]],
                "converged": ["yes" if converged else "no" for converged in data["converged"]],
            }
        )
    caption = (
        "What comes before the steady state, each measured once: export to ONNX (when the artifact was built), import "
        "of the libraries (all workers of a race at once), weights or graph into a session, the first call on one "
        "image (of the whole batch where it is compiled for it). Pays back after: so many images later than eager's "
        "start, a slower start is made up for by faster calls. Steady: whether the warm-up ended because the times "
        "were."
    )
    return Table("start", "Cold start", caption, cells, data, [])


def _case_cells(data: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    numbers: dict[tuple[str, str], int] = {}
    statuses = []
    for status, reason in zip(data["status"], data["reason"], strict=True):
        if reason:
            note = numbers.setdefault((status, reason), len(numbers) + 1)
            statuses.append(f"{status} [{note}]")
        else:
            statuses.append(status)
    notes = [f"[{number}] {status}: {reason}" for (status, reason), number in numbers.items()]
    intervals = zip(data["ms"], data["ms_low"], data["ms_high"], strict=True)
    ratios = zip(data["speedup"], data["speedup_low"], data["speedup_high"], strict=True)
    cells = pd.DataFrame(
        {
            "model": data["model"],
            "batch": data["batch"].astype(str),
            "runtime": list(data["how"]),
            "ms": [interval_text(*values) for values in intervals],
            "p90 ms": [figure_text(value) for value in data["p90_ms"]],
            "images/s": [figure_text(value) for value in data["images_per_s"]],
            "vs eager": [ratio_text(*values) for values in ratios],
            "rank": [_rank(*values) for values in zip(data["rank"], data["tied"], strict=True)],
            "launches": [NONE if is_missing(value) else f"{value:.0f}" for value in data["launches"]],
            "peak MiB": [NONE if is_missing(value) else f"{value:,.0f}" for value in data["peak_mib"]],
            "status": statuses,
        }
    )
    struck = ~data["status"].isin(MEASURED) & data["ms"].notna()
    cells.loc[struck, "images/s"] = NONE
    return cells, notes


def _rank(value: float | None, tied: bool) -> str:
    """`1`, or `1=` where others share it."""
    return NONE if value is None or is_missing(value) else f"{value:.0f}{'=' if tied else ''}"


def _images(value: float | None) -> str:
    if value is None or is_missing(value):
        return NONE
    return "never" if math.isinf(value) else f"{value:,.0f} images"


def _last(cells: pd.DataFrame, column: str) -> None:
    cells[column] = cells.pop(column)


def is_missing(value: object) -> bool:
    """Whether a cell of a data frame holds nothing."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def figure_text(value: float | None, digits: int = 3) -> str:
    """So many significant digits, or that there is none."""
    return NONE if value is None or is_missing(value) else significant(value, digits)


def interval_text(value: float | None, low: float | None, high: float | None) -> str:
    """`12.3 [12.1, 12.6]`, with digits down to about a tenth of the interval's width, two to four of them."""
    if value is None or is_missing(value):
        return NONE
    if low is None or high is None or is_missing(low) or is_missing(high):
        return f"{significant(value, 2)} [?]"
    width = high - low
    digits = 4 if width <= 0 else math.ceil(math.log10(value / width)) + 1
    decimals = min(max(digits, 2), 4) - 1 - math.floor(math.log10(value))
    return "{} [{}, {}]".format(*(f"{round(v, decimals):,.{max(decimals, 0)}f}" for v in (value, low, high)))


def ratio_text(value: float | None, low: float | None, high: float | None) -> str:
    """`×1.83 [1.79, 1.90]`."""
    if value is None or is_missing(value):
        return NONE
    if low is None or high is None or is_missing(low) or is_missing(high):
        return f"×{value:.1f} [?]"
    return f"×{value:.2f} [{low:.2f}, {high:.2f}]"
