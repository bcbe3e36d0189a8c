"""A gate's verdicts: a table, a summary in Markdown, annotations for GitHub, one line for the end."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import exp
from pathlib import Path
from statistics import fmean, median

from cnnbench.analysis import paired as judge
from cnnbench.analysis.stats import Estimate
from cnnbench.gate.baseline import BaselineResult
from cnnbench.gate.diagnose import Explanation
from cnnbench.gate.exact import ExactReport
from cnnbench.gate.run import GateReport
from cnnbench.gate.verdict import ArmName, CaseVerdict, Result
from cnnbench.report import escape
from cnnbench.report.format import format_seconds
from cnnbench.report.table import Column, Table, estimate, figure, hidden, table_of, words

BARS = "▁▂▃▄▅▆▇█"
BOOTSTRAPS = 2000
MARKS: Mapping[str, str] = {  # the most important first
    "slower": "✗",
    "wrong": "✗",
    "missing": "✗",
    "inconclusive": "?",
    "unsteady": "?",
    "slower-small": "✓",
    "same": "✓",
    "faster": "✓",
}
LEVELS = {"✗": "error", "?": "warning"}
"""Of GitHub's annotations."""


def table_of_verdicts(gate_report: GateReport) -> Table:
    """One row for each case that was measured, the most important verdicts first."""
    order = list(MARKS)
    cases = sorted(gate_report.result.cases, key=lambda judged: order.index(judged.verdict))
    margin = gate_report.result.rule.margin

    def needed(judged: CaseVerdict) -> int | None:
        return judged.pairs_to_tell(margin) if judged.verdict == "inconclusive" else None

    def pairs_text(judged: CaseVerdict) -> str:
        return f"{judged.ratio.pairs} (needs {needed(judged)})" if needed(judged) else str(judged.ratio.pairs)

    def ratio(judged: CaseVerdict) -> Estimate | None:
        low, high = judged.ratio.interval() or (None, None)
        return Estimate(judged.ratio.ratio, low, high) if judged.ratio.pairs else None

    def call_ms(arm: ArmName) -> Callable[[CaseVerdict], float | None]:
        return lambda judged: None if (seconds := judged.call_s(arm)) is None else 1e3 * seconds

    columns: list[Column[CaseVerdict]] = [
        words("verdict", lambda r: r.verdict, _marked),
        words("case", lambda r: r.comparison.name),
        *estimate("head / base", ratio, _ratio_text, "ratio"),
        figure("base ms", call_ms("base")),
        figure("head ms", call_ms("head")),
        Column("pairs", lambda r: r.ratio.pairs, pairs_text, "pairs"),
        figure("spread", lambda r: r.ratio.sd, "{:.1%}".format),
        figure("detectable", lambda r: r.ratio.smallest_visible(margin), "+{:.1%}".format),
        words("in time order", lambda r: sparkline(r.ratio.logs)),
        hidden("pairs_needed", needed),
        hidden("reason", lambda r: r.reason),
    ]
    caption = (
        f"Head over base, from pairs of interleaved launches [{judge.CONFIDENCE:.0%} interval; each end is a one-sided "
        f"bound at 95 %]. A slowdown up to {margin:.2%} is no regression. Spread: standard deviation of a pair's log "
        "ratio. Detectable: the smallest slowdown that these pairs detect with a power of 80 %. In time order: the "
        "pairs, scaled to their extremes. A suspect (flagged by the screen) is tested on its fresh pairs only."
    )
    notes = [f"{judged.comparison.name}: {judged.reason}" for judged in cases if judged.reason]
    notes += [text for judged in cases if (text := _rates(judged))]
    notes += _skipped(gate_report.skipped)
    return table_of("verdicts", "Verdicts", caption, cases, columns, notes=notes)


def _rates(judged: CaseVerdict) -> str:
    """What the times of a service are."""
    seconds = [judged.call_s(arm) for arm in ("base", "head")]
    if judged.comparison.base.workload != "serving" or None in seconds:
        return ""
    base, head = (f"{1 / each:.4g}" for each in seconds if each)
    return (
        f"{judged.comparison.name}: times are from one query to the next at the highest rate within the bound of p99: "
        f"{base} queries/s in base, {head} in head"
    )


def _ratio_text(of: Estimate) -> str:
    return f"{of.value:.3f}" + (f" [{of.low:.3f}, {of.high:.3f}]" if of.low is not None else "")


def _marked(verdict: str) -> str:
    return f"{MARKS[verdict]} {verdict}"


def _skipped(skipped: Mapping[str, str]) -> list[str]:
    return [f"not measured: {name}: {reason}" for name, reason in skipped.items()]


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
    """Of the cases' ratios, with its 90 % bootstrap interval; None if none has any.

    Pairs are resampled within each case (Efron and Tibshirani, "An introduction to the bootstrap", 1993, percentile
    intervals).
    """
    logs = [judged.ratio.logs for judged in cases if judged.ratio.pairs]
    if not logs:
        return None
    rng = random.Random(seed)
    drawn = sorted(fmean(fmean(rng.choices(own, k=len(own))) for own in logs) for _ in range(BOOTSTRAPS))
    tail = round((1 - judge.CONFIDENCE) / 2 * BOOTSTRAPS)
    return exp(fmean(map(fmean, logs))), exp(drawn[tail]), exp(drawn[-1 - tail])


