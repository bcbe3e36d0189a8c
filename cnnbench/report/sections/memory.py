"""Memory: of the libraries, the model, and inference or training on a batch."""

from cnnbench.networks.units import MIB
from cnnbench.records.record import MEASURED, Record
from cnnbench.report.charts import Chart
from cnnbench.report.html import Section
from cnnbench.report.sections.drawing import Bar, stacked_bars
from cnnbench.report.sections.sources import Sources
from cnnbench.suite.case import WORKLOADS

PARTS = ("libraries", "model", "activations")


def section(sources: Sources) -> Section:
    """A chart per workload: resident memory of the worker at its largest batch, in parts."""
    largest: dict[tuple[str, str, str], Record] = {}
    for record in sorted(sources.records, key=lambda r: r.case.batch):
        if record.status in MEASURED and record.measurement and record.case.device == "cpu":
            largest[record.case.workload, record.case.label, record.case.backend] = record
    bars = {
        workload: [bar for key, record in largest.items() if key[0] == workload for bar in _bars(record)]
        for workload in WORKLOADS
    }
    charts = [
        Chart(
            f"memory-{workload}",
            f"{workload.capitalize()}: peak resident memory",
            "By model, backend and batch. Libraries: memory after their import. Model: what loading it, its first call "
            "and its parity check add. Activations: what warm-up and timing add at most.",
            stacked_bars(each, PARTS, "resident MiB"),
        )
        for workload, each in bars.items()
        if each
    ]
    prose = ["The tables above have every case's peak; the charts split that of each model's largest batch."]
    return Section("memory", "Memory", prose if charts else (), charts)


def _bars(record: Record) -> list[Bar]:
    """Resident memory in MiB: after import, added by loading, and added by the timed work."""
    launches = record.measurement.launches if record.measurement else []
    memory = max((launch.memory for launch in launches), key=lambda memory: memory.peak_bytes)
    stages = [memory.imported_bytes, memory.loaded_bytes, memory.peak_bytes]
    grown = [max(0, after - before) / MIB for before, after in zip([0, *stages], stages, strict=False)]
    line = f"{record.case.label}, {record.case.backend}, {record.case.batch}"
    peak = f"peak {memory.peak_bytes / MIB:,.0f} MiB"
    return [
        Bar(line, part, mib, f"{line}: {part} {mib:,.0f} MiB; {peak}") for part, mib in zip(PARTS, grown, strict=True)
    ]
