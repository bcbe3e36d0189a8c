"""What limits each model: the machine's peaks, lower bounds, and where the time goes."""

from collections.abc import Sequence

import altair as alt

from cnnbench.analysis.explain import Explained, explain
from cnnbench.networks.units import FLOP_PER_MAC, GIGA
from cnnbench.report.charts import INK, SERIES, WIDTH, Chart, colours
from cnnbench.report.format import in_giga
from cnnbench.report.html import Part, Section
from cnnbench.report.prose import paragraphs
from cnnbench.report.sections.drawing import Bar, data, stacked_bars
from cnnbench.report.sections.sources import Sources

MAX_KINDS = 7
"""Kinds of work with a colour of their own."""
OTHER = "all others"


def section(sources: Sources) -> Section:
    """A paragraph per model, then cases and layers beside their lower bounds."""
    explained = list(explain(sources.run).values())
    parts: list[Part] = [
        *sources.table("peaks"),
        *_roofline(explained),
        *sources.table("bounds"),
        *_shares(explained),
        *sources.table("parts", "layers"),
    ]
    prose = list(paragraphs(sources.run).values())
    return Section("why", "What limits each model", prose, parts)


def _roofline(explained: Sequence[Explained]) -> list[Chart]:
    """Cases of the first device that has peaks: achieved arithmetic over arithmetic intensity."""
    peaks = next((each.peaks for each in explained if each.peaks), None)
    if peaks is None:
        return []
    peak, rate = peaks.flops_per_s("fp32"), peaks.memory_bytes_per_s()
    points = [
        {
            "intensity": FLOP_PER_MAC * roofline.macs / roofline.moved_bytes,
            "gflops": roofline.flops_per_s / GIGA,
            "backend": case.backend,
            "workload": case.workload,
            "what": f"{case.label}, {case.workload}, {case.backend}, batch {case.batch}: "
            f"{in_giga(roofline.flops_per_s)} GFLOP/s, bound by {roofline.bound or 'unknown'}",
        }
        for each in explained
        for case, roofline in [(each.case, each.roofline)]
        if each.peaks is peaks and case.precision == "fp32" and roofline.moved_bytes and roofline.macs
    ]
    if peak is None or rate is None or not points:
        return []
    ridge = peak / rate
    intensities = [ridge, *(float(str(point["intensity"])) for point in points)]
    ends = (min(intensities) / 1.5, ridge, max(intensities) * 1.5)
    roof: list[dict[str, object]] = [{"intensity": end, "gflops": min(peak, rate * end) / GIGA} for end in ends]
    x = alt.X("intensity:Q", scale=alt.Scale(type="log", nice=False), title="FLOP for each byte moved")
    y = alt.Y("gflops:Q", scale=alt.Scale(type="log"), title="GFLOP/s")
    backends = list(dict.fromkeys(str(point["backend"]) for point in points))
    marks = (
        alt.Chart(data(points))
        .mark_point()
        .encode(
            x=x,
            y=y,
            color=alt.Color("backend:N", scale=colours(backends), title=None),
            shape=alt.Shape("workload:N", title=None),
            description="what:N",
        )
    )
    line = alt.Chart(data(roof)).mark_line(color=INK, strokeWidth=1.5).encode(x=x, y=y)
    return [
        Chart(
            "roofline",
            "Roofline",
            f"Each mark is a float32 case. The line is the machine's limit: {in_giga(rate)} GB/s from memory, "
            f"{in_giga(peak)} GFLOP/s of arithmetic. Under the slope memory is the limit, under the flat part "
            "arithmetic. Marks far below the line are limited by something else, such as launch overhead or kernels "
            "that do not suit the shapes. Marks above the slope reuse data in a cache.",
            alt.layer(line, marks).properties(width=WIDTH, height=260),
        )
    ]


def _shares(explained: Sequence[Explained]) -> list[Chart]:
    """Where the time of each profiled model goes, one bar for each model and runtime."""
    shares: dict[tuple[str, str], float] = {}
    words: dict[tuple[str, str], list[str]] = {}
    totals: dict[str, float] = {}
    for each in explained:
        for part in each.parts:
            totals[part.name] = totals.get(part.name, 0.0) + part.share
    kinds = sorted(totals, key=lambda kind: -totals[kind])
    if len(kinds) > MAX_KINDS + 1:
        kinds = [*kinds[:MAX_KINDS], OTHER]
    for each in explained:
        line = f"{each.case.label}, {each.case.runtime}"
        for part in each.parts:
            key = line, part.name if part.name in kinds else OTHER
            shares[key] = shares.get(key, 0.0) + part.share
            bound = part.roofline.bound or "unknown"
            words.setdefault(key, []).append(f"{line}: {part.name} {100 * part.share:.0f} %, bound by {bound}")
    bars = [Bar(line, kind, share, "; ".join(words[line, kind])) for (line, kind), share in shares.items()]
    chart = Chart(
        "time-by-work",
        "Time by kind of work",
        "By each runtime's own profiler. The gap to 100 % is framework overhead between operators, and operators of no "
        "known layer. Where a runtime fuses operators, their time is in the convolution before them.",
        stacked_bars(bars, kinds, "share of the call's time", is_share=True, palette=SERIES),
    )
    return [chart] if bars else []
