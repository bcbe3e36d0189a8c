"""The machine, and how quiet it was while it measured."""

import re
from collections import Counter
from collections.abc import Iterator

import altair as alt
import pandas as pd

from cnnbench.analysis.stats import NOISY_HALF_WIDTH
from cnnbench.report.charts import ROW, WIDTH, Chart, colours
from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources
from cnnbench.report.tables import Table

GIB = 2**30
LIBRARIES = ("torch", "onnxruntime")


def section(sources: Sources) -> Section:
    """What it was measured on, with what, and what disturbed it."""
    table = _facts(sources)
    chart = _sharpness(sources)
    return Section(
        id="machine",
        heading="The machine, and how quiet it was",
        prose=[" ".join(_quietness(sources))],
        parts=[*([table] if table else []), *([chart] if chart else [])],
    )


def _facts(sources: Sources) -> Table | None:
    environment = sources.run.environment
    if environment is None:
        return None
    facts, software, load = environment.machine, environment.software, environment.state.load_average
    rows = {
        "CPU": facts.cpu,
        "cores": f"{facts.physical_cores or '?'} physical, {facts.affinity_cores} logical allowed",
        "threads": " or ".join(map(str, environment.threads.used)),
        "memory": f"{facts.memory_bytes / GIB:.1f} GiB",
        "accelerators": ", ".join(sorted(set(environment.accelerators.values()))),
        "system": facts.system,
        "virtual machine": None if facts.virtualised is None else "yes" if facts.virtualised else "no",
        "load when it started": f"{load[0]:.2f}, mean of a minute" if load else None,
        "libraries": ", ".join(f"{name} {version}" for name, version in software.items() if name.startswith(LIBRARIES)),
        "with": ", ".join(f"{name} {software[name]}" for name in ("cnnbench", "python") if name in software),
        "commit": software.get("git_commit"),
    }
    known = {name: value for name, value in rows.items() if value}
    cells = pd.DataFrame({"fact": known.keys(), "value": known.values()}, dtype=str)
    return Table("machine", "What it was measured on and with", "As the run began.", cells, cells, [])


def _quietness(sources: Sources) -> Iterator[str]:
    """How many cases are worth what, and what went on beside them, in sentences."""
    statuses = Counter(record.status for record in sources.records)
    worth = ", ".join(f"{statuses[status]} {status}" for status in sorted(statuses, key=lambda s: -statuses[s]))
    number = len(sources.records)
    yield f"{number} case{'s' * (number != 1)}: {worth}."
    blocks = [
        block
        for record in sources.records
        if record.measurement
        for launch in record.measurement.launches
        for block in launch.blocks
    ]
    if not blocks:
        return
    interference = [block for block in blocks if block.interference]
    if not interference:
        yield f"By the system's counters nothing disturbed any of the {len(blocks):,} turns that cases were timed in."
        return
    kinds = Counter(kind for block in interference for kind in {_kind(reason) for reason in block.interference})
    share = len(interference) / len(blocks)
    yield (
        f"{len(interference):,} of {len(blocks):,} turns ({100 * share:.1f} %) were disturbed by the "
        f"system's counters: {', '.join(f'{kind} ({count:,})' for kind, count in kinds.most_common())}. "
        "They are left out wherever enough others remain."
    )


def _kind(reason: str) -> str:
    """A reason without its figures: `others used 48 % of the CPUs` -> `others used the CPUs`."""
    return re.sub(
        r"\s+", " ", re.sub(r"[\d.]+ %( of)?|for [\d.]+ of [\d.]+ s|\d+ (times|pages?)|once", "", reason)
    ).strip()


def _sharpness(sources: Sources) -> Chart | None:
    """How wide the intervals are, a mark per case."""
    frame = sources.measured
    if frame.empty or frame["ms_low"].isna().all():
        return None
    frame = frame.dropna(subset=["ms_low", "ms_high"])
    reach = pd.concat([frame["ms_high"] - frame["ms"], frame["ms"] - frame["ms_low"]], axis=1).max(axis=1) / frame["ms"]
    shown = pd.DataFrame(
        {
            "percent": (100 * reach).clip(lower=0.01),
            "line": frame["workload"] + ", " + frame["how"],
            "how": frame["how"],
            "what": frame["what"],
        }
    )
    ticks = (
        alt.Chart(shown)
        .mark_tick(thickness=2, size=ROW - 5)
        .encode(
            x=alt.X(
                "percent:Q",
                scale=alt.Scale(type="log", nice=False, padding=10),
                title="interval reaches to one side, % of the median",
            ),
            y=alt.Y("line:N", sort=None, title=None),
            color=alt.Color("how:N", scale=colours(sources.hows), legend=None),
            description="what:N",
        )
    )
    limit = alt.Chart(pd.DataFrame({"percent": [100 * NOISY_HALF_WIDTH]})).mark_rule(strokeDash=[4, 3])
    return Chart(
        "sharpness",
        "How sharp the medians are",
        "One mark per case: the larger side of its 95 % interval. Right of the dashed line a case is called noisy.",
        (ticks + limit.encode(x="percent:Q")).properties(width=WIDTH, height=alt.Step(ROW)),
    )
