"""Cold start, and when a slower one is amortised."""

from cnnbench.analysis.start import StartRow, start_rows
from cnnbench.report.charts import Chart
from cnnbench.report.format import significant
from cnnbench.report.html import Section
from cnnbench.report.sections.drawing import Bar, stacked_bars
from cnnbench.report.sections.sources import Sources

STAGES = ("import", "export", "load", "first call")


def section(sources: Sources) -> Section | None:
    """The stages before the first result, in a chart and a table."""
    rows = [row for row in start_rows(sources.records) if row.workload == "inference"]
    chart = Chart(
        "start",
        "Time to the first output",
        "Inference, by model and backend. Each stage was measured once, so there is no interval. The export is cached: "
        "only the first start includes it.",
        stacked_bars([bar for row in rows for bar in _bars(row)], STAGES, "seconds to the first output"),
    )
    tables = sources.table("start")
    return Section("start", "Cold start and break-even", parts=[chart, *tables] if rows else tables) if tables else None


def _bars(row: StartRow) -> list[Bar]:
    line = f"{row.model}, {row.backend}"
    stages = zip(STAGES, (row.import_s, row.export_s, row.load_s, row.first_call_ms / 1e3), strict=True)
    return [Bar(line, stage, s, f"{line}: {stage} {significant(s)} s") for stage, s in stages if s is not None]
