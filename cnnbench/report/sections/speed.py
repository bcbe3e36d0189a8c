"""How fast each case is: tables, ratios to PyTorch eager from shared rounds, and figures by batch size."""

from collections import Counter
from collections.abc import Callable, Sequence

import altair as alt

from cnnbench.analysis.cases import CaseRow
from cnnbench.analysis.kernel import MUCH
from cnnbench.analysis.stats import Estimate, geometric_mean
from cnnbench.report.charts import Chart, Mark, colours, data, folded, legend_of, ratio_marks
from cnnbench.report.format import percent, ratio_text
from cnnbench.report.html import Part, Section
from cnnbench.report.sections.sources import Sources, described
from cnnbench.suite.case import WORKLOADS

PANEL_NAME = 18
"""Characters of a name above a small chart; longer ones are folded."""


def times(sources: Sources) -> Section:
    """Every case, in the tables that stand in the terminal too."""
    prose = [
        "Click a heading to sort. Backends that share a rank, marked =, do not differ significantly. Struck-out rows "
        "were measured but are invalid: the note gives the reason, and they enter no comparison."
    ]
    tables = sources.table("inference", "training")
    return Section("times", "Latency and throughput", prose if tables else (), tables)


def runtimes(sources: Sources) -> Section:
    """A chart of ratios for each workload, and a summary of them."""
    prose, charts = [], []
    on_allocator = [row for row in sources.measured if row.speedup and row.kernel_in_ratio]
    for workload in WORKLOADS:
        pairs = [(row, row.speedup) for row in sources.measured if row.workload == workload and row.speedup]
        for backend in sorted({row.backend for row, _ in pairs}):
            ratios = [ratio for row, ratio in pairs if row.backend == backend]
            prose.append(f"{workload.capitalize()}, {backend}: {_summary(ratios)}")
        marks = []
        for row, ratio in pairs:
            what = f"{row.model}, {row.backend}, batch {row.batch}: {ratio_text(ratio)}"
            if row.kernel_in_ratio:
                what += f"; one of the two spends more than {percent(MUCH)} of its CPU time in the system's kernel"
            marks.append(Mark(f"{row.model}, {row.batch}", row.backend, ratio, what))
        chart = Chart(
            f"runtimes-{workload}",
            f"{workload.capitalize()}: speed as a multiple of PyTorch eager's",
            "By model and batch; right of 1 is faster than eager. Each ratio is the median over rounds that both took "
            "part in, with its 95 % interval; an interval that contains 1 is no significant difference.",
            ratio_marks(marks, sources.backends, "speed as a multiple of PyTorch eager's"),
        )
        charts += [chart] if pairs else []
    if on_allocator:
        prose.append(_kernel(len(on_allocator), any(row.allocator != "default" for row in sources.measured)))
    parts: list[Part] = [*sources.table("runtimes"), *charts]
    return Section("runtimes", "ONNX Runtime and others against PyTorch", prose, parts if prose else ())


def _kernel(marked: int, others_measured: bool) -> str:
    """How many of the ratios depend on the allocator, and what tells by how much."""
    measured = "The column `at best allocators` compares each runtime at its fastest allocator."
    missing = "`allocators: [default, keep]` in the suite measures this; the table then has a column for it."
    return (
        f"In {marked} of these ratios one of the two runtimes spends more than {percent(MUCH)} of its CPU time in the "
        "operating system's kernel, mostly on page faults, so the ratio depends on the memory allocator too. "
        f"{measured if others_measured else missing}"
    )


def _summary(ratios: Sequence[Estimate]) -> str:
    faster = sum(ratio.low is not None and ratio.low > 1 for ratio in ratios)
    slower = sum(ratio.high is not None and ratio.high < 1 for ratio in ratios)
    return (
        f"faster than PyTorch eager in {faster} of {len(ratios)} cases, slower in {slower}, no significant difference "
        f"in {len(ratios) - faster - slower}; geometric mean of the ratios {ratio_text(geometric_mean(ratios))}."
    )


def batches(sources: Sources) -> Section:
    """A small chart per model, for throughput and for latency, where more than one batch was measured."""
    rows = [row for row in sources.measured if row.workload == "inference"]
    batches_of = Counter((model, backend) for model, backend, _ in {(r.model, r.backend, r.batch) for r in rows})
    rows = [row for row in rows if batches_of[row.model, row.backend] > 1]
    if not rows:
        return Section("batches", "Batch size")
    throughput = Chart(
        "throughput",
        "Images per second by batch",
        "Inference. A rising line: larger batches use the machine better; a flat line: one image already saturates it. "
        "Each model has its own scale, from zero.",
        _panels(rows, sources.backends, "images/s by batch", lambda row: row.images_per_s),
    )
    latency = Chart(
        "latency",
        "Milliseconds per call by batch",
        "The same calls by latency: every image of a batch waits for the whole batch.",
        _panels(rows, sources.backends, "ms per call by batch", lambda row: row.ms.value if row.ms else None),
    )
    return Section("batches", "Batch size", parts=[*sources.table("batches"), throughput, latency])


def _panels(
    rows: Sequence[CaseRow], backends: Sequence[str], title: str, figure: Callable[[CaseRow], float | None]
) -> alt.ConcatChart:
    """One small chart for each model, on scales of its own."""
    panels = []
    for model in dict.fromkeys(row.model for row in rows):
        shown = [row for row in rows if row.model == model]
        points = data(
            {"batch": row.batch, "backend": row.backend, "what": described(row), "figure": figure(row)} for row in shown
        )
        axis = alt.Axis(values=sorted({row.batch for row in shown}), grid=False)
        legend = legend_of(row.backend for row in shown)
        base = alt.Chart(points).encode(
            x=alt.X("batch:Q", scale=alt.Scale(type="log", base=2), axis=axis, title=None),
            y=alt.Y("figure:Q", title=None, axis=alt.Axis(tickCount=4, format=",.3~r")),
            color=alt.Color("backend:N", scale=colours(backends), title=title, legend=legend),
        )
        lines = alt.layer(base.mark_line(), base.mark_point(filled=True).encode(description="what:N"))
        panels.append(lines.properties(width=120, height=85, title=alt.Title(folded(model, PANEL_NAME))))
    return alt.concat(*panels, columns=3, spacing=24)
