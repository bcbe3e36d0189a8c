"""What limits each model: the machine's peaks, lower bounds, and where the time goes."""

from collections import defaultdict
from collections.abc import Sequence

import altair as alt

from cnnbench.analysis import roofline
from cnnbench.analysis.explain import Explained, explain
from cnnbench.networks.units import FLOP_PER_MAC, GIGA
from cnnbench.report.charts import INK, SERIES, WIDTH, Bar, Chart, colours, data, stacked_bars
from cnnbench.report.format import in_giga
from cnnbench.report.html import Part, Section
from cnnbench.report.precision import int8_paragraph
from cnnbench.report.prose import kernel_paragraph
from cnnbench.report.sections.sources import Sources

MAX_KINDS = 7
"""Kinds of work with a colour of their own."""
OTHER = "all others"


def section(sources: Sources) -> Section:
    """A cause for each model and runtime, then cases and layers beside their lower bounds."""
    explained = list(explain(sources.run).values())
    peaks, bounds, layers = sources.table("peaks"), sources.table("bounds"), sources.table("parts", "layers")
    causes = sources.table("causes")
    parts: list[Part] = [*causes, *_shares(explained), *peaks, *_roofline(explained), *bounds, *layers]
    ratios = {row.id: row.vs_fp32.value for row in sources.measured if row.vs_fp32}
    prose = [text for text in (int8_paragraph(explained, ratios), kernel_paragraph(explained)) if text]
    return Section("why", "What limits each model", prose, parts)


def _roofline(explained: Sequence[Explained]) -> list[Chart]:
    """Cases of the first device that has peaks: achieved arithmetic over arithmetic intensity."""
    peaks = next((each.peaks for each in explained if each.peaks), None)
    peak, rate = (peaks.flops_per_s("fp32"), peaks.memory_bytes_per_s()) if peaks else (None, None)
    shown = [
        (each.case, each.roofline, FLOP_PER_MAC * each.roofline.macs / each.roofline.moved_bytes)
        for each in explained
        if each.peaks is peaks and each.case.precision == "fp32" and each.roofline.moved_bytes and each.roofline.macs
    ]
    if peak is None or rate is None or not shown:
        return []
    points = [
        {
            "intensity": intensity,
            "gflops": found.flops_per_s / GIGA,
            "backend": case.backend,
            "workload": case.workload,
            "what": f"{case.label}, {case.workload}, {case.backend}, batch {case.batch}: "
            f"{in_giga(found.flops_per_s)} GFLOP/s, bound by {found.bound or 'unknown'}",
        }
        for case, found, intensity in shown
    ]
    intensities = [peak / rate, *(intensity for _, _, intensity in shown)]
    ends = (min(intensities) / 1.5, peak / rate, max(intensities) * 1.5)
    roof = [{"intensity": end, "gflops": min(peak, rate * end) / GIGA} for end in ends]
    x = alt.X("intensity:Q", scale=alt.Scale(type="log", nice=False), title="FLOP for each byte moved")
    y = alt.Y("gflops:Q", scale=alt.Scale(type="log"), title="GFLOP/s")
    colour = alt.Color(
        "backend:N", scale=colours(list(dict.fromkeys(case.backend for case, _, _ in shown))), title=None
    )
    shape = alt.Shape("workload:N", title=None)
    line = alt.Chart(data(roof)).mark_line(color=INK, strokeWidth=1.5).encode(x=x, y=y)
    marks = alt.Chart(data(points)).mark_point().encode(x=x, y=y, color=colour, shape=shape, description="what:N")
    caption = (
        f"Each mark is a float32 case. The line is the machine's limit: {in_giga(rate)} GB/s from memory, "
        f"{in_giga(peak)} GFLOP/s of arithmetic. Under the slope memory is the limit, under the flat part "
        "arithmetic. Marks far below the line are limited by something else, such as launch overhead or kernels "
        "that do not suit the shapes. Marks above the slope reuse data in a cache."
    )
    return [Chart("roofline", "Roofline", caption, alt.layer(line, marks).properties(width=WIDTH, height=260))]


def _shares(explained: Sequence[Explained]) -> list[Chart]:
    """Where the time of each profiled model goes, one bar for each model and runtime."""
    parts = [(f"{each.case.label}, {each.case.runtime}", part) for each in explained for part in each.parts]
    totals: dict[str, float] = defaultdict(float)
    for _, part in parts:
        totals[part.name] += part.share
    kinds = sorted(totals, key=lambda kind: -totals[kind])
    if len(kinds) > MAX_KINDS + 1:
        kinds = [*kinds[:MAX_KINDS], OTHER]
    groups: dict[tuple[str, str], list[roofline.Part]] = defaultdict(list)
    for line, part in parts:
        groups[line, part.name if part.name in kinds else OTHER].append(part)
    bars = []
    for (line, kind), group in groups.items():
        bounds = [f"{p.name} {100 * p.share:.0f} %, bound by {p.roofline.bound or 'unknown'}" for p in group]
        bars.append(Bar(line, kind, sum(p.share for p in group), "; ".join(f"{line}: {bound}" for bound in bounds)))
    chart = Chart(
        "time-by-work",
        "Time by kind of work",
        "By each runtime's own profiler. The gap to 100 % is framework overhead between operators, and operators "
        "without a layer. Where a runtime fuses operators, their time is in the convolution before them.",
        stacked_bars(bars, kinds, "share of the call's time", is_share=True, palette=SERIES),
    )
    return [chart] if bars else []
