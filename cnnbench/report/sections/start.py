"""Cold start, and when a slower one is amortised."""

from cnnbench.analysis.start import Start, starts
from cnnbench.report.charts import Chart
from cnnbench.report.format import significant
from cnnbench.report.html import Section
from cnnbench.report.sections.drawing import Bar, stacked_bars
from cnnbench.report.sections.sources import Sources

STAGES = ("import", "export", "load", "first call")


def section(sources: Sources) -> Section:
    """The stages before the first result, in a chart and a table."""
    rows = [row for row in starts(sources.records) if row.case.workload == "inference"]
    chart = Chart(
        "start",
        "Time to the first output",
        "Inference, by model and backend. Each stage was measured once, so there is no interval. The export is cached: "
        "only the first start includes it.",
        stacked_bars([bar for row in rows for bar in _bars(row)], STAGES, "seconds to the first output"),
    )
    tables = sources.table("start")
    return Section("start", "Cold start and break-even", parts=[chart, *tables] if rows else tables)


def _bars(start: Start) -> list[Bar]:
    line, launch = f"{start.case.label}, {start.case.backend}", start.launch
    stages = zip(STAGES, (launch.import_s, start.export_s, launch.load_s, launch.first_call_s), strict=True)
    return [Bar(line, stage, s, f"{line}: {stage} {significant(s)} s") for stage, s in stages if s is not None]
