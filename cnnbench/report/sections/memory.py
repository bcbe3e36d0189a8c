"""Memory: what the libraries, the model and the work on a batch hold."""

import altair as alt
import pandas as pd

from cnnbench.networks.units import MIB
from cnnbench.records.record import MEASURED, Record
from cnnbench.report import charts
from cnnbench.report.charts import ROW, WIDTH, Chart, colours
from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources

PARTS = ["libraries", "model", "at work"]


def section(sources: Sources) -> Section | None:
    """A chart per workload: resident memory of the worker at its largest batch, in parts."""
    largest: dict[tuple[str, str, str], Record] = {}
    for record in sources.records:
        key = (record.case.workload, record.case.label, record.case.backend)
        if record.status in MEASURED and record.measurement and record.case.device == "cpu":
            before = largest.get(key)
            largest[key] = record if before is None or record.case.batch > before.case.batch else before
    if not largest:
        return None
    rows = pd.DataFrame([part for record in largest.values() for part in _parts(record)])
    return Section(
        id="memory",
        heading="Memory",
        prose=["Peaks of every case stand in the tables above; here, those of each model's largest batch, in parts."],
        parts=[_chart(str(workload), each) for workload, each in rows.groupby("workload", sort=False)],
    )


def _parts(record: Record) -> list[dict[str, object]]:
    """Resident memory in MiB: of the libraries, of the model as it was loaded, and of the work at its peak."""
    assert record.measurement is not None
    memory = max((launch.memory for launch in record.measurement.launches), key=lambda memory: memory.peak_bytes)
    stages = [memory.imported_bytes, memory.loaded_bytes, memory.peak_bytes]
    grown = [max(0, after - before) / MIB for before, after in zip([0, *stages], stages, strict=False)]
    case = f"{record.case.label}, {record.case.backend}, {record.case.batch}"
    return [
        {
            "workload": record.case.workload,
            "line": case,
            "part": part,
            "order": order,
            "mib": mib,
            "what": f"{case}: {part} {mib:,.0f} MiB; peak {memory.peak_bytes / MIB:,.0f} MiB",
        }
        for order, (part, mib) in enumerate(zip(PARTS, grown, strict=True))
    ]


def _chart(workload: str, rows: pd.DataFrame) -> Chart:
    chart = (
        alt.Chart(rows)
        .mark_bar(size=ROW - 6)
        .encode(
            x=alt.X("mib:Q", stack="zero", title="resident MiB"),
            y=alt.Y("line:N", sort=None, title=None),
            color=alt.Color("part:N", scale=colours(PARTS, charts.PARTS), sort=PARTS, title=None),
            order="order:Q",
            description="what:N",
        )
    )
    return Chart(
        f"memory-{workload}",
        f"{workload.capitalize()}: where the peak of memory comes from",
        "By model, runtime and batch. Libraries: after they were imported. Model: what loading it, its first "
        "call and its proof added. At work: what warming up and timing added to that, at most.",
        chart.properties(width=WIDTH, height=alt.Step(ROW)),
    )
