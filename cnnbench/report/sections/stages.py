"""What a training step, a process's memory and a cold start are made of: a stacked bar for each case."""

from collections.abc import Iterator

from cnnbench.analysis.cases import CaseRow
from cnnbench.analysis.times import starts
from cnnbench.networks.units import MIB
from cnnbench.records.record import MEASURED, Record
from cnnbench.report.charts import Bar, Chart, stacked_bars
from cnnbench.report.format import significant
from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources
from cnnbench.report.tables import AHEAD
from cnnbench.suite.case import PHASES, STEP, WORKLOADS

MEMORY_PARTS = ("libraries", "model", "activations")
START_STAGES = ("import", "export", "compile", "load", "first call")


def training(sources: Sources) -> Section:
    """The phases of each model's step, beside steps that are a single graph."""
    rows = [row for row in sources.measured if row.workload == "training"]
    eager = {_group(row): row for row in rows if row.is_reference}
    bars = [bar for row in rows for bar in _phases(row, eager.get(_group(row), row))]
    chart = Chart(
        "training-step",
        "Forward, backward, optimizer",
        "By model, backend and batch; eager's step is 100 %. By arithmetic alone backward would take two thirds; a "
        "large optimizer share means many parameters for little arithmetic. An exported step is a single graph without "
        "separate phases. Lengths are medians; the ratios above have intervals.",
        stacked_bars(bars, (*PHASES["training"], *STEP), "of eager's step", is_share=True),
    )
    return Section("training", "Training step by phase", parts=[chart] if bars else [])


def _group(row: CaseRow) -> tuple[object, ...]:
    return (row.model, row.batch, row.device, row.precision)


def _phases(row: CaseRow, reference: CaseRow) -> Iterator[Bar]:
    """The phases of a step as shares of the reference's step.

    Medians of phases do not add up to the median of the whole, so they are scaled to it.
    """
    if row.ms is None or reference.ms is None:
        return
    whole, phases = row.ms.value, row.phases_ms or {STEP[0]: row.ms.value}
    line, total = f"{row.model}, {row.backend}, {row.batch}", sum(phases.values()) or whole
    for phase, ms in phases.items():
        share = ms / total * whole / reference.ms.value
        yield Bar(line, phase, share, f"{line}: {phase} {significant(ms)} ms of {significant(whole)} ms")


def memory(sources: Sources) -> Section:
    """A chart per workload: resident memory of the worker at its largest batch, in parts."""
    largest: dict[tuple[str, str, str], Record] = {}
    for record in sources.records:  # of a network the smallest batch first
        if record.status in MEASURED and record.launches and record.case.device == "cpu":
            largest[record.case.workload, record.case.label, record.case.backend] = record
    charts = [
        Chart(
            f"memory-{workload}",
            f"{workload.capitalize()}: peak resident memory",
            "By model, backend and batch. Libraries: memory after their import. Model: what loading it, its first call "
            "and its parity check add. Activations: what warm-up and timing add at most.",
            stacked_bars([bar for record in found for bar in _memory(record)], MEMORY_PARTS, "resident MiB"),
        )
        for workload in WORKLOADS
        if (found := [record for key, record in largest.items() if key[0] == workload])
    ]
    prose = ["The tables above have every case's peak; the charts split that of each model's largest batch."]
    return Section("memory", "Memory", prose if charts else (), charts)


def _memory(record: Record) -> Iterator[Bar]:
    """Resident memory in MiB: after import, added by loading, and added by the timed work."""
    most = max((launch.memory for launch in record.launches), key=lambda memory: memory.peak_bytes)
    line = f"{record.case.label}, {record.case.backend}, {record.case.batch}"
    before = 0
    for part, after in zip(MEMORY_PARTS, (most.imported_bytes, most.loaded_bytes, most.peak_bytes), strict=True):
        mib, before = max(0, after - before) / MIB, after
        yield Bar(line, part, mib, f"{line}: {part} {mib:,.0f} MiB; peak {most.peak_bytes / MIB:,.0f} MiB")


def start(sources: Sources) -> Section:
    """The stages before the first result, in a chart and a table."""
    bars = []
    for row in starts(sources.records):
        if row.case.workload == "inference":
            line, launch = f"{row.case.label}, {row.case.backend}", row.launch
            seconds = (launch.import_s, row.export_s, row.compile_s, launch.load_s, launch.first_call_s)
            stages = zip(START_STAGES, seconds, strict=True)
            bars += [Bar(line, stage, s, f"{line}: {stage} {significant(s)} s") for stage, s in stages if s is not None]
    has_packages = any(bar.part == "compile" for bar in bars)
    stages_shown = [stage for stage in START_STAGES if stage != "compile" or has_packages]
    chart = Chart(
        "start",
        "Time to the first output",
        "Inference, by model and backend. Each stage was measured once, so there is no interval. The export is cached: "
        "only the first start includes it." + (f" {AHEAD}" if has_packages else ""),
        stacked_bars(bars, stages_shown, "seconds to the first output"),
    )
    tables = sources.table("start")
    return Section("start", "Cold start and break-even", parts=[chart, *tables] if bars else tables)