def conclusion(gate_report: GateReport) -> str:
    """The gate's result in one line."""
    result = gate_report.result
    counts = [f"{result.count(verdict)} {verdict}" for verdict in judge.VERDICTS if result.count(verdict)]
    mean = geometric_mean(result.cases)
    overall = f"; geometric mean of head / base {mean[0]:.3f} [{mean[1]:.3f}, {mean[2]:.3f}]" if mean else ""
    return f"{', '.join(counts) or 'nothing was measured'}{overall}; {format_seconds(result.seconds)}"


def facts(result: Result) -> list[str]:
    """The gate's own checks: its A/A controls first."""
    nulls = [judged.null for judged in result.cases if judged.null.pairs]
    found = [f"INCONCLUSIVE, the A/A controls differ: {reason}" for reason in result.untrusted]
    if nulls and not result.untrusted:
        width = median(null.half_width for null in nulls)
        mean = exp(fmean(fmean(null.logs) for null in nulls))
        found.append(
            f"A/A controls (a second copy of base, in {len(nulls)} of {len(result.cases)} cases): none differs; "
            f"on average {mean:.3f} times base, within ±{width:.1%}"
        )
    if result.position is not None:
        found.append(f"the arm started second took {exp(result.position):.3f} times as long as the first, on average")
    return found + result.notes


def explained(name: str, explanation: Explanation, again: str, escaped: Callable[[str], str] = str) -> Iterator[str]:
    """A confirmed regression: differences between the arms, slower layers, and the command that repeats it."""
    yield f"{escaped(name)}:"
    yield from (f"- {escaped(each)}" for each in explanation.differences or ["no known difference in settings"])
    if explanation.call_s:
        base, head = explanation.call_s
        yield f"- under the profiler a call takes {base * 1e3:.3g} ms in base and {head * 1e3:.3g} ms in head:"
        for layer in explanation.layers:
            lost = f"{(layer.head_s - layer.base_s) * 1e3:+.3g} ms"
            yield f"  - {escaped(layer.name)}: {layer.base_s * 1e3:.3g} to {layer.head_s * 1e3:.3g} ms ({lost})"
    elif explanation.unprofiled:
        yield f"- no layers: {escaped(explanation.unprofiled)}"
    yield f"- this case alone: {escape.code(again)}"


def summary(gate_report: GateReport, table: Table, again: Mapping[str, str]) -> str:
    """The whole gate in Markdown; `again` are the commands that repeat a case alone, by name."""
    about = " and ".join(f"{arm.name} is {escape.code(arm.text)}" for arm in (gate_report.base, gate_report.head))
    parts = [f"# {conclusion(gate_report)}", f"{about}.", *map(escape.markdown, facts(gate_report.result))]
    parts += ["## Verdicts", *table.paragraphs]
    if gate_report.explanations:
        parts.append("## Why")
        found = gate_report.explanations.items()
        parts += ["\n".join(explained(name, each, again[name], escape.markdown)) for name, each in found]
    return "\n\n".join(parts) + "\n"


def annotations(gate_report: GateReport) -> list[str]:
    """Lines that a GitHub workflow shows beside the change: errors for failures, warnings for the rest."""
    lines = []
    for judged in gate_report.result.cases:
        level = LEVELS.get(MARKS[judged.verdict])
        if level is not None:
            ratio = f" {judged.ratio.ratio:.3f} times base" if judged.ratio.pairs else ""
            text = f"{judged.comparison.name}:{ratio} {judged.reason}".strip()
            escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
            lines.append(f"::{level} title=cnnbench {judged.verdict}::{escaped}")
    return lines


def baseline_table(found: Sequence[BaselineResult], skipped: Mapping[str, str], rule: judge.Rule) -> Table:
    """Head against a stored run."""

    def ratio(result: BaselineResult) -> Estimate | None:
        return Estimate(result.ratio, result.low, result.high) if result.ratio is not None else None

    columns: list[Column[BaselineResult]] = [
        words("verdict", lambda r: r.verdict, _marked),
        words("case", lambda r: r.name),
        *estimate("head / baseline", ratio, _ratio_text, "ratio"),
        hidden("p", lambda r: r.p),
        words("note", lambda r: r.reason),
    ]
    caption = (
        f"Median over head's launches, divided by that over the stored run's [{judge.CONFIDENCE:.0%} interval, from "
        "the noise between calibrations]. The two were measured at different times, so this is weaker than two arms in "
        f"one job. A slowdown up to {rule.margin:.2%} is no regression."
    )
    return table_of("verdicts", "Against a stored run", caption, found, columns, notes=_skipped(skipped))


def baseline_summary(table: Table, baseline: Path) -> str:
    """The same in Markdown."""
    return "\n\n".join([f"# Against {escape.markdown(baseline)}", *table.paragraphs]) + "\n"


def exact_lines(report: ExactReport, command: str) -> Iterator[str]:
    """The exact gate's differences, the versions that may explain them, and the lines that the file would need."""
    models, differing = len(report.found.models), len({difference.model for difference in report.differences})
    if not report.differences:
        yield f"{models} models match {report.file} exactly"
    yield from map(str, report.differences)
    if report.versions:
        yield f"the file was written with other versions: {'; '.join(report.versions)}"
    if report.versions and report.differences:
        yield "another exporter version may write other operators and sizes for the same network"
    if report.differences:
        yield f"{len(report.differences)} figures of {differing} of {models} models differ from {report.file}"
    if report.replacement:
        yield f"lines that the file needs to match:\n{report.replacement.rstrip()}"
    if report.differences or report.versions:
        yield f"to accept the new figures: {command} --update"
