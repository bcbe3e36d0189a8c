"""Backends beside PyTorch eager: speed ratios from shared rounds."""

from collections.abc import Sequence

from cnnbench.analysis.cases import CaseRow
from cnnbench.analysis.stats import Estimate, geometric_mean
from cnnbench.report.charts import Chart
from cnnbench.report.columns import ratio_text
from cnnbench.report.html import Section
from cnnbench.report.sections.drawing import Mark, ratio_marks
from cnnbench.report.sections.sources import Sources
from cnnbench.suite.case import WORKLOADS


def section(sources: Sources) -> Section:
    """A chart of ratios for each workload, and a summary of them."""
    prose, charts = [], []
    for workload in WORKLOADS:
        pairs = [(row, row.speedup) for row in sources.measured if row.workload == workload and row.speedup]
        for backend in sorted({row.backend for row, _ in pairs}):
            ratios = [ratio for row, ratio in pairs if row.backend == backend]
            prose.append(f"{workload.capitalize()}, {backend}: {_summary(ratios)}")
        if pairs:
            charts.append(_chart(workload, pairs, sources.backends))
    return Section("runtimes", "ONNX Runtime and others against PyTorch", prose, charts)


def _summary(ratios: Sequence[Estimate]) -> str:
    faster = sum(ratio.low is not None and ratio.low > 1 for ratio in ratios)
    slower = sum(ratio.high is not None and ratio.high < 1 for ratio in ratios)
    return (
        f"faster than PyTorch eager in {faster} of {len(ratios)} cases, slower in {slower}, no significant difference "
        f"in {len(ratios) - faster - slower}; geometric mean of the ratios {ratio_text(geometric_mean(ratios))}."
    )


def _chart(workload: str, pairs: Sequence[tuple[CaseRow, Estimate]], backends: Sequence[str]) -> Chart:
    marks = [
        Mark(
            f"{row.model}, {row.batch}",
            row.backend,
            ratio,
            f"{row.model}, {row.backend}, batch {row.batch}: {ratio_text(ratio)}",
        )
        for row, ratio in pairs
    ]
    return Chart(
        f"runtimes-{workload}",
        f"{workload.capitalize()}: speed as a multiple of PyTorch eager's",
        "By model and batch; right of 1 is faster than eager. Each ratio is the median over rounds that both took part "
        "in, with its 95 % interval; an interval that contains 1 is no significant difference.",
        ratio_marks(marks, backends, "speed as a multiple of PyTorch eager's"),
    )
