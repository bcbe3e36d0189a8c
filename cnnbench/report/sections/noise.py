"""The machine, and the noise of the measurements on it."""

from collections import Counter
from collections.abc import Iterator

import altair as alt

from cnnbench.analysis.stats import NOISY_HALF_WIDTH
from cnnbench.networks.units import GIB
from cnnbench.report.charts import ROW, WIDTH, Chart, colours, data
from cnnbench.report.html import Section
from cnnbench.report.reasons import INTERFERENCE
from cnnbench.report.sections.sources import Sources, described
from cnnbench.report.table import Column, Table, table_of, words

LIBRARIES = ("torch", "onnxruntime")
SHORT_HASH = 12
"""Digits of a commit that are shown, as Git abbreviates: all of them fit no phone."""


def section(sources: Sources) -> Section:
    """Hardware and software, interference, and the widths of the intervals."""
    return Section("machine", "Machine and noise", [" ".join(_noise(sources))], [*_facts(sources), *_widths(sources)])


def _facts(sources: Sources) -> list[Table]:
    environment = sources.run.environment
    if environment is None:
        return []
    facts, software, load = environment.machine, environment.software, environment.state.load_average
    rows = {
        "CPU": facts.cpu,
        "cores": f"{facts.physical_cores or '?'} physical, {facts.affinity_cores} logical allowed",
        "threads": " or ".join(map(str, environment.threads.used)),
        "memory": f"{facts.memory_bytes / GIB:.1f} GiB",
        "accelerators": ", ".join(sorted(set(environment.accelerators.values()))),
        "system": facts.system,
        "virtual machine": None if facts.virtualised is None else "yes" if facts.virtualised else "no",
        "load average at start": f"{load[0]:.2f} over one minute" if load else None,
        "libraries": ", ".join(f"{name} {version}" for name, version in software.items() if name.startswith(LIBRARIES)),
        "software": ", ".join(f"{name} {software[name]}" for name in ("cnnbench", "python") if name in software),
        "commit": (software.get("git_commit") or "")[:SHORT_HASH],
    }
    known = [(name, value) for name, value in rows.items() if value]
    columns: list[Column[tuple[str, str]]] = [words("fact", lambda row: row[0]), words("value", lambda row: row[1])]
    title, caption = "Hardware and software", "State at the start of the run."
    return [table_of("machine", title, caption, known, columns)]


def _noise(sources: Sources) -> Iterator[str]:
    """Cases by status, and the interference beside them, in sentences."""
    statuses = Counter(record.status for record in sources.records)
    listed = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    number = len(sources.records)
    yield f"{number} case{'s' * (number != 1)}: {listed}."
    blocks = [block for record in sources.records for launch in record.launches for block in launch.blocks]
    kinds = [dict.fromkeys(each.kind for each in block.interference) for block in blocks if block.interference]
    if kinds:
        counted = Counter(kind for each in kinds for kind in each)
        yield (
            f"The system's counters show interference in {len(kinds):,} of {len(blocks):,} blocks "
            f"({100 * len(kinds) / len(blocks):.1f} %): "
            f"{', '.join(f'{INTERFERENCE[kind][0]} ({count:,})' for kind, count in counted.most_common())}. "
            "These are left out where enough others remain."
        )
    elif blocks:
        yield f"The system's counters show no interference in any of {len(blocks):,} blocks."


def _widths(sources: Sources) -> list[Chart]:
    """How wide the intervals are, a mark per case."""
    rows = [
        {
            "percent": max(100 * row.ms.half_width, 0.01),
            "line": f"{row.workload}, {row.backend}",
            "backend": row.backend,
            "what": described(row),
        }
        for row in sources.measured
        if row.ms and row.ms.low is not None
    ]
    scale = alt.Scale(type="log", nice=False, padding=10)
    x = alt.X("percent:Q", scale=scale, title="larger side of the interval, % of the median")
    colour = alt.Color("backend:N", scale=colours(sources.backends), legend=None)
    ticks = alt.Chart(data(rows)).mark_tick(thickness=2, size=ROW - 5)
    ticks = ticks.encode(x=x, y=alt.Y("line:N", sort=None, title=None), color=colour, description="what:N")
    limit = alt.Chart(data([{"percent": 100 * NOISY_HALF_WIDTH}])).mark_rule(strokeDash=[4, 3]).encode(x=x)
    chart = Chart(
        "interval-widths",
        "Width of the intervals",
        "One mark per case: the larger side of its 95 % interval. Right of the dashed line a case is noisy.",
        (ticks + limit).properties(width=WIDTH, height=alt.Step(ROW)),
    )
    return [chart] if rows else []
