"""Runtimes against each other: how many times as fast as PyTorch eager, from the same rounds."""

import math

import altair as alt
import pandas as pd

from cnnbench.analysis.stats import Estimate, geometric_mean
from cnnbench.report.charts import FAINT, ROW, WIDTH, Chart, colours
from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources, shown_legend
from cnnbench.report.tables import ratio_text
from cnnbench.suite.case import WORKLOADS


def section(sources: Sources) -> Section | None:
    """A chart of ratios for each workload, and what they come to."""
    frame = sources.measured
    if frame.empty or frame["speedup"].isna().all():
        return None
    frame = frame.dropna(subset=["speedup"]).astype({"speedup": float, "speedup_low": float, "speedup_high": float})
    by_workload = {workload: frame[frame["workload"] == workload] for workload in WORKLOADS}
    found = {workload: rows for workload, rows in by_workload.items() if not rows.empty}
    return Section(
        id="runtimes",
        heading="ONNX Runtime and others against PyTorch",
        prose=[
            _summary(str(how), workload, rows) for workload, each in found.items() for how, rows in each.groupby("how")
        ],
        parts=[_chart(workload, rows, sources.hows) for workload, rows in found.items()],
    )


def _summary(how: str, workload: str, rows: pd.DataFrame) -> str:
    """What the ratios of one runtime come to, in a sentence."""
    faster, slower = int((rows["speedup_low"] > 1).sum()), int((rows["speedup_high"] < 1).sum())
    mean = geometric_mean(list(map(_estimate, rows["speedup"], rows["speedup_low"], rows["speedup_high"])))
    return (
        f"{workload.capitalize()}, {how}: faster than PyTorch eager in {faster} of {len(rows)} cases, slower in "
        f"{slower}, not told apart in {len(rows) - faster - slower}; the geometric mean of the ratios is "
        f"{ratio_text(mean.value, mean.low, mean.high)}."
    )


def _estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value) if math.isnan(low) or math.isnan(high) else Estimate(value, low, high)


def _chart(workload: str, rows: pd.DataFrame, hows: list[str]) -> Chart:
    shown = pd.DataFrame(
        {
            "line": [f"{model}, {batch}" for model, batch in zip(rows["model"], rows["batch"], strict=True)],
            "ratio": rows["speedup"],
            "low": rows["speedup_low"],
            "high": rows["speedup_high"],
            "how": rows["how"],
            "what": [
                f"{model}, {how}, batch {batch}: {ratio_text(*ratio)}"
                for model, how, batch, *ratio in zip(
                    *(rows[name] for name in ("model", "how", "batch", "speedup", "speedup_low", "speedup_high")),
                    strict=True,
                )
            ],
        }
    )
    y = alt.Y("line:N", sort=None, title=None)
    offset = alt.YOffset("how:N", sort=hows)
    colour = alt.Color("how:N", scale=colours(hows), title=None, legend=shown_legend(shown))
    x = alt.X("ratio:Q", scale=alt.Scale(type="log", nice=False, padding=12), title="times as fast as PyTorch eager")
    base = alt.Chart(shown).encode(y=y, yOffset=offset, color=colour)
    bars = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    points = base.mark_point(filled=True).encode(x=x, description="what:N")
    one = alt.Chart(pd.DataFrame({"ratio": [1.0]})).mark_rule(color=FAINT, strokeDash=[4, 3]).encode(x=x)
    return Chart(
        f"runtimes-{workload}",
        f"{workload.capitalize()}: times as fast as PyTorch eager",
        "By model and batch. Right of 1 is faster than eager. Each ratio is the median over rounds in which both were "
        "measured within a second or two, with its 95 % interval; an interval that holds 1 does not tell them apart.",
        alt.layer(one, bars, points).properties(width=WIDTH, height=alt.Step(ROW - 3)),
    )
