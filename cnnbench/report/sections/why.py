"""Why: what this machine can do, how close each case comes to it, and what binds it."""

import altair as alt
import pandas as pd

from cnnbench.analysis.explain import Explained, explain
from cnnbench.networks.units import FLOP_PER_MAC, GIGA
from cnnbench.report.bounds import cases_frame
from cnnbench.report.charts import INK, ROW, WIDTH, Chart, colours
from cnnbench.report.format import significant
from cnnbench.report.html import Section
from cnnbench.report.prose import paragraphs
from cnnbench.report.sections.sources import Sources

BOUNDS = ["compute", "memory", "calls"]


def section(sources: Sources) -> Section | None:
    """A paragraph per model, then the cases against the ceilings, and the layers under the roofline."""
    explained = list(explain(sources.run).values())
    if not explained:
        return None
    prose = list(paragraphs(sources.run).values())
    return Section(
        id="why",
        heading="Why",
        prose=prose,
        parts=[
            *sources.table("ceilings"),
            *_roof(explained),
            *sources.table("bounds"),
            *_shares(explained),
            *sources.table("parts"),
            *sources.table("layers"),
        ],
    )


def _roof(explained: list[Explained]) -> list[Chart]:
    """Cases under the roof of the first device: achieved arithmetic over arithmetic intensity."""
    peaks = next((each.peaks for each in explained if each.peaks), None)
    if peaks is None:
        return []
    peak, rate = peaks.flops_per_s("fp32"), peaks.memory_bytes_per_s()
    cases = [each for each in explained if each.peaks is peaks and each.case.precision == "fp32"]
    frame = cases_frame(cases)
    frame = frame[frame["moved_bytes"].notna() & (frame["macs"] > 0)]
    if peak is None or rate is None or frame.empty:
        return []
    frame = frame.assign(
        intensity=FLOP_PER_MAC * frame["macs"] / frame["moved_bytes"],
        gflops=frame["flops_per_s"] / GIGA,
        what=[
            f"{row['model']}, {row['workload']}, {row['runtime']}, batch {row['batch']}: "
            f"{significant(float(row['flops_per_s']) / GIGA)} GFLOP/s, bound by {row['bound_by']}"
            for row in frame.to_dict("records")
        ],
    )[["intensity", "gflops", "runtime", "workload", "what"]]
    ridge = peak / rate
    ends = [min(frame["intensity"].min(), ridge) / 1.5, ridge, max(frame["intensity"].max(), ridge) * 1.5]
    roof = pd.DataFrame({"intensity": ends, "gflops": [min(peak, rate * end) / GIGA for end in ends]})
    axes = {
        "x": alt.X("intensity:Q", scale=alt.Scale(type="log", nice=False), title="FLOP for each byte moved"),
        "y": alt.Y("gflops:Q", scale=alt.Scale(type="log"), title="GFLOP/s"),
    }
    points = (
        alt.Chart(frame)
        .mark_point()
        .encode(
            **axes,
            color=alt.Color("runtime:N", scale=colours(list(frame["runtime"].unique())), title=None),
            shape=alt.Shape("workload:N", title=None),
            description="what:N",
        )
    )
    line = alt.Chart(roof).mark_line(color=INK, strokeWidth=1.5).encode(**axes)
    return [
        Chart(
            "roofline",
            "Cases under the roof",
            "Each mark is a case in float32. The line is what the machine allows: "
            f"{significant(rate / GIGA)} GB/s from memory, {significant(peak / GIGA)} GFLOP/s at most. Under the slope "
            "memory is the lower ceiling, under the flat part arithmetic. What lies far below the line is held back by "
            "something else, such as the cost of calls, or kernels that do not fit its shapes. Marks above the slope "
            "found their data in a cache.",
            alt.layer(line, points).properties(width=WIDTH, height=260),
        )
    ]


def _shares(explained: list[Explained]) -> list[Chart]:
    """Where the time of each profiled model goes, one bar for each model and runtime."""
    rows = [
        {
            "line": f"{each.case.label}, {each.case.runtime}",
            "kind": part.name,
            "order": place,
            "share": part.share,
            "what": f"{each.case.label}, {each.case.runtime}: {part.name} {100 * part.share:.0f} %, "
            f"bound by {part.roofline.bound or 'unknown'}",
        }
        for each in explained
        for place, part in enumerate(each.parts)
    ]
    if not rows:
        return []
    frame = pd.DataFrame(rows)
    kinds = list(frame.groupby("kind")["share"].sum().sort_values(ascending=False).index)[:8]
    frame.loc[~frame["kind"].isin(kinds[:7]), "kind"] = "all others"
    kinds = [*kinds[:7], "all others"] if (frame["kind"] == "all others").any() else kinds
    frame = frame.groupby(["line", "kind"], sort=False, as_index=False).agg(
        share=("share", "sum"), what=("what", "; ".join)
    )
    frame["order"] = [kinds.index(kind) for kind in frame["kind"]]
    chart = (
        alt.Chart(frame)
        .mark_bar(size=ROW - 5)
        .encode(
            x=alt.X(
                "share:Q", axis=alt.Axis(format="%"), title="share of the call's time", scale=alt.Scale(domain=[0, 1])
            ),
            y=alt.Y("line:N", sort=None, title=None),
            color=alt.Color("kind:N", scale=colours(kinds), sort=kinds, title=None, legend=alt.Legend(columns=3)),
            order="order:Q",
            description="what:N",
        )
        .properties(width=WIDTH, height=alt.Step(ROW))
    )
    return [
        Chart(
            "time-by-work",
            "Where the time goes",
            "By each runtime's own profiler. What is missing to the full width passes between operators, or in some "
            "that belong to no known layer. A runtime that fuses operators has their time in the convolution "
            "before them.",
            chart,
        )
    ]
