"""The tables of a run: each figure with the digits that its interval supports, and a caption."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Self

from cnnbench.analysis import counts
from cnnbench.analysis.cases import CaseRow, beside_each_other, case_frame, case_rows
from cnnbench.analysis.kernel import MUCH, Standing, is_much, kernel_share, standings
from cnnbench.analysis.scaling import scalings
from cnnbench.analysis.stats import Estimate, geometric_mean
from cnnbench.analysis.times import Batches, Start, batches, starts
from cnnbench.analysis.transfer import savings
from cnnbench.networks.units import GIGA, MB
from cnnbench.records.record import ArtifactFacts, CountsSummary, Record
from cnnbench.records.run_folder import Run
from cnnbench.report.accuracy import accuracy_table
from cnnbench.report.format import CONVENTION, NONE, format_count, interval_text, percent, ratio_text, significant
from cnnbench.report.input_pipeline import input_tables
from cnnbench.report.precision import precision_table
from cnnbench.report.reasons import reasons_text
from cnnbench.report.scaling import scaling_table
from cnnbench.report.serving import serving_tables
from cnnbench.report.table import Column, Table, estimate, figure, hidden, table_of, words
from cnnbench.report.transfer import transfer_table
from cnnbench.suite.case import PHASES, Workload

whole = "{:,.0f}".format
two_digits = partial(significant, digits=2)


def run_tables(run: Run) -> list[Table]:
    """The tables of a run, without those that would be empty."""
    records = beside_each_other(run.records.values())
    cases = [replace(row, reason=reasons_text(run.records[row.id].reasons)) for row in case_rows(records)]
    tables = [
        _models(records),
        _counters(records),
        *(_cases([row for row in cases if row.workload == workload], workload) for workload in CALLS),
        *serving_tables(records),
        _runtimes(standings(records)),
        _batches(batches(records)),
        _start(starts(records)),
        transfer_table(savings(run)),
        scaling_table(scalings(run)),
        precision_table(cases, run.records),
        accuracy_table(cases, run.records),
        *input_tables(run),
    ]
    return [table for table in tables if table.rows]


class _Model(NamedTuple):
    label: str
    counts: CountsSummary
    facts: ArtifactFacts
    top1_percent: float | None
    miou_percent: float | None
    """As published."""

    @classmethod
    def of(cls, record: Record) -> Self | None:
        """None for a case whose model was not built."""
        spec, facts = record.case.spec, record.artifact
        if record.counts is None or facts is None:
            return None
        published = counts.published_for(spec, facts)
        accuracies = (published.top1_percent, published.miou_percent) if published else (None, None)
        return cls(spec.label, record.counts, facts, *accuracies)


def _models(records: Sequence[Record]) -> Table:
    """One row per model."""

    def cross_check(row: _Model) -> str:
        return "DISAGREE" if row.counts.disagreements else "agree"

    def cross_check_text(row: _Model) -> str:
        return f"{len(row.counts.counters)} {cross_check(row)}"

    rows = {model.label: model for record in records if (model := _Model.of(record))}
    is_random = not any(each.case.spec.weights for each in records)
    has_miou = any(row.miou_percent is not None for row in rows.values())
    notes = [_begun_anew(row) for row in rows.values() if row.facts.begun_anew]
    columns: list[Column[_Model]] = [
        words("model", lambda r: r.label, axis=True),
        words("input", lambda r: "x".join(map(str, r.facts.input_shape))),
        figure("parameters", lambda r: r.counts.params, whole, "params"),
        figure("MACs", lambda r: r.counts.macs, format_count, "macs"),
        Column("cross-check", cross_check, cross_check_text, "cross_check", is_figure=False),
        hidden("counters", lambda r: len(r.counts.counters)),
        hidden("closed_form", lambda r: r.counts.closed_form),
        figure("top-1 %", lambda r: r.top1_percent, "{:.1f}".format, "top1_percent"),
        *([figure("mIoU %", lambda r: r.miou_percent, "{:.1f}".format, "miou_percent")] if has_miou else ()),
        hidden("weights_mb", lambda r: r.facts.weight_bytes / MB),
        figure("ONNX MB", lambda r: r.facts.onnx_bytes / MB if r.facts.onnx_bytes else None, key="onnx_mb"),
        figure("export s", lambda r: r.facts.seconds.get("export"), two_digits),
    ]
    caption = (
        f"{CONVENTION}. MACs are for one image. Cross-check: number of independent counters, and whether they agree "
        "exactly, layer by layer. top-1: ImageNet accuracy that torchvision publishes for its pretrained weights at "
        "this image size and number of classes; the "
        + ("timed weights are random." if is_random else "timed weights may be others.")
        + (" mIoU: the same of segmentation networks, on COCO's images with Pascal VOC's classes." if has_miou else "")
    )
    return table_of("models", "Models", caption, list(rows.values()), columns, notes=notes)


def _begun_anew(row: _Model) -> str:
    names = ", ".join(row.facts.begun_anew)
    return f"{row.label}: initialised anew for {row.facts.classes} classes: {names}; all other weights are the file's."


class _Counted(NamedTuple):
    model: str
    figure: str
    by_counter: Mapping[str, int]


def _counters(records: Sequence[Record]) -> Table:
    """Parameters, MACs and MACs of the backward pass of each model, as far as anything counted them."""
    rows: dict[tuple[str, str], _Counted] = {}
    notes: dict[str, None] = {}
    for record in records:
        if record.artifact is None:
            continue
        spec, counters = record.case.spec, record.artifact.counters
        found, published = counts.totals_by_counter(spec, counters), counters.published
        params, macs = dict(found.params), dict(found.macs)
        if published is not None:
            params["published"] = published.params
            if published.giga_macs is not None:
                macs["published"] = round(published.giga_macs * GIGA)
        backward = found.backward if "backward" in found.backward else {}
        for name, counted in (("parameters", params), ("MACs", macs), ("backward MACs", backward)):
            if counted:
                rows[spec.label, name] = _Counted(spec.label, name, counted)
        notes |= dict.fromkeys(f"{spec.label}: {line}" for line in counts.notes(spec, counters))

    def counter(name: str) -> Column[_Counted]:
        return figure(name, lambda r: r.by_counter.get(name), whole)

    columns: list[Column[_Counted]] = [
        words("model", lambda r: r.model, axis=True),
        words("figure", lambda r: r.figure),
        *map(counter, (*counts.SPEAKS_OF, "published")),
    ]
    caption = (
        "Counts for one image: by the closed form; of torch's module; of operators that torch dispatches, forward and "
        "backward; by fvcore; of the exported inference graph; as torchvision publishes them, with MACs in millions."
    )
    return table_of("counters", "Cross-checks", caption, list(rows.values()), columns, notes=list(notes))


KERNEL_MARK = "K"
KERNEL_NOTE = (
    f"{KERNEL_MARK}: one of the two runtimes spends more than {percent(MUCH)} of its CPU time in the operating "
    "system's kernel (column kernel), mostly on page faults: the allocator returns freed memory to the system and "
    "requests it again at each call. The ratio depends on the allocator as well as on the runtimes: see the rows with "
    "`keep`, or measure them with `allocators: [default, keep]`."
)
CALLS: Mapping[Workload, str] = {
    "inference": "one call",
    "training": "one training step (forward and loss, backward, SGD with momentum and weight decay)",
}
CAPTIONS: Mapping[str, str] = {
    "p90 ms": "p90: 90th percentile, of at least 64 single calls.",
    "vs eager": "vs eager: speed as a multiple of PyTorch eager's in shared rounds.",
    "rank": "rank: in the comparison group; cases with overlapping intervals share one, marked =.",
    "launches": "launches: processes measured.",
    "kernel": "kernel: share of the CPU time spent in the operating system's kernel.",
    "peak MiB": "peak MiB: resident memory of the process with its libraries (CUDA: torch's allocator).",
    "parity error": (
        "parity error: largest difference from the float64 output, relative to the RMS of its part that depends on the "
        "image."
    ),
    "forward ms": "forward, backward, optimizer: medians of the phases; an exported step has no phases.",
}
"""Of the columns of cases, by heading: a caption explains those that the table has."""


def _cases(rows: Sequence[CaseRow], workload: Workload) -> Table:
    """The cases of one workload, with a numbered note for each status that has a reason."""
    pairs = dict.fromkeys((row.status, row.reason) for row in rows if row.reason)
    numbers = {pair: number for number, pair in enumerate(pairs, start=1)}

    def status(row: CaseRow) -> str:
        number = numbers.get((row.status, row.reason))
        return f"{row.status} [{number}]" if number else row.status

    def ratio(row: CaseRow) -> str:
        return NONE if row.speedup is None else ratio_text(row.speedup) + f" {KERNEL_MARK}" * row.kernel_in_ratio

    speedup: list[Column[CaseRow]] = estimate("vs eager", lambda r: r.speedup, ratio_text)
    ratios: list[Column[CaseRow]] = [
        replace(speedup[0], text=ratio),
        *speedup[1:],
        Column("rank", lambda r: r.rank, lambda r: f"{r.rank}{'=' if r.tied else ''}" if r.rank else NONE),
    ]
    parity: list[Column[CaseRow]] = [figure("parity error", lambda r: r.parity_error, "{:.0e}".format)]
    kernel: list[Column[CaseRow]] = [figure("kernel", lambda r: r.kernel_share, percent)]
    phases: list[Column[CaseRow]] = [
        figure("forward ms", lambda r: r.forward_ms),
        figure("backward ms", lambda r: r.backward_ms),
        figure("optimizer ms", lambda r: r.optimizer_ms),
    ]
    trains = workload == "training"
    columns: list[Column[CaseRow]] = [
        words("model", lambda r: r.model, axis=True),
        figure("batch", lambda r: r.batch, str, axis=True),
        words("backend", lambda r: r.backend, axis=True),
        *estimate("ms", lambda r: r.ms, interval_text),
        figure("p90 ms", lambda r: r.p90_ms),
        figure("images/s", lambda r: r.images_per_s if r.is_comparable else None),
        *(ratios if not trains or any(row.speedup for row in rows) else ()),
        figure("launches", lambda r: r.launches, whole),
        *(kernel if any(is_much(row.kernel_share) for row in rows) else ()),
        figure("peak MiB", lambda r: r.peak_mib, whole),
        *(phases if trains else parity),
        words("status", status),
    ]
    left_out = ["parity_error"] if trains else ["trainable", *(f"{phase}_ms" for phase in PHASES["training"])]
    if not any(row.vs_fp32 for row in rows):
        left_out += ["vs_fp32", "vs_fp32_low", "vs_fp32_high"]
    data = case_frame(rows).drop(columns=left_out)
    notes = [KERNEL_NOTE] if any(row.speedup and row.kernel_in_ratio for row in rows) else []
    notes += [f"[{number}] {status}: {reason}" for (status, reason), number in numbers.items()]
    whole_batch = f"ms: median time of {CALLS[workload]} of the whole batch [95 % interval over launches and blocks]."
    caption = " ".join([whole_batch, *(CAPTIONS[each.heading] for each in columns if each.heading in CAPTIONS)])
    title = workload.capitalize()
    return table_of(workload, title, caption, rows, columns, data=data, status=lambda r: r.status, notes=notes)


def _runtimes(found: Sequence[Standing]) -> Table:
    """Each runtime against eager: geometric means over the cases that both measured."""
    rows: dict[tuple[str, str], list[Standing]] = {}
    for each in found:
        rows.setdefault((each.default.case.workload, each.default.case.backend), []).append(each)

    def mean(of: Callable[[Standing], Estimate | None]) -> Callable[[list[Standing]], Estimate | None]:
        def over(row: list[Standing]) -> Estimate | None:
            known = [ratio for each in row if (ratio := of(each)) is not None]
            return geometric_mean(known) if known else None

        return over

    def kernel(row: list[Standing]) -> int | None:
        is_known = any(kernel_share(each.default.launches) is not None for each in row)
        return sum(each.kernel for each in row) if is_known else None

    best: list[Column[list[Standing]]] = [
        *estimate("at best allocators", mean(lambda each: each.best_vs_reference), ratio_text),
        *estimate("default costs", mean(lambda each: each.default_costs), ratio_text),
        figure("of cases", lambda row: sum(each.default_costs is not None for each in row) or None, whole),
    ]
    best_is_shown = any(each.default_costs for each in found)
    columns: list[Column[list[Standing]]] = [
        words("workload", lambda row: row[0].default.case.workload, axis=True),
        words("backend", lambda row: row[0].default.case.backend, axis=True),
        figure("cases", len, whole),
        *estimate("vs eager", mean(lambda each: each.vs_reference), ratio_text),
        figure(f"with {KERNEL_MARK}", kernel, whole, "kernel"),
        *(best if best_is_shown else ()),
    ]
    caption = (
        "Geometric means over the cases that the backend and eager both measured. vs eager: speed as a multiple of "
        f"PyTorch eager's, both with the system's allocator. with {KERNEL_MARK}: the number of these cases in which "
        f"one of the two runtimes spends more than {percent(MUCH)} of its CPU time in the operating system's kernel."
    )
    if best_is_shown:
        caption += (
            " at best allocators: speed relative to eager, each at the fastest of its measured allocators. default "
            "costs: time with the system's allocator as a multiple of that at the fastest, over the cases where "
            "another one is faster; of cases: their number."
        )
    shown = [row for row in rows.values() if any(each.vs_reference or each.default_costs for each in row)]
    return table_of("runtimes", "Runtimes against eager", caption, shown, columns)


def _batches(rows: Sequence[Batches]) -> Table:
    columns: list[Column[Batches]] = [
        words("model", lambda r: r.case.label, axis=True),
        words("workload", lambda r: r.case.workload, axis=True),
        words("backend", lambda r: r.case.backend, axis=True),
        words("batches", lambda r: ", ".join(map(str, sorted(r.rates)))),
        figure("best batch", lambda r: r.best, whole),
        figure("images/s", lambda r: r.rates[r.best], key="images_per_s"),
        figure("vs batch 1", lambda r: r.rates[r.best] / r.rates[1] if 1 in r.rates else None, "×{:.2f}".format),
        figure("MiB per image", lambda r: r.mib_per_image, key="mib_per_image"),
        figure("memory full at", lambda r: r.memory_full_at, whole),
    ]
    caption = (
        "Best batch: the measured batch with the highest throughput. MiB per image: slope of a straight line through "
        "the peaks of memory. Memory full at: where this line reaches the machine's memory, an extrapolation."
    )
    return table_of("batches", "Best batch", caption, rows, columns)


AHEAD = "Export and compilation of what is compiled ahead are cached: only the first start includes them."


def _start(found: Sequence[Start]) -> Table:
    order = list(dict.fromkeys(start.case.label for start in found))
    rows = sorted(found, key=lambda start: (order.index(start.case.label), start.case.workload))
    has_packages = any(start.compile_s for start in found)
    columns: list[Column[Start]] = [
        words("model", lambda r: r.case.label, axis=True),
        words("workload", lambda r: r.case.workload, axis=True),
        hidden("runtime", lambda r: r.case.runtime),
        hidden("device", lambda r: r.case.device),
        words("backend", lambda r: r.case.backend, axis=True),
        figure("export s", lambda r: r.export_s),
        *([figure("compile s", lambda r: r.compile_s)] if has_packages else []),
        figure("import s", lambda r: r.launch.import_s, two_digits),
        Column("load ms", lambda r: r.launch.load_s, lambda r: two_digits(r.launch.load_s * 1e3), "load_s"),
        figure("first call ms", lambda r: r.launch.first_call_s * 1e3, two_digits),
        figure("break-even", lambda r: r.break_even_images, _images, "break_even_images"),
        figure("warm-up calls", lambda r: r.launch.warmup_calls, whole, "warmup_calls"),
        Column("converged", lambda r: r.launch.converged, lambda r: "yes" if r.launch.converged else "no", "converged"),
    ]
    caption = (
        "Stages before the first output, each measured once: export to ONNX when the artifact was built; import of the "
        "libraries, in all workers of a comparison group in parallel; load of weights or graph into a session; first "
        "call on one image, on the whole batch where the runtime compiles for it. Break-even: the number of images "
        "after which faster calls amortise a start-up that is slower than eager's. Converged: the warm-up ended "
        "because the times had settled, not at its limit."
    )
    if has_packages:
        caption += f" {AHEAD}"
    return table_of("start", "Cold start", caption, rows, columns)


def _images(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:,.0f} images"
