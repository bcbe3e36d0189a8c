"""A gate's verdicts, to read: a table, a summary in Markdown, annotations for a forge, one line for the end."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from math import exp
from pathlib import Path
from statistics import fmean, median

import pandas as pd

from cnnbench.analysis import paired as judge
from cnnbench.gate.baseline import BaselineResult
from cnnbench.gate.diagnose import Explanation
from cnnbench.gate.procedure import CaseVerdict, Result
from cnnbench.gate.run import GateReport
from cnnbench.report import escape
from cnnbench.report.files import table_markdown
from cnnbench.report.format import format_seconds, significant
from cnnbench.report.tables import NONE, Table

BARS = "▁▂▃▄▅▆▇█"
BOOTSTRAPS = 2000
MARKS: dict[judge.Verdict, str] = {  # in the order in which they matter
    "slower": "✗",
    "wrong": "✗",
    "missing": "✗",
    "inconclusive": "?",
    "unsteady": "?",
    "slower-small": "✓",
    "same": "✓",
    "faster": "✓",
}


def table_of(gate_report: GateReport) -> Table:
    """One row for each case that was measured, those that matter first."""
    order = list(MARKS)
    cases = sorted(gate_report.result.cases, key=lambda judged: order.index(judged.verdict))
    margin = gate_report.result.rule.margin
    rows = [_numbers(judged, margin) for judged in cases]
    data = pd.DataFrame(rows, columns=list(_COLUMNS))
    cells = pd.DataFrame([_words(row, judged) for row, judged in zip(rows, cases, strict=True)])
    caption = (
        f"Head over base, from pairs of launches that were alive together; in brackets the {judge.CONFIDENCE:.0%} "
        f"interval, each end of which is a one-sided bound at 95 %. A slowdown up to {margin:.2%} is no regression. "
        f"Spread: standard deviation of a pair's log ratio. Could see: the smallest slowdown that so many pairs would "
        f"have called slower four times in five. Pairs, in the order of time, between their extremes. "
        f"A suspect's figures are of its fresh pairs."
    )
    notes = [f"{judged.comparison.name}: {judged.reason}" for judged in cases if judged.reason]
    notes += [f"not measured: {name}: {reason}" for name, reason in gate_report.skipped.items()]
    return Table("verdicts", "Verdicts", caption, cells, data, notes)


_COLUMNS = (
    "case",
    "verdict",
    "ratio",
    "low",
    "high",
    "base ms",
    "head ms",
    "pairs",
    "spread",
    "could see",
    "pairs needed",
    "reason",
)


def _numbers(judged: CaseVerdict, margin: float) -> dict[str, object]:
    ratio = judged.ratio
    low, high = ratio.interval() or (None, None)
    times = [judged.call_s("base"), judged.call_s("head")]
    needed = judged.pairs_to_tell(margin) if judged.verdict == "inconclusive" else None
    seen = ratio.smallest_visible(margin)
    values = (
        judged.comparison.name,
        judged.verdict,
        ratio.ratio if ratio.pairs else None,
        low,
        high,
        *(None if time is None else time * 1e3 for time in times),
        ratio.pairs,
        ratio.sd,
        seen,
        needed,
        judged.reason,
    )
    return dict(zip(_COLUMNS, values, strict=True))


def _words(row: Mapping[str, object], judged: CaseVerdict) -> dict[str, str]:
    def number(key: str, form: str = "{:.3f}") -> str:
        return NONE if row[key] is None else form.format(row[key])

    interval = f" [{number('low')}, {number('high')}]" if row["low"] is not None else ""
    milliseconds = [NONE if (ms := row[key]) is None else significant(float(ms)) for key in ("base ms", "head ms")]  # type: ignore[arg-type]
    return {
        "verdict": f"{MARKS[judged.verdict]} {judged.verdict}",
        "case": judged.comparison.name,
        "head / base": number("ratio") + interval,
        "base ms": milliseconds[0],
        "head ms": milliseconds[1],
        "pairs": str(row["pairs"]) + (f" (needs {row['pairs needed']})" if row["pairs needed"] else ""),
        "spread": number("spread", "{:.1%}"),
        "could see": number("could see", "+{:.1%}"),
        "in time order": sparkline(judged.ratio.logs),
    }


def sparkline(values: Sequence[float]) -> str:
    """One bar for each value, between the smallest and the largest.

    >>> sparkline([1.0, 2.0, 3.0])
    '▁▅█'
    """
    if not values:
        return ""
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    return "".join(BARS[min(int((value - low) / spread * len(BARS)), len(BARS) - 1)] for value in values)


def geometric_mean(cases: Sequence[CaseVerdict], seed: int = 0) -> tuple[float, float, float] | None:
    """Of the cases' ratios, with its 90 % interval: pairs are drawn anew within each case; None if none has any.

    Efron and Tibshirani, "An introduction to the bootstrap", 1993, percentile intervals, stratified by case.
    """
    logs = [judged.ratio.logs for judged in cases if judged.ratio.pairs]
    if not logs:
        return None
    rng = random.Random(seed)
    drawn = sorted(fmean(fmean(rng.choices(own, k=len(own))) for own in logs) for _ in range(BOOTSTRAPS))
    tail = round((1 - judge.CONFIDENCE) / 2 * BOOTSTRAPS)
    return exp(fmean(map(fmean, logs))), exp(drawn[tail]), exp(drawn[-1 - tail])


def conclusion(gate_report: GateReport) -> str:
    """The gate's word in one line."""
    result = gate_report.result
    counts = [f"{result.count(verdict)} {verdict}" for verdict in judge.VERDICTS if result.count(verdict)]
    mean = geometric_mean(result.cases)
    overall = f"; geometric mean of head / base {mean[0]:.3f} [{mean[1]:.3f}, {mean[2]:.3f}]" if mean else ""
    return f"{', '.join(counts) or 'nothing was measured'}{overall}; {format_seconds(result.seconds)}"


