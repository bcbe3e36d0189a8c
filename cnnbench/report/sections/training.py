"""The phases of a training step: forward, backward, optimizer."""

from cnnbench.analysis.cases import CaseRow
from cnnbench.report.charts import Chart
from cnnbench.report.format import significant
from cnnbench.report.html import Section
from cnnbench.report.sections.drawing import Bar, stacked_bars
from cnnbench.report.sections.sources import Sources
from cnnbench.suite.case import PHASES, STEP
from cnnbench.suite.runtimes import REFERENCE

PARTS = (*PHASES["training"], *STEP)


def section(sources: Sources) -> Section:
    """The phases of each model's step, beside steps that are a single graph."""
    rows = [row for row in sources.measured if row.workload == "training"]
    eager = {_group(row): row for row in rows if row.runtime == REFERENCE and row.layout == "nchw"}
    bars = [bar for row in rows for bar in _bars(row, eager.get(_group(row), row))]
    chart = Chart(
        "training-step",
        "Forward, backward, optimizer",
        "By model, backend and batch; eager's step is 100 %. By arithmetic alone backward would take two thirds; a "
        "large optimizer share means many parameters for little arithmetic. An exported step is a single graph without "
        "separate phases. Lengths are medians; the ratios above have intervals.",
        stacked_bars(bars, PARTS, "of eager's step", is_share=True),
    )
    return Section("training", "Training step by phase", parts=[chart] if bars else [])


def _group(row: CaseRow) -> tuple[object, ...]:
    return (row.model, row.batch, row.device, row.precision)


def _bars(row: CaseRow, reference: CaseRow) -> list[Bar]:
    """The phases of a step as shares of the reference's step.

    Medians of phases do not add up to the median of the whole, so they are scaled to it.
    """
    if row.ms is None or reference.ms is None:
        return []
    whole, phases = row.ms.value, row.phases_ms or {STEP[0]: row.ms.value}
    line, total = f"{row.model}, {row.backend}, {row.batch}", sum(phases.values())
    return [
        Bar(
            line,
            phase,
            ms / total * whole / reference.ms.value,
            f"{line}: {phase} {significant(ms)} ms of {significant(whole)} ms",
        )
        for phase, ms in phases.items()
    ]
