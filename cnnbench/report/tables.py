"""The tables of a run: each figure with the digits that its interval supports, and a caption."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cnnbench.analysis import counts
from cnnbench.analysis.batches import BatchRow, batch_rows
from cnnbench.analysis.cases import CaseRow, case_rows
from cnnbench.analysis.frames import CounterRow, ModelRow, counter_rows, frame, model_rows
from cnnbench.analysis.start import StartRow, start_rows
from cnnbench.records.record import Record
from cnnbench.records.run_folder import Run
from cnnbench.report.format import CONVENTION, format_count, significant
from cnnbench.report.table import NONE, Column, Table, figure, interval_text, ratio_text, table_of, words
from cnnbench.suite.case import PHASES

if TYPE_CHECKING:
    import pandas as pd

whole = "{:,.0f}".format
two_digits = partial(significant, digits=2)


def run_tables(run: Run) -> list[Table]:
    """The tables of a run, without those that would be empty."""
    records = list(run.records.values())
    cases = case_rows(records)
    tables = [
        _models(records),
        _counters(records),
        _inference([row for row in cases if row.workload == "inference"]),
        _training([row for row in cases if row.workload == "training"]),
        _batches(records),
        _start(records),
    ]
    return [table for table in tables if table.rows]


def _models(records: Sequence[Record]) -> Table:
    rows = model_rows(records)
    columns: list[Column[ModelRow]] = [
        words("model", lambda r: r.model, is_axis=True),
        words("input", lambda r: r.input),
        figure("parameters", lambda r: r.params, whole),
        figure("MACs", lambda r: r.macs, format_count),
        words("cross-check", lambda r: f"{r.counters} {r.cross_check}"),
        figure("top-1 %", lambda r: r.top1_percent, "{:.1f}".format),
        figure("ONNX MB", lambda r: r.onnx_mb),
        figure("export s", lambda r: r.export_s, two_digits),
    ]
    caption = (
        f"{CONVENTION}. MACs are for one image. Cross-check: the number of independent counters (closed form, module, "
        "torch's forward and backward counter, fvcore, ONNX graph, published figures), and whether their integers "
        "agree layer by layer. top-1: ImageNet accuracy that torchvision publishes for its pretrained weights; the "
        "timed weights are random."
    )
    return table_of("models", "Models", caption, rows, columns, data=frame(rows, ModelRow))


def _counters(records: Sequence[Record]) -> Table:
    rows = counter_rows(records)
    columns: list[Column[CounterRow]] = [
        words("model", lambda r: r.model, is_axis=True),
        words("figure", lambda r: r.figure),
        figure("closed form", lambda r: r.closed_form, whole),
        figure("module", lambda r: r.module, whole),
        figure("dispatch", lambda r: r.dispatch, whole),
        figure("fvcore", lambda r: r.fvcore, whole),
        figure("onnx", lambda r: r.onnx, whole),
        figure("backward", lambda r: r.backward, whole),
        figure("published", lambda r: r.published, whole),
    ]
    caption = (
        "Counts for one image by independent counters: the closed form; torch's module; operators that torch "
        "dispatches, forward and backward; fvcore; the exported graph, which holds what inference needs; torchvision's "
        "published figures, whose MACs are rounded to a million."
    )
    notes = {
        f"{record.case.spec.label}: {line}": None
        for record in records
        if record.artifact is not None
        for line in counts.notes(record.case.spec, record.artifact.counters)
    }
    return table_of("counters", "Cross-checks", caption, rows, columns, data=frame(rows, CounterRow), notes=list(notes))


@dataclass(frozen=True)
class _Cases:
    """The cases of one workload, with a numbered note for each status that has a reason."""

    rows: Sequence[CaseRow]

    def table(self, title: str, caption: str, columns: Sequence[Column[CaseRow]], data: "pd.DataFrame") -> Table:
        pairs = dict.fromkeys((row.status, row.reason) for row in self.rows if row.reason)
        numbers = {pair: number for number, pair in enumerate(pairs, start=1)}

        def status(row: CaseRow) -> str:
            number = numbers.get((row.status, row.reason))
            return f"{row.status} [{number}]" if number else row.status

        return table_of(
            title.lower(),
            title,
            caption,
            self.rows,
            [*columns, words("status", status)],
            data=data,
            status=lambda row: row.status,
            notes=[f"[{number}] {status}: {reason}" for (status, reason), number in numbers.items()],
        )


CASES: list[Column[CaseRow]] = [
    words("model", lambda r: r.model, is_axis=True),
    figure("batch", lambda r: r.batch, str, is_axis=True),
    words("backend", lambda r: r.backend, is_axis=True),
    Column(heading="ms", value=lambda r: r.ms.value if r.ms else None, text=lambda r: interval_text(r.ms)),
    figure("p90 ms", lambda r: r.p90_ms),
    figure("images/s", lambda r: r.images_per_s if r.is_comparable else None),
]
RATIOS: list[Column[CaseRow]] = [
    Column(
        heading="vs eager",
        value=lambda r: r.speedup.value if r.speedup else None,
        text=lambda r: ratio_text(r.speedup),
    ),
    Column(
        heading="rank",
        value=lambda r: r.rank,
        text=lambda r: f"{r.rank}{'=' if r.tied else ''}" if r.rank else NONE,
    ),
]
RESOURCES: list[Column[CaseRow]] = [
    figure("launches", lambda r: r.launches, whole),
    figure("peak MiB", lambda r: r.peak_mib, whole),
]


def _inference(rows: Sequence[CaseRow]) -> Table:
    columns = [*CASES, *RATIOS, *RESOURCES, figure("parity error", lambda r: r.parity_error, "{:.0e}".format)]
    caption = (
        "ms: median time of one call of the whole batch [95 % interval over launches and blocks]. p90: of at least 64 "
        "single calls. vs eager: speed as a multiple of PyTorch eager's, from shared rounds. rank: in the comparison "
        "group, 1 the fastest; cases with overlapping intervals share a rank, marked =. peak MiB: resident memory of "
        "the worker process including libraries (CUDA: torch's allocator). parity error: largest difference from "
        "float64, relative to the part of the output that depends on the image."
    )
    data = frame(rows, CaseRow).drop(columns=[f"{phase}_ms" for phase in PHASES["training"]])
    return _Cases(rows).table("Inference", caption, columns, data)


def _training(rows: Sequence[CaseRow]) -> Table:
    ratios = RATIOS if any(row.speedup for row in rows) else []
    phases: list[Column[CaseRow]] = [
        figure("forward ms", lambda r: r.forward_ms),
        figure("backward ms", lambda r: r.backward_ms),
        figure("optimizer ms", lambda r: r.optimizer_ms),
    ]
    caption = (
        "ms: median time of one training step (forward and loss, backward, SGD with momentum and weight decay) of the "
        "whole batch [95 % interval over launches and blocks]; then the medians of its three phases."
    )
    data = frame(rows, CaseRow).drop(columns="parity_error")
    return _Cases(rows).table("Training", caption, [*CASES, *ratios, *RESOURCES, *phases], data)


def _batches(records: Sequence[Record]) -> Table:
    rows = batch_rows(records)
    columns: list[Column[BatchRow]] = [
        words("model", lambda r: r.model, is_axis=True),
        words("workload", lambda r: r.workload, is_axis=True),
        words("backend", lambda r: r.backend, is_axis=True),
        words("batches", lambda r: r.batches),
        figure("best batch", lambda r: r.best_batch, whole),
        figure("images/s", lambda r: r.images_per_s),
        figure("vs batch 1", lambda r: r.vs_batch_1, "×{:.2f}".format),
        figure("MiB per image", lambda r: r.mib_per_image),
        figure("memory full at", lambda r: r.memory_full_at, whole),
    ]
    caption = (
        "Best batch: the measured batch with the highest throughput. vs batch 1: that throughput as a multiple of "
        "single images'. MiB per image: slope of a straight line through the peaks of memory. Memory full at: the "
        "batch at which this line reaches the machine's memory, an extrapolation."
    )
    return table_of("batches", "Best batch", caption, rows, columns, data=frame(rows, BatchRow))


def _start(records: Sequence[Record]) -> Table:
    found = start_rows(records)
    order = list(dict.fromkeys(row.model for row in found))
    rows = sorted(found, key=lambda row: (order.index(row.model), row.workload))
    columns: list[Column[StartRow]] = [
        words("model", lambda r: r.model, is_axis=True),
        words("workload", lambda r: r.workload, is_axis=True),
        words("backend", lambda r: r.backend, is_axis=True),
        figure("export s", lambda r: r.export_s),
        figure("import s", lambda r: r.import_s, two_digits),
        figure("load ms", lambda r: r.load_s * 1e3, two_digits),
        figure("first call ms", lambda r: r.first_call_ms, two_digits),
        figure("break-even", lambda r: r.break_even_images, _images),
        figure("warm-up calls", lambda r: r.warmup_calls, whole),
        words("converged", lambda r: "yes" if r.converged else "no"),
    ]
    caption = (
        "Stages before the first output, each measured once: export to ONNX (when the artifact was built), import of "
        "the libraries (all workers of a comparison group in parallel), load of weights or graph into a session, first "
        "call on one image (on the whole batch where the runtime compiles for it). Break-even: images after which a "
        "slower start-up than eager's is amortised by faster calls. Converged: whether the warm-up ended because the "
        "times had settled, not at its limit."
    )
    return table_of("start", "Cold start", caption, rows, columns, data=frame(rows, StartRow))


def _images(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:,.0f} images"
