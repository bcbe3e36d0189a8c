"""The noise of each case in a calibration, and the detection power of a gate on this machine."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cnnbench.analysis.paired import Rule, pairs_needed
from cnnbench.gate.calibration import SLOWDOWNS, Calibration, DetectionPower, Noise, noise_of
from cnnbench.gate.verdict import Paired
from cnnbench.report.table import Column, Table, figure, table_of, words

two_decimals = "{:.2%}".format


class _Row(NamedTuple):
    name: str
    noise: Noise
    detected: Mapping[float, float]
    """By slowdown, the share of simulated gates."""


def table_of_calibration(calibration: Calibration, power: DetectionPower, rule: Rule) -> Table:
    """One row for each case with enough pairs."""
    rows = [
        _Row(name, noise, detected)
        for name, detected in power.seen.items()
        if (noise := noise_of(calibration.cases[name])) is not None
    ]

    def detected(slowdown: float) -> Column[_Row]:
        name = f"detected +{slowdown:.0%}"
        return figure(name, lambda r: r.detected[slowdown], "{:.0%}".format, key=name)

    columns: list[Column[_Row]] = [
        words("case", lambda r: r.name),
        figure("pairs", lambda r: r.noise.pairs, str),
        figure("sessions", lambda r: r.noise.sessions, str),
        figure("pair sd", lambda r: r.noise.pair_sd, two_decimals),
        figure("pair sd upper", lambda r: r.noise.pair_sd_upper, two_decimals),
        figure("launch sd", lambda r: r.noise.launch_sd, two_decimals),
        figure("session sd", lambda r: r.noise.session_sd, two_decimals),
        figure("smallest margin", lambda r: r.noise.smallest_margin(rule.max_confirm_pairs), two_decimals),
        figure("pairs for +1 %", lambda r: pairs_needed(r.noise.pair_sd_upper, rule.visible_beyond), str),
        *map(detected, SLOWDOWNS),
    ]
    caption = (
        "Session: one calibration. sd: standard deviation of logarithms, about a relative spread. pair sd: of a pair's "
        "ratio of head to base; upper: its upper limit at 95 %. launch sd: between launches. session sd: between the "
        f"medians of sessions. Smallest margin: the smallest change that {rule.max_confirm_pairs} pairs detect. Pairs "
        "for +1 %: pairs needed to detect a slowdown of 1 % beyond the margin. Detected: share of "
        f"{power.gates // 4} simulated gates, on pairs drawn from these, with the verdict slower for this slowdown at "
        f"a margin of {rule.margin:.2%}."
    )
    return table_of("calibration", "Detection power on this machine", caption, rows, columns)


def lines(power: DetectionPower, found: Mapping[str, Sequence[Paired]], skipped: Mapping[str, str]) -> Iterator[str]:
    """The lines below the table."""
    yield from (f"not measured: {name}: {reason}" for name, reason in skipped.items())
    for name, pairs in found.items():
        if reason := next((pair.missing or pair.wrong for pair in pairs if pair.missing or pair.wrong), ""):
            yield f"not measured: {name}: {reason}"
    if power.seen:
        yield f"false alarms: in {power.false_alarms:.1%} of {power.gates} simulated gates of these cases"