def facts(result: Result) -> list[str]:
    """What is to be known of the gate itself: its null arms first."""
    nulls = [judged.null for judged in result.cases if judged.null.pairs]
    found = [f"TAKEN BACK: {reason}" for reason in result.untrusted]
    if nulls and not result.untrusted:
        width = median(null.half_width for null in nulls)
        found.append(
            f"null arms (a second copy of base, in {len(nulls)} of {len(result.cases)} cases): "
            f"none differs; {exp(fmean(map(_mean, nulls))):.3f} times base on average, within ±{width:.1%}"
        )
    if result.position is not None:
        found.append(f"the arm started second took {exp(result.position):.3f} times as long as the first, on average")
    return found + result.notes


def _mean(ratio: judge.PairedRatio) -> float:
    return fmean(ratio.logs)


def explained(name: str, explanation: Explanation, again: str) -> list[str]:
    """A confirmed regression: what differs, which layers, and how to see it again."""
    lines = [f"{name}:"]
    lines += [f"- {difference}" for difference in explanation.differences] or ["- no difference of settings is known"]
    if explanation.call_s:
        base, head = explanation.call_s
        lines.append(f"- under the profiler a call takes {base * 1e3:.3g} ms in base and {head * 1e3:.3g} ms in head:")
        for layer in explanation.layers:
            lost = f"{(layer.head_s - layer.base_s) * 1e3:+.3g} ms"
            lines.append(f"  - {layer.name}: {layer.base_s * 1e3:.3g} to {layer.head_s * 1e3:.3g} ms ({lost})")
    elif explanation.unprofiled:
        lines.append(f"- no layers: {explanation.unprofiled}")
    return [*lines, f"- this case alone: `{again}`"]


def summary(gate_report: GateReport, table: Table, again: Mapping[str, str]) -> str:
    """The whole gate in Markdown; `again` are the commands that repeat a case alone, by name."""
    about = [f"{arm.name} is {escape.code(arm.text)}" for arm in (gate_report.base, gate_report.head)]
    parts = [
        f"# {conclusion(gate_report)}",
        f"{' and '.join(about)}.",
        *map(escape.markdown, facts(gate_report.result)),
    ]
    parts += ["## Verdicts", table_markdown(table), table.caption, *map(escape.markdown, table.notes)]
    if gate_report.explanations:
        parts.append("## Why")
        for name, explanation in gate_report.explanations.items():
            parts.append("\n".join(explained(name, explanation, again[name])))
    return "\n\n".join(parts) + "\n"


def annotations(gate_report: GateReport) -> list[str]:
    """Lines that a GitHub workflow shows beside the change: an error for what fails, else a warning."""
    lines = []
    for judged in gate_report.result.cases:
        mark = MARKS[judged.verdict]
        if mark == "✓":
            continue
        ratio = f" {judged.ratio.ratio:.3f} times base" if judged.ratio.pairs else ""
        text = f"{judged.comparison.name}:{ratio} {judged.reason}".strip()
        level = "error" if mark == "✗" else "warning"
        lines.append(f"::{level} title=cnnbench {judged.verdict}::{_escaped(text)}")
    return lines


def _escaped(text: str) -> str:
    """As GitHub's workflow commands ask: percent signs and line ends."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def baseline_table(found: Sequence[BaselineResult], skipped: Mapping[str, str], rule: judge.Rule) -> Table:
    """Head against a stored run."""
    data = pd.DataFrame([asdict(each) for each in found], columns=[each.name for each in fields(BaselineResult)])
    cells = pd.DataFrame(
        [
            {
                "verdict": f"{MARKS[each.verdict]} {each.verdict}",
                "case": each.name,
                "head / baseline": (NONE if each.ratio is None else f"{each.ratio:.3f}")
                + (f" [{each.low:.3f}, {each.high:.3f}]" if each.low is not None else ""),
                "note": each.reason,
            }
            for each in found
        ]
    )
    caption = (
        f"Medians over launches, head's over those of the stored run, with the {judge.CONFIDENCE:.0%} interval that "
        f"the noise between calibrations allows. Measured apart, so weaker than two arms in one job. A slowdown up to "
        f"{rule.margin:.2%} is no regression."
    )
    notes = [f"not measured: {name}: {reason}" for name, reason in skipped.items()]
    return Table("verdicts", "Against a stored run", caption, cells, data, notes)


def baseline_summary(table: Table, baseline: Path) -> str:
    """The same in Markdown."""
    return (
        "\n\n".join(
            [
                f"# Against {escape.markdown(baseline)}",
                table_markdown(table),
                table.caption,
                *map(escape.markdown, table.notes),
            ]
        )
        + "\n"
    )
